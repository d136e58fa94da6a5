"""What is foreseen of small configurations, and that each directive that matters changes it.

tests/servers/test_forecast.py compares forecasts with real servers; here each
rule stands alone.  Apache's program reads every configuration; none is started.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sharedstate.cli import main
from sharedstate.deployment import apache
from sharedstate.deployment.apache.binary import ModWsgi
from sharedstate.deployment.apache.copies import find_copies
from sharedstate.deployment.apache.counts import Range
from sharedstate.deployment.apache.daemons import read_daemons
from sharedstate.deployment.apache.directives import Source, parse_dump
from sharedstate.deployment.apache.pools import make_pools
from sharedstate.model import Durability, Scope

MODULES = "/usr/lib/apache2/modules"
BASE = """\
ServerRoot "{root}"
DefaultRuntimeDir "{root}"
ServerName localhost:8080
Listen 127.0.0.1:8080
User www-data
Group www-data
ErrorLog "{root}/error.log"
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
{body}
"""

# Pieces of configurations; {root} in them becomes a directory with a.wsgi and b.wsgi.
A = "WSGIScriptAlias /a {root}/a.wsgi\n"
AB = f"{A}WSGIScriptAlias /b {{root}}/a.wsgi\n"
IN_D = "WSGIDaemonProcess d\nWSGIProcessGroup d\n"
TO_D = "WSGIProcessGroup d\n"
X, Y = "WSGIApplicationGroup x\n", "WSGIApplicationGroup y\n"
GLOBAL = "WSGIApplicationGroup %{GLOBAL}\n"
DEFAULT = "localhost:8080|/a"

Foresee = Callable[..., apache.Forecast]


def within(section: str, *lines: str) -> str:
    """Return lines in a section."""
    return f"<{section}>\n{''.join(lines)}</{section.split(maxsplit=1)[0]}>\n"


def exactly(number: int) -> Range:
    return Range(number, number)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a configuration, and returns its path."""
    assert shutil.which("apache2", path="/usr/sbin:/usr/bin"), "run scripts/system-packages.sh servers"
    for name in ("a.wsgi", "b.wsgi"):
        (tmp_path / name).touch()

    def config(body: str, mpm: str = "event") -> str:
        path = tmp_path / "apache.conf"
        path.write_text(
            BASE.format(root=tmp_path, mpm=mpm, modules=MODULES, body=body.replace("{root}", str(tmp_path)))
        )
        return str(path)

    return config


@pytest.fixture
def foresee(config: Callable[..., str]) -> Foresee:
    """Return a function that makes the forecast of a configuration around a body."""
    return lambda body, mpm="event": apache.forecast(apache.find_apache(config(body, mpm)))


def only(found: apache.Forecast) -> apache.Application:
    (application,) = found.applications
    return application


def groups(application: apache.Application) -> dict[str, tuple[str, str]]:
    """Return (process group, application group) by mount."""
    return {
        mount.label: (" ".join(mount.process_group.names), " ".join(mount.application_group.names))
        for mount in application.mounts
    }


def codes(found: apache.Forecast, surroundings: apache.Surroundings | None = None) -> set[str]:
    return {each.code for each in apache.advise(found, surroundings or apache.Surroundings())}


# --- In which group a mount answers -------------------------------------------------------


