"""Hold what is in a wheel to the packages in the tree: nothing more, nothing less.

    python scripts/wheel_contents.py WHEEL TREE

Nothing of the packages may be missing but the C sources, and nothing else may be
there but the C modules of one Python and the metadata, with the licence.
"""

import sys
from pathlib import Path
from zipfile import ZipFile

SOURCES = (".c", ".h")
MADE = (".so", ".pyc")
MODULES = {"sharedstate/_native", "sharedstate_file/_replay", "sharedstate_memory/_entries", "sharedstate_shm/_core"}


def packages_in(tree: Path) -> set[str]:
    """Return the files of the packages in the tree, by their place in a wheel."""
    plugins = (path.parent for path in (tree / "backends").glob("*/__init__.py"))
    return {
        path.relative_to(package.parent).as_posix()
        for package in (tree / "sharedstate", *plugins)
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in SOURCES + MADE
    }


def faults_of(wheel: Path, tree: Path) -> list[str]:
    """Return what is wrong, a line each."""
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    python, abi = wheel.name.split("-")[2:4]
    modules = {name.partition(".")[0] for name in names if name.endswith(".so")}
    infix = f".cpython-{abi.removeprefix('cp')}-"
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    rest = {name for name in names - metadata if not name.endswith(".so")}
    expected = packages_in(tree)
    return [
        *(f"{name} is missing" for name in sorted(expected - rest)),
        *(f"{name} has no place in it" for name in sorted(rest - expected)),
        *(f"the C module {name} is missing" for name in sorted(MODULES - modules)),
        *(f"the C module {name} is unknown" for name in sorted(modules - MODULES)),
        *(f"{name} is not for {python}" for name in sorted(names) if name.endswith(".so") and infix not in name),
        *(["the licence is missing"] if not any(name.endswith("/licenses/LICENSE") for name in metadata) else []),
    ]


def main() -> None:
    """Print the faults of the wheel, and end with an error if there are any."""
    wheel, tree = map(Path, sys.argv[1:])
    faults = faults_of(wheel, tree)
    for fault in faults:
        print(f"{wheel.name}: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


main()
