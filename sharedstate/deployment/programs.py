"""Which application this is: what names it the same in all its processes and interpreters, whenever they ask.

An application is named by a path: its program's, or for one that a server was
told to import the directory of its module with that text after it, such as
"/srv/site/app:application".  Unknown rather than a name that others may have.
"""

from __future__ import annotations

import os
import sys

from sharedstate.deployment.model import Fact, known, likely, unknown
from sharedstate.deployment.surroundings import find_frame, local, module
from sharedstate.model import interpreter_id

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["application_of_program", "application_of_target", "locate", "runner_of_many"]

_RUNNERS: Final = frozenset({
    *("airflow", "celery", "daphne", "django-admin", "dramatiq", "fastapi", "flask", "granian", "gunicorn"),
    *("huey_consumer", "hypercorn", "litestar", "pserve", "quart", "rq", "sanic", "uvicorn", "uwsgi", "waitress"),
    *("waitress-serve", "wsgi-loader"),
})  # fmt: skip
"""Programs that run any application: their own name tells none from another, and they may run many processes."""

_TOOLS: Final = frozenset({
    *("coverage", "debugpy", "idlelib", "ipykernel", "ipykernel_launcher", "ipython", "jupyter", "locust", "pdb"),
    *("pytest", "scrapy", "streamlit"),
})  # fmt: skip
"""Programs that run any application in their own process."""


def application_of_target(target: object, evidence: str) -> Fact:
    """Return the application of a server that imports `target`, "package.module:attribute".

    A program of the user's own that starts the server is the application
    itself, for its modules may ask before it does.
    """
    program = application_of_program()
    if not isinstance(target, str) or not target or (program.value is not None and not _is_installed(program.value)):
        return program
    return known(locate(target), evidence)


def application_of_program() -> Fact:
    """Return the application of a process that is no server's: the program that it was started with."""
    for name in ("__mp_main__", "__main__"):  # multiprocessing's children import the program by the former name
        file = getattr(module(name), "__file__", None)
        if file is not None:
            return _program(file, f"{name}.__file__")
    if interpreter_id() != 0:
        return _program_of_command()
    return unknown("an interactive interpreter, or one without a file")


def runner_of_many() -> str:
    """Return the program that this process runs, if it is one that runs many processes of any application; else ""."""
    file = getattr(module("__main__"), "__file__", None)
    return file if file is not None and _name(file) in _RUNNERS else ""


def locate(target: str) -> str:
    """Return the directory in which the module of `target` is found, with that text after it."""
    name = target.partition(":")[0]
    loaded = module(name)
    file = getattr(loaded, "__file__", None)
    if file is not None:
        base = os.path.dirname(os.path.abspath(file))
        for _ in range(name.count(".") + hasattr(loaded, "__path__")):
            base = os.path.dirname(base)
        return os.path.join(base, target)
    top = name.partition(".")[0]
    for entry in sys.path:
        base = os.path.abspath(entry)
        if os.path.isfile(os.path.join(base, f"{top}.py")) or os.path.isdir(os.path.join(base, top)):
            return os.path.join(base, target)
    return os.path.join(os.getcwd(), target)


def _program(file: str, evidence: str) -> Fact:
    path = os.path.realpath(file)
    name = _name(path)
    if name == "flask":
        return _application_of_flask(path)
    return unknown(f"{path} runs any application") if name in _RUNNERS | _TOOLS else likely(path, evidence)


def _name(path: str) -> str:
    parts = path.split(os.sep)
    return parts[-2] if parts[-1] == "__main__.py" else parts[-1].removesuffix(".py")


def _application_of_flask(path: str) -> Fact:
    """Return what `flask run` was told to import: its ScriptInfo is on the stack while it loads and while it serves."""
    for function, name in (("load_app", "self"), ("run_command", "info")):
        target = getattr(local(find_frame("flask.cli", function), name), "app_import_path", None)
        if isinstance(target, str):
            return known(locate(target.removesuffix(".py")), "flask's ScriptInfo.app_import_path")
    for name in ("wsgi", "app"):  # what it looks for if it is told nothing
        if module(name) is not None:
            return likely(locate(name), f"{path}, which found the module {name}")
    return unknown(f"{path} runs any application")


def _is_installed(path: str) -> bool:
    """Return whether it is a command that a package brought, and no program of the user's own."""
    parts = path.split(os.sep)
    return bool({"site-packages", "dist-packages"}.intersection(parts)) or (
        parts[-2] in {"bin", "sbin"} and not path.endswith(".py")
    )


def _program_of_command() -> Fact:
    """Return the program of the main interpreter; a sub-interpreter sees but the command, in `sys.orig_argv`."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if not word.startswith("-"):
            # Its directory is the first of the path from 3.12 on, whatever the working directory is by now.
            return _find(os.path.basename(word), sys.path[:1], "") or _find(word, [os.curdir], "") or _lost(word)
        if word.startswith("--"):
            next(words, None)  # --check-hash-based-pycs default
            continue
        for place, letter in enumerate(word[1:], 2):
            rest = word[place:]
            if letter == "m":
                name = (rest or next(words, "")).replace(".", os.sep)
                found = _find(name, [*sys.path, os.curdir], ".py")
                return found or _find(name, [*sys.path, os.curdir], f"{os.sep}__main__.py") or _lost(name)
            if letter == "c":
                return unknown("python -c")
            if letter in "WX":
                if not rest:
                    next(words, None)
                break
    return unknown("no program in sys.orig_argv")


def _find(name: str, bases: list[str], suffix: str) -> Fact | None:
    for base in bases:
        candidate = os.path.join(base, name + suffix)
        if os.path.isfile(candidate):
            return _program(candidate, "sys.orig_argv")
    return None


def _lost(name: str) -> Any:
    return unknown(f"no file of the program {name} in sys.orig_argv")
