"""`shm://name?size=64MiB`: a table in POSIX shared memory, for all processes and interpreters of one host.

The plug-in's door; see FORMAT.md for what a region holds, and `backend` for the
handle.  The table itself is C: `c/ss_shm.h`.
"""

from sharedstate_shm.backend import CAPABILITIES, connect, discover, exists, remove, temporary_url

__all__ = ["CAPABILITIES", "connect", "discover", "exists", "remove", "temporary_url"]
