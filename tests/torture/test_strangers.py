"""Other users of the machine, and names, URLs and bytes that mean harm.

Invariants:
    N1  whatever stands at a name that a backend uses, the victim writes through
        no link and into nobody else's file or directory, and waits for nobody
    N2  files are the owner's alone, or as the URL's mode says, whatever the umask
    N3  no name of a store, lock or sharer leads out of the store's place
    N4  no password or token in a URL is in an error, a repr or a pickle of one
    N5  stored bytes that claim to be large, or nest deep, are CorruptError, and
        no memory is taken for them
    N6  the live probe compares every token that is presented by compare_digest,
        and refuses all wrong ones alike
"""

from __future__ import annotations

import glob
import os
import pickle
import resource
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING, Any, Final

import pytest

import sharedstate
from campaign import record, scale
from hardship.children import in_child
from hardship.kernel import CLONE_NEWNS, mount_small, unshare
from sharedstate import ConflictError, CorruptError, StateError, registry, values
from sharedstate.backend import files, parse_url
from sharedstate.errors import redact
from sharedstate.probe.live import answering
from strangers import ATTACKER, PLANTS, SECRET, VICTIM, as_user, harm, plant, prepare

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

SHM: Final = f"/dev/shm/sharedstate-strangers-{os.getpid()}"
NAMES: Final = {
    "file": (
        "",
        "/lock",
        "/head",
        "/log-1",
        "/log-2",
        "/log-copy",
        "/log-draft",
        "/locks",
        "/locks/.lock",
        "/locks/door.lock",
    ),
    "sqlite": ("", "-wal", "-shm", "-journal", ".creating", ".repaired", ".locks", ".locks/.lock", ".locks/door.lock"),
    "shm": (".region", ".locks", ".locks/door.lock"),
}
"""Every name that a backend creates, behind the path of its store."""


def url_of(scheme: str, path: str) -> str:
    return f"shm://{path.rpartition('sharedstate-')[2]}?size=1MiB" if scheme == "shm" else f"{scheme}:{path}"


@pytest.fixture
def yard() -> Iterator[str]:
    """A sticky directory that all may write to, as /tmp is; in it what must not be touched."""
    assert os.geteuid() == 0, "only root can become others"
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to other users
        os.chmod(place, 0o1777)
        prepare(place)
        for scheme in NAMES:  # loaded before the children change their user, who may be unable to reach the tree
            url = registry.find_plugin(parse_url(f"{scheme}:any")).temporary_url(place)
            with sharedstate.open(url) as store, store.lock("door"):
                store["k"] = 1
            sharedstate.remove(url)
        yield place


def visit(url: str) -> str:
    """Do what a victim does with a store: open it, write, lock, look."""
    with sharedstate.open(url) as store:
        store["k"] = SECRET
        with store.lock("door", timeout_s=1):
            store.increment("n")
        store.check()
        return str(store["k"])


def sweep_up(scheme: str, path: str, yard: str) -> None:
    for name in {*NAMES[scheme], ""}:
        for ending in ("", ".aside"):
            at = path + name + ending
            if os.path.isdir(at) and not os.path.islink(at):
                shutil.rmtree(at)
            elif os.path.lexists(at):
                os.unlink(at)
    for name in ("precious", "foreign", "nowhere"):
        if os.path.lexists(f"{yard}/{name}"):
            os.unlink(f"{yard}/{name}")
    shutil.rmtree(f"{yard}/den")
    prepare(yard)


def meet(
    scheme: str, yard: str, when: str, choose: Callable[[], Sequence[str]] = lambda: PLANTS
) -> tuple[int, list[str]]:
    """Plant each kind at each name, before the store is made or after; return how many, and what harm was done."""
    path = f"{yard}/store"
    if scheme == "shm":
        with tempfile.TemporaryDirectory(dir="/dev/shm") as beside:
            os.chmod(beside, 0o1777)
            prepare(beside)
            return _meet(scheme, SHM, beside, when, choose)
    return _meet(scheme, path, yard, when, choose)


def _meet(scheme: str, path: str, yard: str, when: str, choose: Callable[[], Sequence[str]]) -> tuple[int, list[str]]:
    done, found = 0, []
    for name in NAMES[scheme]:
        for kind in choose():
            try:
                if when == "after":
                    assert as_user(VICTIM, lambda: visit(url_of(scheme, path))) == SECRET
                elif not os.path.isdir(os.path.dirname(path + name)):
                    continue  # within a directory of the victim's: only who may write there could
                plant(kind, yard, path + name)
                answer = as_user(VICTIM, lambda: visit(url_of(scheme, path)))
                done += 1
                found += [f"{kind} at {name or 'the store'}: {what}" for what in harm(kind, yard, path + name, answer)]
                if answer != SECRET and not is_ours(answer):
                    found.append(f"{kind} at {name or 'the store'}: {answer}")
            finally:
                sweep_up(scheme, path, yard)
    return done, found


