"""What a URL of a store in a server may say."""

from __future__ import annotations

from typing import Any

import pytest

import sharedstate
from sharedstate.backend import parse_url
from sharedstate.registry import every_scheme, find_plugin, known_schemes
from sharedstate_redis.address import Service, read_url


def _address(text: str) -> Any:
    return read_url(parse_url(text))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("redis://cache", {"host": "cache", "port": 6379, "database": 0, "name": "default", "has_tls": False}),
        ("redis://cache:7000/4", {"port": 7000, "database": 4, "name": "default"}),
        ("redis://cache/jobs", {"database": 0, "name": "jobs"}),
        ("redis://cache/4/jobs?timeout=1.5", {"database": 4, "name": "jobs", "timeout_s": 1.5}),
        ("redis://cache/0/17", {"database": 0, "name": "17"}),
        ("redis://:pass@cache", {"username": "", "password": "pass", "host": "cache"}),
        ("redis://ada:p%40s/s:w@cache:1/2", {"username": "ada", "password": "p@s/s:w", "port": 1, "database": 2}),
        ("redis://[::1]:7000/jobs", {"host": "::1", "port": 7000}),
        ("rediss://cache/jobs?ca=/ca.pem", {"has_tls": True, "certificates": ("/ca.pem", "", "")}),
        ("redis+unix:/run/redis.sock", {"socket": "/run/redis.sock", "database": 0, "name": "default"}),
        ("redis+unix:///run/redis.sock?db=2&name=jobs", {"socket": "/run/redis.sock", "database": 2, "name": "jobs"}),
        (
            "redis+sentinel://one,two:7,[::1]:8,[::2]/main",
            {
                "host": "",
                "service": Service("main", (("one", 26379), ("two", 7), ("::1", 8), ("::2", 26379)), "", ""),
                "database": 0,
                "name": "default",
                "has_tls": False,
            },
        ),
        ("redis+sentinel://one/main/jobs", {"database": 0, "name": "jobs"}),
        ("redis+sentinel://one/5/4/jobs", {"service": Service("5", (("one", 26379),), "", ""), "database": 4}),
        (
            "redis+sentinel://ada:p%40s/s,:w@one,two/main?sentinel_username=bob&sentinel_password=%26",
            {
                "username": "ada",
                "password": "p@s/s,:w",
                "service": Service("main", (("one", 26379), ("two", 26379)), "bob", "&"),
            },
        ),
        (
            "redis+sentinel://one/main?tls=yes&ca=/ca.pem&cert=/c.pem&key=/k.pem",
            {"has_tls": True, "certificates": ("/ca.pem", "/c.pem", "/k.pem")},
        ),
        (
            "redis+cluster://ada:p%40s,:w@one,two:7,[::1]:8/jobs",
            {
                "host": "",
                "nodes": (("one", 6379), ("two", 7), ("::1", 8)),
                "username": "ada",
                "password": "p@s,:w",
                "service": None,
                "name": "jobs",
            },
        ),
        ("redis+cluster://one", {"nodes": (("one", 6379),), "database": 0, "name": "default", "has_tls": False}),
        ("redis+cluster://one/0/17", {"database": 0, "name": "17"}),
        (
            "redis+cluster://one/jobs?tls=yes&ca=/ca.pem&cert=/c.pem&key=/k.pem",
            {"has_tls": True, "certificates": ("/ca.pem", "/c.pem", "/k.pem")},
        ),
    ],
)
def test_parts_of_a_url(text: str, facts: dict[str, Any]) -> None:
    """Each part is where people who know redis:// look for it, and the URL that it makes says the same."""
    address = _address(text)

    assert {name: getattr(address, name) for name in facts} == facts
    assert _address(address.url)._replace(url="") == address._replace(url="")


