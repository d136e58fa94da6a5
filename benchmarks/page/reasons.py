"""Why each figure is as it is: a sentence per workload, contestant and part, and per pair where that says more.

Contestants are named by patterns in lower case, so that variants of one share
their sentence; the first that matches counts.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Final

__all__ = ["PARTS", "QUARRELS", "take_it_where", "what_it_is", "why", "why_slow_at_times"]

WORKLOADS: Final = {
    "get": "Read one key that is there. Keys come in random order, so caches are missed as they are in life.",
    "get_missing": "Ask for one key that is not there.",
    "set": "Write another value over the one that is there.",
    "set_new": "Write a key that was not there: the store has to find room for it.",
    "delete": "Remove a key that is there; what the place is worth to the next write is not counted.",
    "increment": "Read, add one and write back as one step that no other writer can come between.",
    "compare_and_set": "Write only if nobody has written since the value was read.",
    "transaction": "Exchange two values so that nobody ever sees one of them twice.",
    "iterate": "Walk over all entries, with their values; the figure is per entry.",
    "get_many": "Read a hundred keys in one call; the figure is per entry.",
    "set_many": "Write a hundred keys in one call; the figure is per entry.",
    "encode": "A dict of 1 KiB into bytes, without any store.",
    "decode": "The same bytes back into a dict, without any store.",
}
"""What is done, by the workload's verb."""

KINDS: Final = {
    "int": "",
    "str": "100 bytes have to be copied into the store, and a new str is made for each get.",
    "dict": "Ours hand out a copy: 1 KiB of dict is built anew for each get, and that is most of what it costs. "
    "A dict behind a lock hands everybody the same object, as long as all of them live in one interpreter.",
    "64KiB": "Here the copying shows: every byte moves once in each direction.",
    "1MiB": "A megabyte is copied at the speed of memory; what a store adds to that hardly shows.",
}
"""What the kind of value adds, by the end of the workload's name."""

CONTESTANTS: Final = (
    ("shm*", "shared memory: no system call, no pickling, a checked native table mapped into every process"),
    ("memory*", "a dict of entries in this interpreter, with generations, expiry and watchers: more than a dict does"),
    ("file*", "an append-only log with an index in memory; a write is one system call, a read none"),
    ("sqlite*", "SQLite through the same API; what it costs is what SQLite costs, and a little"),
    (
        "dict+lock bound*",
        "the same dict and lock, without the `with` statement's own cost: the least that a lock can cost",
    ),
    ("dict+lock*", "a dict and a threading.Lock, as people write it; it reaches no further than one interpreter"),
    ("dict+codec*", "a dict of encoded values: our codec and nothing else, the floor for whoever hands out copies"),
    ("dict*", "nothing but a dict: no lock, no sharing, the floor"),
    ("raw sqlite3*", "prepared statements on one connection, with nothing around them"),
    (
        "lmdb*",
        "a memory-mapped B+ tree; each call opens and ends a transaction, and Python's binding makes an object of it",
    ),
    ("*fanout*", "diskcache over several SQLite files, so that writers meet less often"),
    ("diskcache*", "SQLite, pickle, and bookkeeping for eviction around each call"),
    ("*manager*", "a server process: each call is pickled, sent through a socket, answered, and wakes two processes"),
    ("*shareablelist*", "shared memory without a lock or an index: fast, and nobody keeps writers apart"),
    ("*ultradict*", "a dict in each process, brought up to date by a stream of pickles in shared memory"),
    ("*shared*memory*dict*", "the whole dict is pickled into shared memory on each write, and unpickled on each read"),
    ("*cachelib*", "a file for each key: opening and renaming it is what costs"),
    ("*django*database*", "a row in SQLite through Django's database layer, with a count and a cull on writes"),
    ("*django*", "a file for each key, compressed and pickled"),
    ("*shelve*", "pickles in a dbm file; not shared between processes that write"),
    ("*dbm*", "a hash file of the system; one writer at a time, and nobody keeps them apart"),
    (
        "sharedstate redis*",
        "our `redis:`: a read is one command, as redis-py sends it, each write a script in the server",
    ),
    ("*redis*", "a server: a round trip through a socket, and two switches of process, cost more than any work in it"),
    (
        "*memcache*",
        "a server: a round trip through a socket, and two switches of process, cost more than any work in it",
    ),
    ("*uwsgi*", "shared memory of uWSGI's workers, behind a lock of the server's; it takes and gives bytes only"),
    ("sharedstate codec*", "one pass in C over the object, into one buffer"),
    ("msgpack*", "the same format through Cython, with a packer of its own for each call"),
)
"""What a contestant is, and where its time goes."""

