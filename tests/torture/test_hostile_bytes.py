"""Hostile bytes through the public API: in the log, in the database, in the URL, in a live segment of shared memory.

Invariants:
    H1  bytes of a log that were changed without its checksums open to a prefix
        of the history, or to a `StateError`
    H2  bytes of a log or of a database that were made on purpose open to values
        of the model, or to a `StateError`
    H3  a URL opens a store or raises a `StateError`, whatever is in it
    H4  while a byte of a live segment's header is wrong, its readers get right
        values or a `StateError`; none crashes, hangs, or reads a wrong value;
        and once it is put back, all is as before
No other exception than a `StateError` comes out of any of these.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sharedstate
from campaign import IS_FULL, record, scale
from hostile.live import HEADER_BYTES, LiveSegment
from hostile.outcomes import outcome_of, use_everything
from sharedstate import StateError
from sharedstate.backend.urls import StoreUrl
from sharedstate.values import decode, encode
from sharedstate_file import log as file_log
from sharedstate_sqlite import cells

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = settings(max_examples=scale(40, 10_000), deadline=None, derandomize=not IS_FULL, database=None)
FRAME = Struct("<4sII")
LOG_HEADER_BYTES = file_log.LOG_HEADER_BYTES

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@contextmanager
def directory() -> Iterator[Path]:
    """Make a directory for one example."""
    path = tempfile.mkdtemp(prefix="hostile-")
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- the log ------------------------------------------------------------------


def write_history(path: Path) -> list[dict[str, Any]]:
    """Make a store with a log of a dozen frames; return what it held after each of them."""
    states: list[dict[str, Any]] = [{}]
    with sharedstate.open(f"file:{path}") as store:
        for i in range(8):
            store[f"key-{i % 3}"] = {"turn": i, "text": "x" * i * 9}
            states.append(dict(store.items()))
        store.set("a", 1, ttl_s=3600)
        states.append(dict(store.items()))
        store.update({"b": 2, "key-0": (3, None)})
        states.append(dict(store.items()))
        del store["key-1"]
        states.append(dict(store.items()))
    return states


def frames_of(log: bytes) -> list[bytes]:
    """Return the payloads of a log."""
    payloads, at = [], LOG_HEADER_BYTES
    while at < len(log):
        _, length, _ = FRAME.unpack_from(log, at)
        payloads.append(log[at + FRAME.size : at + FRAME.size + length])
        at += FRAME.size + length
    return payloads


def log_of(header: bytes, payloads: list[bytes]) -> bytes:
    """Return a log of these payloads, each in a sound frame."""
    mark = header[12:16]
    seed = int.from_bytes(mark, "little")
    return header + b"".join(FRAME.pack(mark, len(p), crc32(p, seed ^ len(p))) + p for p in payloads)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the log of a store, and what it held after each frame."""
    path = tmp_path_factory.mktemp("history") / "store"
    states = write_history(path)
    (log,) = path.glob("log-[0-9]*")
    return log.read_bytes().rstrip(b"\0"), states


def open_log(log: bytes) -> Any:
    """Open a store with this log and no head, use it twice, and return what it held."""
    with directory() as path:
        store = path / "store"
        sharedstate.open(f"file:{store}").close()
        (store / "log-1").write_bytes(log)
        (store / "head").unlink()
        found = use_everything(f"file:{store}")
        use_everything(f"file:{store}")
        return found


slices = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=3)


def judge_changed_bytes(history: tuple[bytes, list[dict[str, Any]]], changes: list[tuple[int, int, bytes]]) -> None:
    """H1."""
    log, states = history
    changed = bytearray(log)
    for at, length, patch in changes:
        begin = at % (len(changed) + 1)
        changed[begin : begin + length] = patch

    found = open_log(bytes(changed))

    assert isinstance(found, StateError) or found in states