def test_default_is_embedded_and_one_interpreter_for_each_mount(foresee: Foresee) -> None:
    """Without a word, Apache's own children serve, each mount in an interpreter called `name:port|mount`."""
    assert groups(only(foresee(AB))) == {
        "localhost/a": ("", "localhost:8080|/a"),
        "localhost/b": ("", "localhost:8080|/b"),
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (TO_D, ("d", DEFAULT)),
        (f"{TO_D}WSGIProcessGroup %{{GLOBAL}}\n", ("", DEFAULT)),
        (GLOBAL, ("", "")),
        ("WSGIApplicationGroup %{SERVER}\n", ("", "localhost:8080")),
        ("WSGIApplicationGroup %{HOST}\n", ("", "localhost:8080")),
        ("WSGIApplicationGroup %{ENV:GROUP}\n", ("", "%{ENV:GROUP}")),
        (X + within("Directory {root}", Y), ("", "y")),
        (within("Directory {root}", Y) + X, ("", "y")),
        (within("Directory {root}", Y) + within('Directory "/"', X), ("", "y")),
        (within("Directory {root}/other", Y), ("", DEFAULT)),
        (within("DirectoryMatch nowhere", Y), ("", DEFAULT)),
        (within('Files "*.wsgi"', Y) + within("Directory {root}", X), ("", "y")),
        (within('FilesMatch "^b"', Y), ("", DEFAULT)),
        (within("Location /a", Y) + within("Files a.wsgi", X), ("", "y")),
        (within('Location "/"', X) + within("Location /a", Y), ("", "y")),
        (within("Location /a", Y) + within('Location "/"', X), ("", "x")),
        (within("Location /ab", Y), ("", DEFAULT)),
        (within('LocationMatch "^/(a|b)"', TO_D), ("d", DEFAULT)),
        (within('LocationMatch "^/(b|c)"', TO_D), ("", DEFAULT)),
    ],
)
def test_the_last_word_on_a_group_is_found(foresee: Foresee, body: str, expected: tuple[str, str]) -> None:
    """Server, Directory from short to long, Files, Location in order: each level beats the one before."""
    assert groups(only(foresee(f"WSGIDaemonProcess d\n{body}{A}"))) == {"localhost/a": expected}


def test_options_of_the_alias_beat_everything(foresee: Foresee) -> None:
    """process-group= and application-group= on the alias are final."""
    alias = "WSGIScriptAlias /a {root}/a.wsgi process-group=d application-group=y\n"
    found = foresee("WSGIDaemonProcess d\n" + within("Location /a", "WSGIProcessGroup %{GLOBAL}\n", X) + alias)

    assert groups(only(found)) == {"localhost/a": ("d", "y")}


def test_longer_location_is_a_variant(foresee: Foresee) -> None:
    """Requests below a longer Location run elsewhere: two places, and both surely exist."""
    alias = "WSGIScriptAlias / {root}/a.wsgi\n"
    application = only(foresee("WSGIDaemonProcess d\n" + alias + within("Location /admin", TO_D)))

    assert groups(application) == {
        "localhost/": ("", "localhost:8080|"),
        "localhost/ within <Location /admin>": ("d", "localhost:8080|"),
    }
    assert [copies.interpreters for copies in application.copies] == [exactly(1), exactly(1)]


@pytest.mark.parametrize("section", ["If \"%{QUERY_STRING} == 'x'\"", 'LocationMatch "x$"'])
def test_what_only_requests_decide_may_never_exist(foresee: Foresee, section: str) -> None:
    """Where nobody can say whether any request matches, the copy is counted from none to one."""
    application = only(foresee(IN_D + A + within(section, Y)))

    assert application.interpreters == Range(1, 2)
    assert application.number == Range(1, 2)


def test_virtual_hosts_have_their_own_interpreters(foresee: Foresee) -> None:
    """One script in two virtual hosts is one application in two interpreters; the server's aliases are inherited."""
    one = within("VirtualHost *:8080", "ServerName one.test\n", "WSGIScriptAlias / {root}/a.wsgi\n")
    two = within("VirtualHost *:8080", "ServerName two.test\n")

    assert groups(only(foresee(A + one + two))) == {
        "one.test/": ("", "one.test:8080|"),
        "two.test/a": ("", "two.test:8080|/a"),
    }


def test_sections_of_a_virtual_host_beat_those_of_the_server(foresee: Foresee) -> None:
    """A virtual host's section has the last word among equals, wherever the server's stands in the file."""
    host = within("VirtualHost *:8080", "ServerName one.test\n", A, within("Location /a", Y))

    assert groups(only(foresee(host + within("Location /a", X)))) == {"one.test/a": ("", "y")}


def test_ports_80_and_443_are_one_interpreter(foresee: Foresee) -> None:
    """A site at both web ports is one application in one interpreter: neither port is in the name."""
    hosts = [within(f"VirtualHost *:{port}", "ServerName one.test\n", A) for port in (80, 443)]
    application = only(foresee("Listen 127.0.0.1:80\nListen 127.0.0.1:443\n" + IN_D + "".join(hosts)))

    assert application.number == exactly(1)
    assert application.scope is Scope.INTERPRETER


def test_second_port_is_a_second_interpreter(foresee: Foresee) -> None:
    """A port that Apache listens at is in the interpreter's name, unless UseCanonicalName is On."""
    listening = f"Listen 127.0.0.1:8081\n{IN_D}{A}"

    assert only(foresee(listening)).number == exactly(2)
    assert only(foresee(f"UseCanonicalName On\n{listening}")).number == exactly(1)


