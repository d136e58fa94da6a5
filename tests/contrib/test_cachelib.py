"""`sharedstate.contrib.cachelib`: what cachelib's own tests ask, and Flask-Caching and Flask-Session over it.

cachelib's tests are not in its wheel; their rules stand here anew, on every backend.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import flask
import flask_caching
import flask_session
import pytest
from cachelib import FileSystemCache
from cachelib.serializers import JSONSerializer

import sharedstate
from sharedstate.contrib.cachelib import PlainSerializer, SharedStateCache
from sharedstate.errors import ValueTypeError
from sharedstate.testing.conformance.support import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAIRS: dict[str, Any] = {
    "false": False,
    "none in a list": [None],
    "empty": {},
    "text": "spam",
    "int": 2048,
    "nested": [{}, "eggs", [512], {"sauce": [], 256: "truffle"}],
    "set": {1, 2},
}


@pytest.fixture
def cache(any_url: str) -> SharedStateCache:
    """A cache over a fresh store of each backend."""
    return SharedStateCache(any_url)


# --- The verbs --------------------------------------------------------------------


def test_the_verbs_do_what_cachelibs_documentation_says(cache: SharedStateCache) -> None:
    """Every verb of a cache, with its answer for a key that is there and for one that is not."""
    assert cache.set_many(PAIRS) == list(PAIRS)
    assert cache.get_many(*PAIRS, "other") == [*PAIRS.values(), None]
    assert cache.get_dict("text", "other") == {"text": "spam", "other": None}
    assert all(cache.has(key) for key in PAIRS)
    assert not cache.has("other")
    assert not any(cache.add(key, "updated") for key in PAIRS)
    assert cache.get_many(*PAIRS) == list(PAIRS.values())
    assert (cache.set("a", 1), cache.add("b", 2), cache.get("b"), cache.get("c")) == (True, True, 2, None)
    assert (cache.delete("a"), cache.delete("a")) == (True, False)
    assert cache.delete_many("b", "c") == ["b", "c"]
    assert cache.get("b") is None
    assert cache.clear()
    assert not any(cache.get_many(*PAIRS))


def test_counting_starts_at_zero_and_goes_on_from_what_was_set(cache: SharedStateCache) -> None:
    """`inc` and `dec` of an absent key and of a number; what is no number is refused and stays."""
    assert (cache.inc("up", 5), cache.dec("up", 2), cache.dec("down"), cache.get("up")) == (5, 3, -1, 3)
    cache.set_many({"count": 10, "text": "ten"})
    assert cache.inc("count") == 11
    with pytest.raises(ValueTypeError):
        cache.inc("text")
    assert cache.get("text") == "ten"


def test_timeouts_are_seconds_and_zero_is_for_ever(any_url: str) -> None:
    """0 and a timedelta, for each verb that takes one; the default holds for what is counted too."""
    cache = SharedStateCache(any_url, default_timeout=timedelta(seconds=1))
    forever = SharedStateCache(any_url, 0, "forever")
    for each, timeout in ((cache, None), (cache, 0), (forever, None), (forever, timedelta(hours=1)), (cache, -1)):
        for verb in (each.set, each.add):
            verb(f"{verb.__name__} {timeout}", 1, timeout)
    cache.inc("counted")
    with sharedstate.open(any_url) as store:
        lives = {key: store.ttl(key) for key in store}

    assert {key for key, ttl_s in lives.items() if ttl_s is None} == {
        *("cachelib/:set 0", "cachelib/:add 0", "cachelib/forever:set None", "cachelib/forever:add None")
    }
    assert lives["cachelib/forever:set 1:00:00"] > 3500
    assert "cachelib/:set -1" not in lives
    until(lambda: not cache.has("counted"))


def test_clear_touches_nothing_else(any_url: str) -> None:
    """Caches of other prefixes, and other users of the store, keep what they have."""
    caches = [SharedStateCache(any_url, key_prefix=prefix) for prefix in ("", "a", "a:")]
    with sharedstate.open(any_url) as store:
        store["theirs"] = 1
        for number, cache in enumerate(caches):
            cache.set("k", number)

        caches[1].clear()

        assert store["theirs"] == 1
    assert [cache.get("k") for cache in caches] == [0, None, 2]


def test_a_serializer_of_the_users_own_serves(memory_url: str) -> None:
    """JSONSerializer of cachelib, and one that pickles nothing; numbers are counted with all the same."""
    for serializer in (JSONSerializer(), PlainSerializer()):
        cache = SharedStateCache(memory_url, key_prefix=type(serializer).__name__, serializer=serializer)
        cache.set_many({"a": {"b": [1, None]}, "n": 1})

        assert (cache.get("a"), cache.get("n"), cache.inc("n")) == ({"b": [1, None]}, 1, 2)
    with pytest.raises(ValueTypeError):
        cache.set("object", object())


# --- Many at a time ------------------------------------------------------------------


def test_four_processes_lose_no_increment(
    shared_url: str, in_four_processes: Callable[[Callable[[], object]], None]
) -> None:
    """4 processes of 100 increments end at 400, and of 4 that add a key one succeeds."""

    def use() -> None:
        cache = SharedStateCache(shared_url)
        for _ in range(100):
            cache.inc("hits")
        if cache.add("added", True):
            cache.inc("adders")

    in_four_processes(use)

    assert SharedStateCache(shared_url).get_many("hits", "adders") == [400, 1]


def _count_with_a_rival(cache: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Increment once, and once more by another caller wherever the first one reads; return what is there then."""
    read, rivals = cache.get, [lambda: cache.inc("hits")]

    def read_and_be_overtaken(key: str) -> Any:
        value = read(key)
        if rivals:
            rivals.pop()()
        return value

    monkeypatch.setattr(cache, "get", read_and_be_overtaken)
    cache.inc("hits")
    for rival in rivals:  # it read nothing, so nobody could come between
        rival()
    return int(read("hits"))


