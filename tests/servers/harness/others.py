"""gunicorn, uWSGI, and the other servers from PyPI, each as a process in the foreground."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from .modes import Disturbance, Interpreter, Mode, Place, Truth, exactly

LAUNCHERS = Path(__file__).resolve().parent / "launchers"
_SUPERVISED = frozenset({Disturbance.CYCLE, Disturbance.KILL_WORKER, Disturbance.KILL_MASTER})
_HUP = {Disturbance.HUP: signal.SIGHUP, Disturbance.GRACEFUL: signal.SIGHUP}


def _gunicorn(name: str, arguments: str, truth: Truth, python: str = "") -> Mode:
    def command(place: Place, extra: tuple[str, ...]) -> list[str]:
        return [
            place.environment.command("gunicorn"),
            *("--bind", f"127.0.0.1:{place.port}", "--graceful-timeout", "5"),
            *arguments.split(),
            *extra,
            "application:application",
        ]

    return Mode(
        name=f"gunicorn-{name}",
        server="gunicorn",
        truth=truth,
        command=command,
        python=python,
        ready="Booting worker with pid",
        ready_count=truth.processes[0],
        disturbances=_SUPERVISED | {Disturbance.GRACEFUL, Disturbance.HUP, Disturbance.USR2},
        signals=_HUP,
    )


def _uwsgi(name: str, arguments: str, truth: Truth, *, mounts: tuple[str, ...] = ("",), python: str = "") -> Mode:
    def command(place: Place, extra: tuple[str, ...]) -> list[str]:
        files = [f"--mount={mount}={place.script}" for mount in mounts if mount]
        return [
            place.environment.command("uwsgi"),
            *("--http-socket", f"127.0.0.1:{place.port}", "--venv", str(place.environment.venv)),
            *("--disable-logging", "--need-app", "--die-on-term"),
            *(argument for directory in place.path for argument in ("--pythonpath", directory)),
            *(["--manage-script-name", *files] if files else ["--wsgi-file", str(place.script)]),
            *arguments.split(),
            *extra,
        ]

    supervised = truth.supervised
    workers = truth.processes[0]
    return Mode(
        name=f"uwsgi-{name}",
        server="uwsgi",
        truth=truth,
        command=command,
        mounts=mounts,
        python=python,
        ready=r"^spawned uWSGI worker" if truth.in_master else r"^WSGI app \d+ .* ready",
        ready_count=workers if truth.in_master else workers * len(mounts),
        disturbances=_SUPERVISED | {Disturbance.GRACEFUL, Disturbance.HUP} if supervised else {Disturbance.CYCLE},
        signals=_HUP if supervised else {},
    )


def _other(server: str, name: str, arguments: str, truth: Truth, **how: Any) -> Mode:
    """Return a mode whose command line is one of `arguments`; {port} and {launchers} are filled in."""

    def command(place: Place, extra: tuple[str, ...]) -> list[str]:
        program, *words = arguments.format(port=place.port, launchers=LAUNCHERS).split()
        return [place.environment.command(program), *words, *extra]

    return Mode(name=name, server=server, truth=truth, command=command, **how)


def _workers(processes: int, threads: int | None = 1, **others: Any) -> Truth:
    flags = {"multithread": threads != 1, "multiprocess": processes > 1}
    return Truth(processes=exactly(processes), threads=threads, **(flags | others))


_UNFLAGGED: dict[str, Any] = {"multithread": None, "multiprocess": None}


def modes(versions: list[str]) -> list[Mode]:
    """Return the modes on the distribution's Python, the first of `versions`, and two for each other version."""
    alone = {"supervised": False}
    two_mounts: dict[str, Any] = {"mounts": ("/a", "/b")}
    two_interpreters = {"interpreters": 2, "kinds": frozenset({Interpreter.MAIN, Interpreter.LEGACY})}
    return [
        _gunicorn("sync-4", "--workers 4", _workers(4)),
        _gunicorn("sync-1", "--workers 1", _workers(1)),
        _gunicorn("gthread-2x8", "--workers 2 --threads 8", _workers(2, 8)),
        _gunicorn("gthread-1x8", "--workers 1 --threads 8", _workers(1, 8)),
        _gunicorn("preload-4", "--workers 4 --preload", _workers(4, in_master=True)),
        _gunicorn("preload-gthread-2x8", "--workers 2 --threads 8 --preload", _workers(2, 8, in_master=True)),
        _gunicorn("gevent-2", "--workers 2 --worker-class gevent", _workers(2, None)),
        _gunicorn("recycled-4", "--workers 4 --max-requests 20", _workers(4, recycled=True)),
        _uwsgi("4", "--master --processes 4", _workers(4, in_master=True)),
        _uwsgi("lazy-4", "--master --processes 4 --lazy-apps", _workers(4)),
        _uwsgi("threads-8", "--master --processes 1 --threads 8", _workers(1, 8, in_master=True)),
        _uwsgi("2x8", "--master --processes 2 --threads 8", _workers(2, 8, in_master=True)),
        _uwsgi("mounts-2", "--master --processes 2", _workers(2, in_master=True, **two_interpreters), **two_mounts),
        _uwsgi("mounts-lazy-2", "--master --processes 2 --lazy-apps", _workers(2, **two_interpreters), **two_mounts),
        _uwsgi(
            "single-interpreter-2",
            "--master --processes 2 --single-interpreter",
            _workers(2, in_master=True, executions=2),
            **two_mounts,
        ),
        _uwsgi("alone", "", _workers(1, **alone)),
        _other(
            "uvicorn",
            "uvicorn",
            "uvicorn --no-access-log --port {port} asgi:application",
            _workers(1, None, **_UNFLAGGED | alone),
        ),
        _other(
            "uvicorn",
            "uvicorn-2",
            "uvicorn --no-access-log --port {port} --workers 2 asgi:application",
            _workers(2, None, **_UNFLAGGED),
            disturbances=_SUPERVISED | {Disturbance.HUP},
            signals=_HUP,
            ready="Application startup complete",
            ready_count=2,
        ),
        _other(
            "hypercorn",
            "hypercorn-2",
            "hypercorn --bind 127.0.0.1:{port} --workers 2 asgi:application",
            _workers(2, None, **_UNFLAGGED),
        ),
        _other(
            "granian",
            "granian-2",
            "granian --interface wsgi --port {port} --workers 2 --blocking-threads 1 application:application",
            _workers(2, 1, multithread=True, multiprocess=False),
            disturbances=frozenset({Disturbance.CYCLE, Disturbance.HUP}),
            signals=_HUP,
        ),
        _other(
            "waitress",
            "waitress-4",
            "waitress-serve --listen=127.0.0.1:{port} --threads=4 application:application",
            _workers(1, 4, **alone),
        ),
        _other("wsgiref", "wsgiref", "python {launchers}/wsgiref_server.py {port}", _workers(1, **alone)),
        _other(
            "werkzeug",
            "werkzeug",
            "python {launchers}/werkzeug_server.py {port}",
            _workers(1, None, multithread=True, **alone),
        ),
        _other(
            "werkzeug",
            "werkzeug-reloader",
            "python {launchers}/werkzeug_server.py {port} reload",
            _workers(1, None, multithread=True, also_in_master=True),
            disturbances=frozenset({Disturbance.CYCLE, Disturbance.TOUCH}),
        ),
        *(
            mode
            for version in versions[1:]
            for mode in (
                _gunicorn(f"{version}-gthread-2x8", "--workers 2 --threads 8", _workers(2, 8), version),
                _uwsgi(f"{version}-4", "--master --processes 4", _workers(4, in_master=True), python=version),
            )
        ),
    ]