def test_patterns_and_directories_are_mounts_too(foresee: Foresee, tmp_path: Path) -> None:
    """A pattern for the rest of the path is a plain mount, any other is open; a directory mounts each script in it."""
    (tmp_path / "many").mkdir()
    for name in ("one.wsgi", "two.py", "readme.txt"):
        (tmp_path / "many" / name).touch()
    found = foresee(
        "WSGIScriptAliasMatch ^/wiki(/.*)?$ {root}/a.wsgi$1\nWSGIScriptAliasMatch ^/any/([a-z]+) {root}/$1.wsgi\n"
        "WSGIScriptAlias /Many {root}/many\n"
    )

    by_script = {Path(each.script).name: each for each in found.applications}
    assert set(by_script) == {"a.wsgi", "$1.wsgi", "one.wsgi", "two.py"}
    assert groups(by_script["a.wsgi"]) == {"localhost/wiki": ("", "localhost:8080|/wiki")}
    assert groups(by_script["one.wsgi"]) == {"localhost/Many/one.wsgi": ("", "localhost:8080|/many/one.wsgi")}
    assert by_script["$1.wsgi"].interpreters == Range(1, None)
    assert "decided-per-request" in codes(found)


# --- How much of it there will be -----------------------------------------------------------


@pytest.mark.parametrize(
    ("mpm", "sizes", "numbers"),
    [
        ("prefork", "", (exactly(5), Range(5, 256), 1)),
        ("prefork", "StartServers 2\nMinSpareServers 4\nMaxClients 9", (Range(2, 4), Range(2, 9), 1)),
        ("prefork", "StartServers 8\nMinSpareServers 2\nServerLimit 6", (exactly(6), Range(2, 6), 1)),
        ("prefork", "MaxRequestWorkers 1", (exactly(1), exactly(1), 1)),
        ("worker", "", (exactly(3), Range(3, 16), 25)),
        ("worker", "ThreadsPerChild 100\nMaxRequestWorkers 640", (exactly(3), Range(2, 10), 64)),
        ("event", "StartServers 2\nMinSpareThreads 25\nMaxRequestWorkers 150", (exactly(2), Range(1, 6), 25)),
        ("event", "StartServers 1\nMinSpareThreads 60\nServerLimit 2", (Range(1, 2), Range(1, 2), 25)),
        ("event", "MaxRequestWorkers 20\nThreadsPerChild 25", (exactly(1), exactly(1), 25)),
    ],
)
def test_embedded_processes_follow_the_mpm(foresee: Foresee, mpm: str, sizes: str, numbers: Any) -> None:
    """Start, lowest and highest number of children follow the MPM's directives, limits and compiled defaults."""
    at_start, processes, threads = numbers
    application = only(foresee(f"{sizes}\n{A}", mpm))

    assert application.at_start == at_start
    assert application.processes == processes
    assert application.threads == processes * exactly(threads)
    assert application.scope is Scope.HOST


@pytest.mark.parametrize(
    ("options", "numbers", "flags", "scope"),
    [
        ("", (2, 15), (True, False), Scope.PROCESS),
        ("threads=1", (2, 1), (False, False), Scope.PROCESS),
        ("processes=1 threads=3", (2, 3), (True, True), Scope.PROCESS),
        ("processes=5 threads=1", (10, 5), (False, True), Scope.HOST),
    ],
)
def test_daemons_are_exact(foresee: Foresee, options: str, numbers: Any, flags: Any, scope: Scope) -> None:
    """processes= and threads= give exact numbers, and environ's flags as they will be, processes=1 included."""
    copies, threads = map(exactly, numbers)
    application = only(foresee(f"WSGIDaemonProcess d {options}\n{TO_D}{AB}"))

    assert application.number == copies
    assert application.threads == threads
    assert (application.multithread, application.multiprocess) == flags
    assert application.scope is scope
    assert application.durability is Durability.BOOT
    runs = application.runs
    assert runs.at_start == exactly(0)
    assert runs.after_load == runs.touch == runs.restart == copies
    assert runs.kill == exactly(2)


def test_one_interpreter_of_one_process_needs_no_more(foresee: Foresee) -> None:
    """One process with %{GLOBAL} is the only mode in which module globals are seen by all."""
    application = only(foresee(GLOBAL + IN_D + AB))

    assert application.scope is Scope.INTERPRETER
    assert application.number == exactly(1)
    assert application.copies[0].gil == "only"


