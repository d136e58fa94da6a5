"""Where a verb runs that may take long: in one of a few threads, whose number bounds what is under way at once.

A forked child has a pool of its own: the threads of its parent's are not there.
What runs there sees the context variables of the task that asked for it.
"""

from __future__ import annotations

from asyncio import get_running_loop
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sharedstate.backend.forks import fork_epoch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["in_thread"]

_WORKERS: Final = 8
"""More would wait for one another: a store on disk has one writer at a time."""

_pools: Final[dict[int, ThreadPoolExecutor]] = {}  # by fork epoch


async def in_thread(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Return `function(*arguments, **options)` of a thread.  Cancelled, it goes on there to its end (A4)."""
    pool = _pools.get(fork_epoch())
    if pool is None:
        pool = _pools.setdefault(fork_epoch(), ThreadPoolExecutor(_WORKERS, "sharedstate"))
    return await get_running_loop().run_in_executor(pool, partial(copy_context().run, function, *arguments, **options))
