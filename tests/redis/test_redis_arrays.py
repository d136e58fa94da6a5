"""Replies of many strings, however the network cuts them, and what is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import sharedstate
from redis_server import client_of
from sharedstate_redis.arrays import RefusalError, read_strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_server import RedisServer
    from sharedstate import Store

_STRINGS = [b"", None, b"1  5", b"\r\n$3\r\n_\r\n", None, b"x" * 300]
_REPLY = b"*%d\r\n" % len(_STRINGS) + b"".join(
    b"_\r\n" if string is None else b"$%d\r\n%b\r\n" % (len(string), string) for string in _STRINGS
)


def receiving(*parts: bytes) -> Callable[[], bytes]:
    """Return what hands out the parts, one after the other."""
    rest = iter(parts)
    return lambda: next(rest)


def test_a_reply_in_one_piece() -> None:
    """Strings that look like the protocol, empty ones, and nulls."""
    assert read_strings(receiving(_REPLY)) == _STRINGS
    assert read_strings(receiving(b"*0\r\n")) == []


@pytest.mark.parametrize("at", range(1, len(_REPLY)))
def test_a_reply_in_two_pieces(at: int) -> None:
    """Cut anywhere."""
    assert read_strings(receiving(_REPLY[:at], _REPLY[at:])) == _STRINGS


def test_a_reply_byte_by_byte() -> None:
    """Nothing is lost on the way."""
    assert read_strings(receiving(*(_REPLY[at : at + 1] for at in range(len(_REPLY))))) == _STRINGS


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", b"*1\r\n:5\r\n", b"*x\r\n", b"*1\r\n$x\r\n", b"*1\r\n$1\r\na\r\n+more\r\n", b"$1\r\na\r\n"]
)
def test_what_is_no_such_reply(reply: bytes) -> None:
    """Is refused, and nothing of it is believed."""
    with pytest.raises(ValueError, match=r".+"):
        read_strings(receiving(reply))


def test_the_servers_refusal() -> None:
    """As it was said, also in two pieces."""
    with pytest.raises(RefusalError, match=r"^OOM no room$"):
        read_strings(receiving(b"-OOM no", b" room\r\n"))


def test_a_batch_of_large_values(store: Store) -> None:
    """Of more than a socket hands over at once."""
    values = {f"k{n}": bytes([n]) * 200_000 for n in range(20)}
    store.set_many(values)
    assert store.get_many([*values, "absent"]) == values


def test_a_foreign_cell_is_named(url: str, store: Store) -> None:
    """Whatever bytes stand in place of an entry."""
    store.update(good=1, bad=2)
    client: Any = client_of(url)
    (name,) = client.keys("*/bad")
    for cell in (b"", b"no entry", b"1  ", b"1  99999999999999999999999", b"1  \xc1"):
        client.set(name, cell)
        with pytest.raises(sharedstate.CorruptError, match="'bad'"):
            store.get_many(["good", "bad"])
    store["bad"] = 2


def test_a_refused_batch_says_why(serve: Callable[..., RedisServer]) -> None:
    """In the words of our errors; the connection goes on."""
    server = serve()
    with sharedstate.open(f"redis+unix:{server.socket}?name=x") as store:
        store["k"] = 1
        server.command("ACL", "SETUSER", "default", "-mget")
        with pytest.raises(sharedstate.StoreAccessError):
            store.get_many(["k"])
        server.command("ACL", "SETUSER", "default", "+mget")
        assert store.get_many(["k"]) == {"k": 1}
