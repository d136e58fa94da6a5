"""The experiments: each has actors do something across a boundary, and has a judge say what it proves.

An experiment gets a `Bench` with two actors that have one boundary between
them and a store for themselves.  It may kill them; the bench makes new ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sharedstate.model import Capabilities, Durability, Scope
from sharedstate.probe import judging
from sharedstate.probe.actors import Actor, Boundary, Kind, Stage
from sharedstate.probe.findings import Outcome, Verdict
from sharedstate.probe.loops import SLOTS, proves_itself

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXPERIMENTS", "SEPARATION", "Bench", "Experiment", "Pace", "find_applicable"]


class Pace(NamedTuple):
    """How long the loops are."""

    loop_s: float
    kills: int
    stamps: int


FULL: Final = Pace(loop_s=0.2, kills=3, stamps=25)
QUICK: Final = Pace(loop_s=0.06, kills=1, stamps=8)

_MOST_ROUNDS: Final = 20_000
_AHEAD_NS: Final = 8_000_000  # loops are announced that long before they begin
_LOCK_WAIT_S: Final = 10.0
_WAIT_S: Final = 3.0


class Bench:
    """A store and two actors across one boundary, remade when an experiment has killed them."""

    def __init__(self, make_stage: Callable[[], Stage], boundary: Boundary, url: str, pace: Pace) -> None:
        self._make_stage = make_stage
        self.stage = make_stage()
        self.boundary = boundary
        self.url = url
        self.pace = pace
        self._pair: tuple[Actor, Actor] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the store claims."""
        claimed: Capabilities = self.pair()[0].call("capabilities")
        return claimed

    def pair(self) -> tuple[Actor, Actor]:
        """Return the actors on either side."""
        if self._pair is None:
            self._pair = self.stage.pair(self.boundary, self.url)
        return self._pair

    def outsider(self) -> Actor:
        """Return an actor of a process that has nothing to do with the others."""
        return self.stage.actor(Kind.UNRELATED, self.url)

    def kill_all(self) -> None:
        """Kill every process that may have the store open."""
        self.stage.kill_all()
        self._pair = None

    def forget(self) -> None:
        """Have the next experiment get new actors."""
        self._pair = None

    def reset(self) -> None:
        """End everything, and begin anew with whatever is stored."""
        self.close()
        self.stage = self._make_stage()

    def close(self) -> None:
        """End every process; the store stays."""
        self._pair = None
        self.stage.close()

    def run_both(
        self, loop: str, first: tuple[Any, ...], second: tuple[Any, ...], other_loop: str = ""
    ) -> tuple[Any, Any]:
        """Run a loop on each side at the same time, the span as the last argument; return both results."""
        one, other = self.pair()
        if self.boundary is Boundary.SAME_THREAD:  # which does one thing after the other
            return one.call(loop, *first, self.span()), other.call(other_loop or loop, *second, self.span())
        span = self.span()
        one.start(loop, *first, span)
        other.start(other_loop or loop, *second, span)
        return one.result(), other.result()

    def span(self) -> tuple[int, int, int]:
        """Return the span of a loop that is about to begin."""
        begin_ns = time.monotonic_ns() + _AHEAD_NS
        return begin_ns, begin_ns + int(self.pace.loop_s * 1e9), _MOST_ROUNDS


class Experiment(NamedTuple):
    """A question, how it is asked, and what is not to be asked.

    Attributes:
        name: for programs.
        question: for people.
        did: what the actors do, for the report.
        run: does it.
        reason_inapplicable: why it makes no sense here, "" if it does.
    """

    name: str
    question: str
    did: str
    run: Callable[[Bench], Outcome]
    reason_inapplicable: Callable[[Boundary, Capabilities], str] = lambda _boundary, _claim: ""


# --- Within the scope ----------------------------------------------------------

_DEEP: Final = [[[[[[[["deep"]]]]]]]]

