"""What `sharedstate doctor --apache` foresees of a configuration is what a server started with it then does.

The forecast is made from the mode's configuration file before any request, and
compared with what the application sees of itself under load, and /proc of the
processes.  `differences` is the judge; planted errors prove that it bites.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from harness import MODES, Mode, Server, copies, load, reach_all, start, topology, wait_for
from harness.processes import find_process
from sharedstate.deployment import apache
from sharedstate.deployment.apache.counts import NONE, Range
from sharedstate.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharedstate.deployment.apache import Application, Forecast

REPORT = Path(__file__).parent / "applications" / "report"
APACHE = [mode for mode in MODES.values() if mode.server == "mod_wsgi"]
DISTURBED = ["prefork", "event-global", "daemon-5x1", "daemon-2x25-global", "daemon-threads25", "daemon-global-2files"]


class Seen(NamedTuple):
    """What was measured of one application."""

    at_start: int  # executions of its script before the first request
    executions: int  # and after all requests
    answers: list[Any]


def foresee(server: Server) -> Forecast:
    """Forecast from the file that the server was started with."""
    return apache.forecast(apache.find_apache(str(server.directory / "apache.conf")))


def children(server: Server) -> set[int]:
    """Return Apache's children: its own ones, and the daemons."""
    return {process.pid for process in server.processes() if process.parent == server.master}


def executions(server: Server, script: str) -> int:
    return sum(name == os.path.basename(script) for _, _, name in server.executions())


def differences(each: Application, seen: Seen) -> list[str]:
    """Return where the forecast of one application and what was measured contradict each other."""
    found = topology(seen.answers)
    places = Counter(pid for pid, _ in found.interpreters)
    threads = {(answer["pid"], answer["thread"]) for answer in seen.answers}
    counted = {
        "runs at the start": (each.runs.at_start, [seen.at_start]),
        "runs after load": (each.runs.after_load, [seen.executions]),
        "interpreters in each process": (_at_most(each.interpreters), places.values()),
    }
    if not any(pool.counts_requests for pool in each.pools):  # else more processes than ever live at the same time
        counted["threads"] = (_at_most(each.threads), [len(threads)])
        counted["processes"] = (_at_most_unless_exact(each.processes), [len(found.processes)])
        counted["copies"] = (_at_most_unless_exact(each.number), [len(copies(seen.answers, "calls"))])
        if each.interpreters.is_exact and each.processes.is_exact:
            counted["interpreters in each process"] = (each.interpreters, places.values())
    wrong = [
        f"{what}: foreseen {number}, measured {value}"
        for what, (number, values) in counted.items()
        for value in values
        if value not in number
    ]
    named = {
        "multithread": (each.multithread, {answer["flags"]["multithread"] for answer in seen.answers}),
        "multiprocess": (each.multiprocess, {answer["flags"]["multiprocess"] for answer in seen.answers}),
        "groups": (
            {(copy.pool.name, copy.application_group) for copy in each.copies},
            {_place(answer) for answer in seen.answers},
        ),
    }
    for flag in ("multithread", "multiprocess"):
        expected, measured = named.pop(flag)
        if measured != ({True, False} if expected is None else {expected}):
            wrong.append(f"{flag}: foreseen {expected}, measured {measured}")
    wrong += [f"{what}: foreseen {one}, measured {other}" for what, (one, other) in named.items() if one != other]
    return wrong + _wrong_kinds(each, seen)


def _wrong_kinds(each: Application, seen: Seen) -> list[str]:
    """Compare what can be asked of one interpreter: whether it is the main one, its GIL, and its user."""
    wrong: list[str] = []
    foreseen = {(copy.pool.name, copy.application_group): copy for copy in each.copies}
    for answer in seen.answers:
        copy = foreseen.get(_place(answer))
        if copy is None:
            continue  # said already
        if bool(copy.application_group) != bool(answer["interpreter"]):
            wrong.append(f"{copy.interpreter_label} is interpreter {answer['interpreter']}")
        if answer["interpreter"] and answer["gil"] not in {None, copy.gil}:
            wrong.append(f"GIL: foreseen {copy.gil}, measured {answer['gil']}")
        if os.geteuid() == 0 and answer["uid"] != pwd.getpwnam(copy.pool.account.user).pw_uid:
            wrong.append(f"user: foreseen {copy.pool.account.user}, measured {answer['uid']}")
    return list(dict.fromkeys(wrong))


