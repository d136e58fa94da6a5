#!/bin/sh
# Run every test: the C core's own, style, types and layers, the Python tests on
# each supported Python that is here, then those on real servers.  Stops at
# nothing, fails at the end.
#
# The server tests run once and not once per Python: the servers bring Pythons of
# their own, the distribution's and the newest, whatever runs pytest.
#
#     scripts/test-all.sh
set -u

cd "$(dirname "$0")/.." || exit 1
pythons=$(scripts/pythons.sh)
newest=$(echo "$pythons" | tail -n 1)
echo "Testing on:" $pythons
failed=

run() {
    name=$1
    shift
    echo
    echo "== $name"
    "$@" || failed="$failed [$name]"
}

run "C core: plain, AddressSanitizer and UBSan, ThreadSanitizer" make --no-print-directory -C tests/native all

if venv=$(scripts/venv.sh "$newest" dev bench); then
    run "style, types, layers" scripts/lint.sh "$venv"
else
    failed="$failed [set-up of the tools]"
fi

run "sdist, wheel, README in an empty environment, and without a C compiler" scripts/test-wheel.sh "$newest"

for python in $pythons; do
    if venv=$(scripts/venv.sh "$python" test); then
        run "tests on $("$venv/bin/python" -V)" "$venv/bin/pytest"
    else
        failed="$failed [set-up of $python]"
    fi
done

if scripts/servers.sh && venv=$(scripts/venv.sh "$newest" test); then
    run "real servers, tests run by $("$venv/bin/python" -V)" "$venv/bin/pytest" -n 2 tests/servers
else
    failed="$failed [set-up of the servers]"
fi

echo
if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi
echo "All passed."
