#!/bin/sh
# Make, or bring up to date, an environment for the tools of one extra, beside those of the tests; print its path.
#
#     scripts/tools.sh EXTRA [PYTHON]        e.g. scripts/tools.sh docs
#
# It lands in .venv/EXTRA.  The library is neither built nor installed for it.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
extra=${1:?EXTRA}
venv=$root/.venv/$extra
[ -x "$venv/bin/python" ] || {
    wanted=${2:-$("$root/scripts/pythons.sh" | tail -n 1)}
    # A name that the PATH does not know, or a pyenv shim that refuses, may be one that pythons.sh finds.
    python=$("$wanted" -c 'import sys; print(sys.executable)' 2>/dev/null) ||
        python=$("$root/scripts/pythons.sh" | grep "/$(basename "$wanted")\$" | tail -n 1)
    echo "Making the virtual environment .venv/$extra with $python" >&2
    "$python" -m venv "$venv"
}
"$venv/bin/python" "$root/scripts/requirements.py" "$extra" >"$venv/requirements.txt"
if ! cmp -s "$venv/requirements.txt" "$venv/installed.txt"; then
    echo "Installing into .venv/$extra: $(tr '\n' ' ' <"$venv/requirements.txt")" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$venv/requirements.txt" >&2
    cp "$venv/requirements.txt" "$venv/installed.txt"
fi
echo "$venv"
