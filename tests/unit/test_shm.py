"""What is the shared-memory backend's own: its names, parameters, limits and ends.

The contract is proved in tests/conformance, the C core alone in tests/native.
"""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import sharedstate
from sharedstate import CapacityError, CorruptError, StoreAccessError, UnavailableError, UrlError
from sharedstate.errors import BackendMissingError
from sharedstate_shm import backend

NAME = f"test-shm-{os.getpid()}"
REGION = f"/dev/shm/sharedstate-{NAME}.region"


@pytest.fixture
def url() -> Iterator[str]:
    yield f"shm://{NAME}"
    for path in (REGION, REGION.replace(".region", ".locks")):
        if os.path.isdir(path):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
        elif os.path.lexists(path):
            os.unlink(path)


def test_a_region_is_private_to_its_user(url: str) -> None:
    """The region's file is made 0600 whatever the umask, and its lock files too."""
    before = os.umask(0)
    try:
        with sharedstate.open(url) as store, store.lock("l"):
            modes = {
                os.stat(REGION).st_mode & 0o777,
                os.stat(REGION.replace(".region", ".locks/l.lock")).st_mode & 0o777,
            }
    finally:
        os.umask(before)

    assert modes == {0o600}


def test_the_mode_of_the_url_counts_whatever_the_umask(url: str) -> None:
    """`mode=0660` makes a region that the group may use."""
    before = os.umask(0o077)
    try:
        sharedstate.open(f"{url}?mode=0660").close()
    finally:
        os.umask(before)

    assert os.stat(REGION).st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ("size=1KiB", "at least 1MiB"),
        ("size=lots", "64MiB"),
        ("full=maybe", "raise, evict"),
        ("mode=77", "0600"),
        ("sise=8MiB", "Did you mean 'size'"),
        ("timeout=x", "0 to 3600"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(url: str, parameters: str, says: str) -> None:
    """A misspelt or impossible parameter raises UrlError, and no region is made."""
    with pytest.raises(UrlError, match=says):
        sharedstate.open(f"{url}?{parameters}")

    assert not os.path.exists(REGION)


@pytest.mark.parametrize("name", ["", "a/b", "/a", ".a", "-a", "a b", "ä", "x" * 101])
def test_a_name_is_plain(name: str) -> None:
    """A name is 1 to 100 ASCII letters, digits, '.', '_' and '-', and starts with none of the last two."""
    with pytest.raises(UrlError):
        sharedstate.open(f"shm://{name}")


def test_an_existing_region_keeps_its_size_and_says_so(url: str) -> None:
    """Opening with another size is refused; opening without one attaches."""
    with sharedstate.open(f"{url}?size=4MiB") as first:
        first["k"] = 1

        with pytest.raises(UrlError, match="exists with size=4MiB"):
            sharedstate.open(f"{url}?size=8MiB")
        with pytest.raises(UrlError, match="exists with full=raise"):
            sharedstate.open(f"{url}?full=evict")

        with sharedstate.open(url) as second:
            assert second["k"] == 1


def fits(store: sharedstate.Store, key: str) -> bool:
    try:
        store[key] = b"x" * 1000
    except CapacityError:
        return False
    return True


def test_a_full_region_raises_and_loses_nothing(url: str) -> None:
    """With full=raise the write that does not fit raises CapacityError; all before it stay, and deleting makes room."""
    with sharedstate.open(f"{url}?size=1MiB") as store:
        written = 0
        while fits(store, f"k{written}"):
            written += 1

        assert 100 < written < 1_000
        assert len(store) == written
        assert all(store[f"k{i}"] == b"x" * 1000 for i in range(written))
        assert store.delete("k0")
        store["k0"] = b"y" * 1000
        store.check()


def test_full_evict_makes_room_and_counts(url: str) -> None:
    """With full=evict every write succeeds; what went is counted, and the newest entry is there."""
    with sharedstate.open(f"{url}?size=1MiB&full=evict") as store:
        for i in range(5_000):
            store[f"k{i}"] = i.to_bytes(4, "big") * 250
            assert store[f"k{i}"] == i.to_bytes(4, "big") * 250

        evicted = store.stats()["evictions"]
        assert isinstance(evicted, int)
        assert evicted > 0
        assert len(store) + evicted == 5_000
        assert store.capabilities.evicts
        store.check()


def test_a_value_larger_than_the_region_is_refused(url: str) -> None:
    """A value that could never fit raises CapacityError and leaves the key as it was."""
    with sharedstate.open(f"{url}?size=1MiB") as store:
        store["k"] = "before"

        with pytest.raises(CapacityError):
            store["k"] = b"x" * (store.capabilities.max_value_bytes + 1)

        assert store["k"] == "before"


def test_a_removed_region_refuses_writes_instead_of_keeping_a_ghost(url: str) -> None:
    """Who holds a removed region is told; a new one starts empty."""
    with sharedstate.open(url) as old:
        old["k"] = 1
        sharedstate.remove(url)

        with pytest.raises(UnavailableError, match="removed"):
            old["k"] = 2
        with sharedstate.open(url) as new:
            assert "k" not in new


def test_removing_what_is_not_there_says_so(url: str) -> None:
    """`remove` of an unknown region raises UnavailableError."""
    with pytest.raises(UnavailableError, match="no such region"):
        sharedstate.remove(url)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100_000, os.urandom(100_000)])
