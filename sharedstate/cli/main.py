"""The command `sharedstate` and what holds for all of its commands.

An error of the library is one line on stderr and exit status 1; a mistake in
the command's use is click's, and 2.  Besides the commands here, each installed
plug-in's scheme is a group: `sharedstate shm list`.
"""

from __future__ import annotations

import sys
from typing import Any

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
from sharedstate.errors import StateError

__all__ = ["main"]


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; tell of an error of the library in one line."""
        try:
            return super().invoke(ctx)
        except StateError as error:
            click.echo(f"sharedstate: {' '.join(str(error).split())}", err=True)
            sys.exit(1)


_EPILOG = """\
Exit status: 0 done; 1 the answer is no, or the store refused; 2 a mistake in the command's use (diff: any trouble).

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
