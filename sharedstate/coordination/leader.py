"""At most one leading interpreter, for as long as it lives and wants to.

    E1  At most one handle leads a name at a time; any thread of its interpreter
        may ask, and gets the same answer.
    E2  A leader that died is replaced by whoever asks next; one that lives is
        not, however slow it is.
    E3  A term is a fencing token: greater than those of all earlier leaders.
    E4  `transaction` commits only while the caller leads.
    E5  A process that is stopping leads nothing any more.

`is_leader` tells what was so a moment ago: a leader that was stopped, whose
handle was closed meanwhile, may still be on its way to do something.  Use
`transaction` for effects in the store, and send `term` along with others.

How it fails:

    leader killed        whoever asks next leads
    leader hung, stopped it goes on leading: nothing times out
    master killed        the workers, and the leader, go on
    graceful restart     the old leader resigns when it is told to stop (E5), and the new ones compete
    shutdown hang        the same: it is told to stop before it hangs
    clock steps          nothing: times in the record are for people
    interpreter destroyed while it led: whoever asks once its handle is gone, which
                         is with the interpreter's objects or the process
"""

from __future__ import annotations

from _weakref import ref

from sharedstate.coordination.claims import (
    Fenced,
    corrupt,
    find_stopping,
    is_shaped,
    key_of,
    now_s,
    require_lasting,
    transact,
)
from sharedstate.errors import ClaimLostError, ClosedError, ConflictError
from sharedstate.events import tell
from sharedstate.model import ABSENT, MISSING, Owner

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from sharedstate.store import Store
    from sharedstate.transactions import Transaction

__all__ = ["Leader"]

_FORMAT: Final = 1
_SHAPE: Final[dict[str, tuple[type, ...]]] = {"format": (int,), "owner": (str,), "who": (str,), "since": (float,)}


class Leader:
    """One candidate for the leadership of a name: this handle.

    Args:
        store: shared by all candidates.
        name: of what is led.
        is_stopping: whether this process has been told to stop; None asks
            `sharedstate.deployment.lifecycle`.
    """

    def __init__(self, store: Store, name: str, *, is_stopping: Callable[[], bool] | None = None) -> None:
        require_lasting(store, "a leader")
        self._store = store
        self._name = name
        self._key = key_of("leader", name)
        self._is_stopping = is_stopping or find_stopping()
        self._has_hooked = is_stopping is not None
        self._seen = (ABSENT, "")  # generation and owner of the record as it was last read; replaced as one

    def try_lead(self) -> bool:
        """Lead if nobody does, or if the leader is gone; return whether the caller now leads."""
        while True:
            if self._is_stopping():
                self.resign()
                return False
            owner, generation = self._look()
            if owner == self._store.join():
                return True
            if owner and self._store.is_present(owner):
                return False
            self._hook()
            try:
                term = self._write(self._store.join(), generation)
            except ConflictError:
                continue  # somebody was faster, or resigned
            tell("leader.began", store=self._store.url, leader=self._name, term=term)
            return True

    def is_leader(self) -> bool:
        """Return whether this interpreter leads, through this handle; costs a look at a generation."""
        return self._term() != ABSENT

    @property
    def term(self) -> int:
        """The fencing token of this leadership.

        Raises:
            ClaimLostError: the caller does not lead.
        """
        term = self._term()
        if term == ABSENT:
            raise self._lost()
        return term

    def who(self) -> str:
        """Return who leads, for people; "" if nobody does."""
        record = self._parse(self._store.get(self._key, MISSING))
        is_led = record["owner"] and self._store.is_present(record["owner"])
        return str(record["who"]) if is_led else ""

    def resign(self) -> bool:
        """Stop leading; return whether the caller led."""
        while True:
            owner, generation = self._look()
            if owner != self._store.join():
                return False
            try:
                self._write("", generation)
            except ConflictError:
                continue  # a thread of ours resigned, or more
            tell("leader.resigned", store=self._store.url, leader=self._name)
            return True

    def transaction(self) -> Fenced:
        """Return a transaction of the same store that commits only while the caller leads.

        Raises:
            ClaimLostError: on entering or leaving the block; nothing was written.
            ConflictError: on leaving it: a key that was read has changed; nothing was written.
        """
        return Fenced(self._store, self._key, self._verify)

    def transact(self, body: Callable[[Transaction], Any], timeout_s: float | None = None) -> Any:
        """Run `body(tx)` in such a transaction and return its result, again while others come between."""
        return transact(self.transaction, body, timeout_s)

    def _hook(self) -> None:
        """Have this handle resign when it is told to stop, in case nobody asks any more (E5)."""
        if self._has_hooked:
            return
        from sharedstate.deployment.lifecycle import when_stopping

        found = ref(self)

        def resign() -> None:
            leader = found()
            if leader is None:
                return
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                leader.resign()
            except ClosedError:
                pass  # which was resigning too

        when_stopping(resign)
        self._has_hooked = True

    # --- The record -----------------------------------------------------------

    def _term(self) -> int:
        if self._is_stopping():
            self.resign()
            return ABSENT
        generation, owner = self._seen
        if self._store.generation(self._key) != generation:
            owner, generation = self._look()
        return generation if owner and owner == self._store.join() else ABSENT

    def _look(self) -> tuple[str, int]:
        entry = self._store.read(self._key)
        owner = "" if entry is None else self._parse(entry.value)["owner"]
        generation = ABSENT if entry is None else entry.generation
        self._seen = (generation, owner)
        return owner, generation

    def _write(self, owner: str, generation: int) -> int:
        record = {"format": _FORMAT, "owner": owner, "who": str(Owner.current()), "since": now_s()}
        return self._store.compare_and_set(self._key, record, generation)

    def _verify(self, value: Any) -> dict[str, Any]:
        record = self._parse(value)
        if not record["owner"] or record["owner"] != self._store.join():
            raise self._lost()
        return record

    def _parse(self, value: Any) -> dict[str, Any]:
        if value is MISSING:
            return {"owner": "", "who": ""}
        if not is_shaped(value, _SHAPE) or value["format"] != _FORMAT:
            raise corrupt(self._store, self._key, "a leader")
        record: dict[str, Any] = value
        return record

    def _lost(self) -> ClaimLostError:
        return ClaimLostError(what=f"the leadership of {self._name!r}", reason="this interpreter does not lead")
