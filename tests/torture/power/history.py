"""The workloads: what a program does to a store, what the store holds after each step, and what it says of it.

The program notes, on descriptor 1, when it begins a step and when the step has
been acknowledged; `Bounds` reads these notes beside the other steps of a trace.
"""

from __future__ import annotations

import os
import random
import threading

import sharedstate

__all__ = ["Bounds", "contents", "judge_threads", "one_thread", "one_write", "plan", "removal", "several_threads"]

Content = dict[str, tuple[object, bool]]
"""What a store holds: key -> value, and whether it will expire."""

THREADS = 3
LONG_S = 1e6


def _note(text: str) -> None:
    os.write(1, f"{text}\n".encode())


# --- One thread: a list of actions -----------------------------------------------------


def plan(seed: int, count: int) -> list[tuple]:
    """Return `count` actions: sets, deletes, transactions, touches, batches and increments of few keys."""
    dice = random.Random(seed)
    actions: list[tuple] = []
    for number in range(1, count + 1):
        keys = [f"key {dice.randrange(8)}" for _ in range(3)]
        value = (number, "x" * dice.choice((0, 10, 200, 700, 1500)))
        match dice.randrange(8):
            case 0 | 1 | 2:
                actions.append(("set", keys[0], value, dice.random() < 0.3))
            case 3:
                actions.append(("delete", keys[0]))
            case 4:
                actions.append(("touch", keys[0], dice.random() < 0.5))
            case 5:
                actions.append(("batch", dict.fromkeys(keys, value)))
            case 6:
                actions.append(("increment", "total", number))
            case _:
                actions.append(("transact", {keys[0]: value, keys[1]: None, "last": number}))
    return actions


def contents(actions: list[tuple]) -> list[Content]:
    """Return what the store holds before the first action, and after each."""
    states: list[Content] = [{}]
    for action in actions:
        changed = states[-1] | _changes(states[-1], action)
        states.append({key: stored for key, stored in changed.items() if stored[0] is not None})
    return states


def _changes(state: Content, action: tuple) -> Content:
    """Return what an action leaves of the keys that it touches; (None, False) where it leaves nothing."""
    match action:
        case "set", key, value, expires:
            return {key: (value, expires)}
        case "delete", key:
            return {key: (None, False)}
        case "touch", key, expires:
            return {key: (state[key][0], expires)} if key in state else {}
        case "increment", key, by:
            total, expires = state.get(key, (0, False))
            return {key: (total + by, expires)}
        case "batch" | "transact", values:
            return {key: (value, False) for key, value in values.items()}
    raise AssertionError(action)


def perform(store: sharedstate.Store, action: tuple) -> None:
    """Do one action to the store."""
    match action:
        case "set", key, value, expires:
            store.set(key, value, ttl_s=LONG_S if expires else None)
        case "delete", key:
            store.delete(key)
        case "touch", key, expires:
            store.touch(key, LONG_S if expires else None)
        case "batch", values:
            store.set_many(values)
        case "increment", key, by:
            store.increment(key, by)
        case "transact", changes:
            store.transact(lambda tx: _change(tx, changes))


def _change(tx: sharedstate.Transaction, changes: dict) -> None:
    for key, value in changes.items():
        if value is None:
            tx.delete(key)
        else:
            tx[key] = value


def one_thread(url: str, seed: int, count: int) -> None:
    """Open the store, perform the plan, and close it."""
    store = sharedstate.open(url)
    compactions = 0
    for number, action in enumerate(plan(seed, count), 1):
        _note(f"begin 0 {number}")
        perform(store, action)
        _note(f"done 0 {number}")
        found = store.stats().get("compactions", 0)
        if found != compactions:
            compactions = found
            _note(f"compacted 0 {number}")
    store.close()


def one_write(url: str) -> None:
    """Open the store, write once, and close it."""
    with sharedstate.open(url) as store:
        _note("begin 0 1")
        store["after"] = "the first cut"
        _note("done 0 1")


def removal(url: str) -> None:
    """Make a store, write to it, and remove it."""
    with sharedstate.open(url) as store:
        _note("begin 0 1")
        store.set_many({f"key {number}": "x" * 300 for number in range(5)})
        _note("done 0 1")
    _note("begin 0 2")
    sharedstate.remove(url)
    _note("done 0 2")


# --- Several threads: each counts, and all add to one sum ------------------------------


def several_threads(url: str, count: int) -> None:
    """Open the store, and let each thread write its count, a pad and the sum of all counts in one transaction."""
    store = sharedstate.open(url)

    def work(thread: int) -> None:
        for number in range(1, count + 1):

            def step(tx: sharedstate.Transaction, number: int = number) -> None:
                tx[f"count {thread}"] = number
                tx[f"pad {thread}"] = "x" * (number * 97 % 900)
                tx["sum"] = tx.get("sum", 0) + 1

            _note(f"begin {thread} {number}")
            store.transact(step, timeout_s=60)
            _note(f"done {thread} {number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()


def judge_threads(content: Content, bounds: Bounds, is_synced: bool) -> str:
    """Return what is wrong with a content that `several_threads` left, or ""."""
    values = {key: value for key, (value, _) in content.items()}
    counts = [values.get(f"count {thread}", 0) for thread in range(THREADS)]
    for thread, count in enumerate(counts):
        if is_synced and count < bounds.done.get(thread, 0):
            return f"thread {thread} is at {count}, and {bounds.done[thread]} was acknowledged"
        if count > bounds.begun.get(thread, 0):
            return f"thread {thread} is at {count}, which it had not begun"
        if values.get(f"pad {thread}", "") != "x" * (count * 97 % 900):
            return f"the pad of thread {thread} is not that of {count}"
    if values.get("sum", 0) != sum(counts):
        return f"the sum of {counts} is {values.get('sum')}: no state of the history"
    return ""


# --- What a cut may leave --------------------------------------------------------------


class Bounds:
    """How far each thread had come at one moment of the trace.

    Attributes:
        begun: thread -> the last step that it began.
        done: thread -> the last one that was acknowledged.
        compacted: the last acknowledged one behind which the log was compacted.
    """

    def __init__(self) -> None:
        self.begun: dict[int, int] = {}
        self.done: dict[int, int] = {}
        self.compacted = 0

    def take(self, note: bytes) -> None:
        """Read a note."""
        match note.decode().split():
            case "begin", thread, number:
                self.begun[int(thread)] = int(number)
            case "done", thread, number:
                self.done[int(thread)] = int(number)
            case "compacted", _, number:
                self.compacted = int(number)

    def judge(self, content: Content, states: list[Content], is_synced: bool) -> str:
        """Return what is wrong with a content that `one_thread` left, or "".

        Args:
            content: found after the cut.
            states: the history, from `contents`.
            is_synced: nothing acknowledged may be missing; else only what was compacted may not.
        """
        least = self.done.get(0, 0) if is_synced else self.compacted
        most = self.begun.get(0, 0)
        if content in states[least : most + 1]:
            return ""
        at = [number for number, state in enumerate(states) if state == content]
        return f"holds what was there after {at or 'no'} steps, where {least} to {most} are due"
