"""Run a body once for each start of the server, boot, release, or for ever.

    O1  At most one caller runs a name's body at a time, whatever the period.
    O2  In a period whose run is recorded as done nobody runs it again.
    O3  A run whose runner died is begun again by the next caller: the body runs
        at least once, and is recorded as done exactly once.
    O4  A body that raised is run again until it has failed `attempts` times;
        from then on every caller gets `AttemptsExhaustedError`.
    O5  The last 32 starts of the server keep their runs, so a late caller of
        one that is past neither runs the body again nor undoes what is recorded.

The record is one entry, written under a lock of the store; the kernel frees the
lock when its holder dies, so a run that is recorded as running while the lock
is free is one whose runner is gone.  Each write also compares the generation,
for a lock can be lost in one way: somebody removes its file.

How it fails:

    runner killed        the lock is free at once: the next caller runs it, attempt + 1
    runner hung, stopped the others wait, as long as they want to (`timeout_s`); nobody takes over
    master killed        the workers go on; a run goes on
    graceful restart     the new start runs its own, after the old one's has ended (O1)
    shutdown hang        a child that cannot end keeps the lock until its body has ended, no longer
    clock steps          nothing: times in the record are for people
    interpreter destroyed while a thread of it runs the body: the lock stays held
                         until the interpreter's objects, or the process, are gone
"""

from __future__ import annotations

from _thread import _local as thread_local  # pyright: ignore[reportPrivateUsage]  threading is not imported here

from sharedstate._light import NamedTuple
from sharedstate.coordination.claims import Claim, corrupt, in_words, is_shaped, key_of, now_s, require_lasting
from sharedstate.errors import (
    AttemptsExhaustedError,
    ClaimLostError,
    ConflictError,
    KeyFormatError,
    LockLostError,
    LockOwnershipError,
    LockTimeoutError,
    StateError,
)
from sharedstate.events import tell
from sharedstate.model import ABSENT, boot_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from sharedstate.backend import Lock
    from sharedstate.store import Store

__all__ = ["Run", "forget_once", "once"]

_FORMAT: Final = 1
_KEPT: Final = 32
_DONE: Final = "done"
_FAILED: Final = "failed"
_INTERRUPTED: Final = "interrupted"
_RUNNING: Final = "running"
_SHAPE: Final[dict[str, tuple[type, ...]]] = {
    "period": (str,),
    "state": (str,),
    "claim": (str,),
    "owner": (str,),
    "who": (str,),
    "attempt": (int,),
    "failures": (int,),
    "started_at": (float,),
    "ended_at": (float, type(None)),
    "error": (str,),
}


class Run(NamedTuple):
    """What became of a call of `once`.

    Attributes:
        name: as it was called.
        period: within which it is run once: the kind, and which one of that kind.
        state: "done", or "running" if another is at it and the caller would not wait.
        ran: whether this call ran the body.
        result: what the body returned, if this call ran it; it is not recorded.
        attempt: how often the body was begun in this period.
        who: ran it, for people.
        started_at: when the latest attempt began, in seconds since 1970, for people.
        ended_at: when it ended; None while it runs.
    """

    name: str
    period: str
    state: str
    ran: bool
    result: Any
    attempt: int
    who: str
    started_at: float
    ended_at: float | None


