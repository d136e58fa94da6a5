"""The table of the founding run, for people: docs/founding-run.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from harness.installed import environments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .running import Cell

_PAGE = """\
# The founding run

A web service is given tasks and disturbed while it is at them. Each task must be finished exactly once, by one owner at
a time, and go on at its checkpoint; `once(per="server")` must run once in each start of the server.
`make founding-run` wrote this page, and fails if a line of it is wrong; tests/servers/founding/judging.py says what
"wrong" is. The service is the one of [examples/](../examples/README.md); what it did was recorded outside of the store.

{facts}

- **mode**: `prefork`, `event` and `worker` are Apache's own children, `daemon-*` processes beside them, with Debian's
  mod_wsgi, whose threaded processes hang when they are to end; `own-gil` are interpreters with a GIL of their own;
- **disturbance**: in each of three rounds, with tasks half done. `touch`: the application's files become newer
  (gunicorn with `--reload`, uWSGI with `--touch-reload`). `graceful`: SIGUSR1 to Apache, SIGHUP to the others.
  `restart`: SIGHUP to Apache; to gunicorn SIGUSR2, and the end of its first master, in one round. `kill -9 worker`: one
  that is at a task. `kill -9 master`: its orphans work on for a moment, then they are killed, and it is started again;
- **finished**: tasks that the store has the result of, of those that were accepted;
- **completed twice**, **overlapping**: tasks that two owners finished, or worked on at the same time;
- **continued**: tasks that their owner did not finish, because it was killed or told to stop, so that another one did;
- **once**, **starts**: how often `once(per="server")` ran its body, and how often the server was started, or told to
  replace all its workers;
- **module**: how often the server imported the application, which is how often a module's level ran;
- **naive**: how often a `resume()` at the module's level would have run each task, least to most often. Under uWSGI
  (without `lazy-apps`) and `gunicorn --preload` the module runs in the master, whose threads no worker has: there such
  a `resume()` runs its tasks in the master, or never.

{table}
"""
_HEAD = (
    *("mode", "disturbance", "finished", "completed twice", "overlapping", "continued"),
    *("once", "starts", "module", "naive"),
)


def write_report(path: str, cells: Sequence[Cell]) -> None:
    """Write the page about a run, and print its table."""
    found = table(cells)
    Path(path).write_text(_PAGE.format(facts=_facts(cells), table=found))
    print(f"\n{found}")  # noqa: T201  what the run was for


def table(cells: Iterable[Cell]) -> str:
    """Return a Markdown table of one line for each cell."""
    lines = [_HEAD, ("---",) * len(_HEAD), *map(_row, cells)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _row(cell: Cell) -> tuple[object, ...]:
    evidence, verdict = cell.evidence, cell.verdict
    naive = sorted(evidence.naive_runs.values())
    return (
        cell.mode,
        cell.disturbance,
        f"{verdict.finished}/{len(evidence.tasks)}",
        verdict.completed_twice,
        verdict.overlapping,
        verdict.continued,
        verdict.once_runs,
        evidence.starts,
        evidence.naive_starts,
        f"{naive[0]}-{naive[-1]}",
    )


def _facts(cells: Sequence[Cell]) -> str:
    tasks = sum(len(cell.evidence.tasks) for cell in cells)
    apache = _ask("/usr/sbin/apache2", "-v").partition("Apache/")[2].partition(" ")[0]
    mod_wsgi = _ask("dpkg-query", "-W", "-f", "${Version}", "libapache2-mod-wsgi-py3")
    programs = {f"Apache {apache}": f"mod_wsgi {mod_wsgi}"}
    for version, environment in environments().items():
        listed = _ask(environment.command("python"), "-m", "pip", "list", "--format=freeze")
        wanted = [line for line in listed.splitlines() if line.lower().startswith(("gunicorn=", "uwsgi=", "mod_wsgi="))]
        programs[f"Python {version}"] = ", ".join(line.replace("==", " ") for line in wanted)
    software = "; ".join(f"{name}: {what}" for name, what in programs.items())
    now = dt.datetime.now(tz=dt.UTC)
    return (
        f"{now:%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}. {software}.\n"
        f"{len(cells)} lines, {tasks} tasks, {sum(cell.verdict.continued for cell in cells)} of them continued."
    )


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
