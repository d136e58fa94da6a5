"""What the pages show works when pasted.

Each block of Python in a page is run by itself, in a fresh interpreter.  What
stands after a line `<!-- fragment -->` is a part of the reader's own program:
it is compiled, and no more.  Pages of `>>>` lines have tests of their own, and
so has the tutorial (tests/servers/test_tutorial.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import sharedstate

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- fragment -->\n)?```python([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    page: str
    is_fragment: bool
    title: str
    code: str


def snippets_of(page: str, text: str) -> list[Snippet]:
    """Return a page's blocks of Python, but for those of `>>>` lines."""
    found = [Snippet(page, bool(mark), title.strip(), code) for mark, title, code in BLOCK.findall(text)]
    return [snippet for snippet in found if ">>>" not in snippet.code]


SNIPPETS = [found for path in PAGES for found in snippets_of(str(path.relative_to(ROOT)), path.read_text())]


def install(directory: Path) -> None:
    """Make the project's entry points known there, as an installation would."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = directory / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(code: str, name: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a snippet in an interpreter of its own; `shm://x` in it becomes a store of ours."""
    install(directory)
    return subprocess.run(
        [sys.executable, "-c", code.replace("shm://", f"shm://{name}-")],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def whole() -> list[Snippet]:
    return [snippet for snippet in SNIPPETS if not snippet.is_fragment and not snippet.title]


@pytest.mark.parametrize("snippet", whole(), ids=lambda snippet: snippet.page)
def test_whole_snippets_run(snippet: Snippet, tmp_path: Path) -> None:
    """A block that is not marked as a fragment needs nothing that it does not import."""
    name = f"docs-{os.getpid()}"
    try:
        done = run(snippet.code, name, tmp_path)
    finally:
        for store in re.findall(r"shm://(\w+)", snippet.code):
            if os.path.exists(f"/dev/shm/sharedstate-{name}-{store}.region"):
                sharedstate.remove(f"shm://{name}-{store}")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.page)
def test_every_snippet_compiles(snippet: Snippet) -> None:
    """Also a fragment is Python."""
    compile(snippet.code, snippet.page, "exec")


def test_snippets_are_found() -> None:
    """Of each kind; a mark that the pattern no longer matches would run nothing."""
    assert len(whole()) > 5
    assert any(snippet.is_fragment for snippet in SNIPPETS)


def test_broken_snippet_is_noticed(tmp_path: Path) -> None:
    """One that uses a name which nobody imported fails."""
    (planted,) = snippets_of("page.md", "Text\n```python\nstore = sharedstate.open()\n```\n")

    assert run(planted.code, "planted", tmp_path).returncode == 1
