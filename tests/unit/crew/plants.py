"""Bugs, planted into the process or interpreter that calls `plant`: each is one that this package could have had."""

from __future__ import annotations

import os
import time

from sharedstate.coordination import claims, leader, rate_limit, runs, semaphore, snapshot, task, tasks
from sharedstate.model import ABSENT

monotonic_ns = time.monotonic_ns


def plant(bug: str) -> None:
    """Plant a bug by its name; "" plants none."""
    if bug:
        BUGS[bug]()


def linger() -> None:
    """Hold what is held for a moment, so that whoever may not hold it too has a chance to."""
    time.sleep(0.0005)


def pause(at_most_s: float) -> None:
    """Let others go first, for a random while."""
    time.sleep(os.urandom(1)[0] / 255 * at_most_s)


def _write_without_comparing(store, key, value, expected, ttl_s=None):
    time.sleep(0.0005)  # the bug's width
    store.set(key, value, ttl_s)
    return store.generation(key)


class _Careless:
    """A store whose compare_and_set compares nothing."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def compare_and_set(self, key, value, expected, ttl_s=None):
        return _write_without_comparing(self._store, key, value, expected, ttl_s)


def _careless(kind):
    """Have a class use a careless store."""
    make = kind.__init__

    def init(self, store, *arguments, **options):
        make(self, _Careless(store), *arguments, **options)

    kind.__init__ = init


def _claim_by_timeout():
    judge = claims.Living.holds

    def holds(self, owner, claim):
        first = _seen.setdefault(claim, time.monotonic())
        return judge(self, owner, claim) and time.monotonic() - first < 0.05

    claims.Living.holds = holds


_seen = {}


def _unfenced():
    def verified(self, value):
        return value if value is not None else {**_last[self.id]}

    look = task.Task.__init__

    def init(self, **options):
        _last[options["task_id"]] = options["entry"]
        look(self, **options)

    task.Task.__init__ = init
    task.Task._verified = verified


_last = {}


def _immortal():
    claims.Living.holds = lambda self, owner, claim: True


def _anybody_is_dead():
    claims.Living.holds = lambda self, owner, claim: False


def _done_before_the_body():
    def run_late(journal, lock, fn):
        claim = claims.Claim(journal.store)
        journal.begin(claim)
        run = journal.end(claim, "done", "")
        return run._replace(ran=True, result=fn())

    runs._run = run_late


def _without_lock():
    class _NoLock:
        url = name = ""

        def acquire(self, timeout_s=None):
            return 1

        def is_held(self):
            return True

        def release(self):
            pass

    class _Lockless(_Careless):
        def lock(self, name, timeout_s=None):
            return _NoLock()

    locked = runs.once
    runs.once = lambda store, *arguments, **options: locked(_Lockless(store), *arguments, **options)


def _effects_beside():
    """Checkpoint first, then have the effects in a commit of their own."""
    checkpoint = task.Task.checkpoint

    def beside(self, state, effects=None):
        checkpoint(self, state)
        if effects is not None:
            time.sleep(0.0005)
            self._journal.store.transact(effects)

    task.Task.checkpoint = beside


def _fixed_window():
    """Count in windows that start anew, as an increment with a time to live does."""

    def hit(self, subject=""):
        key = self._key(subject)
        count = self._store.increment(key, ttl_s=self._period_ns / 1e9)
        return rate_limit.Decision(count <= self._limit, 0, 0.0)

    rate_limit.RateLimit.hit = hit


def _refreshed_each_second():
    def value(self):
        now = time.monotonic()
        if now - _read_at.get(id(self), -9) > 1:
            _read_at[id(self)] = now
            self._seen = (ABSENT, snapshot.frozen(self._store.get(self._key, self._default)))
        return self._seen[1]

    snapshot.Snapshot.value = property(value)


_read_at = {}

BUGS = {
    "claim-without-comparing": lambda: _careless(tasks.Tasks),
    "claim-by-timeout": _claim_by_timeout,
    "claim-from-the-living": _anybody_is_dead,
    "never-claim-from-the-dead": _immortal,
    "write-unfenced": _unfenced,
    "effects-beside-the-checkpoint": _effects_beside,
    "once-without-lock": _without_lock,
    "once-without-history": lambda: setattr(runs, "_KEPT", 1),
    "once-done-before-the-body": _done_before_the_body,
    "lead-without-comparing": lambda: _careless(leader.Leader),
    "permits-without-comparing": lambda: _careless(semaphore.Semaphore),
    "hits-without-comparing": lambda: _careless(rate_limit.RateLimit),
    "fixed-window": _fixed_window,
    "snapshot-by-time": _refreshed_each_second,
}
