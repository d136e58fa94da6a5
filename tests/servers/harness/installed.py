"""What scripts/servers.sh promised, and where a server's own user can read it.

Apache's children run as www-data.  The tree, its environments and a Python of
pyenv's often lie under a directory that www-data may not enter; such things are
handed on as a copy (of hard links where that is possible) under the temp
directory, made once per session when first asked for, and removed at its end.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
_PROMISES = ROOT / ".venv" / "servers.txt"


class MissingError(Exception):
    """Something that a mode needs is not there, though the set-up promised it."""


class Environment(NamedTuple):
    """One Python with the servers from PyPI."""

    version: str  # "3.11"
    venv: Path
    base: Path  # the prefix of the Python that it was made from

    def command(self, name: str) -> str:
        """Return the path of one of its commands."""
        path = self.venv / "bin" / name
        if not path.exists():
            raise MissingError(f"no {name} in {self.venv}: run scripts/servers.sh")
        return str(path)

    @property
    def site_packages(self) -> Path:
        return self.venv / "lib" / f"python{self.version}" / "site-packages"

    @property
    def mod_wsgi(self) -> Path:
        """mod_wsgi 6, built for this Python."""
        for path in (self.site_packages / "mod_wsgi" / "server").glob("mod_wsgi-*.so"):
            return path
        raise MissingError(f"no mod_wsgi in {self.venv}: run scripts/servers.sh")


@functools.cache
def environments() -> dict[str, Environment]:
    """Return the environments that scripts/servers.sh made, by version; the first is the distribution's Python's."""
    if not _PROMISES.exists():
        raise MissingError(f"no {_PROMISES}: run scripts/servers.sh, or make test-servers")
    found = {}
    for line in _PROMISES.read_text().splitlines():
        version, venv = line.split(" ", 1)
        for setting in (Path(venv) / "pyvenv.cfg").read_text().splitlines():
            if setting.startswith("home = "):
                found[version] = Environment(version, Path(venv), Path(setting[7:]).resolve().parent)
    return found


@functools.cache
def session_directory() -> Path:
    """Return a directory that everyone can read, removed when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="sharedstate-servers-", dir="/tmp"))
    directory.chmod(0o755)
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(directory, ignore_errors=True))
    return directory


@functools.cache
def published(path: Path) -> Path:
    """Return where everyone can read `path`: itself, or a copy."""
    if all(parent.stat().st_mode & 0o001 for parent in path.parents):
        return path
    copy = session_directory() / str(path).strip("/").replace("/", "-")
    shutil.copytree(path, copy, symlinks=True, copy_function=_link, ignore=_ballast)
    return copy


@functools.cache
def library(python: str) -> list[Path]:
    """Return the library's two source roots, readable by everyone, as they are now, compiled for one Python.

    The servers' user may not write byte code beside them, and would compile
    them in every process and interpreter.
    """
    copy = _library()
    roots = [copy, copy / "backends"]
    # A file that does not compile shows itself where it is imported.
    subprocess.run([python, "-m", "compileall", "-q", str(copy)], check=False, stdout=subprocess.DEVNULL)
    return roots


@functools.cache
def _library() -> Path:
    copy = session_directory() / "library"
    for name in ("sharedstate", "backends"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.new*"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def make_environment(venv: Path, promised: Environment) -> None:
    """Make an environment as a reader of our pages has it: with the servers, and with the library."""
    subprocess.run([promised.venv / "bin" / "python", "-m", "venv", "--without-pip", venv], check=True)
    (own,) = venv.glob("lib/*/site-packages")
    roots = library(str(promised.venv / "bin" / "python"))
    paths = [*roots, published(promised.site_packages)]
    (own / "installed.pth").write_text("".join(f"{path}\n" for path in paths))
    shutil.copy(promised.venv / "bin" / "uwsgi", venv / "bin")
    for name, module, function in (
        ("gunicorn", "gunicorn.app.wsgiapp", "run"),
        ("sharedstate", "sharedstate.cli", "main"),
    ):
        command = venv / "bin" / name
        command.write_text(f"#!{venv}/bin/python\nfrom {module} import {function}\n{function}()\n")
        command.chmod(0o755)


def _ballast(directory: str, names: list[str]) -> set[str]:
    """Name what a Python carries that no server needs: its own tests, a third of it, and static libraries."""
    tests = {"test"} if Path(directory).name.startswith("python3") else set()
    return tests & set(names) | {name for name in names if name.endswith(".a")}


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target
