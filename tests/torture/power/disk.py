"""What a disk may hold at each moment of a trace, by the rules K1 to K3 of this package.

A `Disk` takes the steps one by one.  Of each file and directory it knows what is
certain, and the pieces that may be there or not: a part of a sector, a length,
one change of names.  A state of the disk is a choice of pieces.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from power.trace import Step

__all__ = ["Disk", "Tree", "inodes_of", "lay_out", "read_tree"]

SECTOR = 512
WORD = 8

Tree = dict[str, bytes | None]
"""Path, relative to the root -> content; None for a directory."""


class Thing:
    """A file or a directory: what is certain of it, and what is pending."""

    def __init__(self) -> None:
        self.pieces: list = []
        self._settled = 0  # how many pieces have become certain so far
        self._begun: dict[int, int] = {}  # number of a sync that is under way -> pieces that it covers

    def begin_sync(self, number: int) -> None:
        self._begun[number] = self._settled + len(self.pieces)

    def end_sync(self, number: int) -> None:
        """Make certain what the sync covered (K1)."""
        count = self._begun.pop(number) - self._settled
        if count > 0:
            self.settle(self.pieces[:count])
            self._settled += count
            del self.pieces[:count]

    def settle(self, pieces: list) -> None:
        raise NotImplementedError

    def groups(self) -> list[tuple[Thing, list[int]]]:
        """Return the numbers of the pieces that arrive in order, each group with this thing."""
        groups: dict[object, list[int]] = {}
        for number, piece in enumerate(self.pieces):
            groups.setdefault(self.group_of(number, piece), []).append(number)
        return [(self, group) for group in groups.values()]

    def group_of(self, number: int, piece) -> object:
        raise NotImplementedError


class File(Thing):
    """Bytes; a piece is `(offset, bytes)`, or `(None, length, whether what lies beyond is cut)`."""

    def __init__(self) -> None:
        super().__init__()
        self.certain = b""
        self.now = bytearray()  # with every piece

    def write(self, offset: int, content: bytes) -> None:
        stop = offset + len(content)
        start = offset
        while start < stop:
            end = min(stop, start // SECTOR * SECTOR + SECTOR)
            self.pieces.append((start, content[start - offset : end - offset]))
            start = end
        self._place(offset, content)

    def store(self, offset: int, content: bytes) -> None:
        """As `write`, from a mapping: only what differs, and eight bytes at a time."""
        for start in range(0, len(content), WORD):
            word = content[start : start + WORD]
            if self.now[offset + start : offset + start + WORD] != word:
                self.pieces.append((offset + start, word))
                self._place(offset + start, word)

    def _place(self, offset: int, content: bytes) -> None:
        stop = offset + len(content)
        if stop > len(self.now):
            self.grow(stop)
        self.now[offset:stop] = content

    def grow(self, length: int) -> None:
        if length > len(self.now):
            self.pieces.append((None, length, False))
            self.now.extend(bytes(length - len(self.now)))

    def truncate(self, length: int) -> None:
        if length < len(self.now):
            self.pieces.append((None, length, True))
            del self.now[length:]
        self.grow(length)

    def settle(self, pieces: list) -> None:
        self.certain = self.holding(pieces)

    def group_of(self, number: int, piece) -> object:
        """Its sector, or its length: either is on the disk as of some moment."""
        return None if piece[0] is None else piece[0] // SECTOR

    def holding(self, pieces: list) -> bytes:
        """Return the content if of what is pending only `pieces` arrived."""
        content, size = bytearray(self.certain), len(self.certain)
        for offset, *rest in pieces:
            if offset is None:
                size, is_cut = rest
                if is_cut:
                    del content[size:]
                continue
            (part,) = rest
            if offset + len(part) > len(content):
                content.extend(bytes(offset + len(part) - len(content)))
            content[offset : offset + len(part)] = part
        return bytes(content[:size]).ljust(size, b"\0")


class Directory(Thing):
    """Names; a piece maps the names that one call changed to what they are of then, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.certain: dict[str, Thing] = {}
        self.now: dict[str, Thing] = {}

    def change(self, names: dict[str, Thing | None]) -> None:
        self.pieces.append(names)
        self.now = _changed(self.now, [names])

    def settle(self, pieces: list) -> None:
        self.certain = self.holding(pieces)

    def group_of(self, number: int, piece) -> object:
        """Each change of names is by itself."""
        return number

    def holding(self, pieces: list) -> dict[str, Thing]:
        """Return the names if of what is pending only `pieces` arrived."""
        return _changed(self.certain, pieces)


