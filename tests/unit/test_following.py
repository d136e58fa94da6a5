"""The callable that goes along: in C, and the same in Python."""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

import sharedstate
from sharedstate import following
from sharedstate.backend import Backend
from sharedstate.errors import ConflictError, MovedError

if TYPE_CHECKING:
    from pathlib import Path


def _in_python() -> Any:
    """Return `Guard` as it is where no C module is built."""
    native = sys.modules.get("sharedstate._native")
    sys.modules["sharedstate._native"] = None  # type: ignore[assignment]
    try:
        spec = importlib.util.spec_from_file_location("following_without_c", following.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Guard
    finally:
        if native is None:
            del sys.modules["sharedstate._native"]
        else:
            sys.modules["sharedstate._native"] = native


GUARDS = {"as built": following.Guard, "in Python": _in_python()}


@pytest.fixture(params=GUARDS)
def guard_type(request: pytest.FixtureRequest) -> Any:
    """Each of the two."""
    return GUARDS[request.param]


def moved(*_arguments: object, **_options: object) -> None:
    """Raise what a verb of a store that has moved does."""
    raise MovedError(url="a:", to="b:")


def test_a_call_passes_through(guard_type: Any) -> None:
    """Arguments, names and the result, untouched."""
    guard = guard_type(lambda *arguments, **options: (arguments, options), None, MovedError)
    assert guard() == ((), {})
    assert guard(1, [2], x=3) == ((1, [2]), {"x": 3})
    assert list(map(guard, [1])) == [((1,), {})]


def test_an_error_passes_through(guard_type: Any) -> None:
    """Any but the one; as it was raised."""

    def refuse() -> None:
        raise ConflictError(key="k", expected=1, found=2)

    guard = guard_type(refuse, None, MovedError)
    with pytest.raises(ConflictError) as caught:
        guard()
    assert caught.value.__context__ is None
    assert caught.traceback[-1].name == "refuse"


def test_it_goes_along_once(guard_type: Any) -> None:
    """The same arguments, to the next; from then on to that one at once, and further when that moves too."""
    told: list[Any] = []
    targets = [lambda *arguments, **options: ("third", arguments, options), moved]

    def follow(error: MovedError) -> Any:
        told.append(error.to)
        return targets.pop()

    guard = guard_type(moved, follow, MovedError)
    assert guard(1, x=2) == ("third", (1,), {"x": 2})
    assert guard(3) == ("third", (3,), {})
    assert told == ["b:", "b:"]
    assert guard.__wrapped__(4) == ("third", (4,), {})


def test_a_way_that_fails_is_tried_again(guard_type: Any) -> None:
    """The caller gets its error; the next call asks anew."""
    outcomes: list[Any] = [lambda: "there", OSError("not now")]

    def follow(_: MovedError) -> Any:
        outcome = outcomes.pop()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    guard = guard_type(moved, follow, MovedError)
    with pytest.raises(OSError, match="not now"):
        guard()
    assert guard() == "there"


def test_it_keeps_nothing_alive_that_has_gone(guard_type: Any) -> None:
    """Nor is it kept itself by what it calls, if that refers to it."""

    class Target:
        def __call__(self) -> str:
            return "done"

    target = Target()
    guard = guard_type(target, None, MovedError)
    target.guard = guard  # type: ignore[attr-defined]
    assert guard() == "done"
    gone = ref(target)
    del target, guard
    gc.collect()
    assert gone() is None


def test_threads_that_go_at_once(guard_type: Any) -> None:
    """Each calls the old one or the new one, and none one that was freed."""
    for _ in range(50):
        start = threading.Barrier(4)
        results: list[Any] = []

        def call(guard: Any, start: threading.Barrier = start, results: list[Any] = results) -> None:
            start.wait()
            results.extend(guard(n) for n in range(20))

        guard = guard_type(moved, lambda _: lambda n: n + 1, MovedError)
        threads = [threading.Thread(target=call, args=(guard,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == sorted(list(range(1, 21)) * 4)


def test_wrong_arguments_are_refused() -> None:
    """As by any callable."""
    for arguments in ((), (1,), (1, 2), (1, 2, 3, 4)):
        with pytest.raises(TypeError):
            following.Guard(*arguments)


def test_a_handle_that_is_dropped_is_freed_at_once(tmp_path: Path) -> None:
    """No cycle keeps it, and its connections, until the garbage collector comes."""
    gc.disable()
    try:
        store = sharedstate.open(f"sqlite:{tmp_path}/state.db")
        store["k"] = 1
        backend = store.backend
        assert isinstance(backend, following.Followed)
        gone = ref(backend.backend)
        del store, backend
        assert gone() is None
    finally:
        gc.enable()


def test_a_verb_outlives_the_handle(tmp_path: Path) -> None:
    """`get = store.get` goes on, as a bound method does."""
    get = sharedstate.open(f"sqlite:{tmp_path}/state.db").get
    assert get("k", 7) == 7


def test_every_verb_of_a_backend_is_there(tmp_path: Path) -> None:
    """A verb that is added to the contract is added here too: what Backend derives would miss the move."""
    own = {name for name, found in vars(Backend).items() if callable(found) and not name.startswith("_")}
    assert own - {"leave", "readmit"} <= set(vars(following.Followed))  # of a handle that goes nowhere by itself
    with sharedstate.open(f"sqlite:{tmp_path}/state.db") as store:
        assert all(type(getattr(store.backend, verb)) is following.Guard for verb in following._HOT)
