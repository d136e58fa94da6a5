"""Who is measured: our backends, and what people use today.

A peer is a row of `PEERS`: a name, and a generator that opens it in a place,
yields a `Session` with its verbs, and cleans up.  Each verb is written as its
documentation, or a careful user, would write it, and read-modify-write is as
atomic as the peer can make it.  What cannot be imported, or fails to open, is
left out, and the report says why.
"""

from typing import Final

from benchmarks.peers.base import Host, Peer, Place, Session
from benchmarks.peers.builtin import open_dict, open_dict_lock, open_dict_lock_bound
from benchmarks.peers.installed import (
    open_diskcache,
    open_fanout_cache,
    open_lmdb,
    open_msgpack,
    open_msgpack_packer,
)
from benchmarks.peers.ours import BACKENDS, open_codec, opener, url_of
from benchmarks.peers.raw_sqlite import open_sqlite3

__all__ = ["BACKENDS", "PEERS", "Host", "Peer", "Place", "Session", "url_of"]

PEERS: Final = (
    *(Peer(backend, opener(backend)) for backend in BACKENDS),
    Peer("dict", open_dict),
    Peer("dict+Lock", open_dict_lock),
    Peer("dict+Lock bound", open_dict_lock_bound),
    Peer("raw sqlite3", open_sqlite3),
    Peer("LMDB", open_lmdb),
    Peer("diskcache", open_diskcache),
    Peer("FanoutCache", open_fanout_cache),
    Peer("sharedstate codec", open_codec, "codec"),
    Peer("msgpack", open_msgpack, "codec"),
    Peer("msgpack Packer", open_msgpack_packer, "codec"),
)
"""Everyone who takes part, in the order of the tables."""