def is_ours(answer: str) -> bool:
    kind = getattr(sharedstate, answer.partition(":")[0], None)
    return isinstance(kind, type) and issubclass(kind, StateError)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("scheme", NAMES)
def test_nothing_is_written_through_what_was_planted(scheme: str, when: str, yard: str, dice: random.Random) -> None:
    """N1, at every name that a backend creates; the short form draws three kinds for each."""
    done, found = meet(scheme, yard, when, lambda: scale(dice.sample(PLANTS, 3), PLANTS))

    record("planted by a stranger", scheme, bad=len(found), plants=done)
    assert found == []
    assert done >= 3


@pytest.mark.parametrize(
    ("scheme", "forgotten"),
    [("file", "O_NOFOLLOW"), ("file", "_check_owner"), ("file", "_check_regular"), ("sqlite", "_check_directory")],
)
def test_a_forgotten_guard_is_found(scheme: str, forgotten: str, yard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bugs: one of the guards of `sharedstate.backend.files` is not there."""
    if forgotten.startswith("O_"):
        monkeypatch.setattr(os, forgotten, 0)
    else:
        monkeypatch.setattr(files, forgotten, lambda *_: None)
    if scheme == "sqlite":
        monkeypatch.setattr(files, "_check_owner", lambda *_: None)
    monkeypatch.setitem(NAMES, scheme, ("/head",) if scheme == "file" else (".locks",))

    _, found = meet(scheme, yard, "after" if scheme == "file" else "before")

    assert found


def test_protected_regular_stops_nobody(yard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under fs.protected_regular O_CREAT on what is there fails in a sticky directory, even for root: not asked for."""
    path = f"{yard}/store"
    for scheme in ("file", "sqlite"):
        as_user(VICTIM, lambda scheme=scheme: visit(url_of(scheme, f"{path}-{scheme}")))
    real = os.open

    def strict(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and os.path.exists(name) and os.stat(name).st_uid != os.geteuid():
            raise PermissionError(13, "as the kernel does", name)
        return real(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", strict)
    for scheme in ("file", "sqlite"):
        assert visit(url_of(scheme, f"{path}-{scheme}")) == SECRET


def test_another_users_store_is_refused(yard: str) -> None:
    """Neither opened nor changed, however wide its mode; root may; and the victim goes on with his own."""
    for scheme in NAMES:
        path = SHM if scheme == "shm" else f"{yard}/{scheme}"
        url = url_of(scheme, path)
        wide = f"{url}{'&' if '?' in url else '?'}mode=0666"
        old = os.umask(0)
        try:
            assert as_user(ATTACKER, lambda wide=wide: visit(wide)) == SECRET
            assert as_user(VICTIM, lambda url=url: visit(url)).startswith("StoreAccessError")
            assert visit(url) == SECRET
            assert as_user(ATTACKER, lambda url=url: visit(url)) == SECRET
        finally:
            os.umask(old)
            sharedstate.remove(url)


def test_root_first_then_the_victim(yard: str) -> None:
    """What root makes in the victim's own directory is the victim's; in shared memory root is told to give it away."""
    os.mkdir(f"{yard}/home")
    os.chown(f"{yard}/home", VICTIM, VICTIM)
    for scheme in ("file", "sqlite"):
        url = url_of(scheme, f"{yard}/home/{scheme}")
        assert visit(url) == SECRET
        assert as_user(VICTIM, lambda url=url: visit(url)) == SECRET
    url = url_of("shm", SHM)
    assert visit(url) == SECRET
    try:
        assert "root made it first" in as_user(VICTIM, lambda: visit(url))
    finally:
        sharedstate.remove(url)


# --- N2: modes --------------------------------------------------------------------------


def modes(*tops: str) -> set[tuple[str, int]]:
    """Return the modes of these files and directories, and of all that is in them."""
    found: set[tuple[str, int]] = set()
    for top in tops:
        seen = os.lstat(top)
        is_directory = stat.S_ISDIR(seen.st_mode)
        found.add(("directory" if is_directory else "file", stat.S_IMODE(seen.st_mode)))
        if is_directory:
            found |= modes(*(entry.path for entry in os.scandir(top)))
    return found


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("scheme", NAMES)
def test_modes_hold_whatever_the_umask(scheme: str, umask: int, yard: str) -> None:
    """N2: 0600 and 0700, or 0660 and 0770."""
    os.mkdir(f"{yard}/home")
    os.chown(f"{yard}/home", VICTIM, VICTIM)
    for mode, of_directories in ((0o600, 0o700), (0o660, 0o770)):
        path = SHM if scheme == "shm" else f"{yard}/home/{mode:o}"
        url = url_of(scheme, path)
        url += f"{'&' if '?' in url else '?'}mode={mode:04o}"

        def body(url: str = url, path: str = path) -> str:
            os.umask(umask)
            with sharedstate.open(url) as store:
                store["k"] = 1
                with store.lock("door"):
                    return repr(sorted(modes(*glob.glob(f"{path}*"))))

        answer = as_user(VICTIM, body)
        if scheme == "shm":
            sharedstate.remove(url)
        else:
            shutil.rmtree(f"{yard}/home")
            os.mkdir(f"{yard}/home")
            os.chown(f"{yard}/home", VICTIM, VICTIM)
        assert answer == repr([("directory", of_directories), ("file", mode)])


# --- N3: names ----------------------------------------------------------------------------

ESCAPES: Final = (
    *(
        "../x",
        "..",
        ".",
        "a/../../x",
        "/etc/x",
        "//etc/x",
        "%2e%2e%2fx",
        "..%2fx",
        "%2Fetc%2Fx",
        "x%00y",
        "\0",
        "x\0.lock",
    ),
    *("x" * 300, "x" * 5000, "\u2025/x", "\uff0e\uff0e\uff0fx", "\u202ex", "\u00e9", "e\u0301", "a\nb", "-rf"),
    *("~", "~root", "$HOME"),
)


@pytest.mark.parametrize("name", ESCAPES, ids=lambda name: repr(name[:12]))
def test_no_name_leads_out_of_its_place(name: str, tmp_path: Any) -> None:
    """N3: of a region, of a lock, and a sharer's token.  In a /dev/shm of its own: others use the machine's."""

    def body() -> None:
        unshare(CLONE_NEWNS)
        mount_small("/dev/shm", 2**20)
        before = set(os.listdir("/etc"))
        with pytest.raises(StateError):
            sharedstate.open(f"shm://{name}?x")
        with pytest.raises(StateError):
            sharedstate.open(f"shm://{name}")
        with sharedstate.open(f"file:{tmp_path}/store") as store:
            try:
                with store.lock(name):
                    inside = {entry.name for entry in os.scandir(tmp_path / "store" / "locks")}
                assert any(entry.endswith(".lock") for entry in inside)
            except StateError:
                pass
            assert not store._backend.is_present(name)
            store.check()
        assert os.listdir(tmp_path) == ["store"]
        assert set(os.listdir(tmp_path / "store")) == {"lock", "head", "log-1", "locks"}
        assert (os.listdir("/dev/shm"), set(os.listdir("/etc"))) == ([], before)

    in_child(body)


def test_a_path_with_dots_is_that_path(tmp_path: Any) -> None:
    """A path is the operator's: .. in it is resolved once, and the store's own URL has none; NUL is refused."""
    with sharedstate.open(f"file:{tmp_path}/a/../b") as store:
        assert store.url == f"file:{tmp_path}/b"
    for scheme in ("file", "sqlite"):
        for bad in ("x%00y", "x" * 5000):
            with pytest.raises(StateError):
                sharedstate.open(f"{scheme}:{tmp_path}/{bad}")


# --- N4: secrets --------------------------------------------------------------------------

HIDDEN: Final = "hunter2-s3cr3t"
URLS: Final = (
    f"redis://user:{HIDDEN}@host:6379/0",
    f"redis://:{HIDDEN}@host/0",
    f"redis://user:a@{HIDDEN}@host/0",
    f"nosuch:user:{HIDDEN}@host",
    f"file://user:{HIDDEN}@host/x",
    f"shm://jobs?password={HIDDEN}",
    f"shm://jobs?auth_token={HIDDEN}&password={HIDDEN}&password={HIDDEN}",
    f"sqlite:/nowhere/x?SECRET={HIDDEN}%zz",
    f"memory:jobs?api_key={HIDDEN}",
)


def leaks(url: str) -> list[str]:
    """Return where a secret of `url` shows when it cannot be opened."""
    try:
        sharedstate.open(url)
    except StateError as error:
        again = pickle.loads(pickle.dumps(error))
        told = {
            "str": str(error),
            "repr": repr(error),
            "fields": repr(vars(error)),
            "pickle": repr(pickle.dumps(error)),
            "unpickled": str(again) + repr(vars(again)),
        }
        return [where for where, text in told.items() if HIDDEN in text]
    raise AssertionError(url)


@pytest.mark.parametrize("url", URLS)
def test_no_secret_of_a_url_is_told(url: str) -> None:
    """N4: str, repr, fields and pickles of the error."""
    assert leaks(url) == []


def test_a_told_secret_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: nothing is hidden."""
    monkeypatch.setattr("sharedstate.errors.redact", lambda text: text)

    assert all(leaks(url) for url in URLS)


@pytest.mark.parametrize(
    "text", ["shm://jobs?size=64MiB&full=evict", "file:/var/lib/app@home/x", "a@b.org", "value['a'] = 3", "x=1&y=2"]
)
def test_what_is_no_secret_is_told(text: str) -> None:
    """Errors stay readable."""
    assert redact(text) == text


def test_key_of_an_error_is_the_callers() -> None:
    """It is no URL, whatever it looks like, and a caller compares it."""
    key = "session:user:alice@example.org?token=1"

    assert ConflictError(key=key, expected=1, found=2).key == key


# --- N5: bombs ----------------------------------------------------------------------------

BOMBS: Final = {
    "an array of 2^32": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32": b"\xdf\xff\xff\xff\xff",
    "a str of 2^32": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32": b"\xc6\xff\xff\xff\xff",
    "an extension of 2^32": b"\xc9\xff\xff\xff\xff\x01",
    "arrays of arrays of 2^32": b"\xdd\xff\xff\xff\xff" * 40,
    "a tuple of 2^32": b"\xc7\x05\x01\xdd\xff\xff\xff\xff",
    "100,000 nested": b"\x91" * 100_000 + b"\xc0",
    "100,000 nested maps": b"\x81\xa1k" * 100_000 + b"\xc0",
}
ROOM: Final = 128 * 2**20


def blow(decode: Callable[[bytes], object]) -> list[str]:
    """Return which bombs were no CorruptError, with little more memory than the process has."""

    def body() -> list[str]:
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
        found: list[str] = []
        for what, bomb in BOMBS.items():
            try:
                decode(bomb)
                found.append(what)
            except CorruptError:
                pass
            except BaseException as error:  # noqa: BLE001  MemoryError, RecursionError
                found.append(f"{what}: {type(error).__name__}")
        return found

    answer = as_user(0, body)
    return [] if answer == "[]" else [answer]


def test_bombs_in_values_take_no_memory() -> None:
    """N5, by the codec in C and by the one that stands in for it."""
    from sharedstate import _fallback

    found = blow(values.decode) + blow(_fallback.decode)

    record("bombs in values", "codec", bad=len(found), bombs=2 * len(BOMBS))
    assert found == []


def test_a_decoder_that_believes_lengths_is_found() -> None:
    """Planted bug: room is made for what is claimed."""

    def decode(encoded: bytes) -> object:
        return [None] * int.from_bytes(encoded[1:5], "big") if encoded[:1] == b"\xdd" else values.decode(encoded)

    assert blow(decode)


# --- N6: the probe's token ------------------------------------------------------------------

TOKEN: Final = b"the-operators-own-token"
WRONG: Final = (b"", b"x", TOKEN[:-1], TOKEN + b"x", TOKEN.upper(), b"\xff" * 23, b"x" * 10_000)


def refusals(monkeypatch: pytest.MonkeyPatch) -> tuple[set[Any], int]:
    """Return the different answers to wrong tokens, and how many tokens were compared in constant time."""
    compared: list[bytes] = []
    real = answering._compare_digest

    def spy(configured: bytes, token: bytes) -> bool:
        compared.append(token)
        return real(configured, token)

    monkeypatch.setattr(answering, "_compare_digest", spy)
    answers = {repr(answering.admit(TOKEN, [wrong], method, "2")) for wrong in WRONG for method in ("POST", "GET")}
    answers |= {repr(answering.admit(TOKEN, WRONG, "POST", "2")), repr(answering.admit(TOKEN, [], "POST", "2"))}
    return answers, len(compared)


def test_wrong_tokens_are_all_refused_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """N6: one answer for all, that holds none of them; each token compared, none skipped for its length."""
    answers, compared = refusals(monkeypatch)

    assert len(answers) == 1
    assert TOKEN.decode() not in answers.pop()
    assert compared == 3 * len(WRONG)
    assert answering.admit(TOKEN, [b"x", TOKEN, b"y"], "POST", "2") == 2


def test_a_probe_that_compares_as_it_likes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: lengths are looked at first."""
    real = answering.admit

    def hasty(configured: bytes, presented: Any, method: str, length: str) -> Any:
        return real(configured, [token for token in presented if len(token) == len(configured)], method, length)

    monkeypatch.setattr(answering, "admit", hasty)

    assert refusals(monkeypatch)[1] != 3 * len(WRONG)
