"""A lock between the threads of one interpreter, for `with`, that no exception of a signal handler leaves held.

Up to CPython 3.13 an `RLock` is that: entering a `with` block is one instruction,
at whose end no signal handler runs.  Since 3.14 `__enter__` is called like
anything else, so that a handler may run, and raise, after the lock was taken and
before the block that `__exit__` belongs to (python/cpython#148874).  The call of
a function of Python differs: signals are looked for as it begins, not as it
returns.  So an `__enter__` of Python code can put right what its own call of
`acquire` met with, and nothing comes in between its end and the block.  The
`__exit__` stays C's: on the way into one of Python code an exception would skip it.
"""

from __future__ import annotations

import sys
from _thread import RLock

__all__ = ["Mutex"]

if sys.version_info < (3, 14):
    Mutex = RLock
else:

    class Mutex(RLock):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  no final type in CPython
        """An `RLock`, for `with`.  Whoever calls `acquire` itself has to see to exceptions himself."""

        __slots__ = ()

        def __enter__(self) -> bool:  # type: ignore[override]  # `with` gives no arguments
            """Take the lock."""
            # acquire() raises either while it waits, and the lock is not this thread's, or after it has taken it.
            # Who holds it already does not wait, so that nothing is released here that an outer block has taken.
            try:
                return self.acquire()
            except BaseException:
                try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
                    self.release()
                except RuntimeError:
                    pass  # it came while this thread waited
                raise
