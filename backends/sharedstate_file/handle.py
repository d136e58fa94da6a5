"""One handle's state: what it has seen of the log, and how it follows and extends it.

The verbs, in `sharedstate_file.backend`, stand on three methods: `_catch_up`
before a read that finds the word changed, and `_refresh` and `_append` inside
the writers' section.

Thread safety: as each method says.

Invariants:
    B1  `_entries` is what the log says up to `_seen`, whenever the head's word
        is `_seen`: entries change only after the word has moved away from it,
        and `_seen` follows when they are complete
    B2  `_mark` (word, generation) is where catching up begins, and moves with
        each frame; applying that one twice does no harm (two would: a touch, and
        the delete after it), so an exception between any two steps does none
    B3  `_entries`, `_log`, `_mark` and `_seen` change under the index lock; of
        reads only a catch-up takes it, never one that finds its word
    B4  the lock is re-entrant, for a finalizer or a signal handler that reads
        while its own thread is inside.  That one changes no entries which the
        outer call is amid (`_walked`): it reads the log anew
Fork: a hot read needs no check.  If another thread was changing entries at the
    fork, then by B1 the word in the child's shared mapping is not `_seen`, and
    never will be again (H1); the read catches up, and that does check.
Crash: what a killed writer wrote is adopted if it is whole, and else cut, by
    the next writer.
"""

from __future__ import annotations

import os
from time import time as _now

from sharedstate.backend import tell, translate_os_error
from sharedstate.errors import (
    CapacityError,
    ClosedError,
    CorruptError,
    StateError,
    UnavailableError,
)
from sharedstate.values import encode
from sharedstate_file.compaction import FLOOR_BYTES, LITTLE_BYTES, Draft, due_at
from sharedstate_file.durability import SharedSync, sync_log
from sharedstate_file.head import ALL_ONES, LENGTH_MASK, REMOVED, Head, length_of, number_of, word_of
from sharedstate_file.index import apply, follow, live_bytes, load, replay
from sharedstate_file.log import FRAME_BYTES, MAX_PAYLOAD_BYTES, Log
from sharedstate_file.recovery import mend

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn, TypeVar

    from sharedstate_file.index import Entries, Stored
    from sharedstate_file.place import Place
    from sharedstate_file.writers import WriterLock

    _T = TypeVar("_T")

__all__ = ["Handle"]

_TRIES: Final = 100
_ROUNDS: Final = 8  # of copying while others write on: they may be as fast
_NOWHERE: Final = (0, 0)  # a mark in no log


class _Closed:
    """What a closed handle has in place of the head's words."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __getitem__(self, _: int) -> NoReturn:
        raise ClosedError(url=self._url)


class _ClosedEntries(dict[str, "Stored"]):
    """What it has in place of the entries, for a read in another thread that had found its word."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def get(self, *_: Any) -> NoReturn:
        """Refuse."""
        raise ClosedError(url=self._url)

    def copy(self) -> NoReturn:
        """Refuse."""
        raise ClosedError(url=self._url)


