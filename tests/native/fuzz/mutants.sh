#!/bin/sh
# mutants.sh - take one bounds check out at a time, and see the fuzz target fall: one that nothing can fell proves nothing.
#
# Called by `make fuzz-mutants`; each mutant is a sed script on a copy of one
# source file, which replaces that file's object in the target.

set -u
passed=0
failed=0

# mutant <name> <target> <source> <sed script> <runs> <rest of the target: flags, objects, libraries>
mutant() {
    name=$1 target=$2 source=$3 script=$4 runs=$5 rest=$6
    dir=$FUZZ/mutants/$name
    rm -rf "$dir" && mkdir -p "$dir"
    sed -E "$script" "$source" >"$dir/${source##*/}"
    if cmp -s "$source" "$dir/${source##*/}"; then
        echo "  FAILED $name: its sed script changes nothing in $source"
    # shellcheck disable=SC2086  # lists of words
    elif ! $CLANG $FLAGS -I"$SRC" -I"${source%/*}" -Ifuzz $rest 2>"$dir/errors"; then
        echo "  FAILED $name: does not compile"
        cat "$dir/errors"
    elif "$dir/target" -runs="$runs" -seed=1 -timeout=5 -max_len=300 -detect_leaks=0 -artifact_prefix="$dir/" \
        "$FUZZ/seeds/$target" >"$dir/output" 2>&1; then
        echo "  FAILED $name: fuzz_$target did not notice it in $runs runs"
    elif ! grep -q 'Test unit written to' "$dir/output"; then
        echo "  FAILED $name: fuzz_$target ended otherwise than by an input"
        tail -5 "$dir/output"
    else
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
}

core=
for f in check entry heap lock room scan table txn wait; do core="$core $FUZZ/$f.o"; done
python_flags=$(eval "printf '%s' \"$PYTHON_FLAGS\"")

# A file that is shorter than its header says is mapped all the same.
mkdir -p "$FUZZ/mutants/region_of_any_size"
sed 's|"[./]*/backends/sharedstate_shm/c/region.c"|"region.c"|' fuzz/fuzz_region.c >"$FUZZ/fuzz_region_of_copy.c"
mutant region_of_any_size region "$SRC/region.c" 's/\(uint64_t\)st\.st_size != at->total/false/' "$((SLOW_RUNS * 10))" \
    "-iquote $FUZZ/mutants/region_of_any_size -o $FUZZ/mutants/region_of_any_size/target $FUZZ/fuzz_region_of_copy.c $FUZZ/segment.o $core $WRAP"

# The head of a free list is taken on trust.
mutant free_list_on_trust table "$SRC/heap.c" 's/^        if \(!is_block_of_class\(h, head, class\)\)/        if (false)/' "$SLOW_RUNS" \
    "-o $FUZZ/mutants/free_list_on_trust/target $FUZZ/fuzz_table.o $FUZZ/segment.o $FUZZ/region.o $FUZZ/mutants/free_list_on_trust/heap.c $(echo "$core" | sed "s|[^ ]*/heap.o||") $WRAP"

# A bytes value may be longer than what is left.
mutant bytes_of_any_length codec "$CODEC/codec.c" '/^static PyObject \*decode_bytes/,/^}/{s/n > left\(d\)/0/}' "$FAST_RUNS" \
    "-o $FUZZ/mutants/bytes_of_any_length/target fuzz/fuzz_codec.c $FUZZ/mutants/bytes_of_any_length/codec.c $python_flags"

# A key or a value may be longer than what is left of the frame.
mutant key_of_any_length frames "$REPLAY" 's/ \|\| \*length > left\(rest\)\)/)/' "$FAST_RUNS" \
    "-I$CODEC -o $FUZZ/mutants/key_of_any_length/target fuzz/fuzz_frames.c $FUZZ/mutants/key_of_any_length/replay.c $CODEC/codec.c $python_flags"

echo "fuzz mutants: $passed passed, $failed failed"
[ $failed -eq 0 ]
