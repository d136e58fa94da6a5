"""What the file backend makes of a log that was cut, flipped or half written."""

from __future__ import annotations

import os
import shutil
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

import sharedstate
from sharedstate import CorruptError, UnavailableError
from sharedstate_file.head import Head
from sharedstate_file.log import LOG_HEADER_BYTES

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Any]


class History:
    """A store of a few frames, and what it held after each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: list[tuple[int, State]] = [(LOG_HEADER_BYTES, {})]  # (length of the log, content)
        with sharedstate.open(f"file:{path}") as store:
            self._step(store, lambda: store.set("a", 1))
            self._step(store, lambda: store.set("b", {"list": [1, "two", (3.0, None)]}))
            self._step(store, lambda: store.set("ttl", b"bytes", ttl_s=3600))
            self._step(store, lambda: store.transact(_move))
            self._step(store, lambda: store.touch("ttl", 1800))
            self._step(store, lambda: store.delete("b"))
            self._step(store, lambda: store.set("c", "last"))

    def _step(self, store: sharedstate.Store, write: Any) -> None:
        write()
        self.states.append((self.log.stat().st_size, dict(store.items())))

    @property
    def log(self) -> Path:
        return self.path / "log-1"

    def at(self, length: int) -> State:
        """Return the content after the last frame that lies within `length` bytes."""
        return [state for end, state in self.states if end <= length][-1]

    def copy(self, path: Path) -> Path:
        if path.exists():
            shutil.rmtree(path)
        shutil.copytree(self.path, path)
        return path


def _move(tx: sharedstate.Transaction) -> None:
    tx["a"] -= 1
    tx["moved"] = tx["a"] + 1


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "store")


def content(path: Path) -> State:
    """Return all that a store holds, after checking it and writing to it."""
    with sharedstate.open(f"file:{path}") as store:
        found = dict(store.items())
        store.check()
        store["written after"] = True
        store.check()
        return found


def test_log_cut_at_any_byte_within_its_committed_length_is_refused(history: History, tmp_path: Path) -> None:
    """A log shorter than its head says, in the same boot, is CorruptError that names the file; nothing is changed."""
    whole = history.log.read_bytes()

    for length in range(len(whole)):
        copy = history.copy(tmp_path / "copy")
        os.truncate(copy / "log-1", length)
        with pytest.raises(CorruptError, match="log-1"):
            sharedstate.open(f"file:{copy}")

        assert (copy / "log-1").read_bytes() == whole[:length]


@pytest.mark.parametrize("loss", ["head lost", "another boot"])
def test_log_cut_at_any_byte_opens_to_a_prefix_of_history(history: History, tmp_path: Path, loss: str) -> None:
    """With a head that cannot be believed, a log cut anywhere opens to the state after its last whole frame."""
    whole = history.log.read_bytes()

    for length in range(LOG_HEADER_BYTES, len(whole) + 1):
        copy = history.copy(tmp_path / "copy")
        os.truncate(copy / "log-1", length)
        distrust(copy / "head", loss)

        assert content(copy) == history.at(length), length


def distrust(head: Path, loss: str) -> None:
    """Do to a head what a power loss may have done."""
    if loss == "head lost":
        head.unlink()
        return
    mapped = Head.open("file:", str(head))
    assert mapped is not None
    mapped.make_true("an earlier boot", mapped.words[0])


def test_log_without_a_whole_header_is_refused(history: History, tmp_path: Path) -> None:
    """A log that got its name has a header (V1); without one it is damaged, never taken for an empty one."""
    for length in range(LOG_HEADER_BYTES):
        copy = history.copy(tmp_path / "copy")
        os.truncate(copy / "log-1", length)
        (copy / "head").unlink()

        with pytest.raises(CorruptError, match="log-1"):
            sharedstate.open(f"file:{copy}")


def test_every_flipped_bit_of_the_log_is_found(history: History, tmp_path: Path) -> None:
    """Any single flipped bit within the committed length is CorruptError at open."""
    copy = history.copy(tmp_path / "copy")
    whole = history.log.read_bytes()

    for bit in range(len(whole) * 8):
        (copy / "log-1").write_bytes(flipped(whole, bit))
        with pytest.raises(CorruptError, match="log-1"):
            sharedstate.open(f"file:{copy}")


def test_flipped_bit_is_never_taken_for_a_torn_tail(history: History, tmp_path: Path) -> None:
    """With the head lost, a flipped bit before the last frame is CorruptError: what follows it was acknowledged."""
    whole = history.log.read_bytes()
    last = history.states[-2][0]

    for bit in range(len(whole) * 8):
        copy = history.copy(tmp_path / "copy") if bit % 8 == 0 else tmp_path / "copy"
        (copy / "log-1").write_bytes(flipped(whole, bit))
        (copy / "head").unlink(missing_ok=True)
        if bit // 8 < last:
            with pytest.raises(CorruptError, match="log-1"):
                sharedstate.open(f"file:{copy}")
        else:
            # The last frame's damage cannot be told from a write cut short.
            with sharedstate.open(f"file:{copy}") as store:
                assert dict(store.items()) == history.at(last)


def test_flipped_bit_of_the_head_loses_nothing(history: History, tmp_path: Path) -> None:
    """The head is derived: whichever of its bits flips, the store opens to all it held."""
    copy = history.copy(tmp_path / "copy")
    log, head = (copy / "log-1").read_bytes(), (copy / "head").read_bytes()

    for bit in range(80 * 8):
        (copy / "head").write_bytes(flipped(head, bit))
        assert content(copy) == history.states[-1][1], bit
        (copy / "log-1").write_bytes(log)


def test_flip_under_an_open_handle_is_found_by_check(history: History) -> None:
    """check() reads every byte again, also those that this handle has read before."""
    store = sharedstate.open(f"file:{history.path}")
    whole = history.log.read_bytes()
    store.check()

    with history.log.open("r+b") as log:
        log.seek(LOG_HEADER_BYTES + 20)
        log.write(bytes([whole[LOG_HEADER_BYTES + 20] ^ 4]))

    with pytest.raises(CorruptError, match=f"log-1, offset {LOG_HEADER_BYTES}"):
        store.check()


def test_large_value_is_checked_when_it_is_read(tmp_path: Path) -> None:
    """A value that is kept in the log and not in memory is CorruptError once its bytes have changed."""
    store = sharedstate.open(f"file:{tmp_path}/store")
    store["large"] = b"x" * 100_000
    assert store["large"] == b"x" * 100_000

    with (tmp_path / "store" / "log-1").open("r+b") as log:
        log.seek(50_000)
        log.write(b"y")

    with pytest.raises(CorruptError, match="a damaged value"):
        store.get("large")


def test_tail_of_zeros_is_a_torn_one(history: History) -> None:
    """A file that grew before its bytes arrived, as power losses leave it, ends where its frames end."""
    with history.log.open("ab") as log:
        log.write(bytes(5000))
    (history.path / "head").unlink()

    assert content(history.path) == history.states[-1][1]


def test_other_version_is_named_and_left_alone(history: History, tmp_path: Path) -> None:
    """A store of a later format is refused by its version, whether its head or only its log is left."""
    copy = history.copy(tmp_path / "copy")
    head = bytearray((copy / "head").read_bytes())
    head[8:12] = (2).to_bytes(4, "little")
    head[52:56] = crc32(head[:52]).to_bytes(4, "little")
    log = bytearray((copy / "log-1").read_bytes())
    log[8:12] = (3).to_bytes(4, "little")
    log[28:32] = crc32(log[:28]).to_bytes(4, "little")

    (copy / "head").write_bytes(head)
    with pytest.raises(UnavailableError, match="version 2"):
        sharedstate.open(f"file:{copy}")
    (copy / "head").unlink()
    (copy / "log-1").write_bytes(log)
    with pytest.raises(UnavailableError, match="version 3"):
        sharedstate.open(f"file:{copy}")

    assert not (copy / "head").exists()
    assert (copy / "log-1").read_bytes() == log


@pytest.mark.parametrize(
    "payload",
    [
        *[b"\xc1", b"\xc0", b"\x90", b"\x91\x07"],
        *[b"\x92\x00\xc0", b"\x92\x00\x90", b"\x92\x00\x91\x01", b"\x92\x00\x02"],
        *[b"\x92\x00\x92\xa1a\xc0", b"\x92\x00\x93\xa1a\x01\xc4\x01\x01"],
        *[b"\x92\x00\x93\xa1a\xc0\xa1v", b"\x92\x00\x93\xa1a\xc0\xc4\x00"],
        *[b"\x92\x00\x94\xa1a\xc0\x09\xc4\x01\x01", b"\x92\x00\x95\xa1a\xc0\x09\xc4\x01\x01"],
    ],
)
def test_whole_frame_outside_the_grammar_is_refused(tmp_path: Path, payload: bytes) -> None:
    """A frame with a right checksum and a senseless payload is CorruptError, never an odd exception."""
    path = tmp_path / "store"
    sharedstate.open(f"file:{path}").close()
    log = path / "log-1"
    mark = log.read_bytes()[12:16]
    checksum = crc32(payload, int.from_bytes(mark, "little") ^ len(payload))
    with log.open("ab") as file:
        file.write(Struct("<4sII").pack(mark, len(payload), checksum) + payload)
    head = Head.open("file:", str(path / "head"))
    assert head is not None
    head.store(head.words[0] + 12 + len(payload))

    with pytest.raises(CorruptError, match="log-1"):
        sharedstate.open(f"file:{path}")


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