def once(
    store: Store,
    name: str,
    fn: Callable[[], Any],
    per: str = "server",
    *,
    wait: bool = True,
    timeout_s: float | None = None,
    attempts: int = 3,
    incarnation: str | None = None,
) -> Run:
    """Run `fn` unless it was run in this period; return when it has been.

    Args:
        store: shared by all who must not run it twice.
        name: of what is run.
        fn: may be begun again after its process died halfway, so make it safe to repeat.
        per: "server" (this start of the server), "boot", "ever" (as long as the
            store lasts), or any other text, a release's say.
        wait: until another who is running it has ended; False returns at once.
        timeout_s: how long to wait; None: as long as it takes.
        attempts: how many times it may raise in one period.
        incarnation: what names this start of the server; None finds it out.

    Raises:
        LockTimeoutError: another was running it all the time.
        AttemptsExhaustedError: it failed `attempts` times in this period, and was not run.
        ClaimLostError: it ran, but the lock's file was removed meanwhile and another took over.
        LockOwnershipError: called from within a body of that name, which would wait for itself.
        Exception: what `fn` raised; recorded as failed.
    """
    require_lasting(store, "once")
    key, period = _place(store, name, per, incarnation)
    journal = _Journal(store, name, key, period, attempts)
    found = journal.look()
    if found is not None:
        return found
    lock = store.lock(key_of("once", name))
    if (lock.url, lock.name) in _bodies():
        raise LockOwnershipError(name=name, reason="this thread is running its body")
    try:
        lock.acquire(timeout_s if wait else 0)
    except LockTimeoutError as late:
        if not wait:
            return journal.look() or journal.running()
        raise LockTimeoutError(
            url=store.url, what=f"once {name!r}", timeout_s=late.timeout_s, holder=late.holder
        ) from None
    try:
        return journal.look() or _run(journal, lock, fn)
    finally:
        if lock.is_held():  # not in a child that the body forked
            try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                lock.release()
            except LockLostError:
                pass  # its file was removed: the record has decided who ran it
        journal.tell_of_failure()


def forget_once(store: Store, name: str, per: str = "server") -> bool:
    """Let the body of that name be run again, whatever it came to; return whether there was a record.

    It forgets all starts of the server if `per` is "server".
    """
    return store.delete(_key(name, per))


# --- One call ---------------------------------------------------------------------


def _run(journal: _Journal, lock: Lock, fn: Callable[[], Any]) -> Run:
    claim = Claim(journal.store)
    journal.begin(claim)
    journal.tell_of_beginning()
    bodies, body = _bodies(), (lock.url, lock.name)
    bodies.add(body)
    try:
        result = fn()
    except BaseException as error:
        if lock.is_held():
            # An interruption (Ctrl-C, SystemExit) says nothing about the body.
            state = _FAILED if isinstance(error, Exception) else _INTERRUPTED
            try:
                journal.end(claim, state, in_words(error))
            except StateError as failure:
                error.add_note(f"This could not be recorded: {failure}")
        raise
    finally:
        bodies.discard(body)
    if not lock.is_held():
        raise ClaimLostError(what=journal.what, reason="it belongs to the parent of this forked process")
    return journal.end(claim, _DONE, "")._replace(ran=True, result=result)


_threads = thread_local()


def _bodies() -> set[tuple[str, str]]:
    """Return the locks of the bodies that this thread is in, by store and full name."""
    try:
        bodies: set[tuple[str, str]] = _threads.bodies
    except AttributeError:
        bodies = _threads.bodies = set[tuple[str, str]]()
    return bodies


# --- The record -------------------------------------------------------------------


def _key(name: str, per: str) -> str:
    if type(per) is not str or not per:
        raise KeyFormatError(found=f"per={per!r}; it is a str")
    if per in {"server", "boot", "ever"}:
        return key_of("once", per, name)
    return key_of("once", "release", per, name)


def _place(store: Store, name: str, per: str, incarnation: str | None) -> tuple[str, str]:
    """Return the key of the record, and which of its runs is meant."""
    key = _key(name, per)
    if per == "server":
        return key, f"server {incarnation or _this_start(store)}"
    return key, f"boot {boot_id()}" if per == "boot" else per


def _this_start(store: Store) -> str:
    from sharedstate.coordination.incarnations import agree
    from sharedstate.deployment.incarnation import incarnation

    return agree(store, incarnation()).token


