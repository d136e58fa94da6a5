"""One run: open everyone, race each workload, then the parts that need workers or fresh interpreters.

Nothing that one contestant does ends the run: what it raises, or a call that
does not return, becomes the reason in its row.  Every store is removed at the
end, also after a failure, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import sharedstate
from benchmarks.guard import attempt
from benchmarks.machine import describe_machine, load_now, other_work
from benchmarks.measure import Lane, Plan, Undo, bootstrap_ratio, median, race
from benchmarks.parts.light_open import LightOpen, measure_light_open, run_isolated
from benchmarks.parts.registry import MORE_PARTS
from benchmarks.parts.room import PLANS, Room
from benchmarks.parts.scaling import CREWS, Scaling, measure_scaling
from benchmarks.peers import BACKENDS, PEERS, Peer, Place, Session, url_of
from benchmarks.results import Contestant, Results, Row, spread
from benchmarks.workloads import KINDS, WORKLOADS, Form, Kind, Workload, make_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["PARTS", "Choice", "Size", "run"]

PARTS: Final = ("codec-isolated", "light-open", "scaling", *MORE_PARTS)
"""What is measured beside the workloads; `--only` knows them by these names."""

SCALED: Final = (("shm", 1, 4), ("shm", 64, 4), ("file", 64, 1), ("sqlite", 64, 1))
"""The backends that reach beyond one interpreter, how many keys each worker has
of its own, and how many times as many triples may be tried until enough are
undisturbed.  Writers of a file or a
database wait for one another, so more of theirs would be of no use."""

_SCALING_SHARE: Final = 0.2  # of the parts' time
_NOISY_SPREAD: Final = 0.3
_NOISY_CORES: Final = 0.2
_NOISY_SHARE: Final = 0.1


class Size(NamedTuple):
    """How much of everything; see `measure.Plan` for the workloads' part, `parts.room.PLANS` for most other parts'."""

    name: str
    plan: Plan
    triples: int
    scaling_s: float
    light_rounds: int
    codec_rounds: int


class Choice(NamedTuple):
    """What is measured.

    Attributes:
        is_chosen: tells whether a workload or part of that name is wanted.
        backends: those of `BACKENDS` that take part.
        directory: where the stores are made.
    """

    is_chosen: Callable[[str], bool]
    backends: Sequence[str]
    directory: str


class _Entrant(NamedTuple):
    """An open contestant, and the keys that it was filled with."""

    peer: Peer
    session: Session
    keys: Sequence[str]


def run(size: Size, choice: Choice, tell: Callable[[str], None]) -> Results:
    """Measure everything that is chosen; `tell` gets a line of progress now and then.

    Ctrl-C ends it and loses nothing: a full run takes an hour.
    """
    with _scratch(choice.directory) as directory:
        results = Results(describe_machine(directory), {"size": size.name, **size.plan._asdict()})
        runner = _Runner(size, choice, directory, results, tell)
        before = after = load_now()
        try:
            for kind in KINDS.values():
                runner.run_kind(kind)
                after = load_now()
            runner.run_parts()
        except KeyboardInterrupt:
            results.is_complete = False
            results.noise.append("interrupted: what comes after the last figures was not measured")
        runner.judge_noise()
        _note_load(results, other_work(before, after), after.average)
    return results


@contextmanager
def _scratch(parent: str) -> Generator[str, None, None]:
    """A directory that is gone afterwards, also when we are told to stop."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, stop)
    # Short, since it becomes part of every path that is opened.
    directory = tempfile.mkdtemp(prefix="sharedstate-bench-", dir=parent or None)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        signal.signal(signal.SIGTERM, former)


def _note_load(results: Results, others: float, average: float) -> None:
    results.machine["load_average_after"] = average
    results.machine["other_work_cores"] = round(others, 2)
    if others > _NOISY_CORES and results.baselines:  # without workloads, nothing was between the two readings
        results.noise.append(
            f"others took {others:.2f} of {results.machine['cores']} cores while the workloads ran "
            f"(load average {results.machine['load_average']:.1f} before, {average:.1f} after)"
        )


