"""A store of another format version is refused by that name, and is left as it was found."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from click.testing import CliRunner

import sharedstate
from redis_server import client_of
from sharedstate.cli import main
from sharedstate_file.head import VERSION as FILE_FORMAT
from sharedstate_redis.place import FORMAT as REDIS_FORMAT
from sharedstate_sqlite.schema import FORMAT_VERSION as SQLITE_FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

_SHM_FORMAT = 3  # stands in C: what is refused says that it is so

FORMATS = {"file": FILE_FORMAT, "sqlite": SQLITE_FORMAT, "shm": _SHM_FORMAT, "redis": REDIS_FORMAT}


def _path(url: str) -> str:
    rest = url.partition(":")[2].partition("?")[0]
    return f"/dev/shm/sharedstate-{rest.removeprefix('//')}.region" if url.startswith("shm") else rest


def _stamp_file(path: str, version: int, crc_at: int) -> None:
    with open(path, "r+b") as file:
        beginning = bytearray(file.read(crc_at))
        beginning[8:12] = version.to_bytes(4, "little")
        file.seek(0)
        file.write(beginning + crc32(beginning).to_bytes(4, "little"))


def stamp(url: str, version: int) -> None:
    """Write another version into the closed store's bytes, as its FORMAT.md has it; a checksum that covers it too."""
    path = _path(url)
    match url.partition(":")[0]:
        case "file":
            _stamp_file(os.path.join(path, "head"), version, 52)
            _stamp_file(os.path.join(path, "log-1"), version, 28)
        case "sqlite":
            connection = sqlite3.connect(path)
            connection.execute(f"PRAGMA user_version={version}")
            connection.close()
        case "shm":
            with open(path, "r+b") as file:
                file.seek(8)
                file.write(version.to_bytes(4, sys.byteorder))
        case _:
            raise AssertionError(url)


@pytest.fixture(params=["file", "sqlite", "shm"])
def closed_url(request: pytest.FixtureRequest, tmp_path: os.PathLike[str]) -> Iterator[str]:
    """The URL of a store with one entry that nobody has open."""
    place = {"file": f"{tmp_path}/store", "sqlite": f"{tmp_path}/s.db", "shm": f"//format-{os.getpid()}"}[request.param]
    url = f"{request.param}:{place}"
    with sharedstate.open(url) as store:
        store["k"] = [1, "two"]
    yield url
    sharedstate.remove(url)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_store_of_another_version_is_neither_opened_nor_repaired(closed_url: str, difference: int) -> None:
    """Opening names both versions; so does a repair, which changes nothing: with its version back, all is there."""
    ours = FORMATS[closed_url.partition(":")[0]]
    stamp(closed_url, ours + difference)

    with pytest.raises(sharedstate.UnavailableError, match=rf"version {ours + difference}\b.* reads version {ours}\b"):
        sharedstate.open(closed_url)
    repaired = CliRunner().invoke(main, ["check", "--repair", closed_url])
    stamp(closed_url, ours)

    assert repaired.exit_code == 1
    assert f"version {ours + difference}" in repaired.output
    with sharedstate.open(closed_url) as store:
        assert dict(store) == {"k": [1, "two"]}
        store.check()


@pytest.mark.parametrize("closed_url", ["file", "sqlite"], indirect=True)
def test_a_store_of_another_version_is_not_removed(closed_url: str) -> None:
    """What outlives a reboot may be wanted by the library that made it."""
    ours = FORMATS[closed_url.partition(":")[0]]
    stamp(closed_url, ours + 1)

    with pytest.raises(sharedstate.UnavailableError, match=f"version {ours + 1}"):
        sharedstate.remove(closed_url)
    stamp(closed_url, ours)

    with sharedstate.open(closed_url) as store:
        assert store["k"] == [1, "two"]


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_redis_store_of_another_version_is_neither_opened_nor_removed(redis_url: str, difference: int) -> None:
    """Both say which version it has and which one is read, and leave it as it was found."""
    url = f"{redis_url}?name=format"
    with sharedstate.open(url) as store:
        store["k"] = [1, "two"]
    theirs = REDIS_FORMAT + difference
    said = rf"version {theirs}\b.* reads version {REDIS_FORMAT}\b"
    with client_of(redis_url) as client:
        client.hset("sharedstate:{format}", "format", theirs)

        for attempt in (sharedstate.open, sharedstate.remove):
            with pytest.raises(sharedstate.UnavailableError, match=said):
                attempt(url)

        client.hset("sharedstate:{format}", "format", REDIS_FORMAT)
    with sharedstate.open(url) as store:
        assert store["k"] == [1, "two"]
    sharedstate.remove(url)


def test_the_documents_name_the_versions_that_the_code_has() -> None:
    """The table in docs/releasing.md, and each FORMAT.md by its first mention of a version."""
    releasing = (ROOT / "docs" / "releasing.md").read_text()
    rows = re.findall(r"^\| `(\w+):` \| (\d+) \|", releasing, re.MULTILINE)
    tabled = {scheme: int(version) for scheme, version in rows}
    explained = {
        scheme: int(re.search(r"version (\d+)", (ROOT / f"backends/sharedstate_{scheme}/FORMAT.md").read_text())[1])
        for scheme in FORMATS
    }

    assert tabled == FORMATS
    assert explained == FORMATS
