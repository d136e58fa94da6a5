"""`sharedstate.contrib.django`: what Django's own tests ask of a cache backend, and what they do not ask.

Django's tests are not in its wheel, so the rules of `tests/cache/tests.py` that
a backend can break stand here anew, each on every backend of ours.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import django
import pytest
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.cache import SessionStore as StockSessionStore
from django.core.cache import caches
from django.core.cache.backends.filebased import FileBasedCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils.safestring import SafeString, mark_safe

import sharedstate
from sharedstate.contrib import _caching
from sharedstate.contrib.django import PlainSerializer, SharedStateCache
from sharedstate.contrib.django.sessions import SessionStore
from sharedstate.errors import CorruptError, ValueTypeError
from sharedstate.testing.conformance.support import until
from sharedstate.transactions import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if not settings.configured:
    settings.configure()
    django.setup()


@pytest.fixture
def cache(any_url: str) -> SharedStateCache:
    """A cache over a fresh store of each backend."""
    return SharedStateCache(any_url, {})


@pytest.fixture
def sessions(memory_url: str) -> Iterator[SharedStateCache]:
    """The cache of the sessions."""
    backend = "sharedstate.contrib.django.SharedStateCache"
    with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": memory_url}}):
        yield caches["default"]


class Counted:
    """An object that only a pickle can keep."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


VALUES = [
    *(None, True, 0, -1, 2**63, 2**64, -(2**80), 1.5, float("inf"), "", "text", "caf\xe9", "\ud800", b"", b"\xd8\x02"),
    *([], [1, [2]], (1, (2,)), {"a": 1}, {1: "int"}, {True: "bool"}, {(1, 2): "tuple"}, {1, 2}, frozenset({3})),
    *(mark_safe("<b>"), [mark_safe("<i>")], Counted(1), {"deep": [Counted(2)]}),
    *(datetime(2026, 1, 2, tzinfo=UTC), [datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))], datetime(2026, 1, 1)),  # noqa: DTZ001
    *((_caching._PICKLED, b"mine"), (_caching._PICKLED, "x"), [b"\xd8\x02"], Counted),
]


# --- Values and keys -------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_can_be_pickled_comes_back_as_itself(memory_url: str, value: Any) -> None:
    """Equal and of the same type, by each way in and out: also what looks like our own tag."""
    cache = SharedStateCache(memory_url, {})

    cache.set("set", value)
    cache.add("add", value)
    cache.set_many({"many": value})

    for found in (cache.get("set"), cache.get("add"), cache.get_many(["many"])["many"]):
        assert found == value
        assert type(found) is type(value)


def test_a_time_zone_comes_back(memory_url: str) -> None:
    """A datetime keeps its ZoneInfo, alone and in a container, where the value model would keep an offset."""
    cache = SharedStateCache(memory_url, {})
    moment = datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))

    cache.set("k", {"at": [moment]})

    assert cache.get("k")["at"][0].tzinfo is moment.tzinfo


def test_a_safe_string_stays_safe(memory_url: str) -> None:
    """A template's fragment is not escaped a second time when it comes from the cache."""
    cache = SharedStateCache(memory_url, {})
    cache.set("k", mark_safe("<b>"))

    assert type(cache.get("k")) is SafeString


def test_what_the_store_can_hold_is_stored_as_it_is(memory_url: str) -> None:
    """Numbers, text and containers can be read, and counted with, by who knows nothing of Django."""
    cache = SharedStateCache(memory_url, {"KEY_PREFIX": "site"})
    for key, value in (("n", 1), ("t", "text"), ("d", {"a": [1, None]})):
        cache.set(key, value)

    with sharedstate.open(memory_url) as store:
        assert store["django/site:site:1:d"] == {"a": [1, None]}
        assert store.increment("django/site:site:1:n") == 2
    assert cache.get("n") == 2


