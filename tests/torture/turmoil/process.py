"""A process of two hands: one in its main interpreter, one in a sub-interpreter with a handle of its own."""

from __future__ import annotations

import os
import sys
from _thread import start_new_thread

from sharedstate.probe.interpreters import run_in_interpreter
from turmoil.hand import Findings, Hand
from turmoil.page import Page

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["labour", "work"]


def work(orders: dict[str, Any], seat: int, start: int) -> NoReturn:
    """Work in both lanes of a seat until killed."""
    start_new_thread(_labour_in_interpreter, (orders, seat, start))
    labour(orders, 2 * seat, start)


def labour(orders: dict[str, Any], lane: int, start: int) -> NoReturn:
    """Work in a lane until killed; end the process if something is raised."""
    try:
        Hand(orders, Page(orders["page"]), lane, start).run()
    except BaseException as error:  # noqa: BLE001  whatever it is, it is a finding
        import traceback

        Findings(orders["findings"]).add("raised", lane=lane, why=repr(error), where=traceback.format_exc())
        os._exit(3)


def _labour_in_interpreter(orders: dict[str, Any], seat: int, start: int) -> None:
    script = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from turmoil.process import labour; labour({orders!r}, {2 * seat + 1}, {start})"
    )
    failure = run_in_interpreter(orders["kinds"][seat], script)
    Findings(orders["findings"]).add("raised", lane=2 * seat + 1, why=failure)
    os._exit(3)