def test_changed_bytes_of_a_log_are_a_prefix_or_an_error(history: tuple[bytes, list[dict[str, Any]]]) -> None:
    """H1: slices overwritten, taken out and put in, also in the log's header."""
    counted = [0]

    @EXAMPLES
    @given(slices)
    def judge(changes: list[tuple[int, int, bytes]]) -> None:
        counted[0] += 1
        judge_changed_bytes(history, changes)

    judge()
    record("hostile bytes", "file, log changed", bad=0, logs=counted[0])


def test_a_log_without_checksums_would_be_found_out(
    history: tuple[bytes, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """H1 can fail: with a checksum that is always right, a changed text is taken for history."""
    payload = frames_of(history[0])[5]  # of the value that key-2 keeps
    changes = [(history[0].index(payload) + payload.index(b"xxx"), 1, b"y")]
    judge_changed_bytes(history, changes)

    class Whatever(int):
        def __ne__(self, other: object) -> bool:
            return False

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    monkeypatch.setattr(file_log, "crc32", lambda *_: Whatever())

    with pytest.raises(AssertionError):
        judge_changed_bytes(history, changes)


payload_changes = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from(["bytes", "drop", "double", "swap", "random", "number", "operations"]),
        st.integers(0, 200),
        st.binary(max_size=6),
        st.lists(anything, max_size=5),
    ),
    min_size=1,
    max_size=3,
)


def change_payloads(payloads: list[bytes], changes: list[tuple[int, str, int, bytes, list[Any]]]) -> list[bytes]:
    """Return the frames' payloads after these changes, which keep frames sound."""
    changed = list(payloads)
    for which, how, at, patch, operations in changes:
        i = which % max(1, len(changed))
        if not changed:
            return [encode(operations)]
        if how == "bytes":
            place = at % (len(changed[i]) + 1)
            changed[i] = changed[i][:place] + patch + changed[i][place + len(patch) :]
        elif how == "drop":
            del changed[i]
        elif how == "double":
            changed.insert(i, changed[i])
        elif how == "swap":
            changed[i], changed[-1] = changed[-1], changed[i]
        elif how == "random":
            changed.insert(i, patch)
        elif how == "number":
            changed.insert(i, encode([at]))
        else:
            frame = outcome_of(lambda i=i: decode(changed[i]))
            is_frame = isinstance(frame, list) and frame and isinstance(frame[0], int)
            changed[i] = encode([frame[0] if is_frame else 0, *operations])
    return changed


def test_frames_made_on_purpose_are_values_or_an_error(history: tuple[bytes, list[dict[str, Any]]]) -> None:
    """H2: frames with right checksums, changed within, dropped, doubled, swapped, and of senseless operations."""
    log, _ = history
    header, payloads = log[:LOG_HEADER_BYTES], frames_of(log)
    assert log_of(header, payloads) == log
    counted = [0, 0]

    @EXAMPLES
    @given(payload_changes)
    def judge(changes: list[tuple[int, str, int, bytes, list[Any]]]) -> None:
        found = open_log(log_of(header, change_payloads(payloads, changes)))
        counted[isinstance(found, StateError)] += 1

    judge()
    record("hostile bytes", "file, frames made", bad=0, opened=counted[0], refused=counted[1])
    assert all(counted)


# --- the database -------------------------------------------------------------

cell_values = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=30)
statements = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                *(f"UPDATE entry SET {column} = :x" for column in ("value", "generation", "expires_at")),
                "UPDATE entry SET key = :x WHERE key = 'a'",
                "INSERT OR REPLACE INTO entry VALUES (:x, :x, 1, :x)",
                "INSERT OR REPLACE INTO entry VALUES ('made', :x, 7, NULL)",
                "UPDATE floor SET generation = :x",
                "INSERT INTO floor VALUES (:x)",
            ]
        ),
        cell_values.map(lambda value: {"x": value}),
    ),
    st.tuples(
        st.sampled_from(
            [
                *("DROP TABLE floor", "DROP TRIGGER raise_floor", "DELETE FROM floor", "DROP TABLE entry"),
                *("ALTER TABLE entry ADD COLUMN more", "CREATE TABLE more (x)", "CREATE INDEX i ON entry (value)"),
                *("PRAGMA user_version=2", "PRAGMA application_id=1", "PRAGMA journal_mode=DELETE", "VACUUM"),
                "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
            ]
        ),
        st.just({}),
    ),
)


