"""What the sqlite backend leaves on disk, and what it makes of others' files."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
import sqlite_utils

import sharedstate
from sharedstate_sqlite import inspection, schema
from sharedstate_sqlite.place import file_system_of
from sharedstate_sqlite.statements import end_of


@pytest.fixture
def path(tmp_path):
    return f"{tmp_path}/state.db"


@pytest.fixture
def store(path):
    with sharedstate.open(f"sqlite:{path}") as store:
        yield store
    with sharedstate.open(f"sqlite:{path}") as again:
        again.check()


def _outside(path: str, script: str) -> str:
    """Run `script` against the database from another process: this one's locks must live."""
    program = f"import sqlite3\nc = sqlite3.connect({path!r}, timeout=5, isolation_level=None)\n{script}\nc.close()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


# --- Cells --------------------------------------------------------------------

_NATIVE = [(None, "null"), (0, "integer"), (-(2**63), "integer"), (2**63 - 1, "integer"), (0.0, "real"), (1.0, "real")]
_NATIVE += [(5e-324, "real"), ("", "text"), ("1", "text"), ("zürich 😀", "text")]
_ENCODED = [True, False, b"", b"\x00\xff", 2**63, 2**64 - 1, -0.0, math.inf, -math.inf, math.nan, "a\0b", "\0"]
_ENCODED += [[1, (2.0, None)], (), {"a": {1: [b""]}}, datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2)))]


@pytest.mark.parametrize(("value", "kind"), [*_NATIVE, *((value, "blob") for value in _ENCODED)])
def test_a_value_comes_back_as_itself_and_is_stored_as_documented(store, path, value, kind) -> None:
    """Its type and sign survive; SQLite's own type is used where it has that very one, else a BLOB."""
    store["k"] = value

    found = store["k"]
    stored_as = _outside(path, "print(c.execute('SELECT typeof(value) FROM entry').fetchone()[0])")

    assert type(found) is type(value)
    assert repr(found) == repr(value)
    assert stored_as == kind


def test_sqlite_utils_reads_a_store(store, path) -> None:
    """A person's tool sees one row per entry, with plain values as they are."""
    store["name"], store["n"] = "Ada", 36
    store.close()

    database = sqlite_utils.Database(path)
    rows = list(database.query("SELECT key, value, generation, expires_at FROM entry ORDER BY key"))
    database.close()

    assert rows == [
        {"key": "n", "value": 36, "generation": 1, "expires_at": None},
        {"key": "name", "value": "Ada", "generation": 1, "expires_at": None},
    ]


def test_the_frozen_schema_is_what_sqlite_utils_makes() -> None:
    """`FROZEN`, which opening uses, and `author`, which people read, give an identical sqlite_master."""
    authored, frozen = sqlite_utils.Database(memory=True), sqlite3.connect(":memory:", isolation_level=None)
    schema.author(authored)
    for statement in schema.FROZEN:
        frozen.execute(statement)
    listing = "SELECT type, name, tbl_name, sql FROM sqlite_master"

    assert authored.conn.execute(listing).fetchall() == frozen.execute(listing).fetchall()

    frozen.close()
    authored.close()


def test_inspection_describes_a_store_in_use(store, path) -> None:
    """Tables with their counts, and every row decoded, through a connection beside the store's own."""
    store["k"] = [1, "x"]
    store.set("t", 1, ttl_s=60)

    assert [(table.name, table.rows) for table in inspection.tables(store.url, path)] == [("entry", 2), ("floor", 1)]
    rows = inspection.dump(store.url, path)

    assert [(row["key"], row["value"], row["stored_as"]) for row in rows] == [
        ("k", [1, "x"], "blob"),
        ("t", 1, "integer"),
    ]


# --- Generations --------------------------------------------------------------


