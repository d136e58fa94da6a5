#!/bin/sh
# Make, or bring up to date, the environments of the web servers that tests/servers starts.
#
#     scripts/servers.sh
#
# .venv/servers-<version> is made from two Pythons: the distribution's own, which
# the distribution's mod_wsgi embeds, and the newest of the tested Pythons, when
# that is another version.  Each holds the library's dependencies and the servers
# from PyPI, mod_wsgi built against it among them; not the library, which each
# started server gets as a copy (tests/servers/harness).  With nothing to do it
# takes a few seconds.
#
# .venv/servers.txt then names what the tests may rely on, one environment a
# line: what stands there and does not work is a failed test, never a skipped one.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
newest=$("$root/scripts/pythons.sh" | tail -n 1)
mkdir -p "$root/.venv"
: >"$root/.venv/servers.txt.new"

for python in /usr/bin/python3 "$newest"; do
    [ -x "$python" ] || continue
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    venv=$root/.venv/servers-$version
    ! grep -q "^$version " "$root/.venv/servers.txt.new" || continue

    # The C modules of this version; any build of it makes the same ones.
    "$root/scripts/venv.sh" "python$version" >/dev/null
    [ -x "$venv/bin/python" ] || {
        echo "Making the environment of the servers .venv/servers-$version with $python"
        "$python" -m venv "$venv"
    }
    "$venv/bin/python" "$root/scripts/requirements.py" servers >"$venv/requirements.txt"
    if ! cmp -s "$venv/requirements.txt" "$venv/installed.txt"; then
        echo "Installing into .venv/servers-$version: $(tr '\n' ' ' <"$venv/requirements.txt")"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$venv/requirements.txt"
        cp "$venv/requirements.txt" "$venv/installed.txt"
    fi
    echo "$version $venv" >>"$root/.venv/servers.txt.new"
done
mv "$root/.venv/servers.txt.new" "$root/.venv/servers.txt"
