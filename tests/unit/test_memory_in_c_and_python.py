"""The entries of memory in C and in Python: which one a store uses, and that they do the same, call by call."""

import random
import subprocess
import sys
import textwrap
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate_memory import _entries
from sharedstate_memory import backend as plugin
from sharedstate_memory import entries as in_python

if TYPE_CHECKING:
    from collections.abc import Callable


IMPLEMENTATIONS: dict[str, Any] = {"c": _entries, "python": in_python}
LONG_AGO, FAR = 0.5, 1e12  # deadlines


def test_the_c_module_is_what_a_store_uses() -> None:
    """Where it is built, a store's hot verbs are the C handle's own bound methods."""
    import sharedstate

    assert plugin.Entries is _entries.Entries
    with sharedstate.open(plugin.temporary_url("")) as store:
        assert all(type(getattr(store, verb).__self__) is _entries.Handle for verb in ("get", "set", "increment"))
        url = store.url
    sharedstate.remove(url)


def test_without_the_c_module_it_is_python() -> None:
    """A store then does the same, and says nothing."""
    script = """
        import sys
        sys.modules["sharedstate_memory._entries"] = None
        import sharedstate
        with sharedstate.open("memory:x") as store:
            store["k"] = {"n": (1, 2)}
            print(store["k"], store.increment("n"), store._backend._handle.__class__.__module__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("{'n': (1, 2)} 1 sharedstate_memory.entries\n", "")


# --- One as the other -------------------------------------------------------------------


VALUES: list[Any] = [None, True, 0, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, -0.0, "a", "é" * 9, b"x", [1], (2,)]
WRONG: list[Any] = [2**64, -(2**63) - 1, {1}, object, "\ud800", b"", [2**64], datetime(2026, 1, 1)]  # noqa: DTZ001
KEYS: list[Any] = ["a", "b", "ab", "é", "日", "k" * 512]
WRONG_KEYS: list[Any] = ["", "k" * 513, "é" * 257, "\ud800", 1, None, b"a", [1]]
NUMBERS: list[Any] = [0, 1, -7, 2**62, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -1e300, float("inf"), 2**64, True, "1"]
TTLS: list[Any] = [None, None, 100, 1e6, 0, -1, float("nan"), "1", True, 1e10]


def random_call(random: random.Random) -> tuple[str, str, tuple[Any, ...]]:
    """Return an object, its method and the arguments."""

    def key() -> Any:
        return random.choice(KEYS if random.random() < 0.97 else WRONG_KEYS)

    def change() -> Any:
        value, deadline = random.choice(VALUES[:-2]), random.choice([None, None, FAR, LONG_AGO])
        return random.choice([None, (value, False, deadline), (b"\x91\x01", True, deadline)])

    def good_key() -> Any:
        return random.choice(KEYS)

    calls: list[Callable[[], tuple[str, str, tuple[Any, ...]]]] = [
        lambda: ("handle", "get", (key(), *random.choice([(), (7,)]))),
        lambda: ("handle", "set", (key(), random.choice(VALUES), random.choice(TTLS))),
        lambda: ("handle", "set", (key(), random.choice(VALUES))),
        lambda: ("handle", "set", (key(), random.choice(WRONG))),
        lambda: ("handle", "increment", (key(),)),
        lambda: ("handle", "increment", (key(), random.choice(NUMBERS))),
        lambda: ("handle", "increment", (key(), random.choice(NUMBERS), random.choice(NUMBERS), random.choice(TTLS))),
        lambda: ("entries", "look", (good_key(),)),
        lambda: ("entries", "take", (good_key(),)),
        lambda: ("entries", "touch", (good_key(), random.choice([None, FAR, LONG_AGO]))),
        lambda: ("entries", "keys", (random.choice(["", "a", "é", "zz"]),)),
        lambda: (
            "entries",
            "commit",
            (
                {good_key(): change() for _ in range(random.randrange(4))},
                {good_key(): random.choice([0, 1, 2, 3, 5, 8, -1, 2**64]) for _ in range(random.choice([0, 0, 1, 2]))},
            ),
        ),
    ]
    return random.choice(calls)()


def outcome(implementation: Any, what: Any, method: str, arguments: tuple[Any, ...]) -> Any:
    """Return a result or an exception in a form that compares, deadlines to the second."""
    try:
        result = getattr(what, method)(*arguments)
    except Exception as error:  # noqa: BLE001  compared
        return type(error), str(error)
    if method in {"look", "take"} and result is not None:
        return repr((*result[:3], result[3] and round(result[3])))
    return repr(sorted(result) if method == "keys" else result)


@pytest.mark.parametrize("seed", range(20))
def test_c_and_python_do_the_same(seed: int) -> None:
    """To the same calls they give the same results, errors and generations, and keep the same entries."""
    chance = random.Random(seed)
    both = []
    for module in IMPLEMENTATIONS.values():
        entries = module.Entries()
        both.append({"entries": entries, "handle": module.Handle(entries, "memory:unit", plugin._refuse)})

    history = []
    for _ in range(600):
        what, method, arguments = random_call(chance)
        history.append((method, arguments))
        in_c, in_python = (outcome(None, each[what], method, arguments) for each in both)
        assert in_c == in_python, history[-1]
        assert both[0]["entries"].last == both[1]["entries"].last, history[-1]
    for left, right in zip(*(sorted(each["entries"].snapshot()) for each in both), strict=True):
        assert (repr(left[1]), left[0], *left[2:4]) == (repr(right[1]), right[0], *right[2:4])