EXACT_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 2**63, -(2**63), 2**64 - 1, 0.0, -0.0, 1e-308, float("inf"), float("nan")),
    *("", "text", "ünïcödé \N{SNAKE}\0", b"", b"\x00\xff" * 100, [], (), {}),
    *([1, "two", b"3", None], (1, (2, (3,))), {"a": {1: [()]}, "": (b"",)}, _DEEP, b"x" * 70_000),
)


def _see(bench: Bench) -> Outcome:
    one, other = bench.pair()
    wrong = list[str]()
    for number, value in enumerate(EXACT_VALUES):
        for writer, reader, key in ((one, other, f"see.{number}"), (other, one, f"see.{number}.back")):
            writer.call("set", key, value)
            own, seen = writer.call("read", key), reader.call("read", key)
            if own is None or not judging.is_same(own.value, value):
                wrong.append(f"the writer itself reads {_short(own)} for {_short(value)}")
            elif seen is None or not judging.is_same(seen.value, value):
                wrong.append(
                    f"{_short(value)} arrived as {_short(seen and seen.value)}"
                    if seen
                    else f"{_short(value)} did not arrive"
                )
            elif seen.generation != own.generation:
                wrong.append(f"generation {own.generation} arrived as {seen.generation}")
    one.call("delete", "see.0")
    if other.call("contains", "see.0"):
        wrong.append("a deleted key was still there")
    figures: dict[str, int | float | str] = {"values": 2 * len(EXACT_VALUES), "wrong": len(wrong)}
    if wrong:
        return Outcome(
            Verdict.UNSUPPORTED, f"{len(wrong)} of {2 * len(EXACT_VALUES)} exchanges failed: {wrong[0]}", figures
        )
    return Outcome(
        Verdict.SUPPORTED, f"{2 * len(EXACT_VALUES)} values arrived exactly, in type, bits and generation", figures
    )


def _count(bench: Bench) -> Outcome:
    (mine, _, _), (yours, _, _) = bench.run_both("increment_many", ("count",), ("count",))
    return judging.judge_counter((mine, yours), bench.pair()[0].call("get", "count"))


def _tear(bench: Bench) -> Outcome:
    written, (reads, distinct, torn) = bench.run_both("write_proofs", ("tear",), ("tear",), "read_proofs")
    return judging.judge_reads(written, reads, distinct, torn)


_ACCOUNTS: Final = [f"account.{number}" for number in range(6)]


def _transact(bench: Bench) -> Outcome:
    one, other = bench.pair()
    for account in _ACCOUNTS:
        one.call("set", account, 1000)
    (mine, lost_a), (yours, lost_b) = bench.run_both("transfer_many", (_ACCOUNTS, 5), (_ACCOUNTS, 7))
    (more, lost_c), (audits, sums) = bench.run_both("transfer_many", (_ACCOUNTS, 5), (_ACCOUNTS,), "audit_many")
    final = sum(other.call("get", account) for account in _ACCOUNTS)
    return judging.judge_sums(
        1000 * len(_ACCOUNTS),
        committed=(mine, yours, more),
        conflicts=lost_a + lost_b + lost_c,
        audits=audits,
        sums=sums,
        final=final,
    )


def _exclude(bench: Bench) -> Outcome:
    one, other = bench.pair()
    first = one.call("lock_acquire", "door", _LOCK_WAIT_S)
    if other.call("lock_try", "door"):
        return Outcome(Verdict.UNSUPPORTED, "both sides held the lock at once")
    one.call("lock_release", "door")
    if not other.call("lock_try", "door"):
        return Outcome(Verdict.UNSUPPORTED, "a released lock was not free for the other side")
    if other.call("lock_token", "door") <= first:
        return Outcome(Verdict.UNSUPPORTED, "the fencing token did not grow")
    other.call("lock_release", "door")
    mine, yours = bench.run_both("guarded_many", ("guarded", "one"), ("guarded", "other"))
    final = one.call("get", "guarded")
    return judging.judge_guarded((mine[0], yours[0]), final, (*mine[1], *yours[1]), (mine[2], yours[2]))