PAIRS: Final = (
    ("get", "shm*", "one lock-free read of a cache line, its generation checked before and after, and a decode"),
    (
        "set",
        "shm*",
        "a stripe's lock, which is one atomic instruction while nobody else wants it, and a write in place",
    ),
    ("increment", "shm*", "as a set: added in place under the stripe's lock, by one call into C"),
    ("compare_and_set", "shm*", "as a set, with the generation compared under the same lock"),
    (
        "transaction",
        "shm*",
        "most of it is Python: the transaction object, its two reads and its plan; the commit is one call",
    ),
    ("get", "memory*", "a dict's lookup and no lock: an entry is replaced, never changed"),
    ("set", "memory*", "a lock that notices re-entrance, a new entry, a look at who waits for the key"),
    (
        "get",
        "file*",
        "the index is in memory and is checked against one mapped counter: no system call while nothing changes",
    ),
    ("set", "file*", "a file lock, one appended record, and the lock's release: three system calls"),
    ("increment", "file*", "as a set, with a look under the lock at what others have written"),
    (
        "get",
        "sqlite*",
        "SQLite takes and releases a shared lock for each read: two system calls around a search in a B-tree",
    ),
    ("set", "sqlite*", "a page goes to the write-ahead log; every thousand pages one write pays for the checkpoint"),
    ("get", "lmdb*", "a read transaction is begun and ended for each get; the search itself is a small part"),
    ("set", "lmdb*", "each write copies the pages from leaf to root, so that readers keep theirs"),
    ("increment", "lmdb*", "a read and a write in one write transaction"),
    ("set", "diskcache*", "an SQLite transaction, a row with eight columns, and counters for its eviction"),
    ("set", "dict+lock*", "nothing is copied: the lock is all that it costs"),
    ("get", "dict+lock*", "nothing is copied: the lock is all that it costs"),
)
"""Where a contestant's sentence for one verb says more."""

SPIKES: Final = (
    ("shm*", "no system call is made, so an outlier is the kernel's: an interrupt, or the core given to somebody else"),
    (
        "memory*",
        "no system call is made, so an outlier is the kernel's: an interrupt, or the core given to somebody else",
    ),
    ("file*", "now and then the log is compacted, or the kernel writes back what it holds for the disk"),
    ("*sqlite*", "every thousand pages a checkpoint copies the write-ahead log into the database"),
    ("*diskcache*", "SQLite's checkpoint, and the cull of what is over the size limit"),
    ("lmdb*", "a page fault on the map, or the kernel writing dirty pages back"),
    ("*redis*", "two switches of process, each of which may wait for a core"),
    ("*memcache*", "two switches of process, each of which may wait for a core"),
    ("*manager*", "two switches of process, each of which may wait for a core"),
    ("dict*", "an interrupt, or the core given to somebody else"),
)
"""What makes a contestant's slowest operations slow."""

TAKE: Final = {
    "memory": "one process serves, with threads; or in tests",
    "shm": "several processes or interpreters share it, and a reboot may forget it: counters, caches, coordination",
    "file": "it has to survive a reboot, is read more than written, and is small enough to be held in memory",
    "sqlite": "it has to survive a reboot, and other tools should read it too, or it is large",
}
"""When one of our backends is the one to take."""