def test_a_foreign_file_is_refused_and_left_alone(url: str, content: bytes) -> None:
    """A file that is no region raises CorruptError and keeps its bytes."""
    with open(REGION, "wb") as file:
        file.write(content)

    with pytest.raises(CorruptError):
        sharedstate.open(url)

    with open(REGION, "rb") as file:
        assert file.read() == content


def test_a_truncated_region_is_refused(url: str) -> None:
    """A region that lost its end raises CorruptError when it is opened."""
    sharedstate.open(url).close()
    os.truncate(REGION, os.path.getsize(REGION) // 2)

    with pytest.raises(CorruptError):
        sharedstate.open(url)


@pytest.mark.parametrize("byte", [0, 9, 20, 40, 60, 79])
def test_a_flipped_header_bit_is_refused(url: str, byte: int) -> None:
    """Every byte of the header's fixed part is covered by its checks."""
    sharedstate.open(url).close()
    with open(REGION, "r+b") as file:
        file.seek(byte)
        flipped = file.read(1)[0] ^ 1
        file.seek(byte)
        file.write(bytes([flipped]))

    with pytest.raises((CorruptError, UnavailableError)):
        sharedstate.open(url)


@pytest.mark.parametrize("version", [2, 4])
def test_a_region_of_another_format_version_is_refused_by_that_name(url: str, version: int) -> None:
    """A region that an older or newer release made raises UnavailableError with both versions, and can be removed."""
    sharedstate.open(url).close()
    with open(REGION, "r+b") as file:
        file.seek(8)
        file.write(version.to_bytes(4, sys.byteorder))

    with pytest.raises(UnavailableError, match=f"format version {version}, this library reads version 3"):
        sharedstate.open(url)

    sharedstate.remove(url)
    assert not os.path.exists(REGION)


def test_a_symbolic_link_is_refused(url: str, tmp_path: os.PathLike[str]) -> None:
    """A link in place of the region raises StoreAccessError, and its target is untouched."""
    target = os.path.join(tmp_path, "target")
    os.symlink(target, REGION)

    with pytest.raises(StoreAccessError, match="link"):
        sharedstate.open(url)

    assert not os.path.exists(target)


def test_a_directory_is_refused(url: str) -> None:
    """A directory in place of the region is named as such."""
    os.mkdir(REGION)

    with pytest.raises((UnavailableError, CorruptError)):
        sharedstate.open(url)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's")
def test_another_users_region_is_refused(url: str) -> None:
    """A region of another user's, even a readable one, could be planted: StoreAccessError; root may open it."""
    sharedstate.open(f"{url}?mode=0666").close()
    os.chown(REGION, 12345, 12345)
    # Root's turn comes first: it imports what others may be unable to reach, in a closed directory.
    program = (
        "import os, sharedstate\n"
        "sharedstate.open('" + url + "').close()\n"
        "os.setgid(54321); os.setuid(54321)\n"
        "try: sharedstate.open('" + url + "')\n"
        "except sharedstate.StoreAccessError as error: print('refused', 'another user' in str(error))\n"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "refused True\n"


def test_without_the_c_module_it_says_what_to_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C core was not built, shm: raises BackendMissingError that names the remedy."""
    monkeypatch.setitem(sys.modules, "sharedstate_shm._core", None)

    with pytest.raises(BackendMissingError, match="compiler"):
        sharedstate.open(url)


def test_discover_lists_it(url: str) -> None:
    """A region is among those that `sharedstate shm list` shows."""
    sharedstate.open(url).close()

    assert url in backend.discover()


def test_the_resource_tracker_of_multiprocessing_is_never_involved(url: str) -> None:
    """A process that attaches and ends leaves the region where it is."""
    with sharedstate.open(url) as store:
        program = (
            f"import sharedstate, sys; sharedstate.open({url!r})['k'] = 1; print('multiprocessing' in sys.modules)"
        )

        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

        assert result.stdout == "False\n"
        assert store["k"] == 1
        assert os.path.exists(REGION)


def test_a_handle_used_after_fork_serves_parent_and_child(url: str) -> None:
    """Both go on with the inherited handle, and no increment is lost."""
    with sharedstate.open(url) as store:
        child = os.fork()
        if child == 0:
            for _ in range(20_000):
                store.increment("n")
            os._exit(0)
        for _ in range(20_000):
            store.increment("n")
        _, status = os.waitpid(child, 0)

        assert status == 0
        assert store["n"] == 40_000


def test_a_prefix_longer_than_any_key_matches_nothing(url: str) -> None:
    """items() and clear() take a prefix of any length: no key starts with one of 600 bytes."""
    with sharedstate.open(url) as store:
        store["x" * 512] = 1

        found = list(store.items(prefix="x" * 600))
        store.clear(prefix="x" * 600)

        assert found == []
        assert len(store) == 1


def test_a_key_that_is_no_utf8_is_corruption(url: str) -> None:
    """A peer that scribbles into a key's bytes is met as CorruptError, not as a decoding error of ours."""
    with sharedstate.open(url) as store:
        store["needle-in-the-heap"] = 1
        with open(REGION, "r+b") as file, mmap.mmap(file.fileno(), 0) as region:
            at = region.find(b"needle-in-the-heap")
            region[at : at + 1] = b"\xff"

        with pytest.raises(CorruptError):
            list(store)
