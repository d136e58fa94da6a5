"""`open`: without a URL the application's own store, with one that store or none."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

import sharedstate
from sharedstate.model import Durability, Scope
from sharedstate.shortfalls import list_shortfalls

if TYPE_CHECKING:
    from pathlib import Path

MANY_PROCESSES = """
import sharedstate.deployment.detection as detection
from sharedstate.deployment.model import MANY, Certainty, Fact

found = detection.detect()
seen = found._replace(processes=Fact(4, Certainty.KNOWN, "planted"), recycled=Fact(True, Certainty.KNOWN, "planted"))
detection.detect = lambda environ=None: seen
"""


def run(code: str, path: Path, **environ: str) -> str:
    """What the program prints; it runs as the script app.py in `path`."""
    script = path / "app.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_script_gets_memory(tmp_path: Path) -> None:
    """One process, one interpreter: nothing is left behind."""
    assert run("import sharedstate; print(sharedstate.open().url)", tmp_path).startswith("memory:app-")


def test_all_processes_of_an_application_get_one_store(tmp_path: Path) -> None:
    """Two runs of one script meet in one store; another script gets another one (O2)."""
    code = MANY_PROCESSES + "import sharedstate; s = sharedstate.open(); print(s.url, s.increment('n'))"
    (tmp_path / "other").mkdir()

    answers = [run(code, tmp_path), run(code, tmp_path), run(code, tmp_path / "other")]

    urls = [answer.split()[0] for answer in answers]
    try:
        assert [answer.split()[1] for answer in answers] == ["1", "2", "1"]
        assert urls[0] == urls[1] != urls[2]
        assert all(url.startswith("shm://app-") for url in urls)
    finally:
        for url in set(urls):
            sharedstate.remove(url)


def test_the_environment_names_the_store(tmp_path: Path) -> None:
    """SHAREDSTATE_URL takes the choice from the program, but not from a program that names its store."""
    code = "import sharedstate; print(sharedstate.open().url, sharedstate.open(name='x').url)"

    said = run(code, tmp_path, SHAREDSTATE_URL=f"file:{tmp_path}/state")

    assert said == f"file:{tmp_path}/state memory:x"


def test_narrow_store_is_refused_where_many_serve(tmp_path: Path) -> None:
    """ScopeError names the URL to use instead; with allow_narrow it opens, and is listed while it is open (O3)."""
    name = f"narrow-{uuid4().hex}"
    code = f"""{MANY_PROCESSES}
import sharedstate
from sharedstate.shortfalls import list_shortfalls

try:
    sharedstate.open("memory:{name}")
except sharedstate.ScopeError as error:
    print("shm://{name}" in error.advice, "planted" in error.needed)
listed = lambda: sum(sharer.facts["url"] == "memory:{name}" for sharer in list_shortfalls())
with sharedstate.open("memory:{name}", allow_narrow=True) as store:
    store["k"] = 1
    print(store["k"], listed())
print(listed())
"""
    assert run(code, tmp_path).split() == ["True", "True", "1", "1", "0"]
    assert name not in str(list_shortfalls())


def test_a_store_that_suffices_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """shm:, file: and sqlite: serve every deployment of one host: opening one by URL looks at no deployment."""
    url = f"shm://asks-nobody-{uuid4().hex}?size=8MiB"
    sharedstate.open(url).close()  # what a handle says of itself is found out before

    def fail(environ: object = None) -> None:
        raise AssertionError(environ)

    monkeypatch.setattr("sharedstate.deployment.detection.detect", fail)
    with sharedstate.open(url) as store:
        assert store.choice is None
    sharedstate.remove(url)


def test_name_and_url_exclude_each_other() -> None:
    """One of them would be ignored: UrlError."""
    with pytest.raises(sharedstate.UrlError, match="beside the URL"):
        sharedstate.open("memory:x", name="y")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "x" * 101, "-x"])
def test_bad_names_are_refused(name: str) -> None:
    """What no backend could use as a name is refused before anything is chosen."""
    with pytest.raises(sharedstate.UrlError):
        sharedstate.open(name=name)


def test_choice_says_why() -> None:
    """`store.choice` holds the needs and all options."""
    with sharedstate.open(name=f"why-{uuid4().hex}", scope=Scope.HOST, durability=Durability.BOOT) as store:
        assert store.choice is not None
        assert store.choice.url == store.url
        assert store.choice.needs.scope is Scope.HOST
        assert "because the caller asked for scope HOST" in store.choice.explain()
    sharedstate.remove(store.url)
