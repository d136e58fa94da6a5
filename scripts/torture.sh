#!/bin/sh
# The torture campaign in its full form: hours rather than seconds.
#
#     scripts/torture.sh VENV [HOURS]
#
# Ends with a table, puts it into docs/guarantees.md if no promise was broken, and
# leaves what a failed experiment left under build/torture/evidence.
# SHAREDSTATE_TORTURE_SEED replays a campaign.
set -eu

cd "$(dirname "$0")/.."
python=$1/bin/python
export SHAREDSTATE_TORTURE=full
export SHAREDSTATE_TORTURE_HOURS="${2:-1}"
export SHAREDSTATE_TORTURE_SEED="${SHAREDSTATE_TORTURE_SEED:-$(date +%s)}"
export SHAREDSTATE_TORTURE_FIGURES="$PWD/build/torture/figures.jsonl"

mkdir -p build/torture
: >"$SHAREDSTATE_TORTURE_FIGURES"
echo "Torture for $SHAREDSTATE_TORTURE_HOURS h and what has an end of its own; seed $SHAREDSTATE_TORTURE_SEED"
begun=$(date +%s)
status=0
"$python" -m pytest -s -v --timeout 0 tests/torture || status=$?
keep=
[ "$status" -ne 0 ] || keep=--keep
PYTHONPATH=tests/torture "$python" -m campaign.report "$SHAREDSTATE_TORTURE_FIGURES" --begun "$begun" $keep
exit "$status"