def _wait(bench: Bench) -> Outcome:
    one, other = bench.pair()
    one.call("set", "stamp", time.monotonic_ns())
    other.start("wait_for_stamps", "stamp", _WAIT_S)
    other.told(1)
    sent = one.call("write_stamps", "stamp", bench.pace.stamps, 0.004)
    return judging.judge_delays(other.result(), sent)


# --- Death -----------------------------------------------------------------------


def _free_on_kill(bench: Bench) -> Outcome:
    one, holder = bench.pair()
    waiter = bench.outsider() if bench.boundary.is_within_process else one
    first = holder.call("lock_acquire", "mortal", _LOCK_WAIT_S)
    if waiter.call("lock_try", "mortal"):
        return Outcome(Verdict.UNSUPPORTED, "the lock was not held to begin with: both sides had it")
    waiter.start("lock_when_free", "mortal", _LOCK_WAIT_S)
    killed_ns = time.monotonic_ns()
    holder.kill()
    freed_ms = (waiter.result() - killed_ns) / 1e6
    second = waiter.call("lock_acquire", "mortal", _LOCK_WAIT_S)
    waiter.call("lock_release", "mortal")
    if bench.boundary.is_within_process:
        waiter.close()
    bench.forget()
    figures: dict[str, int | float | str] = {"freed_ms": round(freed_ms, 3)}
    if second <= first:
        return Outcome(Verdict.UNSUPPORTED, "the fencing token did not grow after the holder's death", figures)
    return Outcome(Verdict.SUPPORTED, f"the next one had it {freed_ms:.3g} ms after the kill", figures)


def _survive_kill(bench: Bench) -> Outcome:
    told_all, outcome = 0, None
    for round_number in range(bench.pace.kills):
        one, writer = bench.pair()
        prefix = f"killed.{round_number}"
        writer.start("write_until_killed", prefix, 10_000_000)
        writer.told(50 + 170 * round_number)
        writer.kill()
        told = writer.told()
        reader = bench.outsider() if bench.boundary.is_within_process else one
        reader.call("check")
        entries = reader.call("get_many", [f"{prefix}.{slot}" for slot in range(SLOTS)])
        found = {
            int(key.rpartition(".")[2]): value[0] if proves_itself(value) else -1 for key, value in entries.items()
        }
        twins = reader.call("get", f"{prefix}.pair"), reader.call("get", f"{prefix}.twin")
        outcome = judging.judge_acknowledged(told, found, twins, SLOTS)
        if bench.boundary.is_within_process:
            reader.close()
        bench.forget()
        told_all += len(told)
        if outcome.verdict is not Verdict.SUPPORTED:
            return outcome
    assert outcome is not None
    evidence = (
        f"{bench.pace.kills} kills: all of {told_all} acknowledged writes were there, whole; check() found no harm"
    )
    return Outcome(Verdict.SUPPORTED, evidence, {"kills": bench.pace.kills, "acknowledged": told_all, "lost": 0})


_ENTRIES: Final = 40


def _outlive(bench: Bench) -> Outcome:
    one, other = bench.pair()
    durability = bench.capabilities.durability
    for number in range(_ENTRIES):
        (one, other)[number % 2].call("set", f"outlive.{number}", (number, "still here"))
    bench.kill_all()
    newcomer = bench.outsider()
    kept = newcomer.call("get_many", [f"outlive.{number}" for number in range(_ENTRIES)])
    found = sum(kept.get(f"outlive.{number}") == (number, "still here") for number in range(_ENTRIES))
    newcomer.close()
    return judging.judge_survival(_ENTRIES, found, must=durability >= Durability.BOOT, durability=durability.name)


def _end(bench: Bench) -> Outcome:
    one, other = bench.pair()
    bench.forget()
    other.close()
    one.close()
    return Outcome(Verdict.SUPPORTED, "both sides closed their handles and ended without harm")


# --- Beyond the scope ------------------------------------------------------------