def _changed(names: dict[str, Thing], pieces: list[dict[str, Thing | None]]) -> dict[str, Thing]:
    names = dict(names)
    for piece in pieces:
        for name, thing in piece.items():
            if thing is None:
                names.pop(name, None)
            else:
                names[name] = thing
    return names


class Disk:
    """The files and directories below the first directory of a trace."""

    def __init__(self, is_incidental: Callable[[str], bool] = lambda _: False) -> None:
        """Begin with nothing.

        Args:
            is_incidental: tells by its path a file on which little depends, so
                that its pieces are drawn by lot, while those of all others are
                gone through.
        """
        self._is_incidental = is_incidental
        self._things: dict[int, Thing] = {}  # by inode
        self._root_path = ""
        self._root = Directory()

    def begin_with(self, tree: Tree, inodes: dict[str, int]) -> None:
        """Begin with what lay below the root before the trace, all of it certain; by path, parents first."""
        for path, content in tree.items():
            thing: Thing = Directory() if content is None else File()
            if isinstance(thing, File):
                thing.certain, thing.now = content, bytearray(content)
            directory, name = self._find_below(path)
            directory.certain[name] = directory.now[name] = thing
            self._things[inodes[path]] = thing

    # --- One step after another ---------------------------------------------------

    def take(self, step: Step) -> None:
        """Do to the disk what a step did."""
        if step.kind == "NOTE":
            return
        if step.kind in {"CREATE", "MKDIR", "RENAME", "UNLINK", "LINK", "RMDIR"}:
            self._name(step)
            return
        thing = self._things[step.file]
        match step.kind:
            case "WRITE":
                thing.write(step.offset, step.content)
            case "STORE":
                thing.store(step.offset, step.content)
            case "TRUNCATE":
                thing.truncate(step.length)
            case "GROW":
                thing.grow(step.length)
            case "SYNC_BEGIN":
                thing.begin_sync(step.offset)
            case "SYNC_END":
                thing.end_sync(step.offset)

    def _name(self, step: Step) -> None:
        if step.kind == "MKDIR" and not self._root_path:
            self._root_path = step.first
            self._things[step.file] = self._root
            return
        directory, name = self._find(step.first)
        match step.kind:
            case "CREATE" | "MKDIR":
                thing = self._things[step.file] = File() if step.kind == "CREATE" else Directory()
                directory.change({name: thing})
            case "UNLINK" | "RMDIR":
                directory.change({name: None})
            case "LINK":
                other, new = self._find(step.second)
                other.change({new: directory.now[name]})
            case "RENAME":
                other, new = self._find(step.second)
                assert other is directory, "a move between directories is not simulated"
                directory.change({name: None, new: directory.now[name]})

    def _find(self, path: str) -> tuple[Directory, str]:
        return self._find_below(os.path.relpath(path, self._root_path))

    def _find_below(self, path: str) -> tuple[Directory, str]:
        *parents, name = path.split(os.sep)
        directory = self._root
        for parent in parents:
            directory = directory.now[parent]
        return directory, name

    # --- What a power cut leaves ----------------------------------------------------

    def everything(self) -> Tree:
        """Return the disk if all that is pending arrived."""
        return self._tree(lambda thing: thing.pieces)

    def states(self, most: int, dice: random.Random) -> Iterator[Tree]:
        """Yield what a power cut may leave: every choice of pieces if that is at most `most`, else so many of them."""
        primary, incidental = [], []
        for path, thing in self._reachable():
            (incidental if self._is_incidental(path) else primary).append(thing)
        groups = [group for thing in primary for group in thing.groups()]
        for counts in _counts([len(numbers) for _, numbers in groups], most, dice):
            chosen: dict[Thing, list] = {thing: _by_lot(thing, dice) for thing in incidental}
            numbers: dict[Thing, list[int]] = {thing: [] for thing in primary}
            for (thing, group), count in zip(groups, counts, strict=True):
                numbers[thing] += group[:count]
            chosen.update({thing: [thing.pieces[number] for number in sorted(numbers[thing])] for thing in primary})
            yield self._tree(lambda thing, chosen=chosen: chosen.get(thing, []))

    def _reachable(self) -> list[tuple[str, Thing]]:
        """Return each thing that has pending pieces and may have a name, once, with one of the names."""
        found: dict[Thing, str] = {self._root: ""}
        waiting = [self._root]
        while waiting:
            directory = waiting.pop()
            for names in (directory.certain, *directory.pieces):
                for name, thing in names.items():
                    if thing is not None and thing not in found:
                        found[thing] = os.path.join(found[directory], name)
                        if isinstance(thing, Directory):
                            waiting.append(thing)
        return [(path, thing) for thing, path in found.items() if thing.pieces]

    def _tree(self, chosen: Callable[[Thing], list]) -> Tree:
        tree: Tree = {}

        def walk(directory: Directory, path: str) -> None:
            for name, thing in directory.holding(chosen(directory)).items():
                below = os.path.join(path, name)
                if isinstance(thing, Directory):
                    tree[below] = None
                    walk(thing, below)
                else:
                    tree[below] = thing.holding(chosen(thing))

        walk(self._root, "")
        return tree


