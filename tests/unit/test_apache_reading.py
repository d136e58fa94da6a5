"""Reading an Apache from outside: its program, its configuration as it understands it, and every way that can fail.

The program is the real one.  Where it is missing these tests fail: the set-up
(scripts/system-packages.sh servers) promised it.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sharedstate.deployment import apache
from sharedstate.deployment.apache.directives import next_word, parse_dump, read_options, split_words
from sharedstate.deployment.apache.hosts import find_hosts
from sharedstate.deployment.apache.matching import glob_pattern, literal_prefixes
from sharedstate.deployment.apache.surroundings import read_surroundings
from sharedstate.errors import StateError

MODULES = "/usr/lib/apache2/modules"
WSGI = f"LoadModule wsgi_module {MODULES}/mod_wsgi.so\n"
NO_WSGI = "# The body begins at line 11, with mod_wsgi or without.\n"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a configuration around a body, and returns its path."""
    assert shutil.which("apache2", path="/usr/sbin:/usr/bin"), "run scripts/system-packages.sh servers"

    def write(body: str, *, mpm: str = "event", wsgi: bool = True, name: str = "apache.conf") -> str:
        path = tmp_path / name
        path.write_text(
            f'ServerRoot "{tmp_path}"\nDefaultRuntimeDir "{tmp_path}"\nServerName localhost\nListen 127.0.0.1:8080\n'
            f'User www-data\nGroup www-data\nErrorLog "{tmp_path}/error.log"\n'
            f"LoadModule mpm_{mpm}_module {MODULES}/mod_mpm_{mpm}.so\n"
            f"LoadModule authz_core_module {MODULES}/mod_authz_core.so\n{WSGI if wsgi else NO_WSGI}"
            f"{body}"
        )
        return str(path)

    return write


def read(path: str) -> apache.Forecast:
    return apache.forecast(apache.find_apache(path))


def refusal(path: str) -> apache.ApacheError:
    with pytest.raises(apache.ApacheError) as caught:
        read(path)
    return caught.value


# --- The configuration as Apache understands it --------------------------------------


def test_dump_is_read_with_files_lines_and_sections() -> None:
    """Each directive has its arguments, the sections around it, and its file and line, also after an include."""
    found = parse_dump(
        "# In file: /a.conf\n#   3:\n<VirtualHost *:80>\n  #   4:\n  ServerName x\n# In file: /b.conf\n  #   1:\n"
        '  <If "%{A} > 1">\n    #   2:\n    WSGIApplicationGroup  "a b"\n  </If>\n# In file: /a.conf\n</VirtualHost>\n'
        "#   9:\nUser www-data\n"
    )

    assert [directive.name for directive in found] == ["servername", "wsgiapplicationgroup", "user"]
    name, group, user = found
    assert name.source.place == "/a.conf:4"
    assert group.source.place == "/b.conf:2"
    assert group.words == ["a b"]
    assert [(section.name, section.argument) for section in group.sections] == [
        ("virtualhost", "*:80"),
        ("if", '"%{A} > 1"'),
    ]
    assert group.host == name.host
    assert user.host is None
    assert user.sections == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ('"a b"  c', ["a b", "c"]),
        ("'a \"b' c", ['a "b', "c"]),
        (r'"a\"b\\c" d', [r'a"b\c', "d"]),
        (r"a\\b\c", [r"a\b\c"]),
        ('"unclosed', ["unclosed"]),
        ("", []),
    ],
)
def test_words_are_split_as_apache_splits_them(text: str, words: list[str]) -> None:
    """Quotes group, a backslash protects the quote and itself, and nothing else."""
    assert split_words(text) == words


def test_options_are_read_as_mod_wsgi_reads_them() -> None:
    """Only the value may be quoted; the last one of a name counts."""
    name, rest = next_word('"a b" threads=1 display-name="%{GROUP} x" home=\'/a b\' threads=2')

    assert name == "a b"
    assert read_options(rest) == {"threads": "2", "display-name": "%{GROUP} x", "home": "/a b"}


