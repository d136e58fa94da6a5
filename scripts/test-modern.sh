#!/bin/sh
# Test on the newest stack that a distribution offers: its own Python, Apache and
# mod_wsgi, and mod_wsgi 6 with a GIL per interpreter.
#
#     scripts/debian-root.sh forky scripts/test-modern.sh        (= make test-modern)
set -u

cd "$(dirname "$0")/.." || exit 1
failed=

run() {
    name=$1
    shift
    echo
    echo "== $name"
    "$@" || failed="$failed [$name]"
}

scripts/system-packages.sh servers browser torture || exit 1
venv=$(scripts/venv.sh /usr/bin/python3 test) && scripts/servers.sh || exit 1
echo "$("$venv/bin/python" -V), $(apache2 -v | head -n 1), mod_wsgi $(dpkg-query -W -f='${Version}' libapache2-mod-wsgi-py3)"
run "tests" "$venv/bin/pytest"
run "real servers" "$venv/bin/pytest" -n 2 tests/servers

echo
[ -z "$failed" ] || {
    echo "FAILED:$failed"
    exit 1
}
echo "All passed."