def test_a_plain_cache_unpickles_nothing(memory_url: str) -> None:
    """With PlainSerializer an object is refused, and a pickle that somebody put there is not loaded."""
    SharedStateCache(memory_url, {}).set("k", Counted(1))
    cache = SharedStateCache(memory_url, {"OPTIONS": {"serializer": "sharedstate.contrib.django.PlainSerializer"}})

    with pytest.raises(CorruptError):
        cache.get("k")
    for value in (Counted(1), (_caching._PICKLED, b"x")):
        with pytest.raises(ValueTypeError):
            cache.set("other", value)
    cache.set("k", {"a": 1})
    assert cache.get("k") == {"a": 1}
    assert SharedStateCache(memory_url, {"OPTIONS": {"serializer": PlainSerializer()}}).get("k") == {"a": 1}


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_keys_of_any_length_are_apart(cache: SharedStateCache) -> None:
    """Keys that differ only at their end, after hundreds of bytes; of other scripts; with what is no UTF-8."""
    keys = [
        *("k" * length for length in range(360, 520)),
        "k" * 600 + "a",
        "k" * 600 + "b",
        "한" * 200,
        "\ud800",
        "\ud801",
    ]
    keys += ["%", ":", "a:b", " ", "\n"]

    for number, key in enumerate(keys):
        cache.set(key, number)

    assert cache.get_many(keys) == {key: number for number, key in enumerate(keys)}


def test_a_shortened_key_is_no_other_key() -> None:
    """A shortened key is longer than all that are not, whatever room there is: no key can be made to meet another."""
    for room in (100, 250, 511):
        kept = {
            len(fitted) for length in range(1, 700) if (fitted := _caching.fit_key("k" * length, room)) == "k" * length
        }
        made = {len(_caching.fit_key(text * 700, room).encode()) for text in ("k", "\xe9", "한", "😀")}
        assert max(kept) < min(made)
        assert max(made) <= room


# --- The verbs --------------------------------------------------------------------


def test_the_verbs_do_what_djangos_documentation_says(cache: SharedStateCache) -> None:
    """Every verb of a cache, with its answer for a key that is there and for one that is not."""
    assert cache.add("a", 1) is True
    assert cache.add("a", 2) is False
    assert (cache.get("a"), cache.get("b"), cache.get("b", "default")) == (1, None, "default")
    cache.set_many({"b": 2, "c": None})
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "b": 2, "c": None}
    assert (cache.has_key("c"), "c" in cache, cache.has_key("d"), "d" in cache) == (True, True, False, False)
    assert cache.get_or_set("c", "other") is None
    assert cache.get_or_set("e", lambda: 5) == 5
    assert (cache.incr("a"), cache.incr("a", 10), cache.decr("a"), cache.decr("a", 10), cache.incr("a", -5)) == (
        2,
        12,
        11,
        1,
        -4,
    )
    assert (cache.delete("a"), cache.delete("a")) == (True, False)
    cache.delete_many(["b", "c", "d"])
    cache.delete_many([])
    assert cache.set_many({}) == []
    assert cache.get_many([]) == {}
    assert cache.get_many(["b", "c", "e"]) == {"e": 5}
    for verb in (cache.incr, cache.decr, cache.incr_version, cache.decr_version):
        with pytest.raises(ValueError, match="'d' not found"):
            verb("d")
    assert (cache.touch("e"), cache.touch("d"), cache.replace("e", 6), cache.replace("d", 6)) == (
        True,
        False,
        True,
        False,
    )
    assert (cache.get("e"), cache.get("d")) == (6, None)


def test_incr_leaves_the_range_of_64_bits_and_of_ints(cache: SharedStateCache) -> None:
    """Whatever can be added to is counted: beyond 64 bits and back, and floats."""
    cache.set_many({"big": 2**64 - 1, "float": 1.5})

    assert cache.incr("big") == 2**64
    assert cache.decr("big", 2) == 2**64 - 2
    assert cache.incr("float", 2) == 3.5


def test_versions_and_prefixes_are_apart(any_url: str) -> None:
    """A key of another version or prefix is another key; `incr_version` moves one."""
    cache, later = SharedStateCache(any_url, {}), SharedStateCache(any_url, {"VERSION": 2})
    other = SharedStateCache(any_url, {"KEY_PREFIX": "other"})
    cache.set("k", "one")

    assert (later.get("k"), other.get("k"), cache.get("k", version=1)) == (None, None, "one")
    assert cache.incr_version("k") == 2
    assert (cache.get("k"), later.get("k")) == (None, "one")
    assert later.decr_version("k") == 1
    assert (cache.get("k"), later.get("k")) == ("one", None)
    assert cache.incr_version("k", 0) == 1
    assert cache.get("k") == "one"


def test_clear_touches_nothing_else(any_url: str) -> None:
    """All versions of its own go; other prefixes, also ones that begin with it, and other users of the store stay."""
    cache, prefixes = SharedStateCache(any_url, {}), ("a", "a:1", "b")
    others = [SharedStateCache(any_url, {"KEY_PREFIX": prefix}) for prefix in prefixes]
    with sharedstate.open(any_url) as store:
        store["theirs"] = 1
        for each in (cache, *others):
            each.set("k", 1)
            each.set("k", 2, version=2)

        cache.clear()
        others[0].clear()

        assert store["theirs"] == 1
    assert [each.get("k", version=2) for each in (cache, *others)] == [None, None, 2, 2]


