"""`memory:name`: a dict of this interpreter, with the semantics of a shared store.

The plug-in's door; see `sharedstate_memory.backend` for what it keeps.
"""

from sharedstate_memory.backend import CAPABILITIES, connect, discover, exists, remove, temporary_url

__all__ = ["CAPABILITIES", "connect", "discover", "exists", "remove", "temporary_url"]