class _Runner:
    def __init__(
        self, size: Size, choice: Choice, directory: str, results: Results, tell: Callable[[str], None]
    ) -> None:
        self._size = size
        self._choice = choice
        self._directory = directory
        self._results = results
        self._tell = tell
        self._token = f"{os.getpid()}-{secrets.token_hex(3)}"
        self._room = Room(directory, self._token, choice.backends, PLANS[size.name], tell, math.inf)
        # In the order of the tables, whatever becomes of them.
        for peer in self._peers():
            results.contestants[peer.name] = Contestant(peer.name)

    def _peers(self) -> list[Peer]:
        chosen = [workload for workload in WORKLOADS if self._choice.is_chosen(workload.name)]
        families = {workload.family for workload in chosen}
        left_out = set(BACKENDS).difference(self._choice.backends)
        return [peer for peer in PEERS if peer.family in families and peer.name not in left_out]

    # --- Workloads ----------------------------------------------------------

    def run_kind(self, kind: Kind) -> None:
        """Run the workloads of one kind of value, on stores that hold nothing else."""
        workloads = [item for item in WORKLOADS if item.kind == kind.name and self._choice.is_chosen(item.name)]
        if not workloads:
            return
        families = {workload.family for workload in workloads}
        with ExitStack() as stack:
            entrants: list[_Entrant] = []
            for peer in self._peers():
                if peer.family in families:
                    entrants += self._enter(stack, peer, kind)
            for workload in workloads:
                self._tell(f"{workload.name}: {self._size.plan.rounds} rounds")
                taking_part = [entrant for entrant in entrants if entrant.peer.family == workload.family]
                self._run_workload(workload, kind, taking_part)

    def _enter(self, stack: ExitStack, peer: Peer, kind: Kind) -> list[_Entrant]:
        """Open a contestant and fill it, or say in its line why that failed and return nothing."""
        count = min(self._size.plan.count_keys(kind.value_bytes), peer.most_keys)
        self._tell(f"{peer.name}: filling with {count} x {kind.label}" if peer.family == "store" else peer.name)
        directory = os.path.join(self._directory, f"{peer.name.replace(' ', '-')}-{kind.name}")
        place = Place(directory, self._token, kind.name, count, kind.value_bytes)
        os.mkdir(place.directory)
        opened: list[Session] = []

        def open_and_fill() -> None:
            opened.append(stack.enter_context(_guarded(peer, place)))
            if opened[0].host:
                opened[0].host.fill(count)
            elif "set" in opened[0].verbs:
                _fill(opened[0], kind, make_keys(count))

        failure = attempt(open_and_fill)
        if failure:
            self._results.contestants[peer.name] = Contestant(peer.name, missing=failure)
            return []
        session = opened[0]
        if not self._results.contestants[peer.name].missing:
            self._results.contestants[peer.name] = Contestant(peer.name, session.version, session.note)
        return [_Entrant(peer, session, make_keys(count))]

    def _run_workload(self, workload: Workload, kind: Kind, entrants: Sequence[_Entrant]) -> None:
        results = self._results
        lanes: dict[Lane, Form] = {}
        for entrant in entrants:
            for form in workload.forms:
                if {form.verb, *workload.needs} <= entrant.session.verbs.keys():
                    made: list[Lane] = []
                    failure = attempt(_make_lane, made, entrant, workload, form, kind)
                    if failure:
                        name = entrant.peer.name + form.suffix
                        results.rows.append(Row(workload.name, name, form.label, [], [], failure=failure))
                    else:
                        lanes[made[0]] = form
        keys = make_keys(self._size.plan.count_keys(kind.value_bytes))
        idle = Lane(
            "idle",
            None,
            statement=workload.idle,
            variables=workload.variables,
            operations=workload.make(keys, kind),
            generations=dict.fromkeys(keys, 0),
        )
        race(list(lanes), idle, self._size.plan, attempt)
        results.baselines[workload.name] = workload.baseline
        results.loop_ns[workload.name] = round(median(idle.turns_ns), 2)
        results.clock_ns[workload.name] = median(idle.singles_ns)
        for lane, form in lanes.items():
            figures = lane.turns_ns, lane.singles_ns, lane.interrupted
            results.rows.append(Row(workload.name, lane.name, form.label, *figures, lane.failure, lane.every))

    def judge_noise(self) -> None:
        """Say in the results which baselines did not keep still."""
        spreads = {
            name: spread(row.turns_ns)
            for name, baseline in self._results.baselines.items()
            if (row := self._results.row(name, baseline))
        }
        self._results.settings["baseline_spread"] = {name: round(value, 3) for name, value in spreads.items()}
        restless = {name: value for name, value in spreads.items() if value > _NOISY_SPREAD}
        if restless:
            worst = max(restless, key=lambda name: restless[name])
            self._results.noise.append(
                f"the baseline's rounds were more than {_NOISY_SPREAD:.0%} apart in {len(restless)} of "
                f"{len(spreads)} workloads, worst in {worst} ({restless[worst]:.0%})"
            )

        turns = sum(len(row.turns_ns) for row in self._results.rows)
        interrupted = sum(row.interrupted for row in self._results.rows)
        if interrupted > _NOISY_SHARE * turns:
            self._results.noise.append(
                f"{interrupted} of {turns} turns lost their core to others, each time they were tried"
            )

    # --- The other parts ----------------------------------------------------

    def run_parts(self) -> None:
        """Run those that are chosen, each guarded by itself; their time begins now."""
        self._room = self._room._replace(until=time.monotonic() + self._room.plan.limit_s)
        parts = {
            "codec-isolated": self._run_codec_isolated,
            "light-open": self._run_light_open,
            "scaling": self._run_scaling,
        }
        for name, part in parts.items():
            if self._choice.is_chosen(name):
                self._tell(name)
                part()
        for name, measure in MORE_PARTS.items():
            if self._choice.is_chosen(name):
                rows = self._results.parts[name] = []
                if not self._room.is_over():
                    rows.extend(measure(self._room))

    def _run_codec_isolated(self) -> None:
        try:
            times = run_isolated("codec", rounds=self._size.codec_rounds, repeat=200)
        except RuntimeError as error:
            self._results.codec_failure = str(error)
            return
        self._results.codec_isolated = {
            verb: bootstrap_ratio(times["isolated"][verb], times["main"][verb]) for verb in ("encode", "decode")
        }

    def _run_light_open(self) -> None:
        urls: dict[str, str] = {}
        failed: list[LightOpen] = []
        with ExitStack() as stack:
            for backend in self._choice.backends:
                url, failure = self._make_store(stack, backend, "light")
                if failure:
                    failed.append(LightOpen(backend, "", failure=failure))
                else:
                    urls[backend] = url
            self._results.light_open = measure_light_open(urls, self._size.light_rounds) + failed

    def _run_scaling(self) -> None:
        # On a busy machine, where few triples are kept, the other parts want some time too.
        share_s = _SCALING_SHARE * self._room.plan.limit_s
        scaling_room = self._room._replace(until=min(self._room.until, time.monotonic() + share_s))
        for backend, keys, tries in SCALED:
            if backend not in self._choice.backends:
                continue
            for crew in CREWS:
                self._tell(f"scaling {backend}, {crew}, {keys} keys each")
                with ExitStack() as stack:
                    url, failure = self._make_store(stack, backend, f"scaling-{crew}-{keys}")
                    self._results.scaling.append(
                        Scaling(backend, crew, keys, failure=failure)
                        if failure
                        else measure_scaling(
                            backend,
                            url,
                            crew,
                            keys,
                            triples=self._size.triples,
                            most=self._size.triples * tries,
                            duration_s=self._size.scaling_s,
                            is_over=scaling_room.is_over,
                        )
                    )

    def _make_store(self, stack: ExitStack, backend: str, purpose: str) -> tuple[str, str]:
        """Create a store that the stack removes; return its URL and why that failed, or ""."""
        place = Place(os.path.join(self._directory, f"{backend}-{purpose}"), self._token, purpose)
        os.mkdir(place.directory)
        url = url_of(backend, place)

        def create() -> None:
            store = sharedstate.open(url, allow_narrow=True)
            stack.callback(attempt, sharedstate.remove, url)
            stack.callback(store.close)

        return url, attempt(create)


