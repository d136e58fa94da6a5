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
from benchmarks.peers.django_caches import open_django_database, open_django_file
from benchmarks.peers.files import open_cachelib, open_dbm, open_shelve
from benchmarks.peers.installed import (
    open_diskcache,
    open_fanout_cache,
    open_lmdb,
    open_msgpack,
    open_msgpack_packer,
)
from benchmarks.peers.ours import BACKENDS, open_codec, open_dict_codec, opener, url_of
from benchmarks.peers.raw_sqlite import open_sqlite3
from benchmarks.peers.servers import open_pymemcache, open_redis, open_redis_pipeline, open_sharedstate_redis
from benchmarks.peers.shared import open_manager, open_shareable_list, open_shared_memory_dict, open_ultradict
from benchmarks.peers.uwsgi_cache import open_uwsgi

__all__ = ["BACKENDS", "PEERS", "Host", "Peer", "Place", "Session", "url_of"]

PEERS: Final = (
    *(Peer(backend, opener(backend)) for backend in BACKENDS),
    Peer("dict", open_dict),
    Peer("dict+codec", open_dict_codec),
    Peer("dict+Lock", open_dict_lock),
    Peer("dict+Lock bound", open_dict_lock_bound),
    Peer("Manager dict", open_manager),
    Peer("ShareableList", open_shareable_list),
    Peer("UltraDict", open_ultradict),
    Peer("shared-memory-dict", open_shared_memory_dict, most_keys=100),
    Peer("raw sqlite3", open_sqlite3),
    Peer("LMDB", open_lmdb),
    Peer("diskcache", open_diskcache),
    Peer("FanoutCache", open_fanout_cache),
    Peer("cachelib", open_cachelib),
    Peer("Django file", open_django_file, most_keys=500),
    Peer("Django database", open_django_database),
    Peer("shelve", open_shelve, most_keys=300),
    Peer("dbm", open_dbm, most_keys=300),
    Peer("redis", open_redis),
    Peer("redis pipeline", open_redis_pipeline),
    Peer("sharedstate redis", open_sharedstate_redis),
    Peer("pymemcache", open_pymemcache),
    Peer("uWSGI cache", open_uwsgi),
    Peer("sharedstate codec", open_codec, "codec"),
    Peer("msgpack", open_msgpack, "codec"),
    Peer("msgpack Packer", open_msgpack_packer, "codec"),
)
"""Everyone who takes part, in the order of the tables."""