# --- Time --------------------------------------------------------------------------


def test_timeouts_are_seconds_none_for_ever_and_zero_for_not_at_all(cache: SharedStateCache) -> None:
    """Django's three kinds of timeout, for each verb that takes one; one of centuries is for ever too."""
    for number, (timeout, is_there) in enumerate(
        {None: True, 60: True, 0.5: True, 10**12: True, 0: False, -1: False}.items()
    ):
        keys = [f"{number}{verb}" for verb in ("set", "add", "many", "touch", "replace")]
        cache.set_many(dict.fromkeys(keys[-2:], 1))
        cache.set(keys[0], 1, timeout)
        assert cache.add(keys[1], 1, timeout) is True
        cache.set_many({keys[2]: 1}, timeout)
        assert cache.touch(keys[3], timeout) is True
        assert cache.replace(keys[4], 1, timeout) is True
        assert [cache.has_key(key) for key in keys] == [is_there] * 5
    assert SharedStateCache("", {"TIMEOUT": 0}).get_backend_timeout() == 0


def test_entries_expire_and_counting_does_not_prolong_them(cache: SharedStateCache) -> None:
    """TIMEOUT is honoured, also by what was counted meanwhile; `touch` with None takes it away."""
    cache.set_many({"counted": 1, "touched": 1}, 0.1)
    cache.incr("counted")
    cache.touch("touched", None)

    until(lambda: not cache.has_key("counted"))
    assert cache.get("touched") == 1


# --- Many at a time ------------------------------------------------------------------


def test_four_processes_lose_no_increment(
    shared_url: str, in_four_processes: Callable[[Callable[[], object]], None]
) -> None:
    """4 processes of 100 increments end at 400, and of 4 that add a key or move it one succeeds."""
    cache = SharedStateCache(shared_url, {})
    cache.set_many({"hits": 0, "moving": "once", "moved": 0})

    def use() -> None:
        own = SharedStateCache(shared_url, {})
        for _ in range(100):
            own.incr("hits")
        if own.add("added", True):
            own.set("adder", True)
        try:
            own.incr_version("moving")
        except ValueError:
            pass
        else:
            own.incr("moved")

    in_four_processes(use)

    assert (cache.get("hits"), cache.get("moved"), cache.get("adder")) == (400, 1, True)