def _place(answer: Any) -> tuple[str, str]:
    return answer["mod_wsgi"]["mod_wsgi.process_group"], answer["mod_wsgi"]["mod_wsgi.application_group"]


def _at_most(number: Range) -> Range:
    return Range(1, number.high)


def _at_most_unless_exact(number: Range) -> Range:
    # Not every idle child gets one of a few hundred requests.
    return number if number.is_exact else _at_most(number)


def answers_of(each: Application, answers: Iterable[Any]) -> list[Any]:
    mounts = {mount.url for mount in each.mounts}
    return [answer for answer in answers if answer["mount"] in mounts]


@pytest.mark.parametrize("mode", APACHE, ids=str)
def test_forecast_is_what_happens(mode: Mode) -> None:
    """Processes, interpreters, GILs, threads, copies, flags, users and module-level runs are as foreseen."""
    with start(mode, REPORT) as server:
        found = foresee(server)
        first = sum((each.runs.at_start for each in found.applications), NONE)
        daemons = sum(daemon.processes for daemon in found.daemons.values())
        own = Range(found.mpm.start + daemons, found.mpm.started + daemons)
        assert wait_for(lambda: len(server.executions()) in first and len(children(server)) in own, 10), (
            f"foreseen {first} runs and {own} processes, seen {len(server.executions())} and {len(children(server))}"
        )
        at_start = {each.script: executions(server, each.script) for each in found.applications}
        answers = reach_all(server)

        assert {mount.url for each in found.applications for mount in each.mounts} == set(mode.mounts)
        assert not found.dead
        for each in found.applications:
            seen = Seen(at_start[each.script], executions(server, each.script), answers_of(each, answers))
            assert differences(each, seen) == []
        _check_sharing(found, answers)
        assert len(children(server)) in Range(found.mpm.fewest + daemons, found.mpm.most + daemons)
        _check_scope(found, answers)


def _check_sharing(found: Forecast, answers: list[Any]) -> None:
    """Two scripts share imported modules exactly where the forecast says that they are neighbours."""
    for each in found.applications:
        here = topology(answers_of(each, answers)).interpreters
        for other in found.applications:
            if other is not each:
                neighbours = any(other.script in copy.neighbours for copy in each.copies)
                assert bool(here & topology(answers_of(other, answers)).interpreters) == neighbours
    # A counter of the imported module goes up to the number of all requests of an interpreter, whichever script asked.
    assert sum(copies(answers).values()) == len(answers)


def _check_scope(found: Forecast, answers: list[Any]) -> None:
    """The scope is no narrower than where answers came from."""
    for each in found.applications:
        seen = topology(answers_of(each, answers))
        if len(seen.processes) > 1:
            assert each.scope is Scope.HOST
        elif len(seen.interpreters) > 1:
            assert each.scope >= Scope.PROCESS


@pytest.mark.parametrize("name", DISTURBED)
def test_module_runs_again_as_often_as_foreseen(name: str) -> None:
    """A touch, a graceful restart and a kill -9 each add as many runs of the module as the forecast says."""
    with start(MODES[name], REPORT) as server:
        found = foresee(server)
        reach_all(server)

        for disturb, field in ((server.touch, "touch"), (server.graceful, "restart")):
            before = len(server.executions())
            disturb()
            reach_all(server)
            foreseen = sum((getattr(each.runs, field) for each in found.applications), NONE)
            assert len(server.executions()) - before in foreseen, (field, foreseen)
        # The newest: one of before the restart may still be about to end, and is replaced by nobody.
        victim = next(pid for pid, _, _ in reversed(server.executions()) if find_process(pid) is not None)
        before = len(server.executions())
        server.kill_worker(victim)
        assert find_process(victim) is None
        reach_all(server)
        foreseen = sum((each.runs.kill for each in found.applications), NONE)
        # Idle children that had not been asked yet may be asked now.
        extra = 0 if found.applications[0].processes.is_exact else found.applications[0].number.high or 0
        assert len(server.executions()) - before in Range(foreseen.low, (foreseen.high or 0) + extra), foreseen