def test_no_rival_comes_between(cache: SharedStateCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inc` is one step of the store's: two increments count two."""
    assert _count_with_a_rival(cache, monkeypatch) == 2


def test_cachelibs_file_cache_loses_the_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side: the same scene on cachelib's own file cache ends at 1; so the test above can fail."""
    assert _count_with_a_rival(FileSystemCache(str(tmp_path)), monkeypatch) == 1


# --- The extensions of Flask ---------------------------------------------------------


def test_flask_caching_caches_in_the_store(memory_url: str) -> None:
    """A view is computed once, also for another application over the same store."""
    calls = []

    def make() -> flask.Flask:
        app = flask.Flask("cached")
        kind = "sharedstate.contrib.cachelib.SharedStateCache"
        cache = flask_caching.Cache(app, config={"CACHE_TYPE": kind, "CACHE_OPTIONS": {"url": memory_url}})

        @app.get("/")
        @cache.cached(timeout=60)
        def view() -> str:
            calls.append(1)
            return f"computed {len(calls)}"

        return app

    assert [make().test_client().get("/").text for _ in range(2)] == ["computed 1", "computed 1"]


def test_flask_session_keeps_sessions_in_the_store(memory_url: str) -> None:
    """What one application writes into a session another one reads."""

    def make() -> flask.Flask:
        app = flask.Flask("sessions")
        app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=SharedStateCache(memory_url))
        flask_session.Session(app)

        @app.get("/")
        def view() -> str:
            flask.session["visits"] = flask.session.get("visits", 0) + 1
            return str(flask.session["visits"])

        return app

    client = make().test_client()
    assert client.get("/").text == "1"
    other = make().test_client()
    cookie = client.get_cookie("session")
    assert cookie is not None
    other.set_cookie("session", cookie.value)
    assert other.get("/").text == "2"
