"""The probe against plug-ins with planted faults: each experiment can fail, and says so by name."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from sharedstate.cli import main
from sharedstate.probe import reproduction, running
from sharedstate.probe.actors import Boundary, Kind, available_kinds
from sharedstate.probe.experiments import QUICK
from sharedstate.probe.findings import Cell, Report, Verdict
from sharedstate.probe.page import render_page
from sharedstate.probe.report import render, summarise
from sharedstate.probe.running import run_probe

if TYPE_CHECKING:
    from pathlib import Path

BASE = """
import json, os, fcntl
from sharedstate.backend import Backend, Lock, LockDirectory, PresenceFiles, add_numbers
from sharedstate.errors import ConflictError, LockTimeoutError
from sharedstate.model import *
from sharedstate.model import Put, DELETE
from sharedstate.values import encode, decode

CAPABILITIES = Capabilities(Scope.HOST, Durability.BOOT, Clock.WALL, 2**31, 2**31)

# A correct and slow store to plant faults in: one file with everything, rewritten under a flock.
class Files(Backend):
    capabilities = CAPABILITIES
    def __init__(self, url, path):
        self.url, self.path = url, path
        os.makedirs(path, exist_ok=True)
    def _guard(self):
        file = open(self.path + "/guard", "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
    def _load(self):
        try:
            with open(self.path + "/all", "rb") as file:
                return decode(file.read())
        except FileNotFoundError:
            return {"last": 0, "entries": {}}
    def _save(self, state):
        with open(self.path + "/new", "wb") as file:
            file.write(encode(state))
        os.rename(self.path + "/new", self.path + "/all")
    def read(self, key):
        found = self._load()["entries"].get(key)
        return found and Entry(found[0], found[1])
    def commit(self, writes, expected={}):
        with self._guard():
            state = self._load()
            for key, generation in expected.items():
                found = state["entries"].get(key, (None, 0))[1]
                if found != generation:
                    raise ConflictError(key=key, expected=generation, found=found)
            return self._apply(state, writes)
    def _apply(self, state, writes):
        made = {}
        for key, write in writes.items():
            state["last"] += 1
            made[key] = state["last"]
            if write is DELETE:
                state["entries"].pop(key, None)
            else:
                state["entries"][key] = (write.value, state["last"])
        self._save(state)
        return made
    def keys(self, prefix=""):
        return [key for key in self._load()["entries"] if key.startswith(prefix)]
    def touch(self, key, ttl_s): return True
    def change_token(self): return self._load()["last"]
    def lock(self, name, timeout_s=None): return FlockLock(self.url, name, timeout_s, self.path)
    def locks(self): return []
    def announce(self, facts): return PresenceFiles(LockDirectory(self.url, self.path + "/sharers")).announce(facts)
    def sharers(self): return PresenceFiles(LockDirectory(self.url, self.path + "/sharers")).sharers()
    def stats(self): return {}
    def check(self): self._load()
    def close(self): pass

class FlockLock(Lock):
    def __init__(self, url, name, timeout_s, path):
        self._path, self._file = path + "/lock." + name, None
        super().__init__(url, name, timeout_s)
    def _seize(self, deadline):
        import time
        file = open(self._path, "a+")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.has_passed():
                    file.close()
                    raise deadline.timed_out(self.url, self.name) from None
                time.sleep(0.001)
        self._file = file
        file.seek(0)
        token = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(str(token))
        file.flush()
        return token
    def _free(self):
        file, self._file = self._file, None
        file.close()
    def _forget(self):
        self._file = None

Store = Files

def connect(url):
    path = url.path()
    return Store(url.canonical(path), path)
def discover(): return []
def remove(url):
    import shutil
    shutil.rmtree(url.path(), ignore_errors=True)
def temporary_url(directory):
    return f"{__name__.removeprefix('sharedstate_')}:{directory}/store"
"""

FAULTS = {
    "honest": "",
    "late": """
class Store(Files):
    def increment(self, key, by=1, initial=0, ttl_s=None):
        total = add_numbers(key, self.get(key, initial), by)
        self.set(key, total)
        return total
""",
    "torn": """
class Store(Files):
    _before = []
    def _half(self, key, count):
        return self.path + f"/{key}.half{count}"
    def set(self, key, value, ttl_s=None):
        if key != "tear":
            return super().set(key, value, ttl_s)
        # The second half comes a write late, so that no reader has to come just between the two.
        for part, half in enumerate((value, self._before)):
            with open(self._half(key, part) + ".new", "wb") as file:
                file.write(encode(half))
            os.rename(self._half(key, part) + ".new", self._half(key, part))
        self._before = value
    def get(self, key, default=None):
        if key != "tear":
            return super().get(key, default)
        try:
            halves = [decode(open(self._half(key, part), "rb").read()) for part in range(2)]
        except FileNotFoundError:
            return default
        return [*halves[0][:1], *halves[1][1:]]
""",
    "halved": """
class Store(Files):
    _rest = {}
    def commit(self, writes, expected={}):
        # All but the first come a commit late, so that no other transaction has to come just between them.
        made = super().commit({**self._rest, **dict(list(writes.items())[:1])}, expected)
        self._rest = dict(list(writes.items())[1:])
        return dict.fromkeys(writes, max(made.values(), default=0))
""",
    "immortal": """
class FileLock(FlockLock):
    # Held while its file is there: nobody removes it for a holder who died.
    def _seize(self, deadline):
        import time
        while True:
            try:
                os.close(os.open(self._path + ".held", os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                if deadline.has_passed() or time.monotonic() > self.until:
                    raise deadline.timed_out(self.url, self.name) from None
                time.sleep(0.001)
        self._held = True
        return super()._seize(deadline)
    until = __import__("time").monotonic() + 4
    def _free(self):
        super()._free()
        os.unlink(self._path + ".held")
class Store(Files):
    def lock(self, name, timeout_s=None): return FileLock(self.url, name, timeout_s, self.path)
""",
    "open_door": """
class NoLock(FlockLock):
    def _seize(self, deadline):
        import time
        return time.monotonic_ns()
    def _free(self): pass
class Store(Files):
    def lock(self, name, timeout_s=None): return NoLock(self.url, name, timeout_s, self.path)
""",
    "forgetful": """
class Store(Files):
    # Acknowledged before they are stored: the last three writes wait in memory.
    def set(self, key, value, ttl_s=None):
        if not key.startswith("killed"):
            return super().set(key, value, ttl_s)
        self.kept = [*getattr(self, "kept", []), (key, value)]
        if len(self.kept) > 3:
            super().set(*self.kept.pop(0))
""",
    "modest": """
CAPABILITIES = CAPABILITIES._replace(scope=Scope.INTERPRETER, durability=Durability.PROCESS)
class Store(Files):
    capabilities = CAPABILITIES
""",
}

LIAR = """
from sharedstate.backend import parse_url
from sharedstate.model import Durability, Scope
from sharedstate_memory import CAPABILITIES as _HONEST, connect as _connect, discover
from sharedstate_memory import temporary_url as _temporary_url

CAPABILITIES = _HONEST._replace(scope=Scope.HOST, durability=Durability.BOOT)

def connect(url):
    backend = _connect(parse_url("memory:" + url.target))
    backend.url, backend.capabilities = "liar:" + url.target, CAPABILITIES
    return backend
def remove(url): pass
def temporary_url(directory):
    return _temporary_url(directory).replace("memory:", "liar:")
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins with one planted fault each, found on the path."""
    for name, fault in FAULTS.items():
        plugin = BASE.replace("Store = Files\n", fault or "Store = Files\n")
        (tmp_path / f"sharedstate_{name}.py").write_text(plugin, encoding="utf-8")
    (tmp_path / "sharedstate_liar.py").write_text(LIAR, encoding="utf-8")
    (tmp_path / "sharedstate_broken.py").write_text("import no_such_module_of_ours\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def probe_one(backend: str, boundary: Boundary) -> Cell:
    (cell,) = run_probe([backend], [boundary], pace=QUICK).cells
    return cell


def failed(cell: Cell) -> dict[str, str]:
    return {finding.experiment: finding.evidence for finding in cell.failures()}


def test_honest_plugin_is_supported(plugins: None) -> None:
    """A slow and correct store passes every experiment across a boundary of processes."""
    cell = probe_one("honest", Boundary.SPAWNED)

    assert failed(cell) == {}
    assert {finding.verdict for finding in cell.findings} == {Verdict.SUPPORTED}
    assert cell.delay_ms is not None


@pytest.mark.parametrize(
    ("backend", "experiment"),
    [
        ("late", "count"),
        ("torn", "tear"),
        ("halved", "transact"),
        ("open_door", "exclude"),
        ("immortal", "free_on_kill"),
        ("forgetful", "survive_kill"),
    ],
)
def test_planted_fault_is_found(plugins: None, backend: str, experiment: str) -> None:
    """A fault that one experiment is made for is found by it, across a boundary of processes."""
    cell = probe_one(backend, Boundary.FORKED)

    assert cell.verdict is Verdict.UNSUPPORTED
    assert experiment in failed(cell)


def test_sharing_beyond_the_claim_is_reported(plugins: None) -> None:
    """A backend that claims one interpreter and one process, but shares with other processes, has a wrong claim."""
    cell = probe_one("modest", Boundary.UNRELATED)

    assert cell.verdict is Verdict.BEYOND
    assert "an entry" in cell.evidence
    assert "a counter" in cell.evidence
    assert "a lock" in cell.evidence
    assert "outlive" in failed(probe_one("modest", Boundary.THREADS))


def test_liar_is_named_with_boundary_and_evidence(plugins: None) -> None:
    """A dict per process that claims to share within the host fails at the first boundary that it does not cross."""
    result = CliRunner().invoke(main, ["probe", "--backend", "liar", "--boundary", "spawned", "--quick"])

    assert result.exit_code == 1
    assert "liar, spawned child: Is a write seen, exactly? 52 of 52 exchanges failed" in " ".join(result.stdout.split())


def test_memory_is_seen_not_to_share_and_exits_0(tmp_path: Path) -> None:
    """Honest about its narrow scope, memory passes: shared between threads, seen apart between processes."""
    page = tmp_path / "probe.html"
    arguments = ["probe", "--backend", "memory", "--boundary", "threads", "--boundary", "forked", "--quick"]

    result = CliRunner().invoke(main, [*arguments, "--json", "-", "--html", str(page)])

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [cell["verdict"] for cell in found["cells"]] == ["supported", "seen not to share"]
    assert found["all_claims_supported"] is True
    assert "memory, threads" in page.read_text(encoding="utf-8")


def test_backend_that_cannot_be_loaded_is_not_a_pass(plugins: None) -> None:
    """A plug-in that cannot be imported is not available, with its reason; asked for by name, that is exit status 1."""
    result = CliRunner().invoke(main, ["probe", "--backend", "broken", "--boundary", "threads", "--quick"])

    assert result.exit_code == 1
    assert "no_such_module_of_ours" in result.stdout
    assert "not available here" in result.stdout


def test_a_backend_that_nobody_serves_is_a_mistake() -> None:
    """Its name is refused, with those that are installed, before anything is tried."""
    result = CliRunner().invoke(main, ["probe", "--backend", "memroy", "--quick"])

    assert result.exit_code == 1
    assert "Did you mean memory:? Installed here: file" in result.output
    assert "not available here" not in result.output


def test_boundary_that_python_lacks_is_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Python without isolated interpreters, as 3.11, their cell says so, and counts as not tried."""
    reasons = {**available_kinds(), Kind.ISOLATED: "isolated interpreters need CPython 3.12"}
    monkeypatch.setattr(running, "available_kinds", lambda: reasons)

    report = run_probe(["memory"], [Boundary.ISOLATED], pace=QUICK)

    assert [cell.verdict for cell in report.untried()] == [Verdict.NOT_AVAILABLE]
    assert "need CPython 3.12" in report.cells[0].evidence
    assert summarise(report) == "Nothing could be tried here."


def test_stores_are_removed_after_ctrl_c(tmp_path: Path) -> None:
    """Interrupted in the middle, the probe removes the stores and directories it made, and ends its actors."""
    command = f"import sys; sys.path[:] = {sys.path!r}; from sharedstate.cli import main; main()"
    probe = subprocess.Popen(
        [sys.executable, "-c", command, "probe", "--backend", "memory"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    )
    assert probe.stderr is not None
    probe.stderr.readline()  # the first cell is done, the second under way

    probe.send_signal(signal.SIGINT)
    probe.communicate()

    assert probe.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_crash_is_excused_only_if_bare_interpreters_crash_alike() -> None:
    """Importing what is known to be clean in bare interpreters reproduces no crash."""
    assert reproduction.describe_crash(-signal.SIGSEGV) == "SIGSEGV"
    assert reproduction.describe_crash(1) == ""
    assert reproduction.reproduce("legacy", ["time"], "SIGSEGV") == ""
    assert "time" in reproduction.find_standard_modules("memory:listed")


# --- Reports -------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> Report:
    boundaries = [Boundary.SAME_THREAD, Boundary.UNRELATED]
    return run_probe(["memory"], boundaries, pace=QUICK)


def test_json_keeps_its_form(report: Report) -> None:
    """The keys of the JSON report are those that format 1 promises."""
    found: dict[str, Any] = json.loads(json.dumps(report.as_dict()))

    assert found["format"] == 1
    assert set(found) == {"format", "about", "quick", "duration_s", "all_claims_supported", "verdicts", "cells"}
    assert set(found["about"]) == {"date", "machine", "processor", "python", "executable", "sharedstate"}
    for cell in found["cells"]:
        assert set(cell) == {
            *("backend", "url", "boundary", "needs_scope", "claim", "verdict", "evidence", "findings"),
        }
        assert cell["claim"] == {"scope": "INTERPRETER", "durability": "PROCESS"}
        for finding in cell["findings"]:
            assert set(finding) == {
                *("experiment", "question", "did", "verdict", "evidence", "figures", "duration_s"),
            }
            assert finding["verdict"] in found["verdicts"]


def test_page_holds_every_cell_and_loads_nothing(report: Report) -> None:
    """Each cell stands in the matrix, in symbol and words, and links to its details; nothing comes from the network."""
    hostile = report._replace(about={**report.about, "machine": "<script>alert(1)</script>"})

    page = render_page(hostile)

    for cell in report.cells:
        anchor = f"{cell.backend}-{cell.boundary.value}"
        assert page.count(f'href="#{anchor}"') == 1
        assert page.count(f'<details id="{anchor}">') == 1
        assert f'<span class="symbol" aria-hidden="true">{cell.verdict.symbol}</span>{cell.verdict.value}' in page
    assert "<script>alert" not in page
    for outside in ("http://", "https://", "//cdn", "@import", "url("):
        assert outside not in page


def test_terminal_report_names_what_was_not_tried(report: Report) -> None:
    """The table stands for every backend and boundary; what could not be tried is no pass."""
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())

    console.print(render(report))

    text = console.export_text()
    assert "same thread" in text
    assert "unrelated process" in text
    assert "✔ supported" in text
    assert "∅ seen not to share" in text
    assert summarise(report) == "Every claim is supported in the 2 cells tried."
    assert summarise(report._replace(cells=())) == "Nothing could be tried here."