QUARRELS: Final = {
    "hot": "one hot key",
    "mixed": "100 keys, half of it writes",
    "disjoint": "keys of their own",
    "zipf": "mostly reads, of some keys far more",
}
"""What several workers contend for, by its name in the JSON."""

PARTS: Final = {
    "contention": (
        "Several at once",
        (
            "Several workers at once: operations of all of them together in a second, by how many they are, both axes "
            "logarithmic. Every increment was counted afterwards, and every value checked."
        ),
    ),
    "stall": (
        "A minute of contention",
        (
            "Eight processes increment one key for a minute: the longest that any of them had to wait for a single "
            "operation, and whether one of them starved."
        ),
    ),
    "scaling": (
        "Two workers",
        (
            "Two workers that increment keys of their own, against one: do writers of different keys hold one another "
            "up? Twice as many is all that two cores can give. Writers to a file or a database take turns, so theirs "
            "is below one. A run in which another program took a worker's core counts in “of all” only."
        ),
    ),
    "growth": (
        "Many keys",
        (
            "What more keys cost. A read of a small store is served by the processor's caches; of a large one it "
            "misses them, once for the index and once for the entry, and no store can do anything about that. A "
            "B-tree adds a level now and then; a log is read when it is opened."
        ),
    ),
    "watch": (
        "Until a write is seen",
        (
            "One worker waits for a key to change, the other writes it: the time from the start of the write until "
            "the first has noticed. A pipe is what the kernel takes for as much; who looks now and then instead of "
            "sleeping has its own pace in its median."
        ),
    ),
    "hand-over": (
        "Handing over a lock",
        (
            "One worker releases a lock for which the other waits: the time until that one has it. The kernel's own "
            "lock, flock, is the floor."
        ),
    ),
    "group-commit": (
        "Writes that reach the disk",
        (
            "Every write is on the disk before it returns. The disk's own flush is what costs; writers that share one "
            "do more in the same time."
        ),
    ),
    "crash": (
        "After a crash",
        (
            "A writer is killed by kill -9, again and again; the next process opens the store. What had been "
            "acknowledged has to be there."
        ),
    ),
    "open-again": (
        "Opening",
        ("The first open of a store in a fresh process, and a later one there."),
    ),
    "open-large": (
        "Opening a large store",
        ("What is live has to be read where an index is kept in memory; nothing where it lies in the store."),
    ),
    "light_open": (
        "Opening in a fresh interpreter",
        (
            "The first statement in a fresh interpreter, as each worker of a server pays for it once: importing "
            "sharedstate and opening a store that exists, beside three modules of the standard library."
        ),
    ),
    "codec_isolated": (
        "The codec in an isolated interpreter",
        (
            "In an interpreter with its own GIL most C extensions do not load, and a codec falls back on Python, some "
            "twenty times slower. Ours loads everywhere; 1 means as fast as in the main interpreter."
        ),
    ),
}
"""Of each part of the JSON the title, and what it is about and why its figures are as they are; in this order."""


def take_it_where(backend: str) -> str:
    """Return when to take one of our backends, or ""."""
    return TAKE.get(backend, "")


def what_it_is(workload: str) -> str:
    """Return what a workload does, and what its kind of value adds."""
    verb, _, kind = workload.partition("-")
    adds = "" if verb in {"encode", "decode"} else KINDS.get(kind, "")
    return " ".join(filter(None, (WORKLOADS.get(verb, ""), adds)))


def why(workload: str, contestant: str) -> str:
    """Return why a contestant takes as long as it does, or ""."""
    name = contestant.lower()
    verb = workload.partition("-")[0]
    for of_verb, pattern, told in PAIRS:
        if of_verb == verb and fnmatch(name, pattern):
            return told
    return next((told for pattern, told in CONTESTANTS if fnmatch(name, pattern)), "")


def why_slow_at_times(contestant: str) -> str:
    """Return what makes its slowest operations slow, or ""."""
    name = contestant.lower()
    return next((told for pattern, told in SPIKES if fnmatch(name, pattern)), "")
