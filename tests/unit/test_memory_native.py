"""The C module of memory: what it gives back, what it does without memory, and the interpreters it runs in.

What it does is test_memory_entries.py's; that it does the same as Python, test_memory_in_c_and_python.py's.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import sysconfig
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate import ABSENT, ConflictError
from sharedstate_memory import _entries
from sharedstate_memory import backend as plugin

if TYPE_CHECKING:
    from collections.abc import Callable

FAR = 1e12  # a deadline


def verbs_of(entries: Any, handle: Any) -> dict[str, Callable[[], object]]:
    """Return every way through the C module; each may be called again and again."""

    def refused(call: Callable[..., object], *arguments: Any) -> Callable[[], object]:
        def attempt() -> None:
            with contextlib.suppress(TypeError, ValueError, ConflictError):
                call(*arguments)

        return attempt

    def wait_and_leave() -> None:
        assert entries.enlist(entries.last, wait_and_leave)
        entries.leave(wait_and_leave)

    def wait_and_be_woken() -> None:
        wakes = [list[int]().clear for _ in range(20)]
        for wake in wakes:
            assert entries.enlist(entries.last, wake)
        handle.set("k", 1)

    handle.set("k", 1)
    handle.set("text", "x" * 100)
    handle.set("list", [1, "two"])
    return {
        "get": lambda: handle.get("k"),
        "get a list": lambda: handle.get("list"),
        "get nothing": lambda: handle.get("none"),
        "get a wrong key": refused(handle.get, 7),
        "set": lambda: handle.set("k", 2**40),
        "set a new one and take it": lambda: (handle.set("new", "x" * 50), entries.take("new")),
        "set a list": lambda: handle.set("list", [1, "two"]),
        "set with a deadline": lambda: handle.set("k", 1, 1e6),
        "set what is refused": refused(handle.set, "k", {1}),
        "set with a wrong deadline": refused(handle.set, "k", 2**70, -1),
        "increment": lambda: handle.increment("n", 2**40),
        "increment a float": lambda: handle.increment("f", 1.5, 0.0),
        "increment in Python": lambda: handle.increment("f", 1, 0.0),
        "increment text": refused(handle.increment, "text"),
        "increment a list": refused(handle.increment, "list"),
        "look": lambda: entries.look("k"),
        "look at nothing": lambda: entries.look("none"),
        "touch": lambda: entries.touch("k", FAR),
        "keys": lambda: entries.keys("k"),
        "snapshot": entries.snapshot,
        "commit": lambda: entries.commit({"a": ("x" * 50, False, FAR), "b": None, "k": (1, False, None)}, {"none": 0}),
        "commit in vain": refused(entries.commit, {"a": ("x", False, None)}, {"k": 2**64}),
        "commit what is wrong": refused(entries.commit, {"a": ("x" * 50, False, None), "b": ([], False, None)}, {}),
        "wait and leave": wait_and_leave,
        "wait and be woken": wait_and_be_woken,
        "make new ones": lambda: _entries.Handle(_entries.Entries(), "url", plugin._refuse).set("k", 1),
        "make wrong ones": refused(_entries.Handle, entries, 7, None),
    }


def fresh_verbs() -> tuple[_entries.Entries, dict[str, Callable[[], object]]]:
    entries = _entries.Entries()
    return entries, verbs_of(entries, _entries.Handle(entries, "memory:unit", plugin._refuse))


WAYS = list(fresh_verbs()[1])


@pytest.mark.parametrize("way", WAYS)
def test_nothing_leaks(way: str) -> None:
    """1000 calls leave less than a block of memory for every second one."""
    _, in_c = fresh_verbs()

    def call(times: int) -> int:
        for _ in range(times):
            in_c[way]()
        gc.collect()
        return sys.getallocatedblocks()

    before = call(100)

    after = call(1000)

    assert after - before < 500


def test_types_are_given_back() -> None:
    """Each object holds its type for as long as it lives, and no longer; an entry's own type, too."""
    types = [
        kind for kind in gc.get_referents(_entries) if isinstance(kind, type) and kind.__module__ == _entries.__name__
    ]
    assert sorted(kind.__name__ for kind in types) == ["Entries", "Handle", "item"]
    before = [sys.getrefcount(kind) for kind in types]

    for _ in range(100):
        _entries.Handle(_entries.Entries(), "url", plugin._refuse).set("k", 1)

    assert [sys.getrefcount(kind) for kind in types] == before


def test_entries_refer_to_the_type_of_their_items() -> None:
    """The collector sees every reference to the items' type (M9), or an interpreter that ends keeps what it loaded."""
    entries, _ = fresh_verbs()
    (item,) = [kind for kind in gc.get_referents(entries) if isinstance(kind, type) and kind is not type(entries)]
    before = sys.getrefcount(item)

    entries.commit({f"k{i}": (i, False, None) for i in range(100)}, {})

    assert item.__name__ == "item"
    assert sys.getrefcount(item) == before
    entries.commit({"k1": None, "k2": (3, False, None)}, {})
    entries.take("k3")
    assert sys.getrefcount(item) == before


