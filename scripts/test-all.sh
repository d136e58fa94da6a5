#!/bin/sh
# Run every test: the C core's own, style, types and layers, the wheel, the
# documentation site, the Python tests on each supported Python that is here,
# then those on real servers.  Stops at nothing, fails at the end.
#
#     scripts/test-all.sh
#
# Two lanes at a time, since most tests wait for something.  What a job says is
# printed when it has ended, with its name above it.
#
# The torture campaign runs once, in its short form, in the newest Python.  So do
# the server tests: the servers bring Pythons of their own, the distribution's and
# the newest, whatever runs pytest.
set -u

cd "$(dirname "$0")/.." || exit 1
pythons=$(scripts/pythons.sh)
newest=$(echo "$pythons" | tail -n 1)
echo "Testing on:" $pythons
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/failed"
export SHAREDSTATE_PASSED="$work/passed"

# run NAME COMMAND...: print what the command said, in one piece, and remember a failure.
run() {
    name=$1
    shift
    echo "-- begun at $(date +%H:%M:%S): $name"
    log=$(mktemp "$work/log.XXXXXX")
    "$@" >"$log" 2>&1 || echo " [$name]" >>"$work/failed"
    flock "$work" sh -c 'echo; echo "== $1"; cat "$2"' sh "$name" "$log"
}

# run_pytest VENV ARGUMENT...
run_pytest() {
    python=$1/bin/python
    shift
    run "tests on $("$python" -V)${1:+, $*}" "$python" -m pytest "$@"
}

# Set-up before anything runs beside it.
tools=$(scripts/venv.sh "$newest" dev bench) || echo " [set-up of the tools]" >>"$work/failed"
scripts/servers.sh || echo " [set-up of the servers]" >>"$work/failed"
venvs=
for python in $pythons; do
    if venv=$(scripts/venv.sh "$python" test); then
        venvs="$venvs $venv"
    else
        echo " [set-up of $python]" >>"$work/failed"
    fi
done
# shellcheck disable=SC2086  # a list of words
set -- $venvs

{
    run "C core: plain, AddressSanitizer and UBSan, ThreadSanitizer" make --no-print-directory -C tests/native all
    run "style, types, layers" scripts/lint.sh "$tools"
    run "sdist, wheel, installed where nothing compiles, and built there" env DIST="$work/dist" scripts/wheels.sh "$newest"
    run "documentation site" scripts/docs.sh "$newest"
    run_pytest "$1" --ignore tests/torture
    run_pytest "$venv" tests/torture # in the newest
} &
{
    oldest=$1
    for venv in "$@"; do
        [ "$venv" = "$oldest" ] || run_pytest "$venv" --ignore tests/torture
    done
} &
wait
run_pytest "$venv" -n 2 tests/servers # in the newest
run "the promises and their tests" "$venv/bin/python" scripts/guarantees.py "$work/passed"

echo
if [ -s "$work/failed" ]; then
    echo "FAILED:$(tr -d '\n' <"$work/failed")"
    exit 1
fi
echo "All passed."
