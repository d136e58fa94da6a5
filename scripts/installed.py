"""Look whether the sharedstate that this Python imports is an installed one, and all of it.

    python scripts/installed.py README.md [--uncompiled]

It has to lie in the environment's own site-packages, as do its plug-ins, and to
work by its C modules; what README.md shows has to be what happens.  With
--uncompiled it has to do without any C module, and to say that shm: cannot.
"""

import argparse
import doctest
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version

import sharedstate
from sharedstate.values import ACCELERATED

MODULES = ("sharedstate._native", "sharedstate_file._replay", "sharedstate_memory._entries", "sharedstate_shm._core")
PLUGINS = ("sharedstate_file", "sharedstate_memory", "sharedstate_redis", "sharedstate_shm", "sharedstate_sqlite")


def require(fact: object, otherwise: str) -> None:
    """End the program unless this is so."""
    if not fact:
        sys.exit(f"installed.py: {otherwise}")


def require_installed() -> None:
    """All packages are in site-packages, and so is the command."""
    for name in ("sharedstate", *PLUGINS):
        spec = importlib.util.find_spec(name)
        require(spec and spec.origin, f"{name} is not there")
        place = os.path.dirname(os.path.dirname(os.path.realpath(spec.origin)))
        wanted = {os.path.realpath(sysconfig.get_path(path)) for path in ("purelib", "platlib")}
        require(place in wanted, f"{name} comes from {place}, not from {' or '.join(sorted(wanted))}")
    command = os.path.join(sysconfig.get_path("scripts"), "sharedstate")
    subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)  # noqa: S603  this environment's own


def require_compiled() -> None:
    """Each C module is loaded, and is what its package works by."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name in MODULES:
        path = importlib.import_module(name).__file__
        require(path and path.endswith(suffix), f"{name} is {path}, not built for this Python ({suffix})")
    from sharedstate_file import index
    from sharedstate_memory import backend

    require(ACCELERATED, "values are encoded by msgpack, not by sharedstate._native")
    require(index.replay.__module__ != index.__name__, "file: follows its log in Python")
    require(backend.Entries.__module__ == "sharedstate_memory._entries", "memory: keeps its entries in Python")
    if hasattr(sys, "_is_gil_enabled") and sysconfig.get_config_var("Py_GIL_DISABLED"):
        require(not sys._is_gil_enabled(), "a C module has switched the GIL on")  # noqa: SLF001


def require_uncompiled() -> None:
    """Without C modules every backend works but shm:, which says why not."""
    for name in MODULES:
        require(importlib.util.find_spec(name) is None, f"{name} is there")
    require(not ACCELERATED, "values are encoded in C")
    with tempfile.TemporaryDirectory() as directory:
        for url in ("memory:x", f"file:{directory}/files", f"sqlite:{directory}/s.db"):
            with sharedstate.open(url) as store:
                store["k"] = {"n": (1, 2)}
                require(store["k"] == {"n": (1, 2)}, f"{url} returned another value")
    try:
        sharedstate.open("shm://x")
    except sharedstate.BackendMissingError as error:
        print(f"without a C compiler: {error}")
    else:
        sys.exit("installed.py: shm: opened without its C core")


def main() -> None:
    """Look, and end with an error if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme")
    parser.add_argument("--uncompiled", action="store_true")
    options = parser.parse_args()

    require_installed()
    if options.uncompiled:
        require_uncompiled()
        return
    require_compiled()
    failed, tried = doctest.testfile(os.path.abspath(options.readme), module_relative=False)
    require(tried > 10 and not failed, f"README: {failed} of {tried} examples failed")
    print(f"sharedstate {version('sharedstate')} is installed with its C modules; README: {tried} examples passed")


main()
