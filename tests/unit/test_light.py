"""What `import sharedstate` and opening a store cost a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = [
    "click",
    "contextlib",
    "dataclasses",
    "datetime",
    "importlib.metadata",
    "inspect",
    "logging",
    "multiprocessing",
    "msgpack",
    "portalocker",
    "re",
    "redis",
    "rich",
    "sqlite3",
    "sqlite_utils",
    "threading",
    "typing",
    "urllib",
]
"""What each fresh interpreter would pay for again; several crash isolated interpreters of CPython 3.12.1 and 3.13.0."""

PROGRAM = """
import sys
before = set(sys.modules)
import sharedstate
store = sharedstate.open({url!r})
store["k"] = {{"n": (1, 2.5, None)}}
store.get("k"), store.increment("n"), store.read("k"), len(store), list(store)
with store.lock("l"):
    pass
with store.transaction() as tx:
    tx["n"] += 1
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("scheme", ["memory", "shm", "file", "sqlite"])
def test_using_a_store_loads_nothing_heavy(scheme: str, tmp_path: object) -> None:
    """Import, open, read, write, lock and commit load none of the modules that cost, or crash, an interpreter."""
    import sharedstate
    from sharedstate.registry import find_plugin, parse_url

    url = find_plugin(parse_url(f"{scheme}:any")).temporary_url(str(tmp_path))

    # -S: no site-packages' .pth file loads anything on its own account.
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n" + PROGRAM.format(url=url)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    loaded = run.stdout.split()
    assert "sharedstate" in loaded
    assert [name for name in HEAVY if name in loaded] == []
    if scheme != "memory":
        sharedstate.remove(url)
