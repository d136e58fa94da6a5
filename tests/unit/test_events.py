"""`sharedstate.events`: V1 to V5, and that each event is told where it happens, on every backend."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from sharedstate.backend.repairs import Repair
from sharedstate.coordination import Leader
from sharedstate.deployment import lifecycle
from sharedstate.errors import AttemptsExhaustedError, LockLostError
from sharedstate.event_table import EVENTS
from sharedstate.events import Silence, tell
from sharedstate.model import Scope
from sharedstate.opening import repair

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharedstate.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """What was told since the last call."""
    caplog.set_level(logging.INFO, "sharedstate")

    def take() -> list[logging.LogRecord]:
        records = [record for record in caplog.records if record.name == "sharedstate"]
        caplog.clear()
        return records

    return take


def facts_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in EVENTS[record.event].facts}


# --- The table (V1) ---------------------------------------------------------------------


def test_the_page_has_the_table() -> None:
    """docs/observability.md names each event with its level and facts, and no other."""
    page = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([A-Z]+) \| (.+?) \|", page, re.MULTILINE)

    assert [(event, level, tuple(re.findall(r"`(\w+)`", facts))) for event, level, facts in rows] == [
        (event, logging.getLevelName(kind.level), kind.facts) for event, kind in sorted(EVENTS.items())
    ]


def test_whoever_tells_gives_the_facts_of_the_table() -> None:
    """Each call names an event of the table, each event is told somewhere, and always with all its facts."""
    told = set()
    for path in [*ROOT.glob("sharedstate/**/*.py"), *ROOT.glob("backends/**/*.py")]:
        text = path.read_text()
        if not re.search(r"^from sharedstate\.(events|backend) import .*\btell\b", text, re.MULTILINE):
            continue  # one of another kind
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tell":
                (event,) = [ast.literal_eval(argument) for argument in node.args]
                told.add(event)
                names = [keyword.arg for keyword in node.keywords]
                if None not in names:  # not **facts, whose caller has a test below
                    assert set(names) == set(EVENTS[event].facts), path

    assert told == set(EVENTS)


def test_no_fact_is_an_attribute_of_loggings_own() -> None:
    """`extra` refuses those, and `event` is ours."""
    record = logging.LogRecord("", 0, "", 0, "", (), None)
    taken = {*vars(record), "asctime", "event", "message", "taskName"}

    assert not [fact for kind in EVENTS.values() for fact in kind.facts if fact in taken]


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_event_is_one_line_with_its_facts(event: str, heard: Callable[[], list[logging.LogRecord]]) -> None:
    """V1 and V5, also where a fact has several lines; the message is the table's, for whoever gathers by it."""
    kind = EVENTS[event]
    facts = {fact: 7 if f"%({fact})d" in kind.message else "a\nb\rc" for fact in kind.facts}

    tell(event, **facts)

    (record,) = heard()
    assert record.__dict__["event"] == event
    assert record.levelno == kind.level
    assert record.msg == kind.message
    assert len(record.getMessage().splitlines()) == 1
    assert facts_of(record) == {fact: 7 if told == 7 else "a b c" for fact, told in facts.items()}
    assert record.filename == "test_events.py"


def test_no_secret_is_told(heard: Callable[[], list[logging.LogRecord]]) -> None:
    """V5: neither in the text nor in a fact."""
    tell("store.reconnected", store="redis://u:hunter2@host/jobs", error="redis://u:hunter2@host/jobs?token=hunter3")

    (record,) = heard()
    assert "hunter" not in record.getMessage()
    assert facts_of(record) == {"store": "redis://u:***@host/jobs", "error": "redis://u:***@host/jobs?token=***"}


# --- Who hears (V2 to V4) ----------------------------------------------------------------


def test_a_program_without_logging_hears_nothing() -> None:
    """V2: it is not imported by being told."""
    program = """
import sys
import sharedstate
from sharedstate import events
events.tell("leader.began", store="memory:", leader="l", term=1)
print("logging" in sys.modules)
sys.modules["logging"] = type(sys)("logging")  # amid its import
events.tell("leader.began", store="memory:", leader="l", term=1)
"""
    program = f"import sys; sys.path[:] = {sys.path!r}\n{program}"

    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_level_that_is_off_costs_no_text(heard: Callable[[], list[logging.LogRecord]]) -> None:
    """The program's own setting decides."""
    logging.getLogger("sharedstate").setLevel(logging.ERROR)

    tell("leader.began", store="s", leader="l", term=1)
    tell("task.exhausted", store="s", journal="j", task="t", failures=3, error="e")

    assert [record.levelno for record in heard()] == [logging.ERROR]


def test_an_event_that_nobody_knows_breaks_nothing(heard: Callable[[], list[logging.LogRecord]]) -> None:
    """A wrong word of ours, say; the tests above find it."""
    tell("no.event", store="s")

    assert heard() == []


def test_silence_is_the_threads_own(heard: Callable[[], list[logging.LogRecord]]) -> None:
    """V4: one inside another ends with the outer one."""
    with Silence():
        with Silence():
            pass
        tell("leader.resigned", store="s", leader="l")
    assert heard() == []

    tell("leader.resigned", store="s", leader="l")
    assert len(heard()) == 1