def test_a_generation_grows_over_delete_expiry_clear_and_other_tools(store, path) -> None:
    """Whatever made the key go away, its next generation is greater than its last."""
    seen = []
    for leave in (
        lambda: store.delete("k"),
        lambda: store._backend.take("k"),
        store.clear,
        lambda: store.delete_many(["k"]),
        lambda: _outside(path, "c.execute('DELETE FROM entry')"),
        lambda: _outside(path, "c.execute('UPDATE entry SET expires_at = 1')"),
    ):
        for number in range(3):
            store["k"] = number
        seen.append(store.read("k").generation)
        leave()
        assert "k" not in store
    store.add("k", 0)
    seen.append(store.read("k").generation)

    assert seen == sorted(set(seen))
    assert len(seen) == 7


def test_expired_rows_are_swept_away_and_raise_the_floor(store, path) -> None:
    """A store of short-lived keys does not grow for ever, and no generation is reused."""
    for number in range(300):
        store.set(f"old-{number}", number, ttl_s=60)
    for number in range(5):
        store.set("old-1", number, ttl_s=60)
    last = store.read("old-1").generation
    _outside(path, "c.execute('UPDATE entry SET expires_at = 1')")

    for number in range(300):
        store.set("new", number, ttl_s=60)
    left = int(_outside(path, "print(c.execute('SELECT count(*) FROM entry').fetchone()[0])"))
    store["old-1"] = 0

    assert left < 10
    assert store.read("old-1").generation > last


# --- Counters -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "by"),
    [
        (2**63 - 1, 1),
        (2**63, -1),
        (2**64 - 2, 1),
        (-(2**63) + 1, -1),
        (1, 0.5),
        (0.5, 1),
        (2**53, 1.0),
        (2**63 - 1, 0.5),
        *((1e308, 1e308), (-0.0, -0.0), (0, -0.0), (math.inf, 1), (0, 2**64 - 1), (-(2**63), 2**64 - 1), (0.1, 0.2)),
    ],
)
def test_an_increment_adds_as_python_does(store, start, by) -> None:
    """Beyond SQLite's integers and floats too; value, sum and what is read agree to the bit."""
    store["k"] = start

    total = store.increment("k", by)

    assert repr(total) == repr(start + by)
    assert repr(store["k"]) == repr(total)
    assert repr(store.increment("fresh", by, initial=start)) == repr(total)


@pytest.mark.parametrize(("start", "by"), [(2**64 - 1, 1), (-(2**63), -1), (2**63 - 1, 2**63 + 1)])
def test_an_overflow_writes_nothing(store, start, by) -> None:
    """Also where SQLite would have gone on with a float."""
    store["k"] = start
    before = store.read("k")

    with pytest.raises(sharedstate.CounterOverflowError):
        store.increment("k", by)

    assert store.read("k") == before


# --- Keys ---------------------------------------------------------------------

_KEYS = [
    "a",
    "a\0",
    "a\0b",
    "a%",
    "a_",
    "ab",
    "A",
    "aé",
    "a\ud7ff",
    "a\ue000",
    "a\U0010ffff",
    "a\U0010ffff\U0010ffff",
    "b",
]


@pytest.mark.parametrize("prefix", ["", "a", "a\0", "a%", "é", "a\ud7ff", "a\U0010ffff", "\U0010ffff", "A", "\ud800"])
def test_a_prefix_is_neither_a_pattern_nor_a_collation(store, prefix) -> None:
    """Ranges over UTF-8 find exactly the keys that start with it, over surrogates and the last code point too."""
    store.set_many(dict.fromkeys(_KEYS, 1))
    wanted = {key for key in _KEYS if key.startswith(prefix)}

    assert set(store.keys(prefix)) == wanted
    assert len(store.keys(prefix)) == len(wanted)
    store.clear(prefix)

    assert set(store) == set(_KEYS) - wanted


def test_the_end_of_a_prefix_is_the_least_str_above_it() -> None:
    """None where nothing is above."""
    assert end_of("ab") == "ac"
    assert end_of("a\ud7ff") == "a\ue000"
    assert end_of("a\U0010ffff") == "b"
    assert end_of("\U0010ffff") is None
    assert end_of("") is None


# --- Refusals -----------------------------------------------------------------


