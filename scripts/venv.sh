#!/bin/sh
# Make, or bring up to date, the virtual environment of one Python; print its path.
#
#     scripts/venv.sh PYTHON [EXTRA...]        e.g. scripts/venv.sh python3.13 test dev
#
# It lands in .venv/<major.minor>, holds the project's dependencies and those of
# the extras, and sees the tree itself, with its C modules built in place.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
# A name that the PATH does not know, or a pyenv shim that refuses, may be one that pythons.sh finds.
python=$("${1:?PYTHON}" -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    python=$("$root/scripts/pythons.sh" | grep "/$(basename "$1")\$" | tail -n 1)
[ -n "$python" ] || {
    echo "There is no $1. PYTHON may be one of:" >&2
    "$root/scripts/pythons.sh" | sed 's/^/    /' >&2
    exit 1
}
shift
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=$root/.venv/$version

[ -x "$venv/bin/python" ] || {
    echo "Making the virtual environment .venv/$version with $python" >&2
    "$python" -m venv "$venv"
}

"$venv/bin/python" "$root/scripts/requirements.py" "$@" >"$venv/requirements.txt"
if ! cmp -s "$venv/requirements.txt" "$venv/installed-$(echo "$@" | tr ' ' '-').txt"; then
    echo "Installing into .venv/$version: $(tr '\n' ' ' <"$venv/requirements.txt")" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$venv/requirements.txt" >&2
    cp "$venv/requirements.txt" "$venv/installed-$(echo "$@" | tr ' ' '-').txt"
fi
"$root/scripts/native.sh" "$venv/bin/python" >&2
echo "$venv"
