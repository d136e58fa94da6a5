"""`file:/path`: an append-only log in a directory, shared by every process of this host.

The plug-in's door; see FORMAT.md for the bytes, `sharedstate_file.backend` for
the verbs, and `sharedstate_file.place` for how a store is found, made and mended.
"""

from sharedstate_file.backend import CAPABILITIES, connect, discover, exists, remove, temporary_url

__all__ = ["CAPABILITIES", "connect", "discover", "exists", "remove", "temporary_url"]