def make_database(path: Path) -> str:
    """Make a store of a few rows in one file; return its URL."""
    url = f"sqlite:{path}"
    with sharedstate.open(url) as store:
        store.update({"a": 1, "b": "text", "c": [1, (2, None)], "d": b"x" * 9000, "e": 2**64 - 1})
        store.set("f", 0.5, ttl_s=1000)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return url


def judge_statements(changes: list[tuple[str, dict[str, Any]]]) -> bool:
    """H2: return whether the store could be read."""
    with directory() as path:
        url = make_database(path / "state.db")
        with closing(sqlite3.connect(path / "state.db")) as connection:
            for statement, parameters in changes:
                try:
                    connection.execute(statement, parameters)
                    connection.commit()
                except sqlite3.Error:
                    connection.rollback()
        found = use_everything(url)
        use_everything(url)
        return not isinstance(found, StateError)


def test_rows_and_tables_made_on_purpose_are_values_or_an_error() -> None:
    """H2: cells of any type in any column, other tables, triggers, versions."""
    counted = [0, 0]

    @EXAMPLES
    @given(st.lists(statements, min_size=1, max_size=3))
    def judge(changes: list[tuple[str, dict[str, Any]]]) -> None:
        counted[judge_statements(changes)] += 1

    judge()
    record("hostile bytes", "sqlite, rows made", bad=0, refused=counted[0], opened=counted[1])
    assert all(counted)


def test_a_cell_that_raises_something_else_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """H2 can fail: a decoder that lets Python's own error out."""

    def careless(cell: bytes) -> Any:
        return {0x90: []}[cell[0]]

    monkeypatch.setattr(cells, "decode", careless)

    with pytest.raises(KeyError):
        judge_statements([("UPDATE entry SET value = :x", {"x": b"\xc1"})])


def test_changed_bytes_of_a_database_are_values_or_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    """H2: the file cut, flipped and overwritten anywhere; SQLite keeps no checksum, so a value may be another one."""
    made = tmp_path_factory.mktemp("database") / "state.db"
    make_database(made)
    content = made.read_bytes()
    counted = [0, 0]

    @EXAMPLES
    @given(
        st.lists(
            st.tuples(st.integers(0, 99) | st.integers(0, len(content)), st.binary(min_size=1, max_size=30)), max_size=4
        ),
        st.just(len(content)) | st.integers(0, len(content)),
    )
    def judge(changes: list[tuple[int, bytes]], length: int) -> None:
        changed = bytearray(content)
        for at, patch in changes:
            changed[at : at + len(patch)] = patch
        with directory() as path:
            (path / "state.db").write_bytes(changed[:length])
            found = use_everything(f"sqlite:{path}/state.db")
        counted[isinstance(found, StateError)] += 1

    judge()
    record("hostile bytes", "sqlite, bytes changed", bad=0, opened=counted[0], refused=counted[1])
    assert all(counted)


# --- URLs ---------------------------------------------------------------------

nasty = st.text(max_size=12) | st.sampled_from(
    [
        *("%", "%zz", "%00", "%2e%2e%2f", "%ff%fe", "\0", "\n", "\ud800", "\udcff", "é"),
        *("x" * 300, "x" * 5000, "..", "/", "//", "///", "?", "&", "=", "#"),
        *("?size=1MiB", "?size=-1", "?size=" + "9" * 50, "?size=1MiB&size=1MiB", "?size=\u0663MiB", "?full=evict"),
        *("?mode=0o777", "?mode=0", "?mode=-600", "?mode=" + "7" * 5000, "?sync=disk"),
        *("?timeout=nan", "?timeout=1e400", "?timeout=-0.0"),
    ]
)
schemes = st.sampled_from(
    [
        *("memory:", "shm://", "shm:", "file:", "sqlite:"),
        *("any:", "", ":", "File:", "sqlite3:", "os:"),
    ]
)