def test_apache_resolves_includes_variables_conditions_and_macros(write: Write, tmp_path: Path) -> None:
    """What Apache decides while it reads is decided; what a macro brings has the line where it is written."""
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "one.conf").write_text("WSGIScriptAlias /one ${APP}/one.wsgi\n")
    (tmp_path / "sites" / "two.conf").write_text("\nWSGIScriptAlias /two ${APP}/two.wsgi \\\n    process-group=d\n")
    config = write(
        "Define APP /srv/app\nWSGIDaemonProcess d\nInclude sites/*.conf\nIncludeOptional nowhere/*.conf\n"
        "<IfModule mpm_prefork_module>\nWSGIScriptAlias /prefork /x.wsgi\n</IfModule>\n"
        "<IfModule mpm_event_module>\nWSGIScriptAlias /event /x.wsgi\n</IfModule>\n"
        "<IfDefine APP>\nWSGIScriptAlias /defined /x.wsgi\n</IfDefine>\n"
        "<IfDefine NOT_DEFINED>\nWSGIScriptAlias /undefined /x.wsgi\n</IfDefine>\n"
        f"LoadModule macro_module {MODULES}/mod_macro.so\n"
        "<Macro App $name>\n  WSGIScriptAlias /$name /$name.wsgi\n</Macro>\nUse App used\n"
    )

    found = read(config)
    mounts = {mount.url: mount for each in found.applications for mount in each.mounts}
    assert sorted(mounts) == ["/defined", "/event", "/one", "/two", "/used"]
    assert mounts["/one"].script == "/srv/app/one.wsgi"
    assert mounts["/one"].sources[0].place == f"{tmp_path}/sites/one.conf:1"
    assert mounts["/two"].process_group.names == ("d",)
    assert mounts["/two"].sources[0].place == f"{tmp_path}/sites/two.conf:3"
    lines = Path(config).read_text().splitlines()
    written = next(number for number, line in enumerate(lines, 1) if "/$name " in line)
    assert mounts["/used"].sources[0].place == f"{config}:{written}"
    assert "macro app, used at" in mounts["/used"].sources[0].text


def test_info_module_is_not_loaded_twice(write: Write) -> None:
    """A server that has mod_info itself is read as any other."""
    found = read(write(f"LoadModule info_module {MODULES}/mod_info.so\nWSGIScriptAlias / /x.wsgi\n"))

    assert len(found.applications) == 1


def test_undefined_variables_are_told_of(write: Write) -> None:
    """A ${VARIABLE} that nobody defines stays as it is, and is named."""
    found = read(write("WSGIScriptAlias / ${NOWHERE}/x.wsgi\n"))

    assert found.apache.undefined == ("NOWHERE",)
    assert "undefined-variable" in {each.code for each in apache.advise(found, apache.Surroundings())}


def test_mod_wsgi_is_known_by_version_and_python(write: Write) -> None:
    """The version of mod_wsgi and of its Python come from the module that the server loads."""
    found = read(write("WSGIScriptAlias / /x.wsgi\n"))

    assert found.mod_wsgi.path == f"{MODULES}/mod_wsgi.so"
    assert found.mod_wsgi.version.count(".") == 2
    assert int(found.mod_wsgi.version.split(".")[0]) >= 4
    assert found.mod_wsgi.python.startswith("3.")
    assert not found.mod_wsgi.free_threaded


