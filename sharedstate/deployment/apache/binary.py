"""The server's program: where it is, how it is built, and what it says of a configuration.

Nothing is started: the program is asked with `-V` and with `-t`, as `apachectl
configtest` does.  Like that, it loads the modules that the configuration names,
so read only a configuration that you would also start.

On Debian the system configuration needs the variables of the `envvars` beside
it, so they are taken from there, by a shell, as apache2ctl does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from sharedstate.deployment.apache.directives import Directive, parse_dump
from sharedstate.deployment.apache.errors import (
    ApacheMissingError,
    ApacheRunError,
    ConfigAccessError,
    ConfigSyntaxError,
    ModWsgiMissingError,
)

__all__ = ["Apache", "ModWsgi", "find_apache"]

_NAMES: Final = ("apache2", "httpd")  # not apache2ctl, apachectl: they make directories and raise limits
_DIRECTORIES: Final = "/usr/sbin:/usr/local/sbin:/usr/local/apache2/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin"
_MODULE_DIRECTORIES: Final = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/lib64/apache2",
    "/usr/lib/apache2",
    "/usr/libexec/apache2",
)
_TIMEOUT_S: Final = 60

_SETTING: Final = re.compile(r'-D ([A-Z_]+)="([^"]*)"')
_LOADED: Final = re.compile(r"^ (\w+)_module \((static|shared)\)$", re.MULTILINE)
_INCLUDED: Final = re.compile(r"^\s+\((?:\*|\d+)\) (.+)$", re.MULTILINE)
_DEFINED: Final = re.compile(r"^Define: (\w+)=(.*)$", re.MULTILINE)
_LOAD_MODULE: Final = re.compile(
    r"^\s*LoadModule\s+(\w+)_module\s+(\"[^\"]*\"|'[^']*'|\S+)", re.MULTILINE | re.IGNORECASE
)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_UNDEFINED: Final = re.compile(r"Config variable \$\{(\w+)\} is not defined")
_UNREADABLE: Final = re.compile(r"Could not open (?:configuration file|config directory|directory) (.+?): (.+)")
_SYNTAX: Final = re.compile(r"Syntax error on line (\d+) of (.+?):(?:\s+|$)(.*)", re.DOTALL)
_NAMESAKE: Final = re.compile(r"macro '.*' \(defined on line (\d+) of \"(.+)\"\)")
_LOG_PREFIX: Final = re.compile(r"^(?:\[[^\]]*\] )*(?:AH\d+: )?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModWsgi:
    """The mod_wsgi that the server loads; "" is what could not be found out.

    Attributes:
        path: of the shared object.
        version: such as "4.9.4".
        python: the version that it embeds, such as "3.11".
        free_threaded: whether that Python is built without the GIL.
    """

    path: str
    version: str
    python: str
    free_threaded: bool


@dataclass(frozen=True)
class Apache:
    """One program with one configuration, both there.

    Attributes:
        program: its path.
        version: as it says, such as "Apache/2.4.62 (Debian)".
        root: the compiled-in ServerRoot.
        config: the configuration file.
        is_system: whether that is the one which the program takes by itself.
        environment: the variables that it is asked with.
        arguments: that the system starts it with besides the configuration.
    """

    program: str
    version: str
    root: str
    config: str
    is_system: bool
    environment: dict[str, str]
    arguments: tuple[str, ...]

    @cached_property
    def _described(self) -> tuple[str, str]:
        return self._check("-D", "DUMP_MODULES", "-D", "DUMP_INCLUDES", "-D", "DUMP_RUN_CFG")

    @cached_property
    def modules(self) -> frozenset[str]:
        """The names of the modules that it has or loads, without `_module`.

        Raises:
            ConfigSyntaxError: it refuses the configuration.
            ConfigAccessError: a file cannot be read.
            ModWsgiMissingError: it refuses it because mod_wsgi is not loaded.
            ApacheRunError: it fails in another way.
        """
        return frozenset(name for name, _ in _LOADED.findall(self._described[0]))

    @cached_property
    def undefined(self) -> tuple[str, ...]:
        """Variables that the configuration uses and nobody defines; Apache takes `${NAME}` literally then."""
        return tuple(dict.fromkeys(_UNDEFINED.findall(self._described[1])))

    def read(self) -> list[Directive]:
        """Return the configuration.

        Raises:
            ConfigSyntaxError, ConfigAccessError, ModWsgiMissingError, ApacheRunError: as `modules`.
        """
        more: tuple[str, ...] = ()
        if "info" not in self.modules:
            more = ("-c", f'LoadModule info_module "{self._info_module()}"')
        printed, _ = self._check(*more, "-D", "DUMP_CONFIG")
        if not printed.strip():
            advice = "Apache before 2.4 cannot print its configuration; use a newer one."
            raise ApacheRunError(subject=self.program, reason="it printed no configuration", advice=advice)
        return parse_dump(printed)

    def mod_wsgi(self) -> ModWsgi:
        """Return which mod_wsgi is loaded.

        Raises:
            ModWsgiMissingError: none.
        """
        if "wsgi" not in self.modules:
            raise self._without_mod_wsgi()
        path = self._loaded_from.get("wsgi", "")
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            return ModWsgi(path, "", "", free_threaded=False)
        # It carries its own version and the one of its Python as plain strings.
        versions = [found.decode() for found in re.findall(rb"\0(\d{1,2}\.\d{1,3}\.\d{1,3}(?:\.dev\d*)?)\0", content)]
        version = next((text for text in versions if not text.startswith("3.")), "")
        python = re.search(rb"libpython(3\.\d+)(t?)", content)
        compiled = next((text for text in versions if text.startswith("3.")), "")
        minor = python[1].decode() if python else ".".join(compiled.split(".")[:2])
        return ModWsgi(path, version, minor, free_threaded=bool(python and python[2]))

    # --- asking ----------------------------------------------------------------

    def _check(self, *arguments: str) -> tuple[str, str]:
        """Return what it prints and what it complains of while it reads the configuration."""
        command = [self.program, *self.arguments, "-f", self.config, "-t", *arguments]
        result = _run(command, self.environment)
        complaint = _LOG_PREFIX.sub("", result.stderr).strip()
        if result.returncode != 0:
            raise self._refusal(complaint)
        return result.stdout, complaint

    def _refusal(self, complaint: str) -> Exception:
        where = _SYNTAX.search(complaint)
        # A macro's line counts from its definition.
        file, line, reason = (where[2], int(where[1]), where[3]) if where else ("", 0, complaint)
        if macro := _NAMESAKE.match(file):
            file, line = macro[2], int(macro[1]) + line
        reason = " ".join(reason.split()).removeprefix(f"{file}:{line}: ").rstrip(".")
        if unreadable := _UNREADABLE.search(reason):
            return ConfigAccessError(
                subject=unreadable[1],
                reason=f"{unreadable[2]}, included by {file}:{line}" if file else unreadable[2],
                advice="Run the doctor as a user who may read the whole configuration, or mend the path.",
                file=file,
                line=line,
            )
        if re.search(r"Invalid command '<?WSGI", reason):
            return self._without_mod_wsgi(f" but {file}:{line} uses it")
        if where:
            advice = "Mend it; `apachectl configtest` says the same."
            return ConfigSyntaxError(subject=f"{file}:{line}", reason=reason, advice=advice, file=file, line=line)
        return ApacheRunError(
            subject=self.config,
            reason=f"{self.program} refuses it: {reason or 'it says nothing'}",
            advice="Mend it until `apachectl configtest` is content.",
        )

    def _without_mod_wsgi(self, more: str = "") -> ModWsgiMissingError:
        advice = "On Debian: apt-get install libapache2-mod-wsgi-py3 && a2enmod wsgi."
        return ModWsgiMissingError(subject=self.config, reason=f"mod_wsgi is not loaded{more}", advice=advice)

    # --- modules in files --------------------------------------------------------

    @cached_property
    def _loaded_from(self) -> dict[str, str]:
        """The file of each module, as far as the LoadModule lines can be found.

        Apache does not print them: it has acted upon them already.
        """
        printed = self._described[0]
        known = {**self.environment, **dict(_DEFINED.findall(printed))}
        root = next(iter(re.findall(r'^ServerRoot: "(.*)"$', printed, re.MULTILINE)), self.root)
        found: dict[str, str] = {}
        for path in dict.fromkeys([self.config, *_INCLUDED.findall(printed)]):
            for name, raw in _LOAD_MODULE.findall(_read_text(path)):
                file = _VARIABLE.sub(lambda match: known.get(match[1], match[0]), raw.strip("\"'"))
                found[name] = os.path.join(root, file)
        return found

    def _info_module(self) -> str:
        beside = [os.path.dirname(path) for path in self._loaded_from.values()]
        for directory in dict.fromkeys([*beside, os.path.join(self.root, "modules"), *_MODULE_DIRECTORIES]):
            path = os.path.join(directory, "mod_info.so")
            if os.path.exists(path):
                return path
        raise ApacheRunError(
            subject=self.program,
            reason="there is no mod_info.so, which prints the configuration as Apache understands it",
            advice="Install Apache's standard modules; it need not be enabled.",
        )


def find_apache(config: str | None = None, *, program: str | None = None, path: str | None = None) -> Apache:
    """Return the server of this machine with one configuration.

    Args:
        config: a configuration file; None: the one that the program takes by itself.
        program: its path; None: `apache2` or `httpd`, wherever it is.
        path: directories to look in, besides the usual ones; None: the PATH.

    Raises:
        ApacheMissingError: there is none.
        ConfigAccessError: `config` is not there, or not readable.
        ApacheRunError: it does not answer like Apache.
    """
    program = program or _find_program(path)
    built = _run([program, "-V"], {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}).stdout
    settings: dict[str, str] = dict(_SETTING.findall(built))
    if "HTTPD_ROOT" not in settings:
        advice = "Name the program of an Apache 2.4."
        raise ApacheRunError(subject=program, reason="it does not answer -V as Apache does", advice=advice)
    root = settings["HTTPD_ROOT"]
    by_itself = os.path.join(root, settings.get("SERVER_CONFIG_FILE", "conf/httpd.conf"))
    chosen = os.path.abspath(config) if config is not None else by_itself
    try:
        with open(chosen, "rb"):
            pass
    except OSError as error:
        raise ConfigAccessError(
            subject=chosen,
            reason=error.strerror or type(error).__name__,
            advice="Give the path of the main configuration file, as a user who may read it: --apache CONFIG.",
        ) from None
    environment = _environment(chosen)
    arguments = shlex.split(environment.get("APACHE_ARGUMENTS", ""))
    if os.path.isfile(_envvars_beside(chosen)):  # another instance of Debian's: apache2ctl starts it so
        arguments = ["-d", os.path.dirname(chosen), *arguments]
    version = re.search(r"Server version: (.+)", built)
    return Apache(
        program=program,
        version=version[1].strip() if version else "",
        root=root,
        config=chosen,
        is_system=os.path.realpath(chosen) == os.path.realpath(by_itself),
        environment=environment,
        arguments=tuple(arguments),
    )


def _find_program(path: str | None) -> str:
    searched = f"{os.environ.get('PATH', os.defpath)}:{_DIRECTORIES}" if path is None else path
    for name in _NAMES:
        if found := shutil.which(name, path=searched):
            return found
    raise ApacheMissingError(
        subject="Apache",
        reason=f"neither {' nor '.join(_NAMES)} is in {searched}",
        advice="Run the doctor on the machine that serves, or install it (on Debian: apt-get install apache2).",
    )


def _envvars_beside(config: str) -> str:
    return os.path.join(os.path.dirname(config), "envvars")


def _environment(config: str) -> dict[str, str]:
    """Return the variables that the server is started with: none of ours, those of Debian's envvars."""
    directory, envvars = os.path.dirname(config), _envvars_beside(config)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "LANG": "C"}
    if os.path.isfile(envvars):
        script = '. "$1" >/dev/null && env -0'
        result = _run(["/bin/sh", "-c", script, "sh", envvars], {**environment, "APACHE_CONFDIR": directory})
        if result.returncode != 0:
            advice = "It must be a shell script that sets variables, as apache2ctl reads it."
            raise ApacheRunError(subject=envvars, reason=result.stderr.strip() or "it fails", advice=advice)
        environment = dict(pair.split("=", 1) for pair in result.stdout.split("\0") if "=" in pair) | {"LC_ALL": "C"}
    # A server that was not started since the boot has none yet, and we make none for it.
    if not os.path.isdir(environment.get("APACHE_RUN_DIR", "/")):
        environment["APACHE_RUN_DIR"] = tempfile.gettempdir()
    return environment


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603  the program that the user, or the PATH, names
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        advice = "Name an Apache that can be run here."
        raise ApacheMissingError(subject=command[0], reason=error.strerror or repr(error), advice=advice) from None
    except subprocess.TimeoutExpired:
        reason = f"it did not answer within {_TIMEOUT_S} s: {shlex.join(command)}"
        raise ApacheRunError(subject=command[0], reason=reason, advice="Try that command yourself.") from None


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