def test_nothing_is_told_in_the_hooks_of_a_fork(
    heard: Callable[[], list[logging.LogRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """V4: logging's own locks may be those of a thread that is not in the child."""
    monkeypatch.setattr(lifecycle, "_begin_serving", lambda: tell("leader.resigned", store="s", leader="l"))

    lifecycle._begin_serving_in_child()

    assert heard() == []


class Meddler(logging.Handler):
    """A handler at its worst: it uses the store, has more to be told, and raises."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.records: list[Any] = []

    def emit(self, record: Any) -> None:
        self.records.append(record)
        self.store.increment(record.event)
        with self.store.lock(record.event, 5):
            tell("leader.resigned", store="s", leader="l")
        raise ZeroDivisionError


# --- What is told --------------------------------------------------------------------------


def live(open_one: Callable[[], Store]) -> list[str]:
    """Have a body fail, a task be taken over and exhausted, and a leader begin and resign; return what was told of."""
    store, dying = open_one(), open_one()

    def fail() -> None:
        raise ValueError("no\nluck")

    with pytest.raises(ValueError, match="luck"):
        sharedstate.once(store, "setup", fail, per="v1")
    assert sharedstate.once(store, "setup", lambda: 7, per="v1").result == 7
    assert not sharedstate.once(store, "setup", fail, per="v1").ran

    tasks = sharedstate.Tasks(store, "jobs", attempts=1, is_stopping=lambda: False)
    kept = sharedstate.Tasks(dying, "jobs", is_stopping=lambda: False).run("a", 1)
    assert tasks.resume(fail) == []
    dying.close()
    assert [outcome.status for outcome in tasks.resume(lambda _: fail())] == ["failed"]
    with pytest.raises(AttemptsExhaustedError):
        tasks.run("a")
    with tasks.run("b"):
        pass
    assert kept.attempt == 1

    leader = Leader(store, "l", is_stopping=lambda: False)
    assert leader.try_lead()
    assert leader.try_lead()
    assert leader.resign()
    assert not leader.resign()
    return [
        *("once.began", "once.failed", "once.began"),
        *("task.taken_over", "task.exhausted", "leader.began", "leader.resigned"),
    ]


def test_coordination_tells_once_of_what_happened(
    open_any: Callable[[], Store], heard: Callable[[], list[logging.LogRecord]]
) -> None:
    """Each with its facts, and nothing of what is as usual."""
    expected = live(open_any)

    records: list[Any] = heard()
    assert [record.event for record in records] == expected
    store = open_any().url
    told = [facts_of(record) for record in records]
    assert all(facts.pop("store") == store for facts in told)
    assert told[0] == {"once": "setup", "period": "v1", "attempt": 1}
    assert told[1] == {"once": "setup", "period": "v1", "attempt": 1, "error": "ValueError: no luck"}
    assert told[2] == {"once": "setup", "period": "v1", "attempt": 2}
    assert told[3].pop("who").startswith(f"pid {os.getpid()}")
    assert told[3] == {"journal": "jobs", "task": "a", "attempt": 2}
    assert told[4] == {"journal": "jobs", "task": "a", "failures": 1, "error": "ValueError: no luck"}
    assert told[5].pop("term") > 0
    assert told[5] == told[6] == {"leader": "l"}


def test_a_handler_that_raises_and_uses_the_store_changes_nothing(open_any: Callable[[], Store]) -> None:
    """V3: all comes to the same end, and what the handler itself does is not told."""
    logger, meddler = logging.getLogger("sharedstate"), Meddler(open_any())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(meddler)
    try:
        expected = live(open_any)
    finally:
        logger.removeHandler(meddler)
        logger.setLevel(level)

    assert [record.event for record in meddler.records] == expected
    assert meddler.store["once.began"] == 2


def test_a_lost_lock_is_told(shm_url: str, heard: Callable[[], list[logging.LogRecord]]) -> None:
    """When it is released, beside the error; a lock that is kept tells nothing."""
    with sharedstate.open(shm_url) as store:
        lock: Any = store.lock("l")
        with lock:
            pass
        assert heard() == []
        lock.acquire()
        os.unlink(lock.path)

        with pytest.raises(LockLostError) as lost:
            lock.release()

        (record,) = heard()
        assert facts_of(record) == {"store": store.url, "lock": "l", "reason": lost.value.reason}


def test_a_shortfall_is_told(memory_url: str, heard: Callable[[], list[logging.LogRecord]]) -> None:
    """Who opens a store although it falls short hears so."""
    with sharedstate.open(memory_url, scope=Scope.HOST, allow_narrow=True):
        (record,) = heard()

    assert record.__dict__["event"] == "deployment.shortfall"
    assert "HOST" in facts_of(record)["shortfall"]


def test_a_repair_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[logging.LogRecord]]
) -> None:
    """What it kept and dropped, and where the copy is; nothing if there was nothing to repair."""
    reports = [Repair("", 4), Repair("/copy", 3, 1, ("k",))]
    monkeypatch.setattr("sharedstate_file.repair", lambda _url, _copy_to: reports.pop(0))

    for _ in (1, 2):
        repair(f"file:{tmp_path}/store")

    (record,) = heard()
    assert record.__dict__["event"] == "store.repaired"
    assert facts_of(record) == {"store": f"file:{tmp_path}/store", "copy": "/copy", "kept": 3, "dropped": 1}


def test_a_compaction_that_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that led to it has succeeded; a handler may write, too."""

    def fail(_: object) -> None:
        raise OSError("no room")

    with sharedstate.open(f"file:{tmp_path}/store") as store:
        backend: Any = store.backend
        monkeypatch.setattr(type(backend), "_pays", lambda _: True)
        monkeypatch.setattr(type(backend), "_compact", fail)
        meddler = Meddler(store)
        logging.getLogger("sharedstate").addHandler(meddler)
        backend._is_due = True
        try:
            store["k"] = 1
        finally:
            logging.getLogger("sharedstate").removeHandler(meddler)

        assert (store["k"], store["store.compaction_failed"]) == (1, 1)
        assert store.stats()["compactions_failed"]
    (record,) = meddler.records
    assert facts_of(record) == {"store": f"file:{tmp_path}/store", "error": "OSError: no room"}