ALIAS = "WSGIScriptAlias /a {root}/a.wsgi process-group=d"
IMPORT = "WSGIImportScript {root}/a.wsgi process-group=d application-group="


@pytest.mark.parametrize(
    ("body", "at_start"),
    [
        (f"{ALIAS} application-group=g", 3),
        (f"{ALIAS} application-group=%{{GLOBAL}}", 3),
        (f"{ALIAS} application-group=%{{SERVER}}", 0),
        (ALIAS, 0),
        (f"{X}{ALIAS}\n{IMPORT}x", 3),
    ],
)
def test_preloading_runs_before_the_first_request(foresee: Foresee, body: str, at_start: int) -> None:
    """Both groups on the alias, or WSGIImportScript, run the script at the start of each process; less does not."""
    found = foresee(f"WSGIDaemonProcess d processes=3\n{body}\n")

    runs = only(found).runs
    assert runs.at_start == exactly(at_start)
    assert runs.after_load == exactly(3)
    assert ("no-preload" in codes(found)) == (at_start == 0)


def test_preload_in_another_interpreter_is_one_more_copy(foresee: Foresee) -> None:
    """A WSGIImportScript whose groups no mount has runs the script once more, and preloads nothing."""
    found = foresee(f"WSGIDaemonProcess d\n{ALIAS}\n{IMPORT}elsewhere\n")

    runs = only(found).runs
    assert (runs.at_start, runs.after_load) == (exactly(1), exactly(2))
    assert {"preloaded-elsewhere", "no-preload"} <= codes(found)


def test_two_scripts_in_one_interpreter_are_neighbours(foresee: Foresee) -> None:
    """They share imported modules; in two interpreters they share nothing."""
    body = f"{IN_D}{A}WSGIScriptAlias /b {{root}}/b.wsgi\n"
    together = foresee(X + body).applications
    apart = foresee(body).applications

    assert [each.copies[0].neighbours for each in together] == [(together[1].script,), (together[0].script,)]
    assert [each.copies[0].neighbours for each in apart] == [(), ()]
    assert all(each.number == exactly(1) for each in (*together, *apart))


def test_requests_that_end_processes_leave_no_bound(foresee: Foresee) -> None:
    """With maximum-requests or MaxConnectionsPerChild module-level code runs again and again."""
    daemon = only(foresee(f"WSGIDaemonProcess d maximum-requests=50\n{TO_D}{AB}"))
    embedded = only(foresee(f"MaxConnectionsPerChild 20\n{AB}", "prefork"))

    assert daemon.runs.after_load == Range(2, None)
    assert daemon.pools[0].recycling[0].what == "each process ends after 50 requests"
    assert embedded.runs.after_load == Range(10, None)
    assert "20 connections" in embedded.pools[0].recycling[0].what


def test_script_reloading_off_survives_a_touch(foresee: Foresee) -> None:
    """Without script reloading a touch changes nothing."""
    assert only(foresee(f"WSGIScriptReloading Off\n{AB}")).runs.touch == exactly(0)


OWN, NOT_OWN = "WSGIPerInterpreterGIL On\n", "WSGIPerInterpreterGIL Off\n"


@pytest.mark.parametrize(
    ("body", "mod_wsgi", "gils"),
    [
        ("", {}, ["shared", "shared"]),
        (OWN, {}, ["own", "own"]),
        (OWN, {"python": "3.11"}, ["shared", "shared"]),
        ("WSGIFreeThreading On", {}, ["shared", "shared"]),
        ("WSGIFreeThreading On", {"free_threaded": True}, ["absent", "absent"]),
        (within(f"WSGIInterpreterOptions application-group={DEFAULT}", OWN), {}, ["own", "shared"]),
        (OWN + within("WSGIInterpreterOptions process-group=d", NOT_OWN), {}, ["shared", "shared"]),
        (within("WSGIInterpreterOptions process-group=d", NOT_OWN, OWN), {}, ["own", "own"]),
        (OWN + within("WSGIInterpreterOptions process-group=other", NOT_OWN), {}, ["own", "own"]),
    ],
)
def test_gil_of_mod_wsgi_6(foresee: Foresee, body: str, mod_wsgi: dict[str, Any], gils: list[str]) -> None:
    """An own GIL needs Python 3.12, none needs a build without it; narrower options beat wider ones."""
    # As if that version read it: its directives need not be known to the distribution's.
    found = foresee(IN_D + AB)
    directives = [*found.directives, *parse_dump(body)]
    pools = make_pools(found.mpm, read_daemons(directives, found.settings.account), found.settings)
    six = ModWsgi(**{"path": "", "version": "6.1.1", "python": "3.13", "free_threaded": False} | mod_wsgi)
    copies = find_copies(only(found).mounts, (), pools, six, directives)

    assert [each.gil for each in copies] == gils


