"""docs/guarantees.md and docs/security.md name tests that exist, and whoever names one in vain is told."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], os.path.join(ROOT, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guarantees = load("scripts/guarantees.py")
report = load("tests/torture/campaign/report.py")


@pytest.fixture
def tree(tmp_path: Path) -> Any:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_one.py").write_text("def test_that_it_holds(): ...\ndef test_other(): ...\n")
    (tmp_path / "tests" / "unit" / "judges.py").write_text("def judge(): ...\n")
    (tmp_path / "tests" / "native.c").write_text("int main(void);\n")
    return guarantees.Tree(str(tmp_path))


def test_every_promise_names_tests_that_exist() -> None:
    text = guarantees.read_documents()

    assert guarantees.missing_in(text, guarantees.Tree()) == []
    assert len(guarantees.names_in(text)) > 100


@pytest.mark.parametrize(
    "name", ["test_one.py", "tests/unit/test_one.py", "test_that_it_holds", "judges.py", "native.c"]
)
def test_what_exists_is_found(tree: Any, name: str) -> None:
    assert guarantees.missing_in(f"tried by `{name}`", tree) == []


@pytest.mark.parametrize("name", ["test_two.py", "tests/crash/test_one.py", "test_that_it", "other.c", "one.py"])
def test_what_does_not_exist_is_told(tree: Any, name: str) -> None:
    assert guarantees.missing_in(f"tried by `{name}`", tree) == [name]


def test_a_test_that_did_not_pass_proves_nothing(tree: Any) -> None:
    """A file needs one of its tests; what holds no test needs none."""
    text = "`test_one.py`, `test_that_it_holds`, `judges.py`"

    assert guarantees.unproved_in(text, tree, {"test_that_it_holds"}) == []
    assert guarantees.unproved_in(text, tree, {"test_other"}) == ["test_that_it_holds"]
    assert guarantees.unproved_in(text, tree, set()) == ["test_one.py", "test_that_it_holds"]


# --- Figures of the torture campaign ------------------------------------------------


def test_rows_of_one_experiment_are_added_up() -> None:
    rows = [
        {"experiment": "kills", "subject": "shm", "bad": 0, "figures": {"kills": 2, "seconds": 1.5}},
        {"experiment": "kills", "subject": "file", "bad": 1, "figures": {"kills": 5}},
        {"experiment": "kills", "subject": "shm", "bad": 2, "figures": {"kills": 3}},
    ]

    assert report.sum_up(rows) == [
        {"experiment": "kills", "subject": "shm", "bad": 2, "figures": {"kills": 5, "seconds": 1.5}},
        {"experiment": "kills", "subject": "file", "bad": 1, "figures": {"kills": 5}},
    ]


def test_table_in_the_document_is_made_from_the_report() -> None:
    """Neither can be changed alone."""
    with open(report.REPORT, encoding="utf-8") as file:
        kept = json.load(file)
    with open(report.DOCUMENT, encoding="utf-8") as file:
        text = file.read()

    assert report.replace_table(text, report.make_table(kept)) == text


def test_document_without_the_comments_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="end of torture figures"):
        report.replace_table("<!-- torture figures: made by `make torture` -->", "")
