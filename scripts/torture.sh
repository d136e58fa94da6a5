#!/bin/bash
# The torture campaign in its full form: hours rather than seconds.
#
#     scripts/torture.sh VENV [HOURS]
#
# Two lanes, since much of it keeps one core busy: what is done to the C sources, whose
# output goes to build/torture/native.log, and all other experiments, which are seen.
# Ends with a table, puts it into docs/guarantees.md if no promise was broken, and
# leaves what a failed experiment left under build/torture/evidence.
# SHAREDSTATE_TORTURE_SEED replays a campaign.
set -eu

cd "$(dirname "$0")/.."
python=$1/bin/python
native=tests/torture/test_native_core.py
log=build/torture/native.log
export SHAREDSTATE_TORTURE=full
export SHAREDSTATE_TORTURE_HOURS="${2:-1}"
export SHAREDSTATE_TORTURE_SEED="${SHAREDSTATE_TORTURE_SEED:-$(date +%s)}"
export SHAREDSTATE_TORTURE_FIGURES="$PWD/build/torture/figures.jsonl"

mkdir -p build/torture
: >"$SHAREDSTATE_TORTURE_FIGURES"
echo "Torture for $SHAREDSTATE_TORTURE_HOURS h and what has an end of its own; seed $SHAREDSTATE_TORTURE_SEED"
echo "Beside it the C sources: see $log, and for the fuzzers build/torture/native-*/fuzz/*.log"
begun=$(date +%s)
setsid "$python" -m pytest -s -v --timeout 0 "$native" >"$log" 2>&1 &
beside=$!
trap 'kill -- "-$beside" 2>/dev/null || :' EXIT # of an interrupted campaign too

status=0
"$python" -m pytest -s -v --timeout 0 tests/torture --ignore "$native" || status=$?
echo "All but the C sources are done after $((($(date +%s) - begun) / 60)) minutes; waiting for those"
wait "$beside" || status=$?
trap - EXIT
echo "-- $log:"
grep -E " (PASSED|FAILED|ERROR)|^(PASSED|FAILED|ERROR)|bad [0-9]+$|^=+ .* =+$" "$log" || :

keep=
[ "$status" -ne 0 ] || keep=--keep
PYTHONPATH=tests/torture "$python" -m campaign.report "$SHAREDSTATE_TORTURE_FIGURES" --begun "$begun" $keep
exit "$status"
