"""Needs come from what is known of the deployment; the narrowest backend that meets them is chosen, or the cheapest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import sharedstate
from sharedstate.choice import Needs
from sharedstate.deployment.model import MANY, Certainty, Deployment, Fact, unknown
from sharedstate.model import Durability, Scope
from sharedstate.selection import choose, needs_of, store_name


def deployment(**facts: Any) -> Deployment:
    """A script, but for `facts`; None: unknown."""
    usual: dict[str, Any] = {
        "server": "python",
        "version": "3",
        "mode": "script",
        "processes": 1,
        "interpreters": 1,
        "gil": "only",
        "threads": 1,
        "recycled": False,
        "preloaded": False,
        "application": "/srv/shop/app.wsgi",
    }
    made = {
        field: unknown(f"nobody tells {field}") if value is None else Fact(value, Certainty.KNOWN, f"{field} was told")
        for field, value in (usual | facts).items()
    }
    return Deployment(**made)


@pytest.mark.parametrize(
    ("facts", "scope", "durability"),
    [
        ({}, Scope.INTERPRETER, Durability.PROCESS),
        ({"threads": 25}, Scope.INTERPRETER, Durability.PROCESS),
        ({"recycled": True}, Scope.INTERPRETER, Durability.BOOT),
        ({"recycled": None}, Scope.INTERPRETER, Durability.BOOT),
        ({"interpreters": 2}, Scope.PROCESS, Durability.PROCESS),
        ({"interpreters": MANY}, Scope.PROCESS, Durability.PROCESS),
        ({"interpreters": None, "recycled": True}, Scope.PROCESS, Durability.BOOT),
        ({"processes": 5}, Scope.HOST, Durability.PROCESS),
        ({"processes": MANY, "recycled": True}, Scope.HOST, Durability.BOOT),
        ({"processes": None}, Scope.HOST, Durability.PROCESS),
    ],
)
def test_needs_follow_from_the_deployment(facts: dict[str, Any], scope: Scope, durability: Durability) -> None:
    """DESIGN's table; what is unknown counts as the wider."""
    needs = needs_of(deployment(**facts))

    assert (needs.scope, needs.durability) == (scope, durability)
    assert len(needs.reasons) == 2
    for field in facts.keys() & {"processes", "interpreters", "recycled"}:
        if facts.get("processes", 1) == 1 or field != "interpreters":
            assert any(field in reason for reason in needs.reasons), "each need names what it was seen by"


def test_stated_needs_only_widen() -> None:
    """A caller may ask for more than the deployment needs, never for less."""
    wide = deployment(processes=4, recycled=True)

    assert needs_of(wide, Scope.INTERPRETER, Durability.PROCESS)[:2] == (Scope.HOST, Durability.BOOT)
    assert needs_of(deployment(), Scope.HOST, Durability.DISK)[:2] == (Scope.HOST, Durability.DISK)


@pytest.mark.parametrize(
    ("scope", "durability", "scheme"),
    [
        (Scope.INTERPRETER, Durability.PROCESS, "memory"),
        (Scope.INTERPRETER, Durability.BOOT, "shm"),
        (Scope.PROCESS, Durability.PROCESS, "shm"),
        (Scope.HOST, Durability.BOOT, "shm"),
        (Scope.HOST, Durability.DISK, "file"),
    ],
)
def test_narrowest_then_cheapest_is_chosen(
    scope: Scope, durability: Durability, scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Every other backend is there with a reason against it, and the chosen one with none."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    choice = choose(deployment(), Needs(scope, durability), schemes=("sqlite", "shm", "file", "memory"))

    assert choice.options[0].scheme == scheme
    assert choice.url == choice.options[0].url
    assert choice.options[0].reasons_against == ()
    assert sorted(option.scheme for option in choice.options) == ["file", "memory", "shm", "sqlite"]
    assert all(option.reasons_against for option in choice.options[1:])
    assert choice.url in choice.explain()


def test_nothing_suffices_is_said_of_each() -> None:
    """ScopeError names the needs, and for each backend why it is not enough."""
    with pytest.raises(sharedstate.ScopeError) as caught:
        choose(deployment(), Needs(Scope.CLUSTER, Durability.BOOT, ("two hosts",)))

    assert "two hosts" in caught.value.needed
    assert all(f"{scheme}:" in caught.value.advice for scheme in ("file", "memory", "shm", "sqlite"))


def test_a_backend_that_cannot_work_here_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the C module the next one is taken, and the reason is kept."""

    def refuse(url: str) -> None:
        raise sharedstate.BackendMissingError(url=url, reason="no compiler", advice="Install one.")

    monkeypatch.setattr("sharedstate_shm.offer.require_core", refuse)
    monkeypatch.setenv("STATE_DIRECTORY", "/srv/state")

    choice = choose(deployment(processes=4), schemes=("shm", "file", "sqlite"))

    assert choice.url.startswith("file:/srv/state/")
    assert [option.reasons_against for option in choice.options if option.scheme == "shm"] == [
        ("no compiler. Install one.",)
    ]


def test_no_place_for_lasting_state_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where we may not write, the refusal holds the command that an administrator runs."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr("os.access", lambda *_: False)

    with pytest.raises(sharedstate.ScopeError, match="install -d -m 0700 -o"):
        choose(deployment(), Needs(Scope.HOST, Durability.DISK))


def test_each_application_has_a_name_of_its_own() -> None:
    """The name is that of the application and nothing else: not the mount's, the server's or the process's."""
    paths = [f"/srv/{site}/{script}.wsgi" for site, script in itertools.product("abcdefgh", ("app", "wsgi", "Ä b"))]

    names = [store_name(deployment(application=path)) for path in paths]

    assert len(set(names)) == len(paths)
    assert names == [store_name(deployment(application=path, server="gunicorn", processes=9)) for path in paths]
    assert names[0].startswith("app-")
    for name in names:
        assert sharedstate.registry.parse_url(f"shm://{name}").name() == name


def test_without_a_name_nothing_is_guessed() -> None:
    """Two applications would share by accident: the error says how to name the store."""
    with pytest.raises(sharedstate.UnavailableError, match="open\\(name="):
        store_name(deployment(application=None))
