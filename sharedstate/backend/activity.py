"""What the handles of a store have done: the pages of `counters`, read.

Looked at by whoever wants to know, `Store.stats` and `sharedstate top`; those who
count notice nothing of it.
"""

from __future__ import annotations

import os
from struct import unpack_from

from sharedstate._light import NamedTuple
from sharedstate.backend.counters import (
    MAGIC,
    PAGE_BYTES,
    PAGES,
    PAGES_AT,
    TABLE_AT,
    TOKEN_BYTES,
    counters_path,
    is_begun,
)
from sharedstate.backend.files import open_private, translate_os_error
from sharedstate.backend.forks import keep_on_fork, open_unshared
from sharedstate.errors import CorruptError, StateError, StoreAccessError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

    from sharedstate.backend.counters import Counts
    from sharedstate.backend.locks import LockDirectory

__all__ = ["Activity", "Sample", "check_activity", "read_activity", "total_activity"]

_SAMPLE_BYTES: Final = 64
_KEY_BYTES: Final = 54
_COUNTERS: Final = "=5Q"
_KINDS: Final = ("hit", "miss", "write")


class Sample(NamedTuple):
    """One call of about 16.

    Attributes:
        number: of the sample, among its page's, modulo 2**32.
        kind: "hit", "miss" or "write".
        key: what was asked for, its first 54 bytes of UTF-8.
        is_cut: whether the key is longer.
    """

    number: int
    kind: str
    key: str
    is_cut: bool


class Activity(NamedTuple):
    """What was counted in one page.

    Attributes:
        token: of the sharer whose page it is; "" if it is nobody's now.
        hits: questions for an entry that was there.
        misses: questions for an entry that was not there.
        writes: changes of entries; of a commit each.
        keyless: those of the writes that could leave no sample, as in a clear.
        samples: some of its owners' latest calls, in no order.
    """

    token: str
    hits: int
    misses: int
    writes: int
    keyless: int = 0
    samples: tuple[Sample, ...] = ()


def read_activity(directory: LockDirectory, with_samples: bool = False) -> list[Activity]:
    """Return what was counted, page by page.

    Raises:
        CorruptError: the file is none of ours.
        StateError: it cannot be read.
    """
    path = counters_path(directory)
    try:
        fd = open_unshared(lambda: open_private(directory.url, path, os.O_RDONLY))
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        head = os.pread(fd, PAGES_AT, 0)
        if is_begun(head):
            return []
        if not head.startswith(MAGIC):
            advice = "If no program uses that file as its own, remove it."
            raise CorruptError(url=directory.url, reason=f"{path} holds no counters", advice=advice)
        count = min((os.fstat(fd).st_size - PAGES_AT) // PAGE_BYTES, PAGES)  # who may write may also lengthen it
        size = PAGE_BYTES if with_samples else _SAMPLE_BYTES
        pages = [os.pread(fd, size, PAGES_AT + PAGE_BYTES * number) for number in range(count)]
    except OSError as error:
        raise translate_os_error(directory.url, error) from error
    finally:
        keep_on_fork(fd)
        os.close(fd)
    tokens = [head[at : at + TOKEN_BYTES] for at in range(TABLE_AT, TABLE_AT + TOKEN_BYTES * count, TOKEN_BYTES)]
    return [_parse(*pair) for pair in zip(tokens, pages, strict=False)]


def total_activity(directory: LockDirectory, counts: Counts) -> dict[str, int | float | str]:
    """Return the sums over all pages, and what a handle has counted for itself alone; nothing if they cannot be had."""
    try:
        pages = read_activity(directory)
    except StateError:
        return {}  # what is no file of ours `check` tells, and no verb rests on it
    hits, misses, writes = counts.own()
    for page in pages:
        hits += page.hits
        misses += page.misses
        writes += page.writes
    return {"hits": hits, "misses": misses, "writes": writes}


def check_activity(directory: LockDirectory) -> None:
    """Look whether the file, if it may be read, is one of ours.

    Raises:
        CorruptError: it is not.
    """
    try:  # noqa: SIM105  contextlib would cost each fresh interpreter its import
        read_activity(directory)
    except StoreAccessError:
        pass  # another user's, in which those are counted who may


def _parse(token: bytes, page: bytes) -> Activity:
    hits, misses, writes, _, keyless = unpack_from(_COUNTERS, page)
    samples = (_parse_sample(page, at) for at in range(_SAMPLE_BYTES, len(page), _SAMPLE_BYTES))
    owner = token.rstrip(b"\0").decode(errors="replace")
    return Activity(owner, hits, misses, writes, keyless, tuple(sample for sample in samples if sample is not None))


def _parse_sample(page: bytes, at: int) -> Sample | None:
    """Return a sample, None if there is none, or it was changing."""
    whole, kind, length, key, begun = unpack_from(f"=IBB{_KEY_BYTES}sI", page, at)
    if whole != begun or whole == 0 or kind >= len(_KINDS):
        return None
    return Sample(whole, _KINDS[kind], key[:length].decode(errors="ignore"), length > _KEY_BYTES)