@contextmanager
def _guarded(peer: Peer, place: Place) -> Generator[Session, None, None]:
    """Open a peer; a failure to close it is reported and ends nothing."""
    sessions = contextmanager(peer.open)(place)
    session = sessions.__enter__()
    try:
        yield session
    finally:
        failure = attempt(sessions.__exit__, None, None, None)
        if failure:
            print(f"{peer.name}: while closing: {failure}", file=sys.stderr)


def _make_lane(made: list[Lane], entrant: _Entrant, workload: Workload, form: Form, kind: Kind) -> None:
    """Append to `made` what takes the turns of a contestant."""
    session, keys = entrant.session, entrant.keys
    name = entrant.peer.name + form.suffix
    if session.host:
        made.append(session.host.make_lane(name, workload, form))
        return
    generations: dict[str, int] = {}
    if form.verb == "compare_and_set":
        generations.update((key, session.generation(key)) for key in keys)
    undo = workload.undo
    made.append(
        Lane(
            name,
            session.verbs[form.verb],
            statement=form.statement,
            variables=workload.variables,
            operations=workload.make(keys, kind),
            generations=generations,
            undo=Undo(session.verbs[undo.verb], undo.statement) if undo else None,
            entries=workload.entries(len(keys)),
        )
    )


def _fill(session: Session, kind: Kind, keys: Sequence[str]) -> None:
    set_, pool = session.verbs["set"], kind.pool
    for index, key in enumerate(keys):
        set_(key, pool[index % len(pool)])
    found = session.verbs["get"](keys[-1])
    if found != pool[(len(keys) - 1) % len(pool)]:
        raise ValueError(f"it returned {found!r:.60} for what was just stored")