def test_judge_sees_planted_errors() -> None:
    """A forecast that is wrong in one field contradicts what was measured, whichever field it is."""
    with start(MODES["daemon-2x25"], REPORT) as server:
        each = foresee(server).applications[0]
        seen = Seen(0, 0, reach_all(server))
        seen = seen._replace(executions=executions(server, each.script))

    assert differences(each, seen) == []
    wrong: dict[str, Any] = {
        "processes": Range(3, 3),
        "number": Range(6, 6),
        "interpreters": Range(1, 1),
        "threads": Range(1, 2),
        "runs": replace(each.runs, at_start=Range(2, 2)),
        "multithread": False,
        "multiprocess": False,
        "copies": tuple(replace(copy, application_group="") for copy in each.copies),
    }
    for field, value in wrong.items():
        assert differences(replace(each, **{field: value}), seen) != [], field
    assert differences(replace(each, runs=replace(each.runs, after_load=Range(2, 2))), seen) != []


def test_port_of_the_client_makes_an_interpreter() -> None:
    """Under a default application group a Host header with another port gets an interpreter of its own, as warned."""
    with start(MODES["daemon-threads25"], REPORT) as server:
        warned = {advice.code for advice in apache.advise(foresee(server), apache.Surroundings())}
        known = topology(load(server)).interpreters
        answer = _ask(server, "/a/report", "localhost:1")

        assert "client-names-interpreter" in warned
        assert answer["mod_wsgi"]["mod_wsgi.application_group"] == "localhost:1|/a"
        assert (answer["pid"], answer["interpreter"]) not in known


def test_canonical_name_keeps_the_clients_port_out() -> None:
    """With UseCanonicalName On, or a named group, no client can make an interpreter, and nothing is warned of."""
    with start(MODES["daemon-threads25"], REPORT, "UseCanonicalName On") as server:
        warned = {advice.code for advice in apache.advise(foresee(server), apache.Surroundings())}
        known = topology(load(server)).interpreters
        answer = _ask(server, "/a/report", "localhost:1")

        assert "client-names-interpreter" not in warned
        assert answer["mod_wsgi"]["mod_wsgi.application_group"] == f"localhost:{server.port}|/a"
        assert (answer["pid"], answer["interpreter"]) in known


