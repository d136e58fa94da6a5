"""Each server is recognised by what it plants into its processes, and only by that.

Here the plants are imitations, so that cases which no test can start are seen
too: servers of other versions, dead masters, hidden options.  What real servers
plant, tests/servers/test_detection.py sees.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sharedstate.deployment import detection, incarnation, surroundings
from sharedstate.deployment.model import MANY, Certainty, Fact, known, unknown
from sharedstate.deployment.servers import gunicorn, hypercorn, mod_wsgi, uvicorn, uwsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

starts = sys.modules["sharedstate.deployment.incarnation"]  # the package's attribute of that name is the function


@pytest.fixture(autouse=True)
def _nothing_was_seen_yet() -> Iterator[None]:
    kept = [starts._kept, gunicorn._found, uvicorn._found, hypercorn._found, uwsgi._entry]
    caches = [detection._seen, detection._looked, *kept]
    for cache in caches:
        cache.clear()
    yield
    for cache in caches:
        cache.clear()


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Plant a module, as a server does."""

    def plant(name: str, **attributes: Any) -> ModuleType:
        module = ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return plant


def values(found: Any) -> dict[str, Any]:
    return {name: fact.value for name, fact in found._asdict().items()}


def call_from(source: str, function: Callable[[], Any], **names: Any) -> Any:
    """Call `function` from a module of another name, as if it stood on its stack."""
    scope = {"call": function, **names}
    exec(source, scope)
    return scope["found"]


# --- What every fact obeys -------------------------------------------------------


def test_each_fact_has_its_evidence() -> None:
    """What is unknown is None, and only that; and each fact says what it was seen by."""
    for fact in detection.detect():
        assert isinstance(fact, Fact)
        assert (fact.value is None) == (fact.certainty is Certainty.UNKNOWN)
        assert fact.evidence


def test_the_answer_is_kept() -> None:
    """Without a server's modules loaded, which other tests load, a process answers from what it found first."""
    asked = "from sharedstate.deployment import detection; assert detection.detect() is detection.detect()"
    subprocess.run(
        [sys.executable, "-c", asked], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# --- mod_wsgi --------------------------------------------------------------------


def plant_apache(plant: Callable[..., ModuleType], **attributes: Any) -> None:
    given = {
        "process_group": "",
        "application_group": "localhost|/a",
        "maximum_processes": 1,
        "threads_per_process": 25,
        "version": (4, 9, 4),
        "server_metrics": lambda: None,
    }
    plant("mod_wsgi", **given | attributes)
    plant("apache", mpm_name="event")


def test_package_mod_wsgi_is_no_apache(plant: Callable[..., ModuleType]) -> None:
    """The package from PyPI has the module's name, and may be imported anywhere."""
    plant("mod_wsgi", __path__=[])

    assert detection.detect().server.value == "python"


def test_embedded_apache_has_many_processes(plant: Callable[..., ModuleType]) -> None:
    """`maximum_processes` is a high-water mark there: 1 was seen while 2 served."""
    plant_apache(plant)

    found = values(detection.detect())

    assert found["server"] == "mod_wsgi"
    assert found["version"] == "4.9.4"
    assert found["mode"] == "embedded event"
    assert found["processes"] == MANY
    assert found["threads"] == 25
    assert found["recycled"] is True
    assert found["preloaded"] is False
    assert found["application"] is None


@pytest.mark.parametrize(("group", "number"), [("", 1), ("shared", None), ("localhost|/a", None)])
def test_only_global_group_tells_of_other_mounts(
    plant: Callable[..., ModuleType], group: str, number: int | None
) -> None:
    """A default group is one mount's, and a named one may be one of several."""
    plant_apache(plant, application_group=group)

    assert detection.detect().interpreters.value == number


def test_daemons_number_is_exact(plant: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless several groups of daemons listen, each of which may serve the same script."""
    plant_apache(plant, process_group="example", maximum_processes=5)

    def sockets(*numbers: int) -> list[Any]:
        return [mod_wsgi._Socket(100 + number, os.getppid(), "0", number) for number in numbers]

    monkeypatch.setattr(mod_wsgi, "_daemon_sockets", lambda: sockets(1))
    one = mod_wsgi.recognise(None)
    monkeypatch.setattr(mod_wsgi, "_daemon_sockets", lambda: sockets(1, 2))
    two = mod_wsgi.recognise(None)

    assert one is not None
    assert one.processes.value == 5
    assert one.mode.value == "daemon 'example'"
    assert two is not None
    assert two.processes.certainty is Certainty.UNKNOWN


def test_script_is_the_callers(plant: Callable[..., ModuleType]) -> None:
    """Of two scripts in one interpreter, the one on the caller's stack; without it, none; of one, that one."""
    plant_apache(plant)
    plant("_mod_wsgi_1", __file__="/srv/one.wsgi")
    only = detection.detect().application
    plant("_mod_wsgi_2", __file__="/srv/two.wsgi")

    neither = detection.detect().application
    second = call_from("found = call()", detection.detect, __name__="_mod_wsgi_2", __file__="/srv/two.wsgi").application
    request = detection.detect({"mod_wsgi.process_group": "", "SCRIPT_FILENAME": "/srv/one.wsgi"}).application

    assert (only.value, only.certainty) == ("/srv/one.wsgi", Certainty.LIKELY)
    assert neither.certainty is Certainty.UNKNOWN
    assert second == known("/srv/two.wsgi", second.evidence)
    assert request == known("/srv/one.wsgi", request.evidence)


def test_clients_name_no_script(plant: Callable[..., ModuleType]) -> None:
    """An environ that is not mod_wsgi's own names nothing."""
    plant_apache(plant)

    assert detection.detect({"SCRIPT_FILENAME": "/etc/passwd"}).application.value is None


def test_sockets_are_read_as_the_kernel_writes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names that are not mod_wsgi's are passed over, and dots in the prefix do not matter."""
    table = tmp_path / "unix"
    table.write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 41 /run/apache2/wsgi.812.3.1.sock\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 42 /run/v1.2/a b.812.3.2.sock\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 43 /run/other.sock\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 44 /run/x.y.3.2.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 45\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 46 /run/apache2/wsgi.812.u33.3.sock\n"
    )
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda path, *a, **k: real(table if path == "/proc/net/unix" else path, *a, **k)
    )

    assert [tuple(socket) for socket in mod_wsgi._daemon_sockets()] == [
        (41, 812, "3", 1),
        (42, 812, "3", 2),
        (46, 812, "", 3),
    ]