def _stay_apart(bench: Bench) -> Outcome:
    seen = list[str]()
    one, other = bench.pair()
    for number, (writer, reader) in enumerate(((one, other), (other, one))):
        # The positive control: the store works on this side, through another handle too.
        twin = bench.stage.beside(writer, bench.url)
        key = f"apart.{number}"
        writer.call("set", key, (number, "mine"))
        if twin.call("get", key) != (number, "mine"):
            return Outcome(Verdict.UNSUPPORTED, "a side did not see its own write: the store does not work there")
        if reader.call("contains", key) or key in reader.call("keys"):
            seen.append("an entry")
    mine = [one.call("increment", "apart.count") for _ in range(100)]
    yours = [other.call("increment", "apart.count") for _ in range(100)]
    if mine[-1] != 100 or yours[-1] != 100:
        seen.append(f"a counter (100 and 100 became {mine[-1]} and {yours[-1]})")
    one.call("lock_acquire", "apart", _LOCK_WAIT_S)
    if other.call("lock_try", "apart"):
        other.call("lock_release", "apart")
    else:
        seen.append("a lock")
    one.call("lock_release", "apart")
    return judging.judge_separation(seen)


# --- The lists -------------------------------------------------------------------


def _needs_two_threads(boundary: Boundary, _claim: Capabilities) -> str:
    return "one thread cannot write while it waits" if boundary is Boundary.SAME_THREAD else ""


def _needs_survivor(boundary: Boundary, claim: Capabilities) -> str:
    if boundary.is_within_process and claim.scope < Scope.HOST:
        return "the kill ends the only process that the store reaches"
    return ""


_ENDING: Final = Experiment(
    "end",
    "Do both sides end cleanly?",
    "Both close their handles and end: interpreters are destroyed, processes exit.",
    _end,
)

EXPERIMENTS: Final = (
    Experiment(
        "see",
        "Is a write seen, exactly?",
        "Each side in turn writes values of every type; the other reads each back, compares type, bits and generation, "
        "and sees a delete.",
        _see,
    ),
    Experiment("count", "Is no update lost?", "Both increment one counter at the same time.", _count),
    Experiment(
        "tear",
        "Is no read torn?",
        "One overwrites a key with values that prove themselves, of changing length, while the other reads.",
        _tear,
    ),
    Experiment(
        "transact",
        "Are transactions all or nothing?",
        "Both move amounts between six keys at the same time; then one moves while the other adds them up.",
        _transact,
    ),
    Experiment(
        "exclude",
        "Does a lock exclude?",
        "One holds a lock while the other tries; then both add 1 under it by reading and writing.",
        _exclude,
    ),
    Experiment(
        "wait",
        "How soon is a write seen?",
        "One waits for changes of a key, the other writes the time to it now and then.",
        _wait,
        _needs_two_threads,
    ),
    Experiment(
        "free_on_kill",
        "Is a lock freed by kill -9?",
        "The holder's process is killed with SIGKILL while somebody outside it waits for the lock.",
        _free_on_kill,
        _needs_survivor,
    ),
    Experiment(
        "survive_kill",
        "Does kill -9 of a writer do no harm?",
        "A writer's process is killed in the middle of its writes and transactions; a survivor calls check() and looks "
        "for every acknowledged write.",
        _survive_kill,
        _needs_survivor,
    ),
    Experiment(
        "outlive",
        "Does it last as long as claimed?",
        "Both write; every process that uses the store is killed; a newcomer looks for the entries.",
        _outlive,
    ),
    _ENDING,
)
"""What a backend must stand within its scope."""

SEPARATION: Final = (
    Experiment(
        "apart",
        "Is it seen not to share?",
        "Each side writes, counts and locks, and sees its own through a second handle; then looks for the other's.",
        _stay_apart,
    ),
    _ENDING,
)
"""What is to be seen of a backend beyond its scope."""


def find_applicable(boundary: Boundary, claim: Capabilities) -> tuple[Experiment, ...]:
    """Return the experiments for a backend with that claim, across that boundary."""
    return EXPERIMENTS if claim.scope >= boundary.scope else SEPARATION


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
