#!/bin/bash
# The torture campaign in its full form: hours rather than seconds.
#
#     scripts/torture.sh VENV [HOURS]
#
# Two experiments at a time, since much of it keeps one core busy; each one's output goes
# to build/torture/NAME.log too, and the fuzzers' to build/torture/native-*/fuzz/*.log.
# Ends with a table, puts it into docs/guarantees.md if no promise was broken, and
# leaves what a failed experiment left under build/torture/evidence.
# SHAREDSTATE_TORTURE_SEED replays a campaign.
set -eu

cd "$(dirname "$0")/.."
export TORTURE_PYTHON=$1/bin/python
export SHAREDSTATE_TORTURE=full
export SHAREDSTATE_TORTURE_HOURS="${2:-1}"
export SHAREDSTATE_TORTURE_SEED="${SHAREDSTATE_TORTURE_SEED:-$(date +%s)}"
export SHAREDSTATE_TORTURE_FIGURES="$PWD/build/torture/figures.jsonl"

begin_with="test_native_core.py test_every_byte.py test_power_cut.py" # the longest, so that both lanes end together
others=$(cd tests/torture && ls test_*.py | grep -vxF "$(printf '%s\n' $begin_with)")

experiment() { # NAME
    log=build/torture/${1%.py}.log
    status=0
    "$TORTURE_PYTHON" -u -m pytest -s -v -p no:cacheprovider --timeout 0 "tests/torture/$1" >"$log" 2>&1 || status=$?
    echo "-- $(date +%T) ended: ${1%.py}"
    grep -E "(PASSED|FAILED|ERROR)|bad [0-9]+$|^E  |^=+ .* =+$" "$log" || :
    return "$status"
}
export -f experiment

mkdir -p build/torture
rm -f build/torture/test_*.log
: >"$SHAREDSTATE_TORTURE_FIGURES"
echo "Torture for $SHAREDSTATE_TORTURE_HOURS h and what has an end of its own; seed $SHAREDSTATE_TORTURE_SEED"
begun=$(date +%s)
(while sleep 60; do
    echo "-- $(date +%T), minute $((($(date +%s) - begun) / 60)): $(wc -l <"$SHAREDSTATE_TORTURE_FIGURES") figures; at work: $(
        pgrep -f "^$TORTURE_PYTHON -u -m pytest -s -v .*tests/torture/test_" -a | sed 's|.*tests/torture/||' | sort -u | paste -sd' '
    )"
done) &
teller=$!
printf '%s\n' $begin_with $others | setsid xargs -P 2 -I NAME bash -c 'experiment NAME' &
lanes=$!
trap 'kill -- "$teller" "-$lanes" 2>/dev/null || :' EXIT # of an interrupted campaign too

status=0
wait "$lanes" || status=1

keep=
[ "$status" -ne 0 ] || keep=--keep
PYTHONPATH=tests/torture "$TORTURE_PYTHON" -m campaign.report "$SHAREDSTATE_TORTURE_FIGURES" --begun "$begun" $keep
exit "$status"
