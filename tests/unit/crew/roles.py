"""The roles that members of a crew play: functions of a store, a log, and values."""

from __future__ import annotations

import os

import plants

from sharedstate.backend.waiting import Backoff, Deadline
from sharedstate.coordination import Leader, RateLimit, Semaphore, Tasks, runs
from sharedstate.errors import ClaimLostError, LockTimeoutError, StateError, StoppingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crew import Log
    from sharedstate.coordination import Task
    from sharedstate.store import Store


# --- once ------------------------------------------------------------------------


def run_once(store: Store, log: Log, name: str, per: str, options: dict[str, Any]) -> None:
    """Call `once`, tell when its body begins and ends, and what became of the call.

    Options: `gate`: an event that the body waits for; `incarnation`, `wait`,
    `timeout_s`, `attempts`: those of `once`; `fail`: what the body raises;
    `start`: an event to wait for before; `bug`: what is planted; `lives_us`: as in `work_until_done`.
    """
    plants.plant(options.pop("bug", ""))
    _live_for(options.pop("lives_us", 0))
    gate, fail, start = options.pop("gate", ""), options.pop("fail", ""), options.pop("start", "")

    def body() -> str:
        log.tell("begun", name, period)
        plants.linger()
        if gate:
            log.wait(gate)
        if fail:
            log.tell("failing", name, period)
            raise ValueError(fail)
        log.tell("ended", name, period)
        return log.actor

    period = options.get("incarnation", per)
    if start:
        log.tell("ready")
        log.wait(start)
    try:
        run = runs.once(store, name, body, per, **options)
    except (StateError, ValueError) as error:
        log.tell("refused", name, period, type(error).__name__, str(error))
    else:
        log.tell("returned", name, period, run.state, run.ran, run.attempt, run.result)


# --- tasks -----------------------------------------------------------------------


def hold_task(store: Store, log: Log, journal: str, task_id: str, options: dict[str, Any]) -> None:
    """Run a task, wait in its body for the event `gate`, then checkpoint and finish.

    Options: `bug`; `gate`; `checkpoint`: a state to record first; `late`: what to
    do after the gate: "checkpoint", "effects" or "finish".
    """
    plants.plant(options.get("bug", ""))
    task = Tasks(store, journal).run(task_id, options.get("payload"))
    log.tell("begun", task.id, task.attempt, task.token, task.state)
    if "checkpoint" in options:
        task.checkpoint(options["checkpoint"])
        log.tell("checkpointed", task.id, options["checkpoint"])
    log.wait(options.get("gate", "never"))
    log.tell("ended", task.id)
    try:
        late = options.get("late", "finish")
        if late == "checkpoint":
            task.checkpoint("late")
        elif late == "effects":
            with task.transaction() as transaction:
                transaction.set("effect", "late")
        task.finish(lambda transaction: transaction.increment(f"done:{task.id}"))
        log.tell("finished", task.id)
    except ClaimLostError as error:
        log.tell("lost", task.id, str(error))


def claim_race(store: Store, log: Log, journal: str, options: dict[str, Any]) -> None:
    """At the event "go" claim whatever there is, until there is nothing, and finish each."""
    plants.plant(options.get("bug", ""))
    tasks = Tasks(store, journal)
    log.tell("ready")
    log.wait("go")
    while (task := tasks.claim()) is not None:
        _work(task, log, 1)


def work_until_done(store: Store, log: Log, journal: str, steps: int, options: dict[str, Any]) -> None:
    """Resume tasks again and again until none is left; each has `steps` steps with an effect each.

    Option `lives_us`: the kernel ends the process after so long, wherever it is; 0 for never.
    """
    plants.plant(options.get("bug", ""))
    _live_for(options.get("lives_us", 0))
    tasks = Tasks(store, journal, attempts=options.get("attempts", 3))
    backoff = Backoff()
    while tasks.count():
        task = tasks.claim()
        if task is None:
            backoff.sleep()
        else:
            _work(task, log, steps)


def _live_for(lives_us: int) -> None:
    if not lives_us:
        return
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a process as -9 does
    signal.setitimer(signal.ITIMER_REAL, lives_us * 1e-6)


def _work(task: Task, log: Log, steps: int) -> None:
    log.tell("begun", task.id, task.attempt, task.token, task.state)
    try:
        for step in range(task.state or 0, steps):
            task.checkpoint(step + 1, lambda transaction: transaction.increment(f"steps:{task.id}"))
            log.tell("step", task.id, step + 1)
        log.tell("ended", task.id)
        task.finish(lambda transaction: transaction.increment(f"done:{task.id}"))
        log.tell("finished", task.id)
    except ClaimLostError as error:
        log.tell("lost", task.id, str(error))


def leave_task(store: Store, log: Log, journal: str, task_id: str) -> None:
    """Begin a task and end without finishing it, as an interpreter that is destroyed does."""
    task = Tasks(store, journal).run(task_id)
    log.tell("begun", task.id, task.attempt, task.token, task.state)