def _make(path: str, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_foreign_database_is_refused_by_its_tables_and_left_as_found(path) -> None:
    """Nor does `remove` touch it."""
    _make(path, "CREATE TABLE users (name)")
    with open(path, "rb") as file:
        before = file.read()

    for attempt in (sharedstate.open, sharedstate.remove):
        with pytest.raises(sharedstate.CorruptError) as caught:
            attempt(f"sqlite:{path}")
        assert "not a store" in str(caught.value)
    with pytest.raises(sharedstate.CorruptError, match="users"):
        sharedstate.open(f"sqlite:{path}")

    with open(path, "rb") as file:
        assert file.read() == before


def test_another_format_version_is_refused_with_both_versions(store, path) -> None:
    """A newer library's store is no corruption, and nothing in it is changed."""
    store.close()
    _make(path, "PRAGMA user_version=7")

    with pytest.raises(sharedstate.UnavailableError, match=r"version 7.*version 1"):
        sharedstate.open(f"sqlite:{path}")

    _make(path, "PRAGMA user_version=1")  # for the fixture's check


@pytest.mark.parametrize(
    "damage", ["DROP TRIGGER raise_floor", "CREATE TABLE mine (x)", "ALTER TABLE entry ADD COLUMN x"]
)
def test_changed_tables_are_refused(path, damage) -> None:
    """A store without its trigger would reuse generations."""
    sharedstate.open(f"sqlite:{path}").close()
    _make(path, damage)

    with pytest.raises(sharedstate.CorruptError, match="tables are not as they were created"):
        sharedstate.open(f"sqlite:{path}")


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused(path, content) -> None:
    """An empty one too, which SQLite would take for an empty database."""
    with open(path, "wb") as file:
        file.write(content)

    with pytest.raises(sharedstate.CorruptError):
        sharedstate.open(f"sqlite:{path}")

    with open(path, "rb") as file:
        assert file.read() == content


def test_damaged_pages_end_in_corrupt_error(path) -> None:
    """`check` finds them, reading them says so, and `remove` still works."""
    with sharedstate.open(f"sqlite:{path}") as store:
        store.set_many({f"key-{number}": "x" * 50 for number in range(2000)})
    size = os.stat(path).st_size
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * (size // 4))

    with sharedstate.open(f"sqlite:{path}") as store:
        with pytest.raises(sharedstate.CorruptError):
            store.check()
        with pytest.raises(sharedstate.CorruptError):
            dict(store.items())
    sharedstate.remove(f"sqlite:{path}")

    assert not os.path.exists(path)


def test_a_store_whose_trigger_is_damaged_can_be_removed(path) -> None:
    """SQLite cannot rename its table then, and says that the SQL is wrong, not that it is damaged."""
    sharedstate.open(f"sqlite:{path}").close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'TE floor', 'TE fl0or') WHERE type = 'trigger'")
        connection.commit()

    sharedstate.remove(f"sqlite:{path}")

    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE entry SET generation = 0",
        "UPDATE entry SET generation = 'x'",
        "UPDATE entry SET value = x'c1'",
        "UPDATE entry SET expires_at = 'soon'",
        "UPDATE entry SET key = ''",
        "DELETE FROM floor",
        "UPDATE floor SET generation = 1.5",
    ],
)
def test_check_finds_what_another_tool_broke(path, tampering) -> None:
    """Q2 to Q5, each by a row that SQLite itself finds well-formed."""
    with sharedstate.open(f"sqlite:{path}") as store:
        store["k"] = 1
        _outside(path, f"c.execute({tampering!r})")

        with pytest.raises(sharedstate.CorruptError):
            store.check()


@pytest.mark.parametrize(
    "tampering", ["expires_at = 'soon'", "expires_at = x'00'", "generation = 'x'", "generation = 9e999"]
)
def test_a_column_of_another_type_is_corrupt_and_no_odd_exception(path, tampering) -> None:
    """Whatever another tool has put into a column, a verb that needs it raises CorruptError, not TypeError."""
    with sharedstate.open(f"sqlite:{path}") as store:
        store["k"] = 1
        _outside(path, f'c.execute("UPDATE entry SET {tampering}")')

        for verb in (store.check, lambda: store.read("k"), lambda: store.transact(_count_up)):
            with pytest.raises(sharedstate.CorruptError, match=r"Q[35]: 'k'"):
                verb()