def test_debian_instance_is_read_with_its_envvars(tmp_path: Path) -> None:
    """A copy of /etc/apache2, with the variables of its own envvars, and no run directory made for it."""
    instance = tmp_path / "apache2-copy"
    shutil.copytree("/etc/apache2", instance, symlinks=True)
    for name in ("mods-enabled/wsgi.load", "mods-enabled/mpm_event.load"):
        assert (instance / name).exists(), "Debian enables both when they are installed"
    run = tmp_path / "run"
    with (instance / "envvars").open("a") as file:
        file.write(f"\nexport APACHE_RUN_DIR={run}\nexport OF_ENVVARS=/srv/app\nexport APACHE_ARGUMENTS='-D SECOND'\n")
    site = "<IfDefine SECOND>\nWSGIScriptAlias /second ${OF_ENVVARS}/x.wsgi\n</IfDefine>\n"
    (instance / "sites-enabled" / "site.conf").write_text(site)

    found = read(str(instance / "apache2.conf"))
    (application,) = found.applications
    assert application.script == "/srv/app/x.wsgi"
    assert not found.apache.is_system
    assert not run.exists()


def test_system_configuration_is_the_one_the_program_takes() -> None:
    """Without a path the compiled-in configuration is read, and known as the system's."""
    found = apache.find_apache()

    assert found.is_system
    assert os.path.isfile(found.config)
    assert "wsgi" in found.modules


# --- Every way to fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("\nNonsense on\n", 12, "Invalid command 'Nonsense'"),
        ("WSGIScriptAlias /only-one\n", 11, "requires at least two arguments"),
        ("<Directory /x>\n", 11, "was not closed"),
        ("WSGIDaemonProcess d\nWSGIDaemonProcess d\n", 12, "duplicates"),
        ("WSGIDaemonProcess d processes=none\n", 11, "Invalid process count"),
        ("WSGIScriptAlias / /x process-group=d application-group=g\n", 11, "not yet configured"),
    ],
)
def test_syntax_error_has_file_and_line(write: Write, body: str, line: int, reason: str) -> None:
    """What Apache refuses is a ConfigSyntaxError with its reason, file and line."""
    config = write(body)
    error = refusal(config)

    assert isinstance(error, apache.ConfigSyntaxError)
    assert (error.file, error.line) == (config, line)
    assert reason in error.reason
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"{config}:{line}: ")


def test_syntax_error_in_an_include_names_the_include(write: Write, tmp_path: Path) -> None:
    """The file is the included one, the line is counted there."""
    (tmp_path / "more.conf").write_text("\n\nNonsense on\n")
    error = refusal(write("Include more.conf\n"))

    assert isinstance(error, apache.ConfigSyntaxError)
    assert (error.file, error.line) == (str(tmp_path / "more.conf"), 3)


@pytest.mark.parametrize("include", ["nowhere.conf", "nowhere/*.conf"])
def test_include_that_is_not_there_is_named(write: Write, include: str) -> None:
    """A missing include is a ConfigAccessError with its path, and with the file and line that include it."""
    config = write(f"Include {include}\n")
    error = refusal(config)

    assert isinstance(error, apache.ConfigAccessError)
    assert "nowhere" in error.subject
    assert (error.file, error.line) == (config, 11)
    assert "No such file" in error.reason
    assert isinstance(error, OSError)


def test_include_that_may_not_be_read_is_named(write: Write, tmp_path: Path) -> None:
    """The same where a file exists and the caller may not read it."""
    # Root may read everything: then Apache's program is asked as somebody else, who may enter this directory.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        secret = Path(directory) / "secret.conf"
        secret.write_text("WSGIScriptAlias / /x.wsgi\n")
        secret.chmod(0)
        config = Path(shutil.copy(write(f"Include {secret}\n"), directory))
        config.write_text(config.read_text().replace(str(tmp_path), directory))
        program = Path(directory) / "apache2"
        become = "setpriv --reuid 65534 --regid 65534 --clear-groups" if os.geteuid() == 0 else ""
        program.write_text(f'#!/bin/sh\nexec {become} /usr/sbin/apache2 "$@"\n')
        program.chmod(0o755)

        with pytest.raises(apache.ConfigAccessError) as caught:
            apache.forecast(apache.find_apache(str(config), program=str(program)))

    assert caught.value.subject == str(secret)
    assert (caught.value.file, caught.value.line) == (str(config), 11)
    assert "Permission denied" in caught.value.reason


