"""The command `sharedstate` and what holds for all of its commands.

An error of the library, or of the system, is one line on stderr and exit
status 1; a mistake in the command's use is click's, and 2; Ctrl-C is 130.
Besides the commands here, each installed plug-in's scheme is a group:
`sharedstate shm list`.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sharedstate import registry
from sharedstate.cli.benching import bench
from sharedstate.cli.checking import check
from sharedstate.cli.doctoring import doctor
from sharedstate.cli.probing import probe
from sharedstate.cli.schemes import scheme_group
from sharedstate.cli.sharers import who
from sharedstate.cli.stores import STORE_COMMANDS
from sharedstate.cli.top import top
from sharedstate.cli.transfer import TRANSFER_COMMANDS
from sharedstate.errors import CapacityError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]

_RESUMABLE: Final = frozenset({"copy", "import-diskcache", "load"})
"""Those that write entry by entry, and do not write again what is there."""

_NO_ANSWER: Final = {"diff": 2}
"""The exit status of trouble where 1 is an answer."""

_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it


class _Commands(click.Group):
    """The commands by name, the plug-ins' schemes after them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or the group of the scheme, of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in registry.known_schemes():
            return scheme_group(cmd_name)
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, then the schemes."""
        commands = super().list_commands(ctx)
        return commands + [scheme for scheme in registry.known_schemes() if scheme not in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the whole first sentence of each, where click would cut it; then the schemes."""
        names = super().list_commands(ctx)
        self._write_section(ctx, formatter, "Commands", names)
        schemes = [name for name in self.list_commands(ctx) if name not in names]
        self._write_section(ctx, formatter, "The stores of one scheme", schemes)

    def _write_section(
        self, ctx: click.Context, formatter: click.HelpFormatter, heading: str, names: Iterable[str]
    ) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in names]
        with formatter.section(heading):
            formatter.write_dl([(name, each.get_short_help_str(1000)) for name, each in commands if each is not None])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; tell in one line of an error, and of Ctrl-C."""
        try:
            return super().invoke(ctx)
        except StateError as error:
            _end(ctx, str(error), _goes_on(ctx) if isinstance(error, CapacityError) else "")
        except KeyboardInterrupt:
            _end(ctx, "interrupted", _goes_on(ctx), status=_INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read our answer has seen enough: click ends us without a word
                raise
            place = error.filename
            if place is None:  # an answer that could not be written: nor can what is left of it, when Python ends
                place = "the output"
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _end(ctx, f"{place}: {error.strerror or error}", _goes_on(ctx))


def _goes_on(ctx: click.Context) -> str:
    if ctx.invoked_subcommand not in _RESUMABLE:
        return ""
    return "Entries that were written before are there; the same command goes on from them."


def _end(ctx: click.Context, reason: str, advice: str, status: int = 0) -> NoReturn:
    ending = "." if advice and not reason.endswith(".") else ""
    click.echo(f"sharedstate: {' '.join(f'{reason}{ending} {advice}'.split())}", err=True)
    sys.exit(status or _NO_ANSWER.get(ctx.invoked_subcommand or "", 1))


_EPILOG = """\
Exit status: 0 done; 1 the answer is no, or the store refused; 2 a mistake in the command's use (diff: any trouble);
130 Ctrl-C.

Completion: eval "$(_SHAREDSTATE_COMPLETE=bash_source sharedstate)", or zsh_source, or fish_source.
"""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="sharedstate")
def main() -> None:
    """State that is really shared: look into stores, and prove what they share.

    A store is named by its URL: shm://jobs, file:/var/lib/app/state,
    sqlite:state.db.  Values are JSON; what JSON lacks is written as
    {"$bytes": "base64"}, {"$tuple": [...]} and so on, and read back exactly.
    """


for _command in (*STORE_COMMANDS, *TRANSFER_COMMANDS, check, probe, bench, doctor, who, top):
    main.add_command(_command)
