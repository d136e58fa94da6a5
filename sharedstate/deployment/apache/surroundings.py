"""What stands around the system's own Apache and reaches into its applications: systemd's unit, and logrotate.

Read only for the configuration that the program takes by itself; an Apache that
somebody starts with another one is not what these files are about.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Final

from sharedstate.deployment.apache.directives import Source

__all__ = ["Surroundings", "read_surroundings"]

_UNIT_DIRECTORIES: Final = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_NAMES: Final = ("apache2", "httpd")
_PERIODS: Final = frozenset({"hourly", "daily", "weekly", "monthly"})
_RELOADING: Final = re.compile(r"\b(reload|graceful|restart|USR1|HUP)\b")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found.

    Attributes:
        private_tmp: PrivateTmp=true of the unit, or None.
        rotation: the line of logrotate that restarts the server, or None.
        period: how often: "daily" ...
    """

    private_tmp: Source | None = None
    rotation: Source | None = None
    period: str = ""


def read_surroundings(root: str = "/") -> Surroundings:
    """Return what this machine does with its Apache; nothing is asked of systemd, its files are read.

    Args:
        root: another one than the machine's, for tests.
    """
    rotation, period = _rotation(root)
    return Surroundings(_setting(root, "PrivateTmp"), rotation, period)


def _setting(root: str, name: str) -> Source | None:
    """Return the last word of the unit and its drop-ins on a switch, if it is switched on."""
    found: Source | None = None
    for path in _unit_files(root):
        for number, line in _lines(path):
            key, _, value = line.partition("=")
            if key.strip() == name:
                is_on = value.strip().lower() in {"1", "yes", "true", "on"}
                found = Source(path, number, line) if is_on else None
    return found


def _unit_files(root: str) -> list[str]:
    for name in _NAMES:
        units = [os.path.join(root, directory, f"{name}.service") for directory in _UNIT_DIRECTORIES]
        unit = next((path for path in units if os.path.lexists(path)), None)
        if unit is None or os.path.realpath(unit) == os.devnull:  # masked: systemd does not start it
            continue
        drop_ins = {
            os.path.basename(path): path
            for directory in reversed(_UNIT_DIRECTORIES)
            for path in glob.glob(os.path.join(root, directory, f"{name}.service.d", "*.conf"))
        }
        return [unit, *(drop_ins[key] for key in sorted(drop_ins))]
    return []


def _rotation(root: str) -> tuple[Source | None, str]:
    for name in _NAMES:
        path = os.path.join(root, "etc/logrotate.d", name)
        period = ""
        for number, line in _lines(path):
            if line in _PERIODS:
                period = line
            if _RELOADING.search(line) and not line.startswith("#"):
                return Source(path, number, line), period or "regularly"
    return None, ""


def _lines(path: str) -> list[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [(number, line.strip()) for number, line in enumerate(file, 1)]
    except OSError:
        return []