class _Journal:
    """The runs of one name, as one caller of one period sees them."""

    def __init__(self, store: Store, name: str, key: str, period: str, attempts: int) -> None:
        self.store = store
        self.name = name
        self.what = f"once {name!r}"
        self._key = key
        self._period = period
        self._attempts = attempts
        self._ours: dict[str, Any] = {}  # the run that this caller began, as it last wrote it

    def look(self) -> Run | None:
        """Return the run of this period if it is done, None if the body may have to be run.

        Raises:
            AttemptsExhaustedError: it failed too often.
        """
        run = self._find(self._read()[0])
        if run is None:
            return None
        if run["state"] == _DONE:
            return self._told(run)
        if run["failures"] >= self._attempts:
            raise AttemptsExhaustedError(
                what=f"{self.what} ({self._period})",
                attempts=run["failures"],
                error=run["error"],
                advice="Mend the cause, then call forget_once() to let it be run again.",
            )
        return None

    def running(self) -> Run:
        """Return the run that another is at: its record, if it has written it by now."""
        run = self._find(self._read()[0])
        return self._told({**run, "state": _RUNNING} if run else self._fresh())

    def begin(self, claim: Claim) -> None:
        """Record that the body is about to be run."""

        def begin(runs: list[dict[str, Any]]) -> None:
            run = self._find(runs)
            if run is None:
                run = self._fresh()
                runs.append(run)
                del runs[:-_KEPT]
            run.update(
                state=_RUNNING,
                claim=claim.id,
                owner=claim.owner,
                who=claim.who,
                attempt=run["attempt"] + 1,
                started_at=now_s(),
                ended_at=None,
            )
            self._ours = run

        self._change(begin)

    def end(self, claim: Claim, state: str, error: str) -> Run:
        """Record what became of the run that `claim` began.

        Raises:
            ClaimLostError: somebody else began another since.
        """

        def end(runs: list[dict[str, Any]]) -> None:
            run = self._find(runs)
            if run is None or run["claim"] != claim.id:
                raise ClaimLostError(what=self.what, reason="its record, or the file of its lock, was removed")
            run.update(state=state, ended_at=now_s(), failures=run["failures"] + (state == _FAILED))
            run["error"] = error or run["error"]
            self._ours = run

        self._change(end)
        return self._told(self._ours)

    def tell_of_beginning(self) -> None:
        """Say that the body is run now."""
        tell("once.began", **self._facts())

    def tell_of_failure(self) -> None:
        """Say what the body of this caller raised, if it did and that is recorded."""
        if self._ours and self._ours["state"] == _FAILED:
            tell("once.failed", **self._facts(), error=self._ours["error"])

    def _facts(self) -> dict[str, Any]:
        return {
            "store": self.store.url,
            "once": self.name,
            "period": self._period,
            "attempt": self._ours["attempt"],
        }

    def _change(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        while True:
            runs, generation = self._read()
            change(runs)
            try:
                self.store.compare_and_set(self._key, {"format": _FORMAT, "runs": runs}, generation)
            except ConflictError:
                continue  # somebody wrote without the lock, whose file was removed
            return

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        entry = self.store.read(self._key)
        if entry is None:
            return [], ABSENT
        value = entry.value
        if not is_shaped(value, {"format": (int,), "runs": (list,)}) or value["format"] != _FORMAT:
            raise corrupt(self.store, self._key, self.what)
        runs: list[dict[str, Any]] = value["runs"]
        if not all(is_shaped(run, _SHAPE) for run in runs):
            raise corrupt(self.store, self._key, self.what)
        return runs, entry.generation

    def _find(self, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((run for run in runs if run["period"] == self._period), None)

    def _fresh(self) -> dict[str, Any]:
        return {
            "period": self._period,
            "state": _RUNNING,
            "claim": "",
            "owner": "",
            "who": "",
            "attempt": 0,
            "failures": 0,
            "started_at": now_s(),
            "ended_at": None,
            "error": "",
        }

    def _told(self, run: dict[str, Any]) -> Run:
        return Run(
            name=self.name,
            period=self._period,
            state=run["state"],
            ran=False,
            result=None,
            attempt=run["attempt"],
            who=run["who"],
            started_at=run["started_at"],
            ended_at=run["ended_at"],
        )