@pytest.mark.parametrize(
    "text",
    [
        "redis:jobs",
        "redis://",
        "redis://:pass@/jobs",
        "redis://cache:port",
        "redis://cache:70000",
        "redis://cache/a/b",
        "redis://cache/1/a/b",
        "redis://cache/a%3Fb",
        "redis://cache?tiemout=3",
        "redis://cache?timeout=0",
        "redis://cache?ca=/ca.pem",
        "rediss://cache?key=/k.pem",
        "redis+unix:",
        "redis+unix:/run/redis.sock?db=x",
        "redis+sentinel:one/main",
        "redis+sentinel://one",
        "redis+sentinel://one/",
        "redis+sentinel://one//jobs",
        "redis+sentinel:///main",
        "redis+sentinel://one,/main",
        "redis+sentinel://one,two:x/main",
        "redis+sentinel://one/main/1/a/b",
        "redis+sentinel://one/main?ca=/ca.pem",
        "redis+sentinel://one/main?tls=1",
        "redis://cache?sentinel_password=x",
        "redis+cluster:one/jobs",
        "redis+cluster:///jobs",
        "redis+cluster://one,/jobs",
        "redis+cluster://one/1/jobs",
        "redis+cluster://one/17",
        "redis+cluster://one/a/b",
        "redis+cluster://one/jobs?ca=/ca.pem",
        "redis+cluster://one/jobs?sentinel_password=x",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    """With UrlError, before anything is connected to."""
    with pytest.raises(sharedstate.UrlError):
        _address(text)


def test_schemes_belong_to_one_plugin() -> None:
    """rediss:, redis+unix: and the others are the plug-in redis:; what it does not serve, nobody does."""
    plugin = find_plugin(parse_url("redis://cache"))

    assert find_plugin(parse_url("rediss://cache")) is plugin
    assert find_plugin(parse_url("redis+unix:/s")) is plugin
    assert find_plugin(parse_url("redis+sentinel://a/main")) is plugin
    assert find_plugin(parse_url("redis+cluster://a")) is plugin
    assert "redis" in known_schemes()
    assert {"redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster", "shm"} <= set(every_scheme())
    for text in ("rediss+sentinel://a/main", "rediss+cluster://a", "redis+tls://a", "shms:a", "shm+x:a", "redisss://a"):
        with pytest.raises(sharedstate.UrlError, match="no backend serves"):
            find_plugin(parse_url(text))


def test_scope_is_that_of_the_way(redis_url: str) -> None:
    """A socket, or a loopback address, means another server on each host."""
    assert _address("redis+unix:/s").is_of_this_host()
    assert _address("redis://localhost/jobs").is_of_this_host()
    assert _address("redis://127.1.2.3/jobs").is_of_this_host()
    assert not _address("redis://cache/jobs").is_of_this_host()
    assert not _address("redis+sentinel://localhost/main/jobs").is_of_this_host()  # which may know of any host
    assert not _address("redis+cluster://localhost/jobs").is_of_this_host()  # likewise


def test_no_server_here_is_said_at_once() -> None:
    """A wrong name does not take as long as a server that starts."""
    with pytest.raises(sharedstate.UnavailableError):
        sharedstate.open("redis+unix:/nonexistent/socket?timeout=60")
    with pytest.raises(sharedstate.UnavailableError):
        sharedstate.open("redis://127.0.0.1:1/jobs?timeout=60")


def test_a_server_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """SHAREDSTATE_REDIS_URL is the server of who names a store only; without it the refusal says what to do."""
    plugin = find_plugin(parse_url("redis://cache"))
    monkeypatch.delenv("SHAREDSTATE_REDIS_URL", raising=False)
    with pytest.raises(sharedstate.UnavailableError, match="SHAREDSTATE_REDIS_URL"):
        plugin.url_for("jobs")

    for server, expected in (
        ("redis://cache:7000", "redis://cache:7000/jobs"),
        ("redis://cache/2/?timeout=1", "redis://cache/2/jobs?timeout=1"),
        ("redis+unix:/s", "redis+unix:/s?name=jobs"),
        ("redis+unix:/s?db=1", "redis+unix:/s?db=1&name=jobs"),
        ("redis+sentinel://a,b/main/?timeout=1", "redis+sentinel://a,b/main/jobs?timeout=1"),
        ("redis+cluster://a,b:7000", "redis+cluster://a,b:7000/jobs"),
    ):
        monkeypatch.setenv("SHAREDSTATE_REDIS_URL", server)
        assert plugin.url_for("jobs") == expected


def test_without_redis_py_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """BackendMissingError, an ImportError."""
    import sys

    for name in [name for name in sys.modules if name.startswith("sharedstate_redis.") and "offer" not in name]:
        if name not in {"sharedstate_redis.address", "sharedstate_redis.opening"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(sharedstate.BackendMissingError, match=r"sharedstate\[redis\]"):
        sharedstate.open("redis://cache/jobs")
