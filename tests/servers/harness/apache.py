"""Apache with mod_wsgi: Debian's own, and version 6 from PyPI for two Pythons."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from typing import Any

from .installed import MissingError, published
from .modes import Disturbance, Interpreter, Mode, Place, Truth, exactly, up_to

MODULES = "/usr/lib/apache2/modules"
_SIZES = {
    "prefork": "StartServers 5\nMinSpareServers 5\nMaxSpareServers 10\nMaxRequestWorkers 150",
    "worker": "StartServers 2\nMinSpareThreads 25\nMaxSpareThreads 75\nThreadLimit 64\nThreadsPerChild 25\n"
    "MaxRequestWorkers 150",
}
_SIZES["event"] = _SIZES["worker"]

_BASE = """\
ServerRoot "{directory}"
DefaultRuntimeDir "{directory}"
PidFile "{directory}/apache.pid"
Listen 127.0.0.1:{port}
ServerName localhost:{port}
{user}
ErrorLog "{directory}/error.log"
LogLevel info
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule status_module {modules}/mod_status.so
LoadModule wsgi_module {mod_wsgi}
{sizes}
<Location "/server-status">
  SetHandler server-status
</Location>
<Directory "{application}">
  Require all granted
</Directory>
WSGISocketPrefix {directory}/wsgi
{body}
"""
_DAEMON = "WSGIDaemonProcess example {options} python-path={path}\nWSGIProcessGroup example\n"
_EMBEDDED = "WSGIPythonPath {path}\n"
_ALIASES = "WSGIScriptAlias /a {script}\nWSGIScriptAlias /b {script}\n"
_LEGACY = frozenset({Interpreter.LEGACY})
_DEFAULT_GROUPS = ("localhost:{port}|/a", "localhost:{port}|/b")


def _mode(name: str, body: str, truth: Truth, *, mpm: str = "event", pypi: bool = False, python: str = "") -> Mode:
    def command(place: Place, extra: tuple[str, ...]) -> list[str]:
        environment = place.environment
        program = shutil.which("apache2", path="/usr/sbin:/usr/bin")
        if program is None:
            raise MissingError("no apache2: run scripts/system-packages.sh servers")
        site = published(environment.site_packages)
        home = "" if str(environment.base) == "/usr" else f"WSGIPythonHome {published(environment.base)}\n"
        filled = body.format(
            path=":".join([*place.path, str(site)]), script=place.script, second=place.application / "second.py"
        )
        (place.directory / "apache.conf").write_text(
            _BASE.format(
                directory=place.directory,
                application=place.application,
                port=place.port,
                user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
                mpm=mpm,
                modules=MODULES,
                mod_wsgi=environment.mod_wsgi if pypi else f"{MODULES}/mod_wsgi.so",
                sizes=_SIZES[mpm],
                body=home + filled + "\n".join(extra),
            )
        )
        if "{second}" in body:
            shutil.copyfile(place.script, place.application / "second.py")
        return [program, "-DFOREGROUND", "-d", str(place.directory), "-f", str(place.directory / "apache.conf")]

    return Mode(
        name=name,
        server="mod_wsgi",
        truth=truth,
        command=command,
        mounts=("/a", "/b"),
        python=python,
        disturbances=frozenset(Disturbance) - {Disturbance.HUP, Disturbance.USR2},
        ready="resuming normal operations",
        signals={Disturbance.GRACEFUL: signal.SIGUSR1, Disturbance.RESTART: signal.SIGHUP},
    )


def _daemon(name: str, options: str, truth: Truth, *, before: str = "", **how: Any) -> Mode:
    body = before + _DAEMON.replace("{options}", options) + _ALIASES
    return _mode(name, body, replace(truth, process_groups=("example",)), **how)


def _embedded(name: str, truth: Truth, *, before: str = "", **how: Any) -> Mode:
    return _mode(name, before + _EMBEDDED + _ALIASES, replace(truth, process_groups=("",)), **how)


def _truth(processes: range, threads: int, *, multithread: bool, multiprocess: bool, **others: Any) -> Truth:
    """Return the truth of two mounts in two sub-interpreters, if `others` says nothing else."""
    default = {
        "interpreters": 2,
        "kinds": _LEGACY,
        "application_groups": _DEFAULT_GROUPS,
        "preloaded": False,
    }
    return Truth(
        processes=processes, threads=threads, multithread=multithread, multiprocess=multiprocess, **(default | others)
    )


_GLOBAL: dict[str, Any] = {"interpreters": 1, "kinds": frozenset({Interpreter.MAIN}), "application_groups": ("",)}
_PREFORK = _truth(up_to(150), 1, multithread=False, multiprocess=True)
_THREADED = _truth(up_to(6), 25, multithread=True, multiprocess=True)
_DAEMON_5X1 = _truth(exactly(5), 1, multithread=False, multiprocess=True)
_DAEMON_2X25 = _truth(exactly(2), 25, multithread=True, multiprocess=True)
_DAEMON_THREADS25 = _truth(exactly(1), 25, multithread=True, multiprocess=False)
_IN_GLOBAL = "WSGIApplicationGroup %{{GLOBAL}}\n"
_OWN_GIL = "WSGIPerInterpreterGIL On\n"


def _six(version: str) -> list[Mode]:
    """mod_wsgi 6 on one Python; own GILs need 3.12."""
    how: dict[str, Any] = {"pypi": True, "python": version}
    modes = [
        _embedded(f"mod_wsgi6-{version}-embedded", _THREADED, **how),
        _daemon(f"mod_wsgi6-{version}-daemon-2x25", "processes=2 threads=25", _DAEMON_2X25, **how),
    ]
    if version != "3.11":
        own = {"kinds": frozenset({Interpreter.ISOLATED})}
        modes += [
            _embedded(f"mod_wsgi6-{version}-own-gil-embedded", replace(_THREADED, **own), before=_OWN_GIL, **how),
            _daemon(
                f"mod_wsgi6-{version}-own-gil-daemon-2x25",
                "processes=2 threads=25",
                replace(_DAEMON_2X25, **own),
                before=_OWN_GIL,
                **how,
            ),
            _daemon(
                f"mod_wsgi6-{version}-own-gil-daemon-threads25",
                "threads=25",
                replace(_DAEMON_THREADS25, **own),
                before=_OWN_GIL,
                **how,
            ),
        ]
    return modes


def modes(versions: list[str]) -> list[Mode]:
    """Return the modes of Debian's mod_wsgi, and those of mod_wsgi 6 for each of these Pythons."""
    named = "WSGIApplicationGroup shared\n"
    in_named: dict[str, Any] = {"interpreters": 1, "application_groups": ("shared",)}
    prefork = _embedded("prefork", _PREFORK, mpm="prefork")
    worker = _embedded("worker", _THREADED, mpm="worker")
    event = _embedded("event", _THREADED)
    in_global = [  # preloaded, since the aliases name both groups
        _mode(
            "daemon-2groups",
            "WSGIDaemonProcess first threads=25 python-path={path}\n"
            "WSGIDaemonProcess second threads=25 python-path={path}\n"
            "WSGIScriptAlias /a {script} process-group=first application-group=%{{GLOBAL}}\n"
            "WSGIScriptAlias /b {script} process-group=second application-group=%{{GLOBAL}}\n",
            replace(
                _DAEMON_THREADS25,
                **_GLOBAL | {"processes": exactly(2), "process_groups": ("first", "second"), "preloaded": True},
            ),
        ),
        _mode(
            "daemon-preloaded",
            _DAEMON.replace("{options}", "processes=5 threads=1")
            + "WSGIScriptAlias /a {script} process-group=example application-group=%{{GLOBAL}}\n"
            "WSGIScriptAlias /b {script} process-group=example application-group=%{{GLOBAL}}\n",
            replace(_DAEMON_5X1, **_GLOBAL | {"process_groups": ("example",), "preloaded": True}),
        ),
    ]
    return [
        prefork,
        worker,
        event,
        _embedded("prefork-global", replace(_PREFORK, **_GLOBAL), mpm="prefork", before=_IN_GLOBAL),
        _embedded("prefork-named", replace(_PREFORK, **in_named), mpm="prefork", before=named),
        _embedded("worker-global", replace(_THREADED, **_GLOBAL), mpm="worker", before=_IN_GLOBAL),
        _embedded("event-global", replace(_THREADED, **_GLOBAL), before=_IN_GLOBAL),
        # The last of two lines of one directive counts.
        prefork.but("prefork-1", "MaxRequestWorkers 1", processes=exactly(1), multiprocess=False),
        worker.but("worker-1", "ServerLimit 1", "MaxRequestWorkers 25", processes=exactly(1), multiprocess=False),
        event.but("event-1", "ServerLimit 1", "MaxRequestWorkers 25", processes=exactly(1), multiprocess=False),
        worker.but("worker-1-thread", "ThreadsPerChild 1", processes=up_to(150), threads=1, multithread=False),
        prefork.but("prefork-recycled", "MaxConnectionsPerChild 20", recycled=True),
        _daemon("daemon-5x1", "processes=5 threads=1", _DAEMON_5X1),
        _daemon("daemon-2x25", "processes=2 threads=25", _DAEMON_2X25),
        _daemon("daemon-2x25-prefork", "processes=2 threads=25", _DAEMON_2X25, mpm="prefork"),
        _daemon("daemon-threads25", "threads=25", _DAEMON_THREADS25),
        _daemon("daemon-p1-threads25", "processes=1 threads=25", replace(_DAEMON_THREADS25, multiprocess=True)),
        _daemon("daemon-default", "", replace(_DAEMON_THREADS25, threads=15)),
        _daemon("daemon-threads1", "threads=1", replace(_DAEMON_THREADS25, threads=1, multithread=False)),
        _daemon("daemon-global", "threads=25", replace(_DAEMON_THREADS25, **_GLOBAL), before=_IN_GLOBAL),
        _daemon("daemon-2x25-global", "processes=2 threads=25", replace(_DAEMON_2X25, **_GLOBAL), before=_IN_GLOBAL),
        _daemon("daemon-named", "threads=25", replace(_DAEMON_THREADS25, **in_named), before=named),
        _mode(
            "daemon-2named",
            _DAEMON.replace("{options}", "threads=25")
            + "WSGIScriptAlias /a {script} application-group=one\nWSGIScriptAlias /b {script} application-group=two\n",
            replace(_DAEMON_THREADS25, process_groups=("example",), application_groups=("one", "two")),
        ),
        _mode(
            "daemon-global-2files",
            _IN_GLOBAL
            + _DAEMON.replace("{options}", "threads=25")
            + "WSGIScriptAlias /a {script}\nWSGIScriptAlias /b {second}\n",
            replace(_DAEMON_THREADS25, **_GLOBAL, process_groups=("example",), executions=2, scripts=2),
        ),
        *in_global,
        _mode(
            "mixed",
            "WSGIPythonPath {path}\nWSGIDaemonProcess example threads=25 python-path={path}\n"
            "WSGIScriptAlias /a {script}\n"
            "WSGIScriptAlias /b {script} process-group=example\n",
            replace(
                _THREADED, processes=range(2, 8), interpreters=1, process_groups=("", "example"), multiprocess=None
            ),
        ),
        _daemon(
            "daemon-2x25-recycled", "processes=2 threads=25 maximum-requests=50", replace(_DAEMON_2X25, recycled=True)
        ),
        *(mode for version in versions for mode in _six(version)),
    ]