GROUPS = """
WSGIDestroyInterpreter Off
WSGIDaemonProcess d1 threads=2 python-path={path}
WSGIDaemonProcess d2 threads=2 python-path={path}
WSGIDaemonProcess one.test:{port} threads=2 python-path={path}
WSGIProcessGroup d1
WSGIProcessGroup d2
WSGIApplicationGroup first
WSGIScriptAlias /Sub {app}/sub/b.py
<Directory {app}/sub/deep>
  WSGIApplicationGroup deep
</Directory>
<Directory {app}/sub>
  WSGIApplicationGroup sub
</Directory>
<Directory {app}/s*/>
  WSGIProcessGroup d1
</Directory>
<DirectoryMatch "/many">
  WSGIApplicationGroup many
</DirectoryMatch>
<VirtualHost *>
  ServerName one.test
  ServerAlias *.one.test
  WSGIApplicationGroup %{{RESOURCE}}
  WSGIScriptAlias /Mixed//Case/ {script}/
  WSGIScriptAlias /deep {app}/sub/deep/c.py
  WSGIScriptAlias /many {app}/many
  WSGIScriptAlias /opt {app}/sub/deep/c.py application-group=opt process-group=%{{GLOBAL}}
  WSGIScriptAlias /srv {script} application-group=%{{SERVER}} process-group=%{{SERVER}}
  WSGIScriptAlias /host {script} application-group=%{{HOST}}
  WSGIScriptAliasMatch ^/wiki(/.*)?$ {script}$1
  WSGIScriptAliasMatch ^/any/([a-z]+) {app}/$1.py
  WSGIScriptAlias "/d e" "{app}/sub/d e.py"
  WSGIScriptAlias /x {script}
  <Location /x/admin>
    WSGIApplicationGroup admin
  </Location>
  <Location /x>
    WSGIProcessGroup d1
  </Location>
  <LocationMatch "^/(sub|deep)">
    WSGIApplicationGroup matched
  </LocationMatch>
  <Location ~ "/dee.">
    WSGIProcessGroup %{{GLOBAL}}
  </Location>
  <Files "d*.py">
    WSGIApplicationGroup files
  </Files>
  <If "%{{QUERY_STRING}} == 'x'">
    WSGIApplicationGroup asked
  </If>
</VirtualHost>
<VirtualHost *>
  ServerName https://two.test
  UseCanonicalName On
  WSGIApplicationGroup %{{SERVER}}
  WSGIScriptAlias / {script}
</VirtualHost>
<VirtualHost *>
  ServerName three.test:99
  <Directory {app}>
    WSGIApplicationGroup vdir
  </Directory>
  <Directory {root}>
    WSGIProcessGroup %{{GLOBAL}}
  </Directory>
  WSGIScriptAlias /y {app}/sub/b.py
</VirtualHost>
"""
ASKED = [
    # host, path, the mount that it is
    ("one.test", "/x/1", "one.test/x"),
    ("one.test", "/x/admin/1", "one.test/x within <Location /x/admin>"),
    ("one.test", "/x?x", "one.test/x within <If \"%{QUERY_STRING} == 'x'\">"),
    ("one.test", "/x/deed", 'one.test/x within <Location ~ "/dee.">'),
    ("one.test", "/Mixed/Case/1", "one.test/Mixed/Case"),
    ("one.test", "/Sub", "one.test/Sub"),
    ("one.test", "/deep", "one.test/deep"),
    ("one.test", "/many/one.py/1", "one.test/many/one.py"),
    ("one.test", "/opt", "one.test/opt"),
    ("one.test", "/srv", "one.test/srv"),
    ("one.test", "/host", "one.test/host"),
    ("www.one.test", "/host", "one.test/host"),
    ("one.test", "/wiki", "one.test/wiki"),
    ("one.test", "/wiki/1/2", "one.test/wiki"),
    ("one.test", "/any/application/1", "one.test ~ ^/any/([a-z]+)"),
    ("one.test", "/d%20e", "one.test/d e"),
    ("one.test", "/a", "one.test/a"),
    ("two.test", "/1", "two.test/"),
    ("three.test", "/y", "three.test/y"),
    ("three.test", "/a", "three.test/a"),
]


def test_groups_are_resolved_as_mod_wsgi_does(tmp_path: Path) -> None:
    """In a configuration that uses every rule of merging, each request runs in the groups that were foreseen."""
    application = tmp_path / "application"
    shutil.copytree(REPORT, application)
    for name in ("application.py", "sub/b.py", "sub/deep/c.py", "sub/d e.py", "many/one.py", "many/two.py"):
        path = application / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ANYWHERE)
    with start(_with_groups(MODES["event"]), application) as server:
        mounts = {mount.label: mount for each in foresee(server).applications for mount in each.mounts}

        for host, path, label in ASKED:
            process, interpreter = _place(_ask(server, path, f"{host}:{server.port}"))
            assert process in mounts[label].process_group.names, label
            foreseen = mounts[label].application_group
            assert interpreter in foreseen.names or foreseen.is_open, label


# Answers every path, as the kit's applications do not.
ANYWHERE = """\
import json

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {key: str(environ[key]) for key in environ if key.startswith("mod_wsgi.")}
    return [json.dumps({"mod_wsgi": told}).encode()]
"""


def _with_groups(mode: Mode) -> Mode:
    def command(place: Any, extra: tuple[str, ...]) -> list[str]:
        lines = GROUPS.format(
            app=place.application,
            script=place.script,
            root=place.directory,
            port=place.port,
            path=":".join(place.path),
        )
        return mode.command(place, (*extra, lines))

    return replace(mode, command=command)


def _ask(server: Server, path: str, host: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body)
    finally:
        connection.close()
