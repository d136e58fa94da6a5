"""What a disk may hold at each moment of a trace, by the rules K1 to K4 of this package.

A `Disk` takes the steps one by one.  Of each file and directory it knows what is
certain, and the pieces that may be there or not: a part of a sector, a length,
one change of names.  A state of the disk is a choice of pieces.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from power.trace import Step

__all__ = ["Disk", "Tree", "lay_out", "read_tree"]

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
        """As `write`, from a mapping: only what differs, and eight bytes at a time (K4)."""
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
        *parents, name = os.path.relpath(path, self._root_path).split(os.sep)
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
        pieces = [(thing, at) for thing in primary for at in range(len(thing.pieces))]
        if 2 ** len(pieces) <= most:
            choices = itertools.product((False, True), repeat=len(pieces))
        else:
            choices = _some(len(pieces), most, dice)
        for choice in choices:
            chosen: dict[Thing, list] = {thing: _by_lot(thing.pieces, dice) for thing in incidental}
            for (thing, at), is_there in zip(pieces, choice, strict=True):
                if is_there:
                    chosen.setdefault(thing, []).append(thing.pieces[at])
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


def _some(count: int, most: int, dice: random.Random) -> Iterator[list[bool]]:
    """Yield choices among `count` pieces: none, all, beginnings with and without a gap, and what falls by lot."""
    yield [False] * count
    yield [True] * count
    for number in range(most - 2):
        kind = number % 4
        if kind == 0:  # up to somewhere
            stop = dice.randrange(count)
            yield [at < stop for at in range(count)]
        elif kind == 1:  # all but one
            gap = dice.randrange(count)
            yield [at != gap for at in range(count)]
        elif kind == 2:  # up to somewhere, but for some of the last ones
            stop = dice.randrange(count + 1)
            yield [at < stop and (at < stop - 6 or dice.random() < 0.6) for at in range(count)]
        else:
            share = dice.choice((0.1, 0.5, 0.9))
            yield [dice.random() < share for _ in range(count)]


def _by_lot(pieces: list, dice: random.Random) -> list:
    """Return the pieces up to somewhere, and with equal odds all of them but a few of the last."""
    pieces = pieces[: dice.randrange(len(pieces) + 1)] if dice.random() < 0.5 else pieces
    return pieces[:-8] + [piece for piece in pieces[-8:] if dice.random() < 0.8]


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
