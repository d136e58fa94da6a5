"""A crew that is smaller than its server says is told of, and nobody cries without reason."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import sharedstate
from sharedstate import rendezvous
from sharedstate.deployment.detection import detect
from sharedstate.deployment.model import Certainty, Fact
from sharedstate.model import Owner, Sharer
from sharedstate.rendezvous import SharersMissingWarning, gather_crews, look_around

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharedstate.deployment.model import Deployment


def sharer(pid: int, interpreter: int = 0, **facts: Any) -> Sharer:
    """A handle of a worker of gunicorn's with four, but for `facts`."""
    owner = Owner("boot", pid, 1000 + pid, interpreter, pid, f"{pid:016x}")
    usual = {"server": "gunicorn", "mode": "sync", "processes": 4, "boot": "boot", "supervisor": 7, "started": 70}
    return Sharer(f"{pid:032x}", owner, float(pid), usual | facts)


def test_workers_of_one_supervisor_are_one_crew() -> None:
    """Whatever restart they belong to, and however many interpreters and handles each process has."""
    found = gather_crews([sharer(1), sharer(2, restart="5"), sharer(2, 3), sharer(9, supervisor=8)])

    assert [(crew.supervisor, crew.processes, crew.missing, len(crew.members)) for crew in found] == [
        (7, 2, 2, 3),
        (8, 1, 3, 1),
    ]


def test_who_says_nothing_of_a_server_is_a_crew_alone() -> None:
    """A sharer without facts, or without a supervisor, is nobody's mate."""
    nobody = [Sharer(str(n), Owner("b", n, n, 0, n, ""), 0.0, {}) for n in (1, 2)]

    assert [(crew.processes, crew.missing) for crew in gather_crews(nobody)] == [(1, 0), (1, 0)]


def test_lazy_loaders_are_not_missed() -> None:
    """A mod_wsgi process that has had no request has not loaded the application: nothing is wrong."""
    (crew,) = gather_crews([sharer(1, server="mod_wsgi", mode="daemon")])

    assert crew.announced == 4
    assert crew.missing == 0


@pytest.mark.parametrize("count", ["many", None, 1])
def test_a_number_that_is_not_told_is_not_missed(count: object) -> None:
    """Only a server that says how many it runs can have too few."""
    (crew,) = gather_crews([sharer(1, processes=count)])

    assert crew.missing == 0


# --- Crying --------------------------------------------------------------------


@pytest.fixture
def of_four() -> Deployment:
    """This process, as if its server announced four."""
    return detect()._replace(processes=Fact(4, Certainty.KNOWN, "planted"), server=Fact("x", Certainty.KNOWN, ""))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, of_four: Deployment) -> Iterator[sharedstate.Store]:
    """A store in which this process says that its server announces four."""
    monkeypatch.setattr("sharedstate.deployment.identity.detect", lambda: of_four)
    with sharedstate.open(f"shm://rendezvous-{uuid4().hex}?size=8MiB") as store:
        yield store
    sharedstate.remove(store.url)


def test_a_worker_alone_among_four_warns_once(
    store: sharedstate.Store, of_four: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the store, what was announced, how many came, and where to look; logging is told the same."""
    monkeypatch.setattr(rendezvous, "_SETTLED_AFTER_S", -1.0)

    with pytest.warns(SharersMissingWarning, match=r"announces 4 workers \(planted\), but only 1 share") as caught:
        look_around(store, of_four)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look_around(store, of_four)

    assert len(caught) == 1
    assert f"sharedstate who {store.url}" in str(caught[0].message)
    (record,) = caplog.records
    facts = {"event": "deployment.sharers_missing", "store": store.url, "server": "x", "announced": 4, "present": 1}
    assert record.__dict__.items() >= facts.items()


def test_a_server_that_has_just_started_is_given_time(store: sharedstate.Store, of_four: Deployment) -> None:
    """The others may yet have to come: no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rendezvous._SETTLED_AFTER_S, kept = 1e9, rendezvous._SETTLED_AFTER_S
        try:
            look_around(store, of_four)
        finally:
            rendezvous._SETTLED_AFTER_S = kept


def test_most_of_the_crew_is_enough(
    store: sharedstate.Store, of_four: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four are there: one is being replaced, say; no warning."""
    monkeypatch.setattr(rendezvous, "_SETTLED_AFTER_S", -1.0)
    mine = next(crew.members[0] for crew in gather_crews(store.sharers()))
    others = [mine._replace(owner=mine.owner._replace(pid=pid)) for pid in (1, 2)]
    monkeypatch.setattr(store, "sharers", lambda: [mine, *others])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look_around(store, of_four)
