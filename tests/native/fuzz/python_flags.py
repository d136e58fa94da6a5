"""Print what a C compiler needs to put this Python into a program of ours."""

from __future__ import annotations

import sys
from sysconfig import get_config_var

version = get_config_var("LDVERSION")
shared = [f"-L{get_config_var('LIBDIR')}", f"-Wl,-rpath,{get_config_var('LIBDIR')}", f"-lpython{version}"]
static = [f"{get_config_var('LIBPL')}/libpython{version}.a", get_config_var("LIBS"), get_config_var("SYSLIBS")]

sys.stdout.write(
    " ".join(
        [
            f'-DFUZZ_PYTHON=\\"{sys.executable}\\"',
            f"-I{get_config_var('INCLUDEPY')}",
            *(shared if get_config_var("Py_ENABLE_SHARED") else [*static, "-Wl,--export-dynamic"]),
            "-lm -ldl -pthread",
        ]
    )
)
