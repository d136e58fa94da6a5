"""The reference in docs/reference names all that is public."""

import re
from pathlib import Path

import pytest

import sharedstate
import sharedstate.aio
import sharedstate.coordination
import sharedstate.errors

ROOT = Path(__file__).parents[2]
NAMED = {
    name
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}
PUBLIC = {
    *(f"sharedstate.{name}" for name in sharedstate.__all__),
    *(f"sharedstate.aio.{name}" for name in sharedstate.aio.__all__),
    *(f"sharedstate.coordination.{name}" for name in set(sharedstate.coordination.__all__) - set(sharedstate.__all__)),
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_an_entry(name: str) -> None:
    """By itself, or as one of the errors, whose module has an entry as a whole."""
    assert name in NAMED or hasattr(sharedstate.errors, name.rpartition(".")[2])


def test_errors_are_named_as_a_whole() -> None:
    """The entry that the test above leaves them to."""
    assert "sharedstate.errors" in NAMED


def test_every_adapter_has_an_entry() -> None:
    """Each module of sharedstate.contrib whose name is public, Django's two among them."""
    contrib = ROOT / "sharedstate" / "contrib"
    modules = {path.stem for path in contrib.glob("*.py") if not path.stem.startswith("_")} | {
        "django.cache",
        "django.sessions",
    }

    assert {f"sharedstate.contrib.{module}" for module in modules} <= NAMED