# Not those that call Python code, some of which CPython itself does not survive without memory.
WITHOUT_MEMORY = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="there, PyList_New of CPython 3.13 frees a stale pointer when it finds no memory",
)
NOT_C_ALONE = ("Python", "wrong", "refused", "vain", "text", "woken", "deadline", "increment a list")


@WITHOUT_MEMORY
@pytest.mark.parametrize("way", [way for way in WAYS if not any(word in way for word in NOT_C_ALONE)])
def test_a_call_without_memory_changes_nothing(way: str) -> None:
    """Whichever allocation fails: MemoryError, no write, and the next call does what it should."""
    testcapi = pytest.importorskip("_testcapi")
    entries, in_c = fresh_verbs()

    def describe() -> Any:
        return entries.last, sorted(entries.snapshot(), key=lambda row: row[0])

    for failing in range(1, 200):
        before = describe()
        testcapi.set_nomemory(failing, failing + 1)
        try:
            in_c[way]()
        except MemoryError:
            is_refused = True
        else:
            is_refused = False
        finally:
            testcapi.remove_mem_hooks()
        if is_refused and "and" not in way:
            assert describe() == before
        elif not is_refused and failing > 40:
            break
    in_c[way]()


@WITHOUT_MEMORY
def test_a_commit_that_finds_no_room_for_a_key_leaves_none_of_the_others() -> None:
    """Whichever of its 60 new keys has the dict grow when there is no memory: no key of them is there (M3)."""
    testcapi = pytest.importorskip("_testcapi")
    changes = {f"k{i}": (i, False, None) for i in range(60)}
    refused = 0

    for failing in range(1, 150):
        entries = _entries.Entries()
        entries.commit({"k7": ("old", False, None), "other": (1, False, None)}, {})
        try:
            testcapi.set_nomemory(failing, failing + 1)
            entries.commit(changes, {})
        except MemoryError:
            testcapi.remove_mem_hooks()
            refused += 1
            assert sorted(entries.snapshot()) == [("k7", "old", False, 1, None), ("other", 1, False, 2, None)]
            assert entries.commit(changes, {f"k{i}": ABSENT for i in range(60) if i != 7}) == 3
        finally:
            testcapi.remove_mem_hooks()
        assert len(entries.keys("k")) == 60

    assert refused > 60


def test_the_collector_does_not_see_the_entries() -> None:
    """However many there are: it neither walks them, nor counts them towards the next collection."""
    entries = _entries.Entries()
    handle = _entries.Handle(entries, "memory:unit", plugin._refuse)
    keys = [f"k{i}" for i in range(5000)]
    gc.collect()
    objects, counts = len(gc.get_objects()), gc.get_count()[0]

    for key in keys:
        handle.set(key, "x")

    assert gc.get_count()[0] - counts < 100
    assert len(gc.get_objects()) - objects < 100


IN_EACH = """
import gc, sharedstate
store = sharedstate.open("memory:same", allow_narrow=True)
assert type(store.get.__self__).__module__ == "sharedstate_memory._entries"
for i in range(2000):
    store.set(f"k{i % 50}", [i])
    store.increment("n")
    store.increment("f", 1, 0.5)
with store.transaction() as tx:
    tx["n"] += 1
assert store["n"] == 2001 and store["f"] == 2000.5 and store["k49"] == [1999], dict(store)
try:
    store.set("k", {1})
except TypeError:
    pass
kept = store.get
store.close()
try:
    kept("k")
except sharedstate.ClosedError:
    pass
"""


@pytest.mark.parametrize("kind", ["legacy", *(["isolated"] if sys.version_info >= (3, 12) else [])])
def test_the_module_works_in_every_kind_of_interpreter(kind: str) -> None:
    """Several at once, each with a store of its own; they come and go, and leave the others whole."""
    script = f"""
        import sys, threading
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
            def create():
                return interpreters.create({kind!r})
            def run(interpreter):
                failure = interpreters.exec(interpreter, {IN_EACH!r})
                assert failure is None, failure.formatted
        else:
            import _xxsubinterpreters as interpreters
            def create():
                return interpreters.create(isolated={kind == "isolated"})
            def run(interpreter):
                interpreters.run_string(interpreter, {IN_EACH!r})
        for _ in range(2):
            made = [create() for _ in range(3)]
            threads = [threading.Thread(target=run, args=(interpreter,)) for interpreter in made]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for interpreter in made:
                interpreters.destroy(interpreter)
        exec({IN_EACH!r})
        print("whole")
    """
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert (done.stdout, done.returncode) == ("whole\n", 0), done.stderr
    assert "Error" not in done.stderr
