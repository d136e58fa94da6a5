#!/bin/sh
# Print the interpreters to test on: one per supported minor version that is here.
#
#     scripts/pythons.sh
#
# Looks at python3.N on the PATH first, then at pyenv's versions.
set -eu

versions=${PYENV_ROOT:-$HOME/.pyenv}/versions
for minor in 11 12 13 14; do
    for candidate in "$(command -v "python3.$minor" || true)" "$versions"/3."$minor".*/bin/python3."$minor"; do
        [ -x "$candidate" ] || continue
        # A pyenv shim exists for versions that it then refuses to run.
        real=$("$candidate" -c 'import sys; print(sys.executable)' 2>/dev/null) || continue
        echo "$real"
        break
    done
done
