#!/bin/sh
# run.sh TARGET SEEDS RUNS - run one fuzz target from the seeds, and say what came of it.
#
# An input that crashes, or takes longer than 5 s, is kept in $EVIDENCE, and the
# command that runs it again is printed.  What new paths were found is left in
# corpus/ beside the target; the next run begins anew, so that with the same
# SEED it does the same.
# Leaks are not looked for: an interpreter leaves much behind when it ends.
# Those that grow end in the limit on memory.

set -u
target=$1 seeds=$2 runs=$3
name=${target##*/fuzz_}
corpus=${target%/*}/corpus/$name
log=${target%/*}/$name.log

rm -rf "$corpus"
mkdir -p "$corpus" "$EVIDENCE"
if "$target" -runs="$runs" -seed="$SEED" -timeout=5 -max_len=300 -rss_limit_mb=1024 -detect_leaks=0 -print_final_stats=1 \
    -artifact_prefix="$EVIDENCE/fuzz-$name-" "$corpus" "$seeds" >"$log" 2>&1; then
    done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz $name: $done executions, $(find "$corpus" -type f | wc -l) inputs in the corpus, 0 bad"
    exit 0
fi
grep -E -A12 'ERROR|SUMMARY|runtime error' "$log" | head -40
input=$(sed -n 's/.*Test unit written to //p' "$log" | head -1)
echo "fuzz $name: 1 bad"
echo "Kept for you: ${input:-$log}"
[ -z "$input" ] || echo "Run it again: $target $input"
exit 1
