"""Where and when a run took place, and how much else went on there."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
from typing import Any, NamedTuple

__all__ = ["Load", "describe_machine", "load_now", "other_work"]


class Load(NamedTuple):
    """A reading of the machine's and our own clocks of work, in seconds of CPU.

    Attributes:
        average: of one minute, as the kernel counts it.
        busy: of all processes since boot.
        stolen: by the hypervisor since boot.
        own: of this process and of those that it has waited for.
        at: when, in seconds.
    """

    average: float
    busy: float
    stolen: float
    own: float
    at: float


def load_now() -> Load:
    """Return a reading; zeros for what this system does not tell."""
    busy = stolen = 0.0
    for line in _read_lines("/proc/stat")[:1]:
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(ticks) for ticks in line.split()[1:9])
        tick = os.sysconf("SC_CLK_TCK")
        busy, stolen = (user + nice + system + irq + softirq) / tick, steal / tick
    return Load(os.getloadavg()[0], busy, stolen, sum(os.times()[:4]), time.monotonic())


def other_work(before: Load, after: Load) -> float:
    """Return how many cores, on average, were taken by others between two readings."""
    elapsed = max(after.at - before.at, 1e-9)
    others = (after.busy - before.busy) - (after.own - before.own) + (after.stolen - before.stolen)
    return max(others, 0.0) / elapsed


def describe_machine(directory: str) -> dict[str, Any]:
    """Return what a reader needs to judge the figures; `directory` holds the stores."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": _first_after("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first_after("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "filesystem": _filesystem_of(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "build": _describe_build(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "load_average": os.getloadavg()[0],
    }


def _describe_build() -> str:
    configured = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    pgo = "PGO" if "--enable-optimizations" in configured else "no PGO"
    lto = "LTO" if "--with-lto" in configured and "--with-lto=no" not in configured else "no LTO"
    debug = ", debug" if sysconfig.get_config_var("Py_DEBUG") else ""
    return f"{pgo}, {lto}{debug}, {platform.python_compiler()}"


def _filesystem_of(directory: str) -> str:
    # The longest mount point that is a parent is the one that counts.
    best, kind = "", "unknown"
    for line in _read_lines("/proc/mounts"):
        point, name = line.split()[1:3]
        inside = point in {"/", directory} or directory.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _first_after(path: str, name: str) -> str:
    for line in _read_lines(path):
        label, _, value = line.partition(":")
        if label.strip() == name:
            return value.strip()
    return ""


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