def judge_url(scheme: str, parts: list[str]) -> bool:
    """H3: return whether a store was opened.  Paths lead nowhere else than into a directory of this example's own."""
    with directory() as path:
        text = "".join(parts)
        if scheme.lower() in {"file:", "sqlite:"}:
            text = f"{path}/s" + text.replace("..", "").replace("%2e", "")
        elif scheme.startswith("shm"):
            text = f"hostile-{os.getpid()}-" + text
        url = scheme + text
        store = outcome_of(lambda: sharedstate.open(url, allow_narrow=True))
        if isinstance(store, StateError):
            return False
        with store:
            outcome_of(lambda: store.set("a", 1))
            canonical = store.url
        # The URL that it names itself by is a URL of it, and opens the same store.
        if scheme.lower() != "memory:":
            with sharedstate.open(canonical, allow_narrow=True) as again:
                assert again["a"] == 1
            sharedstate.remove(canonical)
        return True


def test_any_url_opens_a_store_or_is_refused() -> None:
    """H3; and what it opens can be opened again by the name that the store gives itself."""
    counted = [0, 0]

    @EXAMPLES
    @given(schemes, st.lists(nasty, max_size=3))
    def judge(scheme: str, parts: list[str]) -> None:
        counted[judge_url(scheme, parts)] += 1

    judge()
    record("hostile bytes", "URLs", bad=0, refused=counted[0], opened=counted[1])
    assert all(counted)


def test_a_parameter_that_raises_something_else_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """H3 can fail: a size that is read without a look at its digits."""
    monkeypatch.setattr(StoreUrl, "size", lambda self, name, *_, **__: int(self.text_parameter(name, "1")))

    with pytest.raises(ValueError, match="invalid literal"):
        judge_url("shm://", ["?size=1MiB"])


# --- a live segment -----------------------------------------------------------


def test_a_flipped_header_byte_of_a_live_segment_harms_no_reader(evidence: Path) -> None:
    """H4: every byte of the header's page, all bits and each by itself; the short form looks at one byte in eight.

    And at the two bits with which the size of a stripe's table becomes less than it is, and more.
    """
    masks = scale([0x04, 0x08], [0xFF, *(1 << bit for bit in range(8))])
    wrong, flips = "", 0

    with LiveSegment(evidence) as segment:
        for at in range(0, HEADER_BYTES, scale(8, 1)):
            for mask in masks:
                flips += 1
                wrong = wrong or segment.flip(at, mask)
            if wrong:
                break
        errors = segment.errors()
        wrong = wrong or segment.wait_for_readers()
        if not wrong:
            assert segment.errors() - errors <= 2 * 12, "errors go on after the byte was put back"
            segment.store.check()

    record("hostile bytes", "shm, live header", bad=int(bool(wrong)), flips=flips, clean_errors=errors)
    assert not wrong
    assert errors, "no flip was noticed by any reader: they looked elsewhere"


def test_a_flipped_fixed_fact_is_refused_by_who_opens(tmp_path: Path) -> None:
    """H4: whoever opens while one of the 80 bytes that never change is wrong is told so, and the others read on."""
    with LiveSegment(tmp_path) as segment:
        for at in range(80):
            before = segment.bytes[at]
            segment.bytes[at] = before ^ 1 << at % 8
            refused = outcome_of(lambda: sharedstate.open(segment.url))
            segment.bytes[at] = before
            assert isinstance(refused, StateError), at
        assert segment.wait_for_readers() == ""


def test_a_wrong_value_would_be_found_out(tmp_path: Path) -> None:
    """H4 can fail: a byte of a stored value, which nothing vouches for, ends a reader."""
    with LiveSegment(tmp_path) as segment:
        at = segment.bytes.find(b"key-11" * 1 + b"\xa6key-11")

        assert "a reader ended with 3" in segment.flip(at, 1)