class Handle:
    """The entries as last seen, and the way to the newest."""

    def __init__(self, place: Place, writers: WriterLock, head: Head, is_synced: bool) -> None:
        self.url = place.url
        self._place = place
        self._writers = writers
        self._head = head
        self._disk = SharedSync(place.url, head) if is_synced else None
        self._words: memoryview | _Closed = head.words
        self._compactions_failed = 0
        self._is_due = False  # whether a writer came to a length of log at which compaction may pay
        self._entries: Entries
        self._log: Log
        self._walked: Entries | None = None  # those that a call of this handle is amid
        self._mark: tuple[int, int]
        self._seen: int
        self._due_at: int  # the length of log at which a writer looks whether compaction pays
        self._is_tidy: bool  # whether leftover files were looked for since this log became current
        with writers.index():
            self._load()

    def close(self) -> None:
        """Give the descriptors back."""
        if not isinstance(self._words, _Closed):
            self._writers.close()
            if self._disk is not None:
                self._disk.close()
            self._words = _Closed(self.url)
            # What a get in another thread is using goes with its last reference.
            self._entries = _ClosedEntries(self.url)

    def _live(self, key: str) -> Stored | None:
        """Return what is known of `key`, None if it is absent or expired; any thread."""
        stored = self._entries.get(key)
        if stored is None or (stored[3] is not None and stored[3] <= _now()):
            return None
        return stored

    # --- Catching up --------------------------------------------------------

    def _catch_up(self) -> None:
        """Bring the entries up to the head's word; any thread."""
        with self._writers.index():
            while (word := self._words[0]) != self._seen:
                if word == REMOVED:
                    raise self._place.gone()
                entries, log, mark = self._entries, self._log, self._mark  # of one moment: nothing is called between
                if number_of(word) != number_of(mark[0]) or entries is self._walked:
                    self._load()
                    return
                try:
                    self._walked = entries
                    # Else a read of this thread, by a signal handler or a finalizer, came in between (B4).
                    if self._entries is entries and self._mark is mark:
                        self._follow(word, entries, log, mark)
                finally:
                    self._walked = None

    def _follow(self, word: int, entries: Entries, log: Log, mark: tuple[int, int]) -> None:
        last, generation = mark
        if word < last:
            raise log.damaged(length_of(word), f"the head's word went back from {length_of(last)} to here")
        for payload, stop in log.frames(length_of(last), length_of(word)):
            generation = follow(entries, payload, generation, log, stop)
            mark = (word_of(log.number, stop), generation)
            if self._entries is not entries:
                return  # B4: a read that came in between knows more
            self._mark = mark
        if self._entries is entries:
            self._seen = word

    def _snapshot(self) -> Entries:
        """Return a copy of the entries as of one moment; any thread."""
        with self._writers.index():
            self._catch_up()
            return self._entries.copy()

    def _load(self) -> None:
        """Read the current log from its beginning."""
        for _ in range(_TRIES):
            word = self._words[0]
            if word == REMOVED:
                raise self._place.gone()
            try:
                log = self._place.open_log(number_of(word))
            except FileNotFoundError:
                if self._words[0] != word:
                    continue  # compacted again between the two lines
                if not os.path.exists(self._place.lock):
                    raise self._place.gone() from None
                path = self._place.log(number_of(word))
                raise CorruptError(url=self.url, reason=f"{path}, which the head names, is missing") from None
            entries, generation = load(log, length_of(word))
            self._mark, self._seen = _NOWHERE, 0  # until all of it is changed: what interrupts this line reads anew
            self._entries = entries
            self._enter_log(log, word, generation)
            return
        raise UnavailableError(url=self.url, reason="it is compacted all the time", advice="Try again.")

    def _enter_log(self, log: Log, word: int, generation: int) -> None:
        """Go on behind `word` in another log, which the entries were brought up to."""
        self._log = log
        self._is_tidy = False
        self._due_at = 0  # looked at by the first write; a reader need not know
        self._mark = (word, generation)
        self._seen = word

    # --- Writing ------------------------------------------------------------

    def _run(self, body: Callable[[], _T]) -> _T:
        """Return what `body` returns inside the writers' section; with sync=disk, when it is on disk.

        Raises:
            OutcomeUnknownError: it could not be synced.
        """
        if self._disk is None:
            result = self._writers.run(body)
        else:
            if self._disk.is_doubtful(self._log):
                self._writers.run(self._renew)
            result = self._writers.run(body)
            self._disk.wait(self._log, self._mark[0])  # which other threads may have moved on, never back
        if self._is_due:
            self._consider_compaction()
        return result

    def _renew(self) -> None:
        """Go on with a new log after one that the disk refused (D5)."""
        self._refresh()
        if self._head.is_doubtful(self._log.number):
            try:
                self._start_anew(_now())
            except OSError as error:
                if isinstance(error, StateError):
                    raise
                raise translate_os_error(self.url, error) from error

    # --- Inside the writers' section ----------------------------------------

    def _refresh(self) -> None:
        """Catch up, and set right what a killed writer left."""
        if self._words[0] != self._seen or self._mark[0] != self._seen:
            self._catch_up()
            if self._mark[0] != self._seen:
                self._load()
        if not self._writers.is_current():
            raise self._place.gone()
        # Not fstat, which would tell size and links at once: once a file's times
        # were asked for, the kernel writes its inode anew at the next write, and
        # that costs more than everything else here.
        if os.lseek(self._log.fd, 0, os.SEEK_END) != self._seen & LENGTH_MASK or not self._is_tidy:
            self._mend()

    def _mend(self) -> None:
        word, generation = self._mark
        try:
            due = mend(self._place, self._head, self._log, word, generation)
            if due != word:
                self._head.store(due)
                self._catch_up()
            self._place.drop_logs(keep=number_of(due))
            self._place.drop_copy_of_the_dead()
        except FileNotFoundError as error:
            raise CorruptError(url=self.url, reason=f"{error.filename} is missing") from error
        except OSError as error:
            if isinstance(error, StateError):
                raise
            raise translate_os_error(self.url, error) from error
        self._is_tidy = True

    def _append(self, operations: list[list[Any]]) -> int:
        """Write one transaction; return the generation before it."""
        word, generation = self._mark
        log = self._log
        end = word & LENGTH_MASK
        payload = encode([generation, *operations])
        if len(payload) > MAX_PAYLOAD_BYTES or end + FRAME_BYTES + len(payload) > LENGTH_MASK:
            reason = f"{len(payload)} bytes more than a transaction, or the log, can hold"
            raise CapacityError(url=self.url, reason=reason, advice="Split it, or delete something.")
        try:
            stop = log.append(payload, end)
        except OSError as error:
            raise translate_os_error(self.url, error) from error
        word += stop - end
        words = self._head.words
        words[0] = word
        words[1] = word ^ ALL_ONES
        self._head.changed.ring()
        if replay(self._entries, payload, generation) < 0:
            apply(self._entries, operations, generation, log, stop)
        self._mark = (word, generation + len(operations))
        self._seen = word
        if stop > self._due_at:
            self._is_due = True
        return generation

    # --- Compaction ---------------------------------------------------------

    def _consider_compaction(self) -> None:
        """Compact if that pays; the write that led here is done, and must not be reported as refused."""
        self._is_due = False
        try:
            if not self._pays():
                return
            turn = self._place.compactors_lock()
            if not turn.try_acquire():
                return  # somebody is at it
            try:
                self._compact()
            finally:
                turn.release()
        except Exception as error:  # noqa: BLE001  no room, no descriptor, no memory: the log only goes on growing
            self._compactions_failed += 1
            tell("store.compaction_failed", store=self.url, error=f"{type(error).__name__}: {error}")

    def _pays(self) -> bool:
        """Return whether enough of the log is dead; if not, `_due_at` says when it may be."""
        with self._writers.index():
            log, (word, generation) = self._log, self._mark
            _, live = live_bytes(self._entries, _now())
        length = length_of(word)
        self._due_at = due_at(length, live)
        if length < self._due_at or generation == log.base:  # V2: the new log's base is to be greater
            return False
        self._due_at = length + FLOOR_BYTES  # unless it comes to an end
        return True

    def _compact(self) -> None:
        """Go on with a new log; others write on meanwhile, but for a moment at the end."""
        with self._writers.index():
            entries, log, (word, generation) = self._entries.copy(), self._log, self._mark
        draft = Draft(self._place, self._place.copy, entries, generation, _now())
        try:
            draft.sync()
            for _ in range(_ROUNDS):
                last = self._words[0]
                if number_of(last) != log.number or last - word <= LITTLE_BYTES:
                    break
                draft.copy(log, length_of(word), length_of(last))
                draft.sync()
                word = last
            sync_log(self._head, log)  # most of what `succeed` would have others wait for
            self._writers.run(lambda: self._succeed(draft, entries, log, word))
        finally:
            draft.discard()

    def _succeed(self, draft: Draft, snapshot: Entries, log: Log, copied: int) -> None:
        """Copy what is left, and go on with the draft; inside the writers' section."""
        self._refresh()
        if self._log is not log or not draft.is_named():
            return  # somebody had to start anew
        entries = self._entries
        word, generation = self._mark
        draft.copy(log, length_of(copied), length_of(word))
        heirs_word = draft.succeed(self._head, log, word, generation)
        if self._entries is not entries:
            return  # closed meanwhile, or a read that interrupted this one has read the new log
        if not draft.is_alike:
            self._mark, self._seen = _NOWHERE, 0  # who next reads or writes reads the new log
            return
        # What is known is what was written, so nobody need read it.
        for key in draft.expired:
            if entries.get(key) is snapshot[key]:
                del entries[key]
        self._enter_log(draft.log, heirs_word, generation)

    def _start_anew(self, now: float) -> None:
        """Go on with a new log, made while all others wait: after one that the disk refused."""
        word, generation = self._mark
        entries = self._entries
        if isinstance(entries, _ClosedEntries):
            return  # by a signal handler, amid this write: they say nothing of the store
        draft = Draft(self._place, self._place.draft, entries, generation + 1, now)
        try:
            draft.succeed(self._head, self._log, word, generation)
        finally:
            draft.discard()
        if self._entries is entries:
            self._catch_up()