def outlive_the_main_thread(store: Store, log: Log, journal: str) -> None:
    """Hold task "held" in a thread that the process must wait for; once it has begun to end, try to begin others.

    So do the threads of a mod_wsgi child that hangs at its shutdown.
    """
    import threading

    def work() -> None:
        tasks, leader = Tasks(store, journal), Leader(store, "l")
        with tasks.run("held") as task:
            log.tell("begun", task.id, task.attempt, task.token, task.state)
            log.tell("leads", leader.try_lead())
            _poll(task.should_stop)
            log.tell("stopping", repr(tasks.claim()), leader.try_lead(), tasks.resume(lambda _: None) == [])
            try:
                tasks.run("refused")
            except StoppingError:
                log.tell("refused to begin")
            log.wait("end it")
            task.checkpoint("late")
            log.tell("ended", task.id)
        log.tell("finished", "held")

    threading.Thread(target=work).start()
    log.wait("leads")


def lead_to_the_end(store: Store, log: Log, name: str) -> None:
    """Lead, and end in an orderly way without a word about it."""
    kept.append(Leader(store, name))
    log.tell("leads", kept[0].try_lead())


kept: list[Any] = []  # until the process ends


# --- the others ------------------------------------------------------------------


def lead(store: Store, log: Log, name: str, options: dict[str, Any]) -> None:
    """Try to lead until it succeeds, tell so, and lead until the event `gate`; then write as leader, and resign."""
    plants.plant(options.get("bug", ""))
    leader = Leader(store, name)
    _poll(leader.try_lead)
    log.tell("begun", name, 0, leader.term, None)
    log.wait(options.get("gate", "never"))
    log.tell("ended", name)
    try:
        with leader.transaction() as transaction:
            transaction.increment("led")
        log.tell("led", leader.is_leader())
    except ClaimLostError as error:
        log.tell("lost", name, str(error))
    leader.resign()


def lead_while_leading(store: Store, log: Log, name: str, leave: str) -> None:
    """Be a candidate until the event `leave`; tell when the scope is entered and left."""
    from contextlib import contextmanager

    from sharedstate.coordination.leading import while_leading

    @contextmanager
    def scope(leader: Leader) -> Any:
        log.tell("begun", name, 0, leader.term, None)
        yield
        plants.linger()
        log.tell("ended", name)

    candidacy = while_leading(store, name, scope, is_stopping=lambda: False)
    log.wait(leave)
    candidacy.stop()


def lead_by_turns(store: Store, log: Log, name: str, turns: int, options: dict[str, Any]) -> None:
    """Lead `turns` times, each time resigning at once."""
    plants.plant(options.get("bug", ""))
    leader = Leader(store, name)
    log.tell("ready")
    log.wait("go")
    for _ in range(turns):
        _poll(leader.try_lead)
        try:
            log.tell("begun", name, 0, leader.term, None)
        except ClaimLostError as error:
            log.tell("deposed", name, str(error))
            continue
        plants.linger()
        log.tell("ended", name)
        leader.resign()


def hold_permits(store: Store, log: Log, name: str, limit: int, options: dict[str, Any]) -> None:
    """Take and give back a permit as often as the option `turns` says."""
    plants.plant(options.get("bug", ""))
    semaphore = Semaphore(store, name, limit)
    log.tell("ready")
    log.wait("go")
    for turn in range(options["turns"]):
        try:
            with semaphore:
                log.tell("taken", name, turn)
                plants.linger()
                log.tell("given", name, turn)
        except ClaimLostError as error:
            log.tell("lost", name, str(error))


def keep_permit(store: Store, log: Log, name: str, limit: int, timeout_s: float | None) -> None:
    """Take a permit and keep it until killed."""
    try:
        permit = Semaphore(store, name, limit).acquire(timeout_s)
    except LockTimeoutError as error:
        log.tell("refused", str(error))
        return
    log.tell("taken", name, 0)
    log.wait("never")
    permit.release()


def hit_for(store: Store, log: Log, name: str, subject: str, options: dict[str, Any]) -> None:
    """Hit a limit at random moments until `for_s` have passed; tell each that was allowed.

    Options: those of RateLimit; `for_s`; `pause_s`: the longest pause between two hits; `bug`.
    """
    plants.plant(options.get("bug", ""))
    rate = RateLimit(store, name, options["limit"], options["per_s"], kind=options.get("kind", "sliding-window"))
    log.tell("ready")
    log.wait("go")
    deadline = Deadline(options["for_s"])
    while not deadline.has_passed():
        plants.pause(options["pause_s"])
        called_ns = plants.monotonic_ns()
        decision = rate.hit(subject)
        if decision.allowed:
            log.tell("allowed", subject, called_ns, plants.monotonic_ns())


def _poll(condition: Any) -> None:
    deadline, backoff = Deadline(60.0), Backoff()
    while not condition():
        assert not deadline.has_passed(), f"pid {os.getpid()} waited too long"
        backoff.sleep()