def _count_up(tx: sharedstate.Transaction) -> None:
    tx["k"] += 1


def test_a_refused_database_leaves_no_connection_open(path) -> None:
    """Not even for as long as the error is kept: the next who opens it may be the one that replaces it."""
    with open(path, "wb") as file:
        file.write(b"SQLite format 3\0" + bytes(4080))
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(sharedstate.CorruptError) as refusal:
        sharedstate.open(f"sqlite:{path}")

    assert refusal.value.__traceback__ is not None
    assert set(os.listdir("/proc/self/fd")) == before


def test_text_that_is_no_utf_8_is_corrupt(store, path) -> None:
    """Python cannot decode it; no error of sqlite3's leaks."""
    store["k"] = "x"
    _outside(path, "c.execute(\"UPDATE entry SET value = CAST(x'ff' AS TEXT)\")")

    with pytest.raises(sharedstate.CorruptError):
        store["k"]

    del store["k"]


def test_a_full_database_raises_capacity_error_and_loses_nothing(store) -> None:
    """What was there stays readable, and deleting makes room."""
    store["k"] = "kept"
    session = store.backend.backend._pool._idle[-1]
    pages = session.execute("PRAGMA page_count").fetchone()[0]
    session.execute(f"PRAGMA max_page_count={pages + 5}").fetchone()

    with pytest.raises(sharedstate.CapacityError):
        store["big"] = "x" * 100_000
    with pytest.raises(sharedstate.CapacityError):
        store._backend.commit({"k": sharedstate.model.Put(1), "big": sharedstate.model.Put("x" * 100_000)})

    assert dict(store) == {"k": "kept"}


# --- File systems -------------------------------------------------------------

_MOUNTS = b"""27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:25 / /dev/shm rw shared:3 - tmpfs tmpfs rw
41 27 0:52 / /mnt/share\\040x rw shared:9 master:1 - nfs4 server:/x rw
"""


def test_the_file_system_of_a_device_is_read_from_mountinfo() -> None:
    """By device number, over any number of optional fields; an unknown device is no file system."""
    assert file_system_of(_MOUNTS, os.makedev(254, 0)) == "ext4"
    assert file_system_of(_MOUNTS, os.makedev(0, 52)) == "nfs4"
    assert file_system_of(_MOUNTS, os.makedev(0, 5)) == ""


def test_a_network_file_system_is_refused(path, monkeypatch) -> None:
    """Before anything is created there."""
    monkeypatch.setattr("sharedstate_sqlite.place.file_system_of", lambda *_: "nfs4")

    with pytest.raises(sharedstate.UnavailableError, match="network file system"):
        sharedstate.open(f"sqlite:{path}")

    assert not os.path.exists(path)


def test_a_schema_that_is_no_text_is_refused_as_damage(path) -> None:
    """One byte of the schema's text is no UTF-8 any more: a StateError from opening and from repair, wherever it is.

    SQLite quotes the schema in its message, and Python raises UnicodeDecodeError in place of SQLite's error.
    """
    with sharedstate.open(f"sqlite:{path}") as store:
        store["k"] = 1
    with open(path, "rb") as file:
        whole = file.read()
    refusals = set()

    for at in range(whole.index(b"CREATE"), 4096, 4):  # the rest of the first page, a few bytes of each word
        with open(path, "wb") as file:
            file.write(whole[:at] + b"\x80" + whole[at + 1 :])
        for act in (sharedstate.open, sharedstate.opening.repair):
            try:
                found = act(f"sqlite:{path}")
            except sharedstate.StateError as error:
                refusals.add(type(error))
            else:
                if isinstance(found, sharedstate.Store):
                    found.close()
        for name in os.listdir(os.path.dirname(path)):
            if os.path.isfile(left := os.path.join(os.path.dirname(path), name)):
                os.unlink(left)

    assert sharedstate.CorruptError in refusals
