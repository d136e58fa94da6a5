#!/bin/sh
# Build the C modules in place for one Python, and let its venv find the tree.
#
#     scripts/native.sh [PYTHON] [CMAKE-ARGUMENT...]      (default: python3)
#
# Several Pythons share one tree: each has its own build/<tag>/, and its .so
# files carry its tag, so all of them lie beside their sources at once.
#
# Why not an editable install: scikit-build-core's "redirect" mode puts an import
# hook into site-packages that every fresh sub-interpreter loads (1.5 ms of 17),
# and each change of a C file is another pip install; its "inplace" mode leaves
# the modules at the root of the tree, where nothing imports them, and shares one
# CMakeCache.txt between all Pythons.  A .pth of two lines has none of that.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=$("${1:-python3}" -c 'import sys; print(sys.executable)') # absolute, or CMake quietly takes another one
[ $# -eq 0 ] || shift
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
build=$root/build/${suffix#.}
build=${build%.so}

# Only into a venv: a system Python's site-packages is not ours to write.
site=$("$python" -c 'import sys, sysconfig; print(sysconfig.get_path("purelib") if sys.prefix != sys.base_prefix else "")')
if [ -n "$site" ]; then
    printf '%s\n%s\n' "$root" "$root/backends" >"$site/sharedstate.pth"
fi

# Two runs for one Python at the same time take turns.
mkdir -p "$build"
exec 9>"$build.lock"
flock 9

cmake -S "$root" -B "$build" -DPython_EXECUTABLE="$python" "$@" >"$build.log" 2>&1 || { cat "$build.log" >&2; exit 1; }

# One target at a time, so that a module which does not compile today does not
# hold back the others; and by rename, so that no process maps half a file.
status=0
for target in _native:sharedstate _entries:backends/sharedstate_memory _replay:backends/sharedstate_file \
    _core:backends/sharedstate_shm; do
    module=${target%%:*}
    [ -n "$(cmake --build "$build" --target help | grep -w "$module")" ] || continue
    if cmake --build "$build" --target "$module" >"$build.$module.log" 2>&1; then
        place=$root/${target#*:}/$module$suffix
        cp "$build/$module$suffix" "$place.new$$" && mv -f "$place.new$$" "$place"
        grep -A6 'warning:' "$build.$module.log" || true
        echo "built ${place#"$root"/}"
    else
        cat "$build.$module.log" >&2
        status=1
    fi
done
exit $status
