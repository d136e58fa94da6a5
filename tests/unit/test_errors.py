"""Every error is a StateError and the builtin that fits, keeps its fields, and survives a process boundary."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from sharedstate import errors
from sharedstate.errors import StateError

_PLACE = {"url": "shm://x", "reason": "it is so", "advice": "Do this."}
_EVERY: list[tuple[type[StateError], dict[str, Any], tuple[type[BaseException], ...]]] = [
    (
        errors.AttemptsExhaustedError,
        {"what": "task 'a'", "attempts": 3, "error": "ValueError: so", "advice": "Do this."},
        (RuntimeError,),
    ),
    (errors.ClaimLostError, {"what": "task 'a'", "reason": "it is so"}, (RuntimeError,)),
    (errors.ClaimTakenError, {"what": "task 'a'", "reason": "it is so"}, (RuntimeError,)),
    (errors.StoppingError, {"what": "task 'a'", "reason": "it is so"}, (RuntimeError,)),
    (errors.ConflictError, {"key": "k", "expected": 1, "found": 2}, ()),
    (errors.UnavailableError, _PLACE, ()),
    (errors.StoreAccessError, _PLACE, (errors.UnavailableError, PermissionError, OSError)),
    (errors.BackendMissingError, _PLACE, (errors.UnavailableError, ImportError)),
    (errors.ClosedError, {"url": "shm://x"}, (ValueError,)),
    (
        errors.LockTimeoutError,
        {"url": "shm://x", "what": "lock 'l'", "timeout_s": 1.5, "holder": "pid 7"},
        (errors.UnavailableError, TimeoutError),
    ),
    (errors.MovedError, {"url": "sqlite:/x", "to": "redis://h/x"}, (errors.UnavailableError,)),
    (errors.OutcomeUnknownError, {"url": "shm://x", "reason": "it is so"}, ()),
    (errors.CapacityError, _PLACE, (MemoryError,)),
    (errors.KeyFormatError, {"found": "an int"}, (ValueError,)),
    (errors.ValueTypeError, {"path": "value[0]", "found": "a set", "advice": "Do this."}, (TypeError,)),
    (
        errors.CounterOverflowError,
        {"path": "k", "found": "2**64", "advice": ""},
        (errors.ValueTypeError, OverflowError),
    ),
    (errors.UrlError, _PLACE, (ValueError,)),
    (
        errors.ScopeError,
        {"url": "memory:x", "needed": "HOST", "given": "INTERPRETER", "advice": "Do this."},
        (RuntimeError,),
    ),
    (errors.LockOwnershipError, {"name": "l", "reason": "it is so"}, (RuntimeError,)),
    (errors.LockLostError, {"name": "l", "reason": "it is so"}, (RuntimeError,)),
    (errors.CorruptError, _PLACE, (ValueError,)),
]
_IDS = [kind.__name__ for kind, _, _ in _EVERY]


def test_every_error_is_tested_here() -> None:
    """An error that is added to the module is added to this table."""
    assert {kind.__name__ for kind, _, _ in _EVERY} | {"StateError"} == set(errors.__all__)


@pytest.mark.parametrize(("kind", "facts", "builtins"), _EVERY, ids=_IDS)
def test_error_keeps_its_facts(
    kind: type[StateError], facts: dict[str, Any], builtins: tuple[type[BaseException], ...]
) -> None:
    """The keyword arguments are attributes, and it can be caught as a StateError and as its builtins."""
    error = kind(**facts)

    assert {name: getattr(error, name) for name in facts} == facts
    assert isinstance(error, StateError)
    assert all(isinstance(error, builtin) for builtin in builtins)


@pytest.mark.parametrize(("kind", "facts", "_builtins"), _EVERY, ids=_IDS)
def test_message_is_made_from_the_facts(kind: type[StateError], facts: dict[str, Any], _builtins: Any) -> None:
    """str() is one sentence or more, without the quotes that KeyError would add, and names every fact."""
    text = str(kind(**facts))

    assert text == kind(**facts).describe()
    assert text[0] not in "\"'" or kind is errors.ConflictError
    assert all(str(fact) in text for fact in facts.values() if type(fact) is str)


@pytest.mark.parametrize(("kind", "facts", "_builtins"), _EVERY, ids=_IDS)
@pytest.mark.parametrize(
    "travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_error_survives_the_journey(kind: type[StateError], facts: dict[str, Any], _builtins: Any, travel: Any) -> None:
    """Pickled or copied, with a note or none, it is the same error with the same facts and message."""
    error = kind(**facts)
    error.add_note("seen in a worker")

    again = travel(error)

    assert type(again) is kind
    assert {name: getattr(again, name) for name in facts} == facts
    assert str(again) == str(error)


@pytest.mark.parametrize(("kind", "facts", "_builtins"), _EVERY, ids=_IDS)
def test_facts_are_given_by_name(kind: type[StateError], facts: dict[str, Any], _builtins: Any) -> None:
    """Positional or unknown arguments raise TypeError: a raiser cannot mix them up."""
    with pytest.raises(TypeError):
        kind(*facts.values())
    with pytest.raises(TypeError):
        kind(**facts, no_such_fact=1)


def test_conflict_tells_absence_in_words() -> None:
    """Generation 0 is said as what it means."""
    assert "'k' is absent, expected generation 3" in str(errors.ConflictError(key="k", expected=3, found=0))
    assert "'k' is generation 3, expected absent" in str(errors.ConflictError(key="k", expected=0, found=3))


def test_a_password_in_a_url_is_not_told() -> None:
    """Neither by the message, nor by the fields, nor after pickling."""
    error = errors.UnavailableError(url="redis://me:hunter2@host/0?token=hunter2", reason="gone", advice="Wait.")

    for told in (error, pickle.loads(pickle.dumps(error))):
        assert "hunter2" not in f"{told} {told!r} {vars(told)}"
        assert told.url == "redis://me:***@host/0?token=***"
