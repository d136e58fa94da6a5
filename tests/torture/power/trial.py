"""Opening a disk as after a reboot: what it holds, and whether it still works."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import sharedstate
from sharedstate import CorruptError, StateError, model
from sharedstate.values import decode
from sharedstate_file.log import Log

if TYPE_CHECKING:
    from power.history import Content

__all__ = ["Outcome", "accept_loss", "boot_anew", "open_disk"]

_boots = 0


class Outcome(NamedTuple):
    """What came of opening a disk: its content, or the error."""

    content: Content | None
    error: str = ""
    is_damage: bool = False  # a CorruptError


def boot_anew() -> None:
    """Let this process take itself for one of another boot, as `sharedstate.model.boot_id` tells it."""
    global _boots  # noqa: PLW0603  one per process, as the kernel's
    _boots += 1
    model._constant["boot"] = f"simulated-boot-{_boots}"


def open_disk(url: str) -> Outcome:
    """Open the store, read all of it, check it, write to it, and open it once more."""
    boot_anew()
    try:
        with sharedstate.open(url) as store:
            content = _content(store)
            store.check()
            store["written after"] = True
            store.check()
        with sharedstate.open(url) as store:
            store.check()
            if store.pop("written after", None) is not True or _content(store) != content:
                return Outcome(None, f"held {content}, and opened again {_content(store)}")
    except CorruptError as error:
        return Outcome(None, f"CorruptError: {error}", is_damage=True)
    except StateError as error:
        return Outcome(None, f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001  whatever else comes is what we look for
        return Outcome(None, f"{type(error).__name__}, which no store raises: {error}")
    return Outcome(content)


def _content(store: sharedstate.Store) -> Content:
    return {key: (value, store.ttl(key) is not None) for key, value in store.items()}


def accept_loss(outcome: Outcome, url: str) -> bool:
    """Do what a CorruptError advises, and return whether it advised anything that a program can do."""
    if not outcome.is_damage:
        return False
    if "after a remove(), or a repair, that was killed, call that again" in outcome.error:
        try:
            sharedstate.remove(url)
        except StateError:
            return False
        return True
    advice = re.search(r"truncate (\S+) to (\d+) bytes", outcome.error)
    if advice is None or _is_ended_behind(url, advice[1], int(advice[2])):
        return False
    os.truncate(advice[1], int(advice[2]))
    return True


def _is_ended_behind(url: str, path: str, offset: int) -> bool:
    """Return whether a log ends behind the damage at `offset`: no cut leaves that, where its end is synced last."""
    log = Log.open(url, path, 0)
    size = log.size()
    at = log.find_frame(offset, size)
    while at is not None:
        payload, _ = next(log.frames(at, size))
        if isinstance(decode(payload)[1], int):
            return True
        at = log.find_frame(at + 1, size)
    return False