# --- What will go wrong ---------------------------------------------------------------------------

IN_TWO = "WSGIScriptAlias /a {root}/a.wsgi process-group=d\nWSGIScriptAlias /b {root}/a.wsgi process-group=e\n"
EVERYTHING = "WSGIScriptAlias / {root}/a.wsgi\n"
ELSEWHERE = within("VirtualHost *:9", "ServerName x\nWSGIDaemonProcess d\n")
PITFALLS = [
    # code, a configuration that has it, one that has not
    ("client-names-interpreter", AB, f"UseCanonicalName On\n{AB}"),
    ("client-names-interpreter", AB, X + AB),
    ("decided-per-request", f"WSGIProcessGroup %{{ENV:X}}\n{AB}", AB),
    ("mixed", f"WSGIDaemonProcess d\n{AB}WSGIScriptAlias /c {{root}}/a.wsgi process-group=d", AB),
    ("several-groups", f"WSGIDaemonProcess d\nWSGIDaemonProcess e\n{IN_TWO}", AB),
    ("maximum-processes", AB, IN_D + AB),
    ("generation-hidden", f"WSGISocketRotation Off\n{IN_D}{AB}", IN_D + AB),
    ("several-users", f"WSGIDaemonProcess d user=games\nWSGIDaemonProcess e\n{IN_TWO}", IN_D + AB),
    ("script-missing", "WSGIScriptAlias /a {root}/nowhere.wsgi", AB),
    ("not-foreseen", within("Location /x", "SetHandler wsgi-script\n") + AB, AB),
    ("dead-mount", f"WSGIProcessGroup nowhere\n{X}{AB}", AB),
    ("dead-mount", f"WSGIRestrictEmbedded On\n{AB}", AB),
    ("dead-mount", EVERYTHING + AB, AB + EVERYTHING),
    ("dead-mount", AB + within("VirtualHost *:9", "ServerName x\n", A), AB),
    ("dead-mount", f"Listen 127.0.0.1:9\n{ELSEWHERE}{TO_D}{AB}", f"Listen 127.0.0.1:9\n{IN_D}{AB}"),
]


@pytest.mark.parametrize(("code", "body", "mended"), PITFALLS)
def test_pitfall_is_told_of_until_it_is_mended(foresee: Foresee, code: str, body: str, mended: str) -> None:
    """One directive makes each pitfall, and one makes it go away; what is said has evidence in the file."""
    found = foresee(body)
    advice = [each for each in apache.advise(found, apache.Surroundings()) if each.code == code]

    assert advice, codes(found)
    assert all(source.place.startswith(found.apache.config) or not source.file for source in advice[0].sources)
    assert advice[0].sources
    assert advice[0].remedy
    assert code not in codes(foresee(mended))


def test_chroot_hides_what_is_outside(foresee: Foresee) -> None:
    """Processes in another root share by other paths; only root may even check such a configuration."""
    body = f"WSGIDaemonProcess d chroot=/srv\n{TO_D}{AB}"
    if os.geteuid() != 0:
        with pytest.raises(apache.ConfigSyntaxError, match="not root"):
            foresee(body)
        return

    assert "chroot" in codes(foresee(body))


def with_mod_wsgi(version: str, found: apache.Forecast) -> apache.Forecast:
    """Return the forecast as if that version were loaded: the distribution's may be any."""
    return replace(found, mod_wsgi=replace(found.mod_wsgi, version=version))