@pytest.mark.parametrize("path", ["/nowhere/apache.conf", "/etc"])
def test_configuration_that_is_not_there(path: str) -> None:
    """A path that is no readable file is a ConfigAccessError that names it."""
    with pytest.raises(apache.ConfigAccessError) as caught:
        apache.find_apache(path)

    assert caught.value.subject == path


def test_apache_that_is_not_installed(tmp_path: Path) -> None:
    """Where there is no program, the error says where it was looked for, and what to install."""
    with pytest.raises(apache.ApacheMissingError) as caught:
        apache.find_apache(path=str(tmp_path))

    assert str(tmp_path) in caught.value.reason
    assert "apt-get install apache2" in caught.value.advice
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("script", ["exit 0", "echo 'Server version: nginx'", "exit 3"])
def test_program_that_is_no_apache(tmp_path: Path, script: str) -> None:
    """A program of that name that does not answer as Apache does is told of, not guessed about."""
    program = tmp_path / "httpd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)

    with pytest.raises(apache.ApacheRunError):
        apache.find_apache(path=str(tmp_path))


@pytest.mark.parametrize("body", ["", "WSGIScriptAlias / /x.wsgi\n"])
def test_mod_wsgi_that_is_not_loaded(write: Write, body: str) -> None:
    """Without the module nothing can be mounted, whether its directives are there or not."""
    error = refusal(write(body, wsgi=False))

    assert isinstance(error, apache.ModWsgiMissingError)
    assert "a2enmod wsgi" in error.advice
    assert ("11 uses it" in error.reason) == bool(body)


@pytest.mark.parametrize("body", ["", "<Directory /x>\nAddHandler wsgi-script .wsgi\n</Directory>\n"])
def test_configuration_without_a_mount(write: Write, body: str) -> None:
    """mod_wsgi without any application is a NoMountError; a handler for files is named as what cannot be foreseen."""
    body = f"LoadModule mime_module {MODULES}/mod_mime.so\nTypesConfig /dev/null\n{body}" if body else body
    error = refusal(write(body))

    assert isinstance(error, apache.NoMountError)
    assert ("files as they are asked for" in error.reason) == bool(body)


def test_configuration_without_an_mpm(write: Write) -> None:
    """What Apache refuses without naming a line is an ApacheRunError with its words."""
    config = write("WSGIScriptAlias / /x.wsgi\n")
    text = Path(config).read_text().splitlines()
    Path(config).write_text("\n".join(line for line in text if "mpm_" not in line))

    assert "No MPM loaded" in refusal(config).reason


@pytest.mark.parametrize(
    "error",
    [
        apache.ApacheMissingError(subject="a", reason="b", advice="c"),
        apache.ApacheRunError(subject="a", reason="b", advice="c"),
        apache.ConfigAccessError(subject="a", reason="b", advice="c", file="f", line=3),
        apache.ConfigSyntaxError(subject="a", reason="b", advice="c", file="f", line=3),
        apache.ModWsgiMissingError(subject="a", reason="b", advice="c"),
        apache.NoMountError(subject="a", reason="b", advice="c"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: apache.ApacheError) -> None:
    """Each error is a StateError that says what to do, and comes out of a pickle as it went in."""
    twin = pickle.loads(pickle.dumps(error))

    assert type(twin) is type(error)
    assert twin.__dict__ == error.__dict__
    assert str(twin) == str(error) == "a: b. c"
    assert isinstance(twin, StateError)


# --- Patterns, hosts, surroundings ------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/srv/*", ["/srv/a"], ["/srv/a/b", "/srv"]),
        ("/srv/?/x", ["/srv/a/x"], ["/srv//x", "/srv/ab/x"]),
        ("/srv/[ab]", ["/srv/a"], ["/srv/c"]),
        ("/srv/[!ab-d]", ["/srv/x"], ["/srv/c", "/srv//"]),
        ("/s.v", ["/s.v"], ["/srv"]),
    ],
)
def test_wildcards_stop_at_a_slash(pattern: str, matching: list[str], other: list[str]) -> None:
    """Apache's shell patterns: no wildcard goes beyond one part of a path."""
    assert all(glob_pattern(pattern).fullmatch(path) for path in matching)
    assert not any(glob_pattern(pattern).fullmatch(path) for path in other)