def test_dead_apache_is_named_by_the_socket(plant: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon whose parent is another than its socket's names Apache by that, and does not know when it started."""
    plant_apache(plant, process_group="example")
    monkeypatch.setattr(mod_wsgi, "_own_socket", lambda: mod_wsgi._Socket(1, 4_000_000, "7", 1))

    found = mod_wsgi.incarnate()

    assert (found.supervisor, found.started, found.restart) == (4_000_000, 0, "7")
    assert not found.is_settled


def test_metrics_tell_the_generation(plant: Callable[..., ModuleType]) -> None:
    """Of the process's own entry, as mod_wsgi 4.9 has it."""
    processes = [{"pid": 1, "generation": 9}, {"pid": os.getpid(), "generation": 4}]
    plant_apache(plant, server_metrics=lambda: {"processes": processes})

    assert mod_wsgi.incarnate().restart == "4"


def test_hidden_generation_is_none(plant: Callable[..., ModuleType]) -> None:
    """Where nothing tells it, the restart is "", not a guess."""
    plant_apache(plant)

    assert mod_wsgi.incarnate().restart == ""


# --- uWSGI -----------------------------------------------------------------------


def plant_uwsgi(
    plant: Callable[..., ModuleType], worker: int = 1, master: int | None = None, **attributes: Any
) -> None:
    given = {
        "numproc": 4,
        "cores": 1,
        "opt": {"wsgi-file": b"/srv/app.py"},
        "version": b"2.0.31",
        "worker_id": lambda: worker,
        "masterpid": lambda: os.getppid() if master is None else master,
    }
    plant("uwsgi", **given | attributes)


def test_uwsgi_says_what_it_is(plant: Callable[..., ModuleType]) -> None:
    """Processes, threads and options, as its module has them."""
    plant_uwsgi(plant, cores=8, opt={"lazy-apps": True, "single-interpreter": True})

    found = values(detection.detect())

    assert found["server"] == "uwsgi"
    assert found["version"] == "2.0.31"
    assert found["mode"] == "4 x 8, lazy-apps, single-interpreter"
    assert found["processes"] == 4
    assert found["interpreters"] == 1
    assert found["threads"] == 8
    assert found["recycled"] is True
    assert found["preloaded"] is False


def test_cheaper_uwsgi_varies(plant: Callable[..., ModuleType]) -> None:
    """With `cheaper` the number of workers is not `numproc`."""
    plant_uwsgi(plant, opt={"cheaper": b"1"})

    assert detection.detect().processes.value == MANY


@pytest.mark.parametrize(
    ("worker", "opt", "number"),
    [
        (0, {"mount": b"/a=/srv/app.py"}, None),  # others may follow
        (1, {"mount": b"/a=/srv/app.py"}, 1),  # all were loaded before the fork
        (1, {"mount": b"/a=/srv/app.py", "lazy-apps": True}, None),
        (0, {"mount": b"/a=/srv/app.py", "single-interpreter": True}, 1),
        (0, {"wsgi-file": b"/srv/app.py"}, 1),
    ],
)
def test_mounts_of_uwsgi_may_follow(
    plant: Callable[..., ModuleType], worker: int, opt: dict[str, Any], number: int | None
) -> None:
    """Its options keep the last of several mounts, so the first interpreter does not know whether it stays alone."""
    plant_uwsgi(plant, worker, opt=opt)

    found = detection.detect()

    assert found.interpreters.value == number
    assert (found.gil.value is None) == (number is None) or found.gil.value == "absent"


@pytest.mark.parametrize(
    ("opt", "loaded", "name"),
    [
        ({"wsgi-file": b"app.py"}, {"uwsgi_file_app": "app.py"}, "app.py"),
        ({"module": b"uwsgi_nowhere.wsgi:app"}, {}, "uwsgi_nowhere.wsgi:app"),
        ({"mount": b"/b"}, {"uwsgi_file_app": "app.py"}, "app.py"),  # cut while uWSGI reads it
        ({"mount": b"/b=other.py"}, {"uwsgi_file_a": "a.py", "uwsgi_file_b": "b.py"}, None),
        ({"mount": b"/b=some.module:app"}, {"uwsgi_file_a": "a.py"}, None),
        ({}, {}, None),
    ],
)
def test_application_of_uwsgi(
    plant: Callable[..., ModuleType], opt: dict[str, Any], loaded: dict[str, str], name: str | None
) -> None:
    """The file or module that it was given, as a path; unknown if there are several."""
    plant_uwsgi(plant, opt=opt)
    for module, file in loaded.items():
        plant(module, __file__=file)

    found = detection.detect().application.value

    assert found == (None if name is None else os.path.join(os.getcwd(), name))


def test_application_of_uwsgi_is_remembered(plant: Callable[..., ModuleType]) -> None:
    """An interpreter that has seen its file on the stack knows it also when a thread asks."""
    plant_uwsgi(plant, opt={})
    call_from("found = call()", detection.detect, __name__="uwsgi_file_app", __file__="/srv/app.py")

    assert detection.detect().application.value == "/srv/app.py"


def test_uwsgi_without_master_is_its_first_worker(
    plant: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nobody replaces a worker, and each has the process that was started as its supervisor."""
    monkeypatch.setenv("UWSGI_RELOADS", "0")
    plant_uwsgi(plant, master=0, numproc=1)
    own = surroundings.read_process(os.getpid())
    assert own is not None

    assert detection.detect().recycled.value is False
    assert incarnation().supervisor == surroundings.root_process(own).pid


def test_uwsgi_counts_its_reloads(plant: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """The master executes itself anew under its pid; only the counter tells."""
    monkeypatch.setenv("UWSGI_RELOADS", "3")
    plant_uwsgi(plant)

    found = incarnation()

    assert (found.supervisor, found.restart) == (os.getppid(), "3")


# --- gunicorn --------------------------------------------------------------------

ARBITER = """
class Arbiter:
    def __init__(self, cfg, app, pid):
        self.cfg, self.app, self.pid, self.num_workers = cfg, app, pid, cfg.workers
    def spawn_worker(self, worker):
        return call()
    def spawn_workers(self, worker):
        return self.spawn_worker(worker)
    def reload(self, workers):
        for _ in range(len(workers)):
            if workers[_] is not None:
                return self.spawn_worker(workers[_])
arbiter = Arbiter(cfg, app, pid)
found = arbiter.{how}
"""


class Told:
    """A worker's configuration, application and place among those that were spawned."""

    def __init__(self, **cfg: Any) -> None:
        given = {"workers": 3, "threads": 8, "preload_app": False, "max_requests": 0, "worker_class_str": "sync"}
        self.cfg = SimpleNamespace(**given | cfg)
        self.app = SimpleNamespace(app_uri="gunicorn_nowhere:app")

    def worker(self, age: int = 1) -> Any:
        return SimpleNamespace(age=age, pid=os.getpid(), ppid=os.getppid(), cfg=self.cfg, app=self.app, alive=True)

    def ask(
        self, what: Callable[[], Any], how: str = "spawn_worker(worker)", *, age: int = 1, pid: int = 0, **more: Any
    ) -> Any:
        return call_from(
            ARBITER.replace("{how}", how),
            what,
            __name__="gunicorn.arbiter",
            cfg=self.cfg,
            app=self.app,
            pid=pid or os.getppid(),
            worker=self.worker(age),
            **more,
        )


@pytest.fixture
def _gunicorn_is_loaded(plant: Callable[..., ModuleType]) -> None:
    plant("gunicorn", __version__="23.0.0")
    plant("gunicorn.arbiter")


@pytest.mark.usefixtures("_gunicorn_is_loaded")
class TestGunicorn:
    """As an older gunicorn shows itself, which does not count its reloads."""

    def test_loaded_is_not_running(self) -> None:
        """Who merely imports gunicorn is no worker of it."""
        assert detection.detect().server.value == "python"

    @pytest.mark.parametrize(
        ("kind", "threads"), [("sync", 1), ("gthread", 8), ("gunicorn.workers.ggevent.GeventWorker", MANY)]
    )
    def test_worker_says_what_it_is(self, kind: str, threads: object) -> None:
        """From its configuration."""
        found = values(Told(worker_class_str=kind, preload_app=True).ask(detection.detect))

        assert found["server"] == "gunicorn"
        assert found["version"] == "23.0.0"
        assert found["processes"] == 3
        assert found["threads"] == threads
        assert found["preloaded"] is True
        assert found["recycled"] is True
        assert found["application"] == os.path.join(os.getcwd(), "gunicorn_nowhere:app") or found["application"] is None

    def test_what_was_seen_is_kept(self) -> None:
        """A thread, or a greenlet that hides the main stack, asks later."""
        Told().ask(detection.detect)
        detection._seen.clear()

        assert detection.detect().server.value == "gunicorn"

    def test_arbiter_does_not_serve(self) -> None:
        """With --preload the application is imported in the process that will fork the workers."""
        assert Told().ask(gunicorn.serves) is True
        gunicorn._found.clear()
        assert Told().ask(gunicorn.serves, pid=os.getpid()) is False

    @pytest.mark.parametrize(
        ("how", "age", "restart"),
        [
            ("spawn_worker(worker)", 2, ""),  # at the start
            ("spawn_workers(worker)", 7, ""),  # in place of one that died; which reload was the latest is hidden
            ("reload([worker, None])", 5, "5"),  # the first of a reload
            ("reload([None, None, worker])", 7, "5"),  # the third
        ],
    )
    def test_reload_is_named_by_its_first_worker(self, how: str, age: int, restart: str) -> None:
        """All workers that one reload spawns name it the same; the others are but a guess."""
        found = Told().ask(incarnation, how, age=age)

        assert (found.supervisor, found.restart, found.age) == (os.getppid(), restart, age)
        assert not found.is_settled

    def test_counted_reloads_are_certain(self) -> None:
        """From 25.1 on the arbiter's own counter, which a worker has a copy of, settles it."""
        source = ARBITER.replace(
            "self.cfg, self.app, self.pid", "self._stats = {'reloads': 4}; self.cfg, self.app, self.pid"
        )
        told = Told()

        found = call_from(
            source.replace("{how}", "spawn_workers(worker)"),
            incarnation,
            __name__="gunicorn.arbiter",
            cfg=told.cfg,
            app=told.app,
            pid=os.getppid(),
            worker=told.worker(9),
        )

        assert (found.restart, found.age) == ("4", 0)
        assert found.is_settled

    def test_worker_of_a_dead_arbiter_does_not_guess_its_start(self) -> None:
        """The arbiter's pid may be another's by then."""
        found = Told().ask(incarnation, pid=4_000_000, age=1)

        assert found.started != 0  # ppid is what the worker was told
        gunicorn._found.clear()
        starts._kept.clear()
        told = Told()
        orphan = told.worker()
        orphan.ppid = 4_000_000
        told.worker = lambda _age: orphan  # type: ignore[method-assign,assignment]
        assert told.ask(incarnation).started == 0

    def test_worker_that_was_told_to_end_is_stopping(self) -> None:
        """Gunicorn's workers say so themselves."""
        told = Told()
        worker = told.worker()
        told.worker = lambda _age: worker  # type: ignore[method-assign,assignment]
        assert told.ask(gunicorn.is_stopping) is False

        worker.alive = False

        assert gunicorn.is_stopping() is True


# --- Servers of ASGI, and those that hints tell of ------------------------------------


def test_uvicorn_is_seen_by_its_config(plant: Callable[..., ModuleType]) -> None:
    """On the stack of whoever loads the application."""
    plant("uvicorn", __version__="0.54.0")
    plant("uvicorn.config")
    config = SimpleNamespace(app="uvicorn_nowhere:app", workers=3, reload=False)

    found = call_from(
        "def load(self):\n    return call()\nfound = load(config)",
        detection.detect,
        __name__="uvicorn.config",
        config=config,
    )

    assert found.server.value == "uvicorn"
    assert found.processes.value == 3
    assert found.threads.value == MANY


def test_import_of_a_server_starts_none(plant: Callable[..., ModuleType]) -> None:
    """An application may import servers that do not run it."""
    for name in ("uvicorn.config", "hypercorn.config", "granian", "waitress", "werkzeug.serving", "gunicorn.arbiter"):
        plant(name)

    assert detection.detect().server.value == "python"


def test_server_may_start_later(plant: Callable[..., ModuleType]) -> None:
    """That no server was seen is not kept while a server's modules are loaded."""
    plant("waitress")
    assert detection.detect().server.value == "python"
    server = SimpleNamespace(adj=SimpleNamespace(threads=3))

    found = call_from(
        "def run(self):\n    return call()\nfound = run(server)",
        detection.detect,
        __name__="waitress.server",
        server=server,
    )

    assert (found.server.value, found.threads.value, found.processes.value) == ("waitress", 3, 1)


@pytest.mark.parametrize(
    ("flags", "processes", "threads"),
    [
        ({"wsgi.multiprocess": True, "wsgi.multithread": False}, MANY, 1),
        ({"wsgi.multiprocess": False, "wsgi.multithread": True}, None, MANY),  # False is said with many workers too
        ({}, None, None),
    ],
)
def test_flags_are_hints_of_an_unknown_server(flags: dict[str, bool], processes: object, threads: object) -> None:
    """They widen what a plain program would say of itself, and never narrow it."""
    found = detection.detect({"SERVER_SOFTWARE": "cheroot/10", **flags})

    assert found.server.value == "cheroot"
    assert found.processes.value == processes
    assert found.threads.value == threads
    assert detection.detect().server.value == "python"


# --- The process tree ------------------------------------------------------------


def test_processes_that_are_not_there() -> None:
    """A pid that nobody has, and a process that only waits to be reaped, are none."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    assert surroundings.read_process(4_194_305) is None
    assert surroundings.read_process(child) is None
    os.waitpid(child, 0)


def test_gil_of_the_main_interpreter() -> None:
    """Alone it is the only one; and what this Python does not tell is unknown, not a guess."""
    found = surroundings.gil()

    assert found.value in {"only", "shared", "own", "absent", None}
    assert unknown("x") == Fact(None, Certainty.UNKNOWN, "x")
