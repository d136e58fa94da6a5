"""The same stores for asyncio: every verb a coroutine, and no wait that holds up the loop.

>>> import asyncio, sharedstate.aio
>>> async def visit():
...     async with sharedstate.aio.open("memory:aio-readme") as store:
...         return await store.increment("visits")
>>> asyncio.run(visit())
1

    A1  A verb on one key of a store in memory runs on the loop, where it costs
        less than a switch of threads; one of a store on a disk or behind a
        network, and one that visits many keys, runs in a bounded pool of threads.
    A2  What waits for others (a lock, a change, a lost race) holds up neither
        the loop nor a thread of the pool.
    A3  A wait that is cancelled leaves nothing behind: no lock that nobody
        holds, no thread that waits on.
    A4  A verb that is cancelled has happened or not, never half.
"""

from sharedstate.aio.locks import AsyncLock
from sharedstate.aio.opening import open_store as open  # noqa: A004  sharedstate.aio.open() reads as what it does
from sharedstate.aio.store import AsyncStore
from sharedstate.aio.transactions import AsyncTransaction

__all__ = ["AsyncLock", "AsyncStore", "AsyncTransaction", "open"]
