/* fuzz_table.c - verbs on a sound segment, in any order, with deaths and with damage between them.
 *
 * An input is a list of operations.  While there was no damage, each result is
 * the one that a model of twelve keys says, and check() finds every invariant
 * kept, also after an owner died with a lock.  From the first damaged byte on
 * any status will do, but never a crash, a hang, or a byte read outside the
 * mapping.
 */
#include <stdio.h>
#include <stdlib.h>

#include "segment.h"

enum { PAYLOAD_MAX = 9000, OPERATIONS_MAX = 200, DIED = 0x40000000 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static char payload[PAYLOAD_MAX];

/* What a key holds. */
struct expected {
    bool is_known; /* nothing is of a key before it was written, nor once something may have been evicted */
    bool is_there;
    uint32_t type, length;
    int64_t number;
};

struct run {
    struct ss_region *r;
    struct input input;
    bool is_damaged, may_evict;
    struct expected keys[SEGMENT_KEYS];
};

#define MUST(run, condition)                                                                                    \
    do {                                                                                                        \
        if (!(run)->is_damaged && !(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                     \
            abort();                                                                                            \
        }                                                                                                       \
    } while (0)

static struct expected *pick(struct run *run, char key[16], size_t *length)
{
    uint64_t number = take(&run->input, 1) % SEGMENT_KEYS;
    *length = segment_key(number, key);
    return &run->keys[number];
}

static struct ss_value some_value(struct run *run)
{
    uint64_t choice = take(&run->input, 1);

    if (choice < 100)
        return (struct ss_value){.type = SS_INT, .number.i = (int64_t)choice};
    return (struct ss_value){.type = SS_STR, .length = (uint32_t)take(&run->input, 2) % (choice < 230 ? 300 : PAYLOAD_MAX), .payload = payload};
}

static void expect(const struct run *run, struct expected *e, const struct ss_value *value)
{
    *e = (struct expected){.is_known = !run->may_evict, .is_there = value != NULL};
    if (value != NULL) {
        e->type = value->type;
        e->length = value->length;
        e->number = value->number.i;
    }
}

static void put(struct run *run, bool is_expired)
{
    char key[16];
    size_t length;
    uint64_t generation;
    struct expected *e = pick(run, key, &length);
    struct ss_value value = some_value(run);

    int rc = ss_put(run->r, key, length, &value, is_expired, SS_ANY, &generation, SS_TRY);
    MUST(run, rc == SS_OK || rc == SS_NOSPC);
    if (rc == SS_OK)
        expect(run, e, is_expired ? NULL : &value);
}

static void get(struct run *run)
{
    char key[16], buffer[PAYLOAD_MAX];
    size_t length;
    struct ss_entry entry = {0};
    struct expected *e = pick(run, key, &length);

    int rc = ss_get(run->r, key, length, buffer, sizeof buffer, &entry, SS_TRY);
    MUST(run, rc == SS_OK || rc == SS_MISSING);
    if (e->is_known)
        MUST(run, (rc == SS_OK) == e->is_there);
    if (e->is_known && rc == SS_OK)
        MUST(run, entry.value.type == e->type && entry.value.length == e->length && entry.value.number.i == e->number);
}

static void delete(struct run *run)
{
    char key[16];
    size_t length;
    struct expected *e = pick(run, key, &length);

    int rc = ss_delete(run->r, key, length, SS_ANY, NULL, 0, NULL, SS_TRY);
    MUST(run, e->is_known ? rc == (e->is_there ? SS_OK : SS_MISSING) : rc == SS_OK || rc == SS_MISSING);
    expect(run, e, NULL);
}

static void increment(struct run *run)
{
    char key[16];
    size_t length;
    struct ss_value one = {.type = SS_INT, .number.i = 1};
    struct ss_entry entry = {0};
    struct expected *e = pick(run, key, &length);

    int rc = ss_increment(run->r, key, length, &one, &one, 0, &entry, SS_TRY);
    MUST(run, rc == SS_OK || rc == SS_TYPE || rc == SS_NOSPC);
    if (rc == SS_OK && e->is_known)
        MUST(run, entry.value.number.i == (e->is_there ? e->number + 1 : 2));
    if (rc == SS_OK)
        expect(run, e, &entry.value);
}

static void touch(struct run *run)
{
    char key[16];
    size_t length;
    struct expected *e = pick(run, key, &length);
    uint64_t expires = take(&run->input, 1) % 2;

    if (ss_touch(run->r, key, length, expires, SS_TRY) == SS_OK && expires != 0)
        expect(run, e, NULL);
}

static void compare_and_set(struct run *run)
{
    char key[16];
    size_t length;
    uint64_t generation;
    struct expected *e = pick(run, key, &length);
    struct ss_value value = some_value(run);

    int rc = ss_put(run->r, key, length, &value, 0, SS_ABSENT, &generation, SS_TRY);
    MUST(run, rc == SS_OK || rc == SS_MISMATCH || rc == SS_NOSPC);
    if (e->is_known)
        MUST(run, (rc == SS_MISMATCH) == e->is_there);
    if (rc == SS_OK)
        expect(run, e, &value);
}

static void commit(struct run *run)
{
    char keys[4][16];
    struct ss_op ops[4];
    size_t culprit, count = 1 + take(&run->input, 1) % 4;
    uint64_t first = take(&run->input, 1) % SEGMENT_KEYS;

    for (size_t i = 0; i < count; i++) {
        uint64_t kind = SS_OP_CHECK + take(&run->input, 1) % 3;
        ops[i] = (struct ss_op){.kind = (uint32_t)kind, .key = keys[i], .expected = SS_ANY, .value = some_value(run)};
        ops[i].key_length = (uint32_t)segment_key((first + i) % SEGMENT_KEYS, keys[i]);
    }
    int rc = ss_commit(run->r, ops, count, &culprit, SS_TRY);
    MUST(run, rc == SS_OK || rc == SS_NOSPC);
    for (size_t i = 0; rc == SS_OK && i < count; i++)
        if (ops[i].kind != SS_OP_CHECK)
            expect(run, &run->keys[(first + i) % SEGMENT_KEYS], ops[i].kind == SS_OP_PUT ? &ops[i].value : NULL);
}

static void scan(struct run *run, uint64_t choice)
{
    static char buffer[4000];
    struct ss_stats stats;
    struct ss_report report;
    uint32_t stripe = (uint32_t)take(&run->input, 1) & run->r->stripe_mask;
    uint64_t n;
    size_t used;
    int rc = SS_OK;

    switch (choice % 8) {
    case 0: rc = ss_keys(run->r, stripe, "a-", choice / 8 % 3, buffer, sizeof buffer, &used, &n, SS_TRY); break;
    case 1: rc = ss_purge(run->r, stripe, &n, SS_TRY); break;
    case 2: rc = ss_sweep(run->r, stripe, SS_TRY); break;
    case 3: rc = ss_count(run->r, &n, SS_TRY); break;
    case 4: rc = ss_stats(run->r, &stats, SS_TRY); break;
    case 5: rc = ss_check(run->r, &report, SS_TRY); break;
    case 6:
        rc = ss_clear(run->r, stripe, "filler", 6, &n, SS_TRY);
        break;
    default: rc = ss_wait(run->r, 0, 0) == SS_SYS ? SS_SYS : SS_OK; break;
    }
    MUST(run, rc == SS_OK);
}

/* What the kernel does to the mutex of an owner that dies between two instructions. */
static void die(struct run *run)
{
    uint64_t choice = take(&run->input, 1);
    struct ss_stripe *st = &run->r->stripes[choice & run->r->stripe_mask];

    switch (choice >> 6) {
    case 0: run->r->header->page_mutex.__data.__lock = DIED; break;
    case 1: run->r->header->txn_mutex.__data.__lock = DIED; break;
    default: st->mutex.__data.__lock = DIED; break;
    }
}

/* Damage that looks like the work of one who died: an odd version, and a record of any kind. */
static void die_in_a_change(struct run *run)
{
    struct ss_stripe *st = &run->r->stripes[take(&run->input, 1) & run->r->stripe_mask];

    run->is_damaged = true;
    ss_store(&st->version, ss_load(&st->version) | 1);
    ss_store(&st->redo_kind, take(&run->input, 1) % 3);
    ss_store(&run->r->header->txn_state, take(&run->input, 1) % 3);
    ss_store(&run->r->header->txn_count, take(&run->input, 2));
    ss_store(&st->redo_block, run->r->at.heap + take(&run->input, 2) * 16);
    ss_store(&st->redo_meta, take(&run->input, 8));
}

static void operate(struct run *run)
{
    uint64_t choice = take(&run->input, 1);

    switch (choice % 16) {
    case 0:
    case 1: put(run, false); break;
    case 2: put(run, true); break;
    case 3: get(run); break;
    case 4: delete(run); break;
    case 5: increment(run); break;
    case 6: touch(run); break;
    case 7: compare_and_set(run); break;
    case 8:
    case 9: commit(run); break;
    case 10:
    case 11: scan(run, choice / 16); break;
    case 12: die(run); break;
    case 13: die_in_a_change(run); break;
    default:
        run->is_damaged = true;
        segment_damage(run->r, &run->input);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct run run = {.input = {bytes, bytes + length}};
    struct ss_report report;
    int kind = take(&run.input, 1) & 1;

    run.may_evict = kind == EVICTING;
    if (segment_attach(kind, NULL, &run.r) != SS_OK)
        abort();
    for (int i = 0; i < OPERATIONS_MAX && !is_over(&run.input); i++)
        operate(&run);
    int rc = ss_check(run.r, &report, SS_TRY);
    if (rc != SS_OK && !run.is_damaged)
        fprintf(stderr, "check: %s\n", report.message);
    MUST(&run, rc == SS_OK);
    if (run.is_damaged)
        segment_use(run.r, length);
    ss_close(run.r);
    return 0;
}
