#!/bin/sh
# mutants.sh - plant one bug at a time, and see a test fail: a test that nothing can fail proves nothing.
#
# Each mutant is a sed script on a copy of one source file.  A script that
# changes nothing is an error too: it no longer fits the source.
# Called by `make mutants` with CC, SRC and BUILD set.

set -u
passed=0
failed=0
FLAGS="-std=gnu11 -O3 -flto=2 -g -static"

# mutant <name> <file> <sed script> <suite> <filter> [environment]
mutant() {
    name=$1 file=$2 script=$3 suite=$4 filter=$5 environment=${6:-}
    dir=$BUILD/$name
    rm -rf "$dir" && mkdir -p "$dir"
    for f in check entry heap lock region room scan table txn wait; do cp "$SRC/$f.c" "$dir"; done
    cp "$SRC"/*.h "$dir"
    sed -E "$script" "$SRC/$file" > "$dir/$file"
    if cmp -s "$SRC/$file" "$dir/$file"; then
        echo "  FAILED $name: its sed script changes nothing in $file"
        failed=$((failed + 1))
        return
    fi
    more=
    case $suite in steps | openings) more=steps.c ;; esac
    if ! $CC $FLAGS -I"$dir" -o "$dir/test" "test_$suite.c" harness.c $more "$dir"/*.c -pthread -lm 2> "$dir/errors"; then
        echo "  FAILED $name: does not compile"
        cat "$dir/errors"
        failed=$((failed + 1))
        return
    fi
    if env $environment timeout 120 "$dir/test" $filter > "$dir/output" 2>&1; then
        echo "  FAILED $name: no test noticed it"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

# T1: the slot is published before the block is filled.
mutant publish_before_fill entry.c \
    '/^    ss_block_fill\(h, block, hash/{h;d};/^    return ss_table_publish/{s/return (.*);/int published = \1;/;G;s/$/\n    return published;/}' \
    steps operation ONLY=longer

# T2: a block is reused without warning the readers.
mutant no_version_bump table.c \
    's/^    ss_store_release\(&h->st->version, ss_load\(&h->st->version\) \+ 2\);//' \
    threads torn

# T2: a block goes back to its list before its slot lets go of it.
mutant free_before_unlink table.c \
    '/^int ss_table_remove/,/^}/{s/^    ss_store_release\(&h->slots\[found->slot\], vacant\);/    ss_heap_give(h, found->block);\n&/;s/^    return ss_heap_give\(h, found->block\);/    return SS_OK;/}' \
    steps operation ONLY=delete

# T3: a number is overwritten in place without an odd version, so neither reader nor repair knows.
mutant in_place_without_odd_version table.c \
    '/^void ss_table_write_scalar/,/^}/{s/^    ss_store_release\(&st->version, version \+ 1\);.*//}' \
    steps operation "ONLY=in_place STRIDE=1"

# T3: the redo record is there, but repair does not replay it.
mutant repair_without_replay lock.c \
    's/^        return ss_table_replay_scalar\(h\);/        return SS_OK;/' \
    steps operation "ONLY=in_place STRIDE=1"

# A block is written to while it still heads its free list: two instructions wide.
mutant fill_before_take heap.c \
    's/^        ss_store\(&pool->free\[class\], (ss_load\(&ss_block_at\(h->r, head\)->hash\))\);/        uint64_t link = \1;\n        ss_store(\&ss_block_at(h->r, head)->hash, 3);\n        ss_crash_fence();\n        ss_store(\&pool->free[class], link);/' \
    steps operation "ONLY=freed_block STRIDE=1"

# A reader asks where the heap ends before it has the slot.
mutant heap_end_before_slot entry.c \
    's/^(    uint64_t tag = hash >> 48, )index = (ss_home\(hash\) & mask;)/    uint64_t heap_end = ss_heap_end(r);\n\1index = \2/;s/(ss_slot_block\(slot\), )ss_heap_end\(r\)/\1heap_end/' \
    readers overtaken

# A dead owner's counters are believed.
mutant no_recount lock.c \
    's/^    ss_table_recount\(h\);//' \
    steps operation "ONLY=new_text STRIDE=1"

# X2: a commit stores its slots without going odd: a crash between is half a commit.
mutant commit_without_odd_versions txn.c \
    's/^    step_versions\(c\);( +\/\* 4: odd \*\/)//;s/^    step_versions\(c\);( +\/\* 7: even \*\/)//' \
    steps operation "ONLY=commit_of_four"

# The commit point comes after the slots.
mutant commit_point_too_late txn.c \
    '/^static void apply/,/^}/{/SS_TXN_COMMITTED/d;s/^    store_slots\(c\);.*/&\n    ss_store_release(\&c->r->header->txn_state, SS_TXN_COMMITTED);/}' \
    steps operation "ONLY=commit_of_four STRIDE=1"

# X1: only the first 64 stripes are in the record's set, so the others are not settled before the next record.
mutant record_of_64_stripes txn.c \
    '/^static void write_record/,/^}/{s/w < SS_STRIPE_WORDS/w < 1/}' \
    steps repair

# A table grows into an area that overlaps its own.
mutant growth_over_itself table.c \
    's/log2 > word >> 1 \? 1 : (~word & 1)/\1/' \
    steps operation ONLY=further_growth

# H3: the blocks of a span are given out again from where the first one was.
mutant span_without_end heap.c \
    's/^    return next != base \+ first \? next : 0;/    return next;/' \
    table full_region

# Only the stripe at hand is swept when the heap is full.
mutant sweep_of_one_stripe room.c \
    's/held == NULL && ss_lock\(r, stripe, SS_TRY, &other\) != SS_OK/held == NULL/' \
    table other_stripes

# H1: the pages behind a head are not marked as taken.
mutant pages_without_rest heap.c \
    '/^static int take_pages/,/^}/{/for \(uint64_t i = 1; i < count; i\+\+\)/,/ss_page_word\(SS_PAGE_REST/d}' \
    steps operation ONLY=run

# A region has its name before it is whole.
mutant name_before_all_else region.c \
    's/^        rc = link_as\(fd, dirfd, name\);/        rc = SS_OK;/;s/^    rc = initialise\(r, &fixed\);/    rc = link_as(fd, dirfd, name);\n    if (rc == SS_OK)\n        rc = initialise(r, \&fixed);/' \
    openings creation

# The name goes before the region is marked: who holds it writes to a ghost.
mutant removed_before_marked region.c \
    '/^int ss_unlink/,/^}/{s/^    ss_store_release.*//;s/^    return (remove_name.*);/    int rc = \1;\n    ss_store_release(\&r->header->unlinked, 1);\n    return rc;/}' \
    openings removal

echo "mutants: $passed passed, $failed failed"
[ $failed -eq 0 ]