def _count_with_a_rival(cache: Any, owner: Any, reader: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Increment once, and once more by another caller just after the value was read; return what is there then."""
    read, rivals = getattr(owner, reader), [lambda: cache.incr("hits")]
    cache.set("hits", 0)

    def read_and_be_overtaken(*arguments: Any, **options: Any) -> Any:
        value = read(*arguments, **options)
        if rivals:
            rivals.pop()()
        return value

    monkeypatch.setattr(owner, reader, read_and_be_overtaken)
    cache.incr("hits")
    assert not rivals
    return int(cache.get("hits"))


def test_a_rival_between_read_and_write_is_counted(cache: SharedStateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overtaken between its read and its write, `incr` counts anew."""
    assert _count_with_a_rival(cache, cache._objects, "_load", monkeypatch) == 2


def test_djangos_file_cache_loses_the_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side: the same scene on Django's own file cache ends at 1; so the test above can fail."""
    cache = FileBasedCache(str(tmp_path), {})

    assert _count_with_a_rival(cache, cache, "get", monkeypatch) == 1


def test_of_two_who_move_a_key_one_succeeds(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overtaken between its read and its write, `incr_version` finds that the key is gone; the value is moved once."""
    cache, read = SharedStateCache(any_url, {}), Transaction.get
    cache.set("k", "once")
    rivals = [lambda: cache.incr_version("k")]

    def read_and_be_overtaken(transaction: Transaction, key: str, default: Any = None) -> Any:
        value = read(transaction, key, default)
        if rivals:
            assert rivals.pop()() == 2
            cache.set("k", "changed", version=2)
        return value

    monkeypatch.setattr(Transaction, "get", read_and_be_overtaken)

    with pytest.raises(ValueError, match="not found"):
        cache.incr_version("k")
    assert not rivals
    assert (cache.get("k"), cache.get("k", version=2)) == (None, "changed")


def test_all_caches_of_a_url_share_one_handle(any_url: str) -> None:
    """Django makes a cache for each thread: they have one handle, which `close` after a request leaves open."""
    cache = SharedStateCache(any_url, {})
    cache.set("k", 1)
    cache.close()

    assert SharedStateCache(any_url, {})._objects.store._backend is cache._objects.store._backend
    assert cache.get("k") == 1


def test_the_asynchronous_verbs_do_the_same(cache: SharedStateCache) -> None:
    """Each verb's twin, in an event loop."""

    async def use() -> list[Any]:
        await cache.aset("a", 1)
        seen: list[Any] = [
            await cache.aadd("a", 2),
            await cache.aincr("a"),
            await cache.adecr("a", 5),
            await cache.aget("a"),
        ]
        await cache.aset_many({"b": 2})
        seen += [await cache.aget_many(["a", "b"]), await cache.ahas_key("b"), await cache.atouch("b")]
        seen += [await cache.aget_or_set("c", 3), await cache.aincr_version("c"), await cache.areplace("b", 4)]
        await cache.adelete_many(["a"])
        seen += [await cache.adelete("b"), await cache.adelete("b")]
        await cache.aclear()
        return [*seen, await cache.aget("c", version=2)]

    assert asyncio.run(use()) == [False, 2, -3, -3, {"a": -3, "b": 2}, True, True, 3, 2, True, True, False, None]


# --- Settings ------------------------------------------------------------------------


def test_an_option_without_effect_is_refused() -> None:
    """MAX_ENTRIES would be ignored: the error says what to give instead."""
    with pytest.raises(ImproperlyConfigured, match=r"MAX_ENTRIES.*full=evict"):
        SharedStateCache("memory:x", {"OPTIONS": {"MAX_ENTRIES": 10}})


def test_importing_the_package_imports_no_framework() -> None:
    """Neither `sharedstate` nor `sharedstate.contrib` costs who uses no framework one."""
    program = "import sys, sharedstate.contrib; print(*{'django', 'cachelib', 'dogpile', 'limits'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == ""


# --- Sessions ------------------------------------------------------------------------


def test_a_session_is_kept_changed_and_ended(sessions: SharedStateCache) -> None:
    """What one worker writes another reads; an ended session is empty for whoever asks."""
    session = SessionStore()
    session["user"] = 7
    session.save()
    other = SessionStore(session.session_key)
    assert other["user"] == 7
    other["user"] = 8
    other.save()
    assert SessionStore(session.session_key)["user"] == 8
    assert SessionStore().exists(session.session_key)

    other.flush()

    assert not SessionStore().exists(session.session_key)
    assert dict(SessionStore(session.session_key).items()) == {}


def _save_after_a_logout(kind: Any, sessions: SharedStateCache, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Save a session that is ended elsewhere just as it is being saved; return whether it is back then."""
    session = kind()
    session["user"] = 7
    session.save()
    for reader in ("get", "replace"):
        verb = getattr(sessions, reader)

        def end_it_first(*arguments: Any, verb: Any = verb, is_get: bool = reader == "get", **options: Any) -> Any:
            found = verb(*arguments, **options) if is_get else None
            sessions.delete(session.cache_key)
            return found if is_get else verb(*arguments, **options)

        monkeypatch.setattr(sessions, reader, end_it_first)
    try:
        session.save()
    except UpdateError:
        return False
    return sessions.has_key(session.cache_key)


def test_an_ended_session_stays_ended(sessions: SharedStateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logout that comes as another request saves the session wins."""
    assert not _save_after_a_logout(SessionStore, sessions, monkeypatch)


def test_djangos_own_session_comes_back(sessions: SharedStateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side: the same scene with Django's engine brings the session back; so the test above can fail."""
    assert _save_after_a_logout(StockSessionStore, sessions, monkeypatch)


def test_a_session_is_saved_in_an_event_loop(sessions: SharedStateCache) -> None:
    """`acreate`, `asave`, `aload`; an ended one raises there too."""

    async def use() -> None:
        session = SessionStore()
        await session.aset("user", 7)
        await session.asave()
        assert await SessionStore(session.session_key).aget("user") == 7
        await SessionStore().adelete(session.session_key)
        with pytest.raises(UpdateError):
            await session.asave()

    asyncio.run(use())


def test_sessions_refuse_another_cache() -> None:
    """Over a cache without `replace` the engine says so at once."""
    backend = "django.core.cache.backends.locmem.LocMemCache"
    with override_settings(CACHES={"default": {"BACKEND": backend}}), pytest.raises(ImproperlyConfigured):
        SessionStore()
