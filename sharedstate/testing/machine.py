"""Random programs, each step by another actor, against a dict as the model.

    def test_agreement(tmp_path):
        urls = (f"mine:{tmp_path}/{i}" for i in count())
        check_agreement(lambda: next(urls), [Kind.THREAD, Kind.FORKED, Kind.UNRELATED])

Hypothesis draws a program: a verb, its arguments, and who does it, over and
over.  The actors are threads, sub-interpreters and processes (`probe.actors`),
each with a handle of its own, so a backend that keeps something back in one of
them, or that two of them understand differently, disagrees with the model.  A
failing program is shortened to the least that still fails.

One step ends before the next begins: what overlaps is for `histories`.  Expiry
is followed only as "expires far from now, or never"; the conformance suite tests
the moment itself.  A namespace is its keys' prefix, so keys have prefixes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType]  hypothesis leaves its factory untyped
)

from sharedstate.errors import ConflictError, CounterOverflowError, LockOwnershipError, ValueTypeError
from sharedstate.model import ABSENT, Entry
from sharedstate.probe.actors import Actor, Kind, Stage
from sharedstate.testing.same import is_same

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AgreementMachine", "check_agreement"]

_TTL_S: Final = 100_000.0
_KEYS: Final = ("a", "b", "ab", "app:a", "app:b")
_PREFIXES: Final = ("", "a", "ab", "app:", "none")
_LOCKS: Final = ("l", "m")

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, "", "text", b"", b"\0bytes"])
)
_values = _scalars | st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("xyz", max_size=2) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)
_actors = st.integers(0, 59)  # modulo how many there are
_keys = st.sampled_from(_KEYS)
_ttls = st.sampled_from([None, _TTL_S])
_steps = st.lists(
    st.tuples(st.sampled_from(["get", "set", "delete", "increment"]), _keys, st.integers(0, 5)), min_size=1, max_size=5
)


class _Known(NamedTuple):
    """What the model knows of a key."""

    value: Any
    generation: int  # ABSENT until a read tells
    expires: bool


class AgreementMachine(RuleBasedStateMachine):
    """Store and model, step by step.  Made by `check_agreement`, which sets the class's attributes."""

    cast: ClassVar[Sequence[Actor]] = ()
    new_url: ClassVar[Any]  # a function without arguments; of no exact type, or a checker would bind it

    def __init__(self) -> None:
        super().__init__()
        self._url: str = self.new_url()
        for actor in self.cast:
            actor.call("open", self._url)
        self._model: dict[str, _Known] = {}
        self._newest: dict[str, int] = {}  # the greatest generation seen of each key; deletes keep it
        self._holders: dict[str, Actor] = {}
        self._tokens: dict[str, int] = {}

    def teardown(self) -> None:
        """Compare everything once more, through every actor, and verify what is stored."""
        try:
            for actor in self.cast:
                self._compare(actor)
            self.cast[0].call("check")
        finally:
            for actor in self.cast:
                actor.call("close_store")
            self.cast[0].call("remove", self._url)

    # --- Reading ------------------------------------------------------------

    @rule(who=_actors, key=_keys)
    def get(self, who: int, key: str) -> None:
        """Get and `in` agree with the model."""
        known = self._model.get(key)

        assert is_same(self._actor(who).call("get", key, "absent"), "absent" if known is None else known.value)
        assert self._actor(who).call("contains", key) == (known is not None)

    @rule(who=_actors, key=_keys)
    def read(self, who: int, key: str) -> None:
        """Read agrees in value, generation and whether it expires."""
        self._read(self._actor(who), key)

    @rule(who=_actors)
    def compare_all(self, who: int) -> None:
        """Items and length agree."""
        self._compare(self._actor(who))

    @rule(who=_actors, prefix=st.sampled_from(_PREFIXES))
    def keys(self, who: int, prefix: str) -> None:
        """The keys under a prefix agree, each once."""
        found = self._actor(who).call("keys", prefix)

        assert sorted(found) == sorted(key for key in self._model if key.startswith(prefix))

    @rule(who=_actors, keys=st.lists(_keys, max_size=4))
    def get_many(self, who: int, keys: list[str]) -> None:
        """get_many agrees."""
        found = self._actor(who).call("get_many", keys)

        assert _sorted(found) == _sorted({key: self._model[key].value for key in keys if key in self._model})

    @rule(who=_actors, key=_keys)
    def ttl(self, who: int, key: str) -> None:
        """Ttl knows who expires, who never does, and who is not there."""
        known = self._model.get(key)
        try:
            left_s = self._actor(who).call("ttl", key)
        except KeyError:
            assert known is None
        else:
            assert known is not None
            assert (left_s is not None) == known.expires

    @rule(who=_actors, key=_keys)
    def wait_for_change(self, who: int, key: str) -> None:
        """A wait without patience returns the generation that read shows."""
        generation = self._read(self._actor(who), key)

        assert self._actor(who + 1).call("wait_for_change", key, generation, 0) == generation
        assert self._actor(who + 1).call("wait_for_change", key, generation + 1, 0) == generation

    # --- Writing ------------------------------------------------------------

    @rule(who=_actors, key=_keys, value=_values, ttl_s=_ttls)
    def set(self, who: int, key: str, value: Any, ttl_s: float | None) -> None:
        """Set replaces value and deadline, and gives a greater generation than the key ever had."""
        self._actor(who).call("set", key, value, ttl_s)
        self._written(key, value, ttl_s is not None)
        self._read(self._actor(who + 1), key)

    @rule(who=_actors, key=_keys, value=_values, ttl_s=_ttls)
    def add(self, who: int, key: str, value: Any, ttl_s: float | None) -> None:
        """Add stores if the key is absent, and says so."""
        was_absent = key not in self._model

        assert self._actor(who).call("add", key, value, ttl_s) == was_absent
        if was_absent:
            self._written(key, value, ttl_s is not None)
        self._read(self._actor(who + 1), key)

    @rule(who=_actors, key=_keys, value=_values)
    def setdefault(self, who: int, key: str, value: Any) -> None:
        """Setdefault returns what is there after it."""
        found = self._actor(who).call("setdefault", key, value)

        if key not in self._model:
            self._written(key, value, False)
        assert is_same(found, self._model[key].value)

    @rule(who=_actors, key=_keys, by=st.sampled_from([1, -2, 0.5, 2**63, -(2**63)]), ttl_s=_ttls)
    def increment(self, who: int, key: str, by: float, ttl_s: float | None) -> None:
        """Increment adds as Python does, keeps the deadline, and refuses what it must."""
        known = self._model.get(key)
        number: Any = 0 if known is None else known.value
        try:
            total = self._actor(who).call("increment", key, by, 0, ttl_s)
        except CounterOverflowError:
            assert not -(2**63) <= number + by < 2**64
        except ValueTypeError:
            assert type(number) not in {int, float}
        else:
            assert is_same(total, number + by)
            self._written(key, total, ttl_s is not None if known is None else known.expires)

    @rule(who=_actors, key=_keys, value=_values, expected=st.sampled_from(["current", "absent", "stale"]), ttl_s=_ttls)
    def compare_and_set(self, who: int, key: str, value: Any, expected: str, ttl_s: float | None) -> None:
        """compare_and_set succeeds at the current generation and at no other."""
        current = self._read(self._actor(who), key)
        wanted = {"current": current, "absent": ABSENT, "stale": max(current - 1, 1)}[expected]
        try:
            generation = self._actor(who + 1).call("compare_and_set", key, value, wanted, ttl_s)
        except ConflictError as conflict:
            told = (conflict.key, conflict.expected, conflict.found)
            assert told == (key, wanted, current)
            assert wanted != current
        else:
            assert wanted == current
            self._written(key, value, ttl_s is not None, generation)

    @rule(who=_actors, key=_keys, ttl_s=_ttls)
    def touch(self, who: int, key: str, ttl_s: float | None) -> None:
        """Touch changes the deadline alone."""
        known = self._model.get(key)

        assert self._actor(who).call("touch", key, ttl_s) == (known is not None)
        if known is not None:
            self._model[key] = known._replace(expires=ttl_s is not None)

    @rule(who=_actors, values=st.dictionaries(_keys, _values, max_size=4), ttl_s=_ttls)
    def set_many(self, who: int, values: dict[str, Any], ttl_s: float | None) -> None:
        """set_many stores each."""
        self._actor(who).call("set_many", values, ttl_s)
        for key, value in values.items():
            self._written(key, value, ttl_s is not None)

    # --- Removing -----------------------------------------------------------

    @rule(who=_actors, key=_keys)
    def delete(self, who: int, key: str) -> None:
        """Delete says whether it was there."""
        assert self._actor(who).call("delete", key) == (self._model.pop(key, None) is not None)

    @rule(who=_actors, key=_keys)
    def pop(self, who: int, key: str) -> None:
        """Pop returns what was there."""
        known = self._model.pop(key, None)

        assert is_same(self._actor(who).call("pop", key, "absent"), "absent" if known is None else known.value)

    @rule(who=_actors)
    def popitem(self, who: int) -> None:
        """Popitem removes one of the items, or there are none."""
        try:
            key, value = self._actor(who).call("popitem")
        except KeyError:
            assert not self._model
        else:
            assert is_same(value, self._model.pop(key).value)

    @rule(who=_actors, keys=st.lists(_keys, max_size=4))
    def delete_many(self, who: int, keys: list[str]) -> None:
        """delete_many counts what was there."""
        removed = [self._model.pop(key, None) for key in keys]

        assert self._actor(who).call("delete_many", keys) == sum(known is not None for known in removed)

    @rule(who=_actors, prefix=st.sampled_from(_PREFIXES))
    def clear(self, who: int, prefix: str) -> None:
        """Clear removes what starts with the prefix."""
        self._actor(who).call("clear", prefix)
        for key in [key for key in self._model if key.startswith(prefix)]:
            del self._model[key]

    # --- Transactions -------------------------------------------------------

    @rule(
        who=_actors,
        steps=_steps,
        intruder=_actors,
        touched=st.none() | _keys,
        ending=st.sampled_from(["commit", "abandon"]),
    )
    def transaction(
        self, who: int, steps: list[tuple[str, str, int]], intruder: int, touched: str | None, ending: str
    ) -> None:
        """A transaction sees its own writes; it commits unless somebody wrote a key that it read."""
        actor = self._actor(who)
        view = {key: known.value for key, known in self._model.items()}
        read, written = list[str](), dict[str, Any]()
        actor.call("tx_begin")
        for verb, key, number in steps:
            if verb != "set" and key not in written:
                read.append(key)
            if verb == "increment" and type(view.get(key, 0)) is not int:
                verb = "set"  # noqa: PLW2901  what a transaction refuses, the conformance suite shows
                if key in read and key not in written:
                    actor.call("tx_get", key)
            self._step(actor, (verb, key, number), view, written)
        if touched is not None:
            self._actor(intruder).call("set", touched, "intruder")
            self._written(touched, "intruder", False)
        if ending == "abandon":
            actor.call("tx_abandon")
            return
        try:
            actor.call("tx_commit")
        except ConflictError as conflict:
            assert touched in read
            _expect_same(conflict.key, touched)
            return
        # One key that was only read needs no validation: it was read atomically.
        assert touched not in read or (not written and len({*read}) == 1)
        for key, (value, keeps) in written.items():
            if value is _GONE:
                self._model.pop(key, None)
            else:
                self._written(key, value, bool(keeps and key in self._model and self._model[key].expires))

    def _step(self, actor: Actor, step: tuple[str, str, int], view: dict[str, Any], written: dict[str, Any]) -> None:
        verb, key, number = step
        if verb == "get":
            assert is_same(actor.call("tx_get", key, "absent"), view.get(key, "absent"))
        elif verb == "set":
            actor.call("tx_set", key, [number])
            view[key] = [number]
            written[key] = ([number], False)
        elif verb == "delete":
            assert actor.call("tx_delete", key) == (key in view)
            if key in view:
                del view[key]
                written[key] = (_GONE, False)
        else:
            total = view.get(key, 0) + number
            if not -(2**63) <= total < 2**64:
                return
            assert is_same(actor.call("tx_increment", key, number), total)
            view[key] = total
            written[key] = (total, written.get(key, (None, True))[1])

    # --- Locks --------------------------------------------------------------

    @rule(who=_actors, name=st.sampled_from(_LOCKS))
    def lock(self, who: int, name: str) -> None:
        """A lock is had if nobody holds it, with a greater token than ever; its holder is told that it has it."""
        actor, holder = self._actor(who), self._holders.get(name)
        try:
            got = actor.call("lock_try", name)
        except LockOwnershipError:
            assert holder is actor
            return
        assert got == (holder is None)
        if got:
            token = actor.call("lock_token", name)
            assert token > self._tokens.get(name, 0)
            self._holders[name], self._tokens[name] = actor, token
        records = {record.name: record for record in self._actor(who + 1).call("locks")}
        assert records[name].held
        assert records[name].token == self._tokens[name]

    @rule(who=_actors, name=st.sampled_from(_LOCKS))
    def unlock(self, who: int, name: str) -> None:
        """Only the holder can release."""
        actor = self._actor(who)
        try:
            actor.call("lock_release", name)
        except LockOwnershipError:
            assert self._holders.get(name) is not actor
        else:
            assert self._holders.pop(name) is actor

    # --- Helpers ------------------------------------------------------------

    def _actor(self, who: int) -> Actor:
        return self.cast[who % len(self.cast)]

    def _written(self, key: str, value: Any, expires: bool, generation: int = ABSENT) -> None:
        if generation != ABSENT:
            assert generation > self._newest.get(key, ABSENT)
            self._newest[key] = generation
        self._model[key] = _Known(value, generation, expires)

    def _read(self, actor: Actor, key: str) -> int:
        """Compare `key`, learn its generation, and return it."""
        known = self._model.get(key)
        entry: Entry | None = actor.call("read", key)
        if known is None:
            assert entry is None
            return ABSENT
        assert entry is not None
        assert is_same(entry.value, known.value)
        assert (entry.expires_at is not None) == known.expires
        if known.generation == ABSENT:
            assert entry.generation > self._newest.get(key, ABSENT)
            self._newest[key] = entry.generation
            self._model[key] = known._replace(generation=entry.generation)
        else:
            assert entry.generation == known.generation
        return entry.generation

    def _compare(self, actor: Actor) -> None:
        found = {key: value for key, value in actor.call("items")}  # noqa: C416  pairs arrive as lists

        assert _sorted(found) == _sorted({key: known.value for key, known in self._model.items()})
        assert actor.call("len") == len(self._model)