@pytest.mark.parametrize(
    ("regex", "prefixes"),
    [
        ("^/a/b$", ["/a/b"]),
        ("^/wiki(/.*)?$", ["/wiki"]),
        ("^/(a|b)/c", ["/a", "/b"]),
        ("^/(?:a|b.)", ["/a", "/b"]),
        ("^/ab?c", ["/a"]),
        ("^/a|/b", [""]),
        ("/a", [""]),
        (r"^/a\.b", ["/a"]),
    ],
)
def test_what_a_pattern_begins_with(regex: str, prefixes: list[str]) -> None:
    """Only what is plain to see is a prefix; anything else may begin with everything."""
    assert literal_prefixes(regex) == prefixes


def test_hosts_have_the_ports_that_reach_them() -> None:
    """A virtual host is reached where Apache listens for it, the main server where no virtual host takes everything."""
    found = parse_dump(
        "# In file: /a.conf\n#   1:\nListen 80\n#   2:\nListen 127.0.0.1:8080\n#   3:\nListen 443\n#   4:\n"
        "ServerName main.test\n#   5:\n<VirtualHost *:80>\n  #   6:\n  ServerName https://one.test\n</VirtualHost>\n"
        "#   7:\n<VirtualHost 127.0.0.1:8080 *:9>\n  #   8:\n  ServerName two.test:99\n</VirtualHost>\n"
        "#   9:\n<VirtualHost [::1]:443>\n  #  10:\n  ServerAlias three.test\n</VirtualHost>\n"
    )

    main, one, two, three = find_hosts(found)
    assert (main.name, main.ports) == ("main.test", (443,))
    assert (one.name, one.named_port, one.ports) == ("one.test", 443, (80,))
    assert (two.name, two.ports) == ("two.test", (8080,))
    assert (three.name, three.ports) == ("main.test", (443,))
    assert two.names(canonical=False) == ["two.test:8080"]
    assert two.names(canonical=True) == ["two.test:99"]
    assert one.names(canonical=False) == ["one.test"]


def test_surroundings_are_read_from_unit_and_logrotate(tmp_path: Path) -> None:
    """PrivateTmp and a daily reload are found with file and line; a drop-in beats the unit."""
    unit = tmp_path / "lib/systemd/system/apache2.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nPrivateTmp=true\n")
    rotate = tmp_path / "etc/logrotate.d/apache2"
    rotate.parent.mkdir(parents=True)
    rotate.write_text("/var/log/*.log {\n\tdaily\n\tpostrotate\n\t\tinvoke-rc.d apache2 reload\n\tendscript\n}\n")

    found = read_surroundings(str(tmp_path))
    assert found.private_tmp is not None
    assert found.private_tmp.place == f"{unit}:2"
    assert found.rotation is not None
    assert (found.rotation.line, found.period) == (4, "daily")

    drop_in = tmp_path / "etc/systemd/system/apache2.service.d/override.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nPrivateTmp=no\n")
    assert read_surroundings(str(tmp_path)).private_tmp is None


def test_masked_unit_says_nothing(tmp_path: Path) -> None:
    """A unit that systemd never starts has no influence."""
    unit = tmp_path / "lib/systemd/system/apache2.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nPrivateTmp=true\n")
    mask = tmp_path / "etc/systemd/system/apache2.service"
    mask.parent.mkdir(parents=True)
    mask.symlink_to(os.devnull)
    drop_in = tmp_path / "etc/systemd/system/apache2.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nPrivateTmp=yes\n")

    assert read_surroundings(str(tmp_path)) == apache.Surroundings()