def _counts(lengths: list[int], most: int, dice: random.Random) -> Iterator[Sequence[int]]:
    """Yield how many pieces of each group are there: every combination if that is at most `most`, else so many.

    Those are none, all, all but one group, and what falls by lot.
    """
    if math.prod(length + 1 for length in lengths) <= most:
        yield from itertools.product(*(range(length + 1) for length in lengths))
        return
    yield [0] * len(lengths)
    yield lengths
    for number in range(most - 2):
        if number % 2:
            gap = dice.randrange(len(lengths))
            yield [dice.randrange(length) if at == gap else length for at, length in enumerate(lengths)]
        else:
            share = dice.choice((0.1, 0.5, 0.9))
            yield [
                length if dice.random() < share else dice.randrange(length + 1) if dice.random() < 0.5 else 0
                for length in lengths
            ]


def _by_lot(thing: Thing, dice: random.Random) -> list:
    """Return the pieces up to somewhere, and of some groups less."""
    stop = dice.choice((len(thing.pieces), dice.randrange(len(thing.pieces) + 1)))
    there = set()
    for _, numbers in thing.groups():
        early = [number for number in numbers if number < stop]
        there.update(early if dice.random() < 0.7 else early[: dice.randrange(len(early) + 1)])
    return [piece for number, piece in enumerate(thing.pieces) if number in there]


# --- Directories ----------------------------------------------------------------------


def lay_out(tree: Tree, root: str) -> None:
    """Make a directory `root` that holds `tree`."""
    os.mkdir(root)
    for path, content in tree.items():
        if content is None:
            os.mkdir(os.path.join(root, path), 0o700)
            continue
        fd = os.open(os.path.join(root, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, content)
        os.close(fd)


def inodes_of(tree: Tree, root: str) -> dict[str, int]:
    """Return the inode of each file and directory of `tree`, which was laid out in `root`."""
    return {path: os.stat(os.path.join(root, path)).st_ino for path in tree}


def read_tree(root: str) -> Tree:
    """Return what a directory holds."""
    tree: Tree = {}
    for place, directories, files in os.walk(root):
        for name in directories:
            tree[os.path.relpath(os.path.join(place, name), root)] = None
        for name in files:
            with open(os.path.join(place, name), "rb") as file:
                tree[os.path.relpath(os.path.join(place, name), root)] = file.read()
    return tree
