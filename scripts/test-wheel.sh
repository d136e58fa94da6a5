#!/bin/sh
# Build the sdist and a wheel from it, install the wheel in an empty environment,
# and run the README's first example there; then the same without a C compiler.
#
#     scripts/test-wheel.sh PYTHON
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/builder"
"$work/builder/bin/pip" install --quiet --disable-pip-version-check build
"$work/builder/bin/python" -m build --sdist --outdir "$work/dist" "$root" >"$work/sdist.log" 2>&1 || {
    cat "$work/sdist.log" >&2
    exit 1
}
echo "built $(basename "$work"/dist/*.tar.gz)"

# check NAME EXPECTED CODE: make a wheel and an environment, then run CODE in it.
check() {
    name=$1
    shift
    "$work/builder/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/$name" "$work"/dist/*.tar.gz
    "$python" -m venv "$work/$name/venv"
    "$work/$name/venv/bin/pip" install --quiet --disable-pip-version-check "$work/$name"/*.whl
    cp "$root/README.md" "$work/$name/"
    (cd "$work/$name" && "$work/$name/venv/bin/python" -c "$1")
}

check complete '
import doctest, sharedstate, sharedstate.values
assert sharedstate.values.ACCELERATED, "the wheel holds no C codec"
import sharedstate_memory._entries
failed, tried = doctest.testfile("README.md", module_relative=False)
assert tried > 10 and not failed, (failed, tried)
print(f"README: {tried} examples passed in an empty environment")
'
"$work/complete/venv/bin/sharedstate" --help >/dev/null
echo "the command sharedstate is there"

CC=/nonexistent check uncompiled '
import sharedstate, sharedstate.values
assert not sharedstate.values.ACCELERATED
for url in ("memory:x", "file:files", "sqlite:s.db"):
    with sharedstate.open(url) as store:
        store["k"] = {"n": (1, 2)}
        assert store["k"] == {"n": (1, 2)}, url
try:
    sharedstate.open("shm://x")
except sharedstate.BackendMissingError as error:
    print(f"without a C compiler: {error}")
else:
    raise SystemExit("shm: opened without its C core")
'
