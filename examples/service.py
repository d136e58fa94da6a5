"""Mailings, each of which is sent to its end, whatever the server does with its processes.

A request for a mailing only writes it down.  In each process and interpreter
that answers requests a thread sends what is written down and nobody is at: so
what a killed process leaves unfinished goes on elsewhere, from its latest
checkpoint, and what a living one is at is left alone.

This module knows no framework and no server.  A front (with_flask.py, say)
calls `start` where it is imported, and answers by `post`, `status` and `page`.
"""

from __future__ import annotations

import html
import os
import threading
import time
from typing import Any

import sharedstate
from sharedstate.coordination import Task

LETTER_S = 0.05  # it takes to send one
LOOK_S = 0.5  # pass at most before a worker finds what another one left unfinished

store = sharedstate.open()  # the one that all processes and interpreters of this application share
mailings = sharedstate.Tasks(store, "mailings")  # those that are not sent to their end
arrived = threading.Event()  # wakes this interpreter's worker


# --- Starting -----------------------------------------------------------------


def start() -> None:
    """Go to work: each front calls this at its module's level, and so once in each import that the server makes."""
    count_naively()
    sharedstate.when_serving(serve)  # now; or in each worker that will be forked from here


def count_naively() -> None:
    """Count what a service would do that resumed, in each import, all that is unfinished."""
    store.increment("starts/module")
    for mailing in mailings.records():
        store.increment(f"naive/{mailing.id}")


def serve() -> None:
    """Have a thread work in this interpreter, which answers requests, until it is told to end."""
    if worker.ident is None:  # else mod_wsgi has run a touched script again, in the same interpreter
        worker.start()
        sharedstate.when_stopping(stop)


def work() -> None:
    """Send what nobody is at."""
    sharedstate.once(store, "start up", start_up, per="server")
    while not sharedstate.is_stopping():
        mailings.resume(send)
        arrived.wait(LOOK_S)
        arrived.clear()


def start_up() -> None:
    """Do what is to be done once in each start of the server, by any one of its workers: here, count it."""
    store.increment("starts/once")


def stop() -> None:
    """Wait until the thread is at a checkpoint, and has ended: mod_wsgi 6 would crash if it went on."""
    arrived.set()
    worker.join()


# Not a daemon, which an interpreter with its own GIL would refuse.
worker = threading.Thread(target=work)


# --- Sending ------------------------------------------------------------------


def send(mailing: Task) -> None:
    """Send what is left of a mailing that is this caller's, and nobody else's."""
    letters = mailing.payload["letters"]
    for number in range(mailing.state or 0, letters):
        if mailing.should_stop():
            mailing.release()  # whoever is next goes on from here
            return
        send_letter(mailing.id, number)
        mailing.checkpoint(number + 1)
    # The end, and what it leaves behind: the store has both or neither.
    result = {"letters": letters, "begun": mailing.attempt}
    mailing.finish(lambda transaction: transaction.set(f"sent/{mailing.id}", result))


def send_letter(name: str, number: int) -> None:
    """Send one letter of a mailing.

    Should the process die before the next checkpoint, it is sent once more: a
    real letter would get its Message-ID from the name and the number.
    """
    time.sleep(LETTER_S)


# --- Answering ----------------------------------------------------------------


def post(name: str, letters: str, *, wait: bool) -> tuple[int, dict[str, Any]]:
    """Accept a mailing, and with `wait` send it at once; return the status and the content of the answer.

    Whoever got no answer may ask again: a mailing that is being sent, or was,
    is not begun anew.
    """
    if not letters.isdecimal() or int(letters) > 10_000:
        return 400, {"error": f"letters is {letters!r} and not a number up to 10000"}

    def accept(transaction: sharedstate.Transaction) -> bool:
        return f"sent/{name}" not in transaction and mailings.add(name, {"letters": int(letters)}, transaction)

    is_new = store.transact(accept)
    mailing = mailings.claim(name) if wait else None  # also None if another is at it
    if mailing is not None:
        with mailing:
            send(mailing)
    arrived.set()
    sent = store.get(f"sent/{name}")
    return 200 if sent else 202, {"name": name, "is_new": is_new, "sent": sent}


def status() -> dict[str, Any]:
    """Return who is at what, what is done, and how often a naive service would have done it."""
    return {
        "server": sharedstate.detect().server.value,
        "store": store.url,
        "answered_by": os.getpid(),
        "starts": {"module": store.get("starts/module", 0), "once": store.get("starts/once", 0)},
        "unfinished": {
            task.id: {
                "status": task.status,
                "by": task.who,
                "begun": task.attempt,
                "sent": task.state or 0,
                **task.payload,
            }
            for task in mailings.records()
        },
        "sent": {key.removeprefix("sent/"): result for key, result in store.items("sent/")},
        "naive": {key.removeprefix("naive/"): count for key, count in store.items("naive/")},
    }


def page() -> str:
    """Return the same for people."""
    now = status()
    rows = [
        (name, f"{one['status']}, {one['by']}", f"{one['sent']} of {one['letters']}", one["begun"])
        for name, one in now["unfinished"].items()
    ]
    rows += [(name, "sent", one["letters"], one["begun"]) for name, one in now["sent"].items()]
    cells = [(*row, now["naive"].get(row[0], 0)) for row in rows]
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}' for cell in row)}" for row in cells)
    return f"""<!doctype html>
<title>Mailings</title>
<p>{now["server"]}, answered by process {now["answered_by"]}; the state is in {html.escape(now["store"])}
<p>The server imported this application <b>{now["starts"]["module"]}</b> times.
<code>once(per="server")</code> ran <b>{now["starts"]["once"]}</b> times.
<table border>
<tr><th>mailing<th>status<th>letters<th>begun<th>would have been begun by a resume at the module's level{table}
</table>
"""
