"""Damage to a region of shared memory, placed by what `sharedstate_shm/FORMAT.md` and `layout.h` say."""

from __future__ import annotations

import mmap
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PLANTS", "Region"]

_WORD: Final = Struct("=Q")
_STRIPES: Final = 4096
_STRIPE: Final = 192
_POOL: Final = 704
_MASK: Final = 2**48 - 1
_PAGE_MUTEX: Final = 1280  # in the header, behind a byte for each of 1024 stripes
_TXN_MUTEX: Final = _PAGE_MUTEX + 64


class Region:
    """One region's file, mapped; knows where the words of the entry `needle` are."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        stripes = int.from_bytes(self.map[40:44], "little")
        heap_size = self.word(24)
        self.heap = len(self.map) - heap_size
        self.pools = _STRIPES + stripes * _STRIPE
        redo = _up(self.pools + stripes * _POOL)
        self.nursery = redo + 4096 * 16
        self.pages = _up(self.nursery + (stripes << 11))
        self.block = self.block_of(b"needle\0\0")
        self.stripe = self.stripe_of(self.block)
        self.slot = self.slot_of(self.block)

    def block_of(self, key: bytes) -> int:
        return self.map.find(key, self.heap) - 40

    def page_of(self, block: int) -> int:
        """Return where the word of the block's page is."""
        return self.pages + (block - self.heap) // 4096 * 8

    def stripe_of(self, block: int) -> int:
        """Return where the stripe of a block begins; its page may be the rest of a span."""
        word = self.word(self.page_of(block))
        return _STRIPES + (word >> 10 & 1023) * _STRIPE

    def slot_of(self, block: int) -> int:
        for at in range(self.nursery, self.pages, 8):
            if self.word(at) & _MASK == block:
                return at
        raise AssertionError

    def pool(self) -> int:
        return self.pools + (self.stripe - _STRIPES) // _STRIPE * _POOL

    def word(self, at: int) -> int:
        return int(_WORD.unpack_from(self.map, at)[0])

    def put(self, at: int, word: int) -> None:
        _WORD.pack_into(self.map, at, word & 2**64 - 1)

    def add(self, at: int, number: int) -> None:
        self.put(at, self.word(at) + number)


def _up(at: int) -> int:
    return (at + 4095) & ~4095


def _soonest(region: Region) -> None:
    region.put(region.stripe_of(region.block_of(b"ttl\0\0\0\0\0")) + 152, 2**64 - 1)


def _twice(region: Region) -> None:
    """Put the slot of `needle` a second time, in an empty one of its table."""
    table = region.nursery + (region.slot - region.nursery) // 1024 * 1024
    region.put(next(at for at in range(table, table + 1024, 8) if region.word(at) == 0), region.word(region.slot))


def _payload(key: bytes, byte: int) -> Callable[[Region], None]:
    def plant(region: Region) -> None:
        at = region.block_of(key) + 48
        region.map[at : at + 1] = bytes([byte])

    return plant


def _flip(at: int) -> Callable[[Region], None]:
    def plant(region: Region) -> None:
        region.map[at : at + 1] = bytes([region.map[at] ^ 1])

    return plant


_POOL_LISTS: Final = 26 * 8

PLANTS: Final[dict[str, tuple[str, Callable[[Region], None]]]] = {
    **{f"header byte {at}": ("L2/L3: header", _flip(at)) for at in (0, 8, 12, 16, 24, 32, 40, 48, 56, 71, 72)},
    "more committed than there is": ("L3", lambda r: r.put(136, 2**40)),
    "committed no whole page": ("L3", lambda r: r.add(136, 8)),
    "the transactions' mutex": ("X1", _flip(_TXN_MUTEX + 16)),
    "the pages' mutex": ("H1: the page mutex", _flip(_PAGE_MUTEX + 16)),
    "a stripe's mutex": ("T3", lambda r: r.put(r.stripe + 16, 0)),
    "an odd version without a redo": ("T3", lambda r: r.add(r.stripe + 40, 1)),
    "a table of no size": ("T3", lambda r: r.put(r.stripe + 48, 63 << 1)),
    "generations behind": ("ahead of its stripe", lambda r: r.put(r.stripe + 64, 0)),
    "count of the live": ("counts live", lambda r: r.add(r.stripe + 128, 1)),
    "count of the used": ("counts live", lambda r: r.add(r.stripe + 136, 1)),
    "count of the expiring": ("counts live", lambda r: r.add(r.stripe + 144, 1)),
    "the soonest expiry": ("counts live", _soonest),
    "a slot beside its block": ("0x", lambda r: r.add(r.slot, 16)),
    "a slot beyond the heap": ("L4/H2", lambda r: r.put(r.slot, 7 << 48 | len(r.map))),
    "a slot's tag": ("T1", lambda r: r.put(r.slot, r.word(r.slot) ^ 1 << 48)),
    "a reserved slot": ("reserved", lambda r: r.put(r.slot, 2)),
    "a slot twice": ("T5", _twice),
    "a key": ("T1", lambda r: r.add(r.block + 40, 1)),
    "a hash": ("T1", lambda r: r.add(r.block, 2**20)),
    "no generation": ("generation 0", lambda r: r.put(r.block + 8, 0)),
    "a generation from the future": ("ahead of its stripe", lambda r: r.put(r.block + 8, 2**50)),
    "a type that is none": ("type 15", lambda r: r.put(r.block + 32, r.word(r.block + 32) | 15)),
    "a block longer than its place": ("H2", lambda r: r.put(r.block + 32, r.word(r.block + 32) | 2**41)),
    "a block longer than the heap": ("L4/H2", lambda r: r.put(r.block + 32, r.word(r.block + 32) | 2**63)),
    "a free list that leads out": ("H3", lambda r: r.put(r.pool(), 8)),
    "a live block that is free": ("H3", lambda r: [r.put(r.pool() + 8 * c, r.block) for c in range(26)] and None),
    "fresh blocks beside a block": (
        "H3",
        lambda r: [r.add(r.pool() + _POOL_LISTS + 8 * c, 8) for c in range(26)] and None,
    ),
    "fresh blocks without an end": (
        "H3",
        lambda r: [r.add(r.pool() + 2 * _POOL_LISTS + 8 * c, 4096) for c in range(26)] and None,
    ),
    "a page that is free and used": ("0x", lambda r: r.put(r.page_of(r.block), 0)),
    "a page of nobody": ("H1", lambda r: r.put(next(at for at in range(r.pages, r.heap, 8) if r.word(at) == 0), 3)),
    "count of the pages": ("H1", lambda r: r.add(_PAGE_MUTEX + 48, 1)),
    "a free page below the hint": ("H1", lambda r: r.put(_PAGE_MUTEX + 40, 2**30)),
    "a list that is none": ("the value of 'list'", _payload(b"list\0\0\0\0", 0xC1)),
    "a str that is no UTF-8": ("the value of 'text'", _payload(b"text\0\0\0\0", 0xFF)),
}
"""What is damaged: what check() must say of it, and how it is done."""