def _expect_same(found: Any, expected: Any) -> None:
    assert is_same(found, expected)


class _Gone:
    pass


_GONE: Final = _Gone()


def _sorted(values: dict[str, Any]) -> list[tuple[str, str]]:
    # By repr, which tells types apart, the dict's order aside.
    return sorted((key, repr(value)) for key, value in values.items())


def check_agreement(
    new_url: Callable[[], str], kinds: Sequence[Kind], *, examples: int = 25, steps: int = 30, explain: bool = True
) -> None:
    """Run random programs whose steps are done by actors of these kinds, and compare with the model.

    Args:
        new_url: the URL of another store, which does not exist yet, at each call.
        kinds: of the actors; one that stands twice is two actors.
        examples: how many programs.
        steps: how long each may be.
        explain: shorten a failing program and print it; False fails at once.

    Raises:
        AssertionError: the store disagreed with the model; hypothesis prints the program.
        StateError, ActorError: a step failed that should not.
    """
    with Stage() as stage:
        # Forks first, while their parent has no threads but the one that takes orders.
        cast = [stage.actor(kind) for kind in sorted(kinds, key=lambda kind: kind is not Kind.FORKED)]
        machine = type("Agreement", (AgreementMachine,), {"cast": cast, "new_url": staticmethod(new_url)})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
                verbosity=Verbosity.normal if explain else Verbosity.quiet,
                phases=tuple(Phase) if explain else (Phase.generate,),
                report_multiple_bugs=explain,
            ),
        )
