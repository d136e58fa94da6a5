"""Other users, in children of root; and what they may plant where a store keeps its files."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ATTACKER", "PLANTS", "VICTIM", "as_user", "harm", "plant", "prepare"]

VICTIM: Final = 33
ATTACKER: Final = 65534
SECRET: Final = "a value that is nobody else's"

PLANTS: Final = (
    "symlink",
    "dangling symlink",
    "hard link",
    "fifo",
    "directory",
    "foreign file",
    "foreign directory link",
)


def as_user(uid: int, body: Callable[[], object], patience_s: int = 20) -> str:
    """Return what `body` returns in a child of that uid, or the error's name and text; "hung" after a while."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(patience_s)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = str(body())
        except BaseException as error:  # noqa: BLE001  the parent judges
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode()[:30_000])
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer if os.WIFEXITED(status) else f"killed by {os.WTERMSIG(status)}, hung or crashed"


def prepare(yard: str) -> None:
    """Lay out what must not be touched: the victim's precious file, and files and a directory of the attacker's."""
    for name, uid, mode in (("precious", VICTIM, 0o600), ("foreign", ATTACKER, 0o666)):
        path = os.path.join(yard, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{name}\n")
        os.chown(path, uid, uid)
        os.chmod(path, mode)
    den = os.path.join(yard, "den")
    os.mkdir(den)
    os.chmod(den, 0o777)
    os.chown(den, ATTACKER, ATTACKER)


def plant(kind: str, yard: str, path: str) -> None:
    """Put something of `kind` at `path`, in place of what is there."""
    if os.path.lexists(path):
        os.rename(path, path + ".aside")
    precious, foreign = os.path.join(yard, "precious"), os.path.join(yard, "foreign")
    if kind == "symlink":
        os.symlink(precious, path)
    elif kind == "dangling symlink":
        os.symlink(os.path.join(yard, "nowhere"), path)
    elif kind == "hard link":
        os.link(precious, path)
        return
    elif kind == "fifo":
        os.mkfifo(path)
        os.chmod(path, 0o666)
    elif kind == "directory":
        os.mkdir(path)
        os.chmod(path, 0o777)
    elif kind == "foreign file":
        os.rename(foreign, path)
        os.symlink(path, foreign)  # so that `harm` finds it
    else:
        os.symlink(os.path.join(yard, "den"), path)
    os.chown(path, ATTACKER, ATTACKER, follow_symlinks=False)


def harm(kind: str, yard: str, path: str, answer: str) -> list[str]:
    """Return what a victim that met a planted `path`, and answered so, has let happen."""
    found = [f"the victim was {answer}"] if answer.startswith("killed") else []
    with open(os.path.join(yard, "precious"), "rb") as file:
        if file.read() != b"precious\n":
            found.append("the victim's own file was written to")
    if stat.S_IMODE(os.stat(os.path.join(yard, "precious")).st_mode) != 0o600:
        found.append("the victim's own file got another mode")
    if os.path.lexists(os.path.join(yard, "nowhere")):
        found.append("a link was followed, and a file made behind it")
    if os.listdir(os.path.join(yard, "den")):
        found.append("files were made in the attacker's directory")
    if os.path.exists(os.path.join(yard, "foreign")):
        with open(os.path.join(yard, "foreign"), "rb") as file:
            if file.read() != b"foreign\n":
                found.append("the attacker's file was written to")
    if kind == "directory" and os.path.isdir(path) and os.stat(path).st_uid == ATTACKER and os.listdir(path):
        found.append("files were made in a directory of the attacker's")
    return found