@pytest.mark.parametrize(
    ("body", "mended"),
    [
        (AB, GLOBAL + AB),
        (AB, f"WSGIDestroyInterpreter Off\n{AB}"),
        (IN_D + X + AB, f"{IN_D}{X}{IMPORT}x\n{AB}"),
    ],
)
def test_hang_at_the_end_is_told_of_until_it_is_mended(foresee: Foresee, body: str, mended: str) -> None:
    """mod_wsgi 4.9 hangs: one directive mends it, and so does a newer mod_wsgi, of which nothing is said."""
    found = foresee(body)
    (advice,) = (
        each
        for each in apache.advise(with_mod_wsgi("4.9.4", found), apache.Surroundings())
        if each.code == "shutdown-hang"
    )

    assert "4.9.4" in advice.finding
    assert advice.remedy
    assert advice.sources
    assert all(source.place.startswith(found.apache.config) or not source.file for source in advice.sources)
    assert "shutdown-hang" not in codes(with_mod_wsgi("4.9.4", foresee(mended)))
    assert "shutdown-hang" not in codes(with_mod_wsgi("5.0.2", found))
    assert ("shutdown-hang" in codes(found)) == found.mod_wsgi.version.startswith("4.9")


def test_prefork_does_not_hang(foresee: Foresee) -> None:
    """The hang at the end is one of threaded processes: prefork's children have no threads."""
    assert "shutdown-hang" not in codes(with_mod_wsgi("4.9.4", foresee(AB, "prefork")))


def test_surroundings_are_part_of_the_advice(foresee: Foresee) -> None:
    """A private /tmp and the daily rotation are told of with their evidence."""
    source = Source("/lib/systemd/system/apache2.service", 15, "PrivateTmp=true")
    around = apache.Surroundings(private_tmp=source, rotation=source, period="daily")

    assert {"private-tmp", "rotation-restarts"} <= codes(foresee(AB), around)


# --- For people and programs --------------------------------------------------------------------------


def test_doctor_shows_people_what_it_foresees(config: Callable[..., str]) -> None:
    """The page names the script, its mounts, numbers, evidence and pitfalls; exit status 0."""
    path = config(f"WSGIDaemonProcess d processes=2 threads=25\n{TO_D}{AB}")
    result = CliRunner(env={"COLUMNS": "300"}).invoke(main, ["doctor", "--apache", path])

    assert result.exit_code == 0, result.output
    for text in (
        "a.wsgi",
        "daemon d: 2 processes of 25 threads, as www-data",
        "interpreter localhost:8080|/b, shared GIL",
        f"{path}:5,11",
        "4 copies",
        "runs not at the start, 4 times once every copy was asked",
        "+4 after a touch of the script, +2 after the death of one process",
        "multithread True, multiprocess True",
        "scope HOST (it runs in 2 processes)",
        "memory: will not",
        "warning client-names-interpreter",
    ):
        assert text in result.output


def test_doctor_gives_programs_everything(config: Callable[..., str]) -> None:
    """--json has each number as a range, each place, and each statement's file, line and text."""
    path = config(f"WSGIDaemonProcess d processes=2\n{TO_D}WSGIScriptAlias /c {{root}}/no.wsgi\n{AB}")
    result = CliRunner().invoke(main, ["doctor", "--apache", path, "--json"])
    found = json.loads(result.stdout)

    assert found["format"] == 1
    assert found["apache"]["config"] == path
    assert found["mpm"]["evidence"]["StartServers"]["text"] == "StartServers 3 (compiled default)"
    by_script = {Path(each["script"]).name: each for each in found["applications"]}
    application = by_script["a.wsgi"]
    assert application["copies"] == {"low": 4, "high": 4}
    assert application["module_runs"]["more_at_kill"] == {"low": 2, "high": 2}
    assert application["needs"]["scope"] == "HOST"
    assert [place["application_group"] for place in application["where"]] == ["localhost:8080|/a", "localhost:8080|/b"]
    assert application["where"][0]["evidence"][0] == {
        "file": path,
        "line": 11,
        "text": "WSGIDaemonProcess d processes=2",
    }
    assert "script-missing" in {each["code"] for each in found["advice"]}


def test_doctor_tells_of_errors_in_one_line(config: Callable[..., str]) -> None:
    """What cannot be read is one line on stderr and exit status 1; a mistake in its use is 2."""
    path = config("Nonsense on")
    result = CliRunner().invoke(main, ["doctor", "--apache", path])
    misused = CliRunner().invoke(main, ["doctor", "--apache", path, "more"])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"sharedstate: {path}:11: Invalid command 'Nonsense'")
    assert result.stderr.count("\n") == 1
    assert misused.exit_code == 2
