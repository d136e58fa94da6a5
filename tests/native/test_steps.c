/* test_steps.c - death after every single instruction of an operation on a region, and of the repair that follows.
 *
 * How it is done: steps.h.
 */
#include "steps.h"

/* ---- scenarios ------------------------------------------------------------------- */

static void int_5(void) { CHECK_OK(put_int(r, "k", 5)); }
static void int_6(void) { CHECK_OK(put_int(r, "k", 6)); }
static void text_short(void) { put_text("k", 'a', 100); }
static void text_longer(void) { put_text("k", 'b', 300); }
static void text_run(void) { put_text("k", 'c', 9000); }
static void text_long_run(void) { put_text("k", 'd', 20000); }
static void text_removed(void)
{
    text_short();
    CHECK_OK(del(r, "k"));
}
static void text_compared_and_set(void)
{
    static unsigned char text[300];
    struct ss_value v = text_value(memset(text, 'b', sizeof text), sizeof text);
    struct ss_entry e = {0};
    uint64_t g;
    CHECK_OK(read_entry("k", NULL, 0, &e) == SS_TOOSMALL ? SS_OK : SS_CORRUPT);
    CHECK_OK(ss_put(r, "k", 1, &v, 0, e.generation, &g, WAIT_LONG));
}
static void remove_k(void) { CHECK_OK(del(r, "k")); }

static int absent_or_int_5(void) { return before_or_after(is_absent("k"), is_int("k", 5)); }
static int absent_or_text(void) { return before_or_after(is_absent("k"), is_text("k", 'a', 100)); }
static int text_or_longer(void) { return before_or_after(is_text("k", 'a', 100), is_text("k", 'b', 300)); }
static int text_or_int_5(void) { return before_or_after(is_text("k", 'a', 100), is_int("k", 5)); }
static int int_5_or_text(void) { return before_or_after(is_int("k", 5), is_text("k", 'a', 100)); }
static int text_or_absent(void) { return before_or_after(is_text("k", 'a', 100), is_absent("k")); }
static int absent_or_run(void) { return before_or_after(is_absent("k"), is_text("k", 'c', 9000)); }
static int longer_or_text(void) { return before_or_after(is_text("k", 'b', 300), is_text("k", 'a', 100)); }
static int run_or_text(void) { return before_or_after(is_text("k", 'c', 9000), is_text("k", 'a', 100)); }
static int run_or_absent(void) { return before_or_after(is_text("k", 'c', 9000), is_absent("k")); }
static int run_or_longer_run(void) { return before_or_after(is_text("k", 'c', 9000), is_text("k", 'd', 20000)); }

static uint64_t generation_before;

static void int_5_remembered(void)
{
    struct ss_entry e = {0};
    int_5();
    CHECK_OK(read_entry("k", NULL, 0, &e));
    generation_before = e.generation;
}

/* Type, number, expiry and generation must change together. */
static int pair_5_or_6(void)
{
    struct ss_entry e = {0};
    CHECK_OK(read_entry("k", NULL, 0, &e));
    bool before = e.value.type == SS_INT && e.value.number.i == 5 && e.expires_ns == 0 && e.generation == generation_before;
    bool after = e.value.type == SS_INT && e.value.number.i == 6 && e.expires_ns == 0 && e.generation > generation_before;
    return before_or_after(before, after);
}

static void int_to_float_with_expiry(void)
{
    struct ss_value v = float_value(2.5);
    uint64_t g;
    CHECK_OK(ss_put(r, "k", 1, &v, UINT64_C(1) << 62, generation_before, &g, WAIT_LONG));
}

static int int_or_float(void)
{
    struct ss_entry e = {0};
    CHECK_OK(read_entry("k", NULL, 0, &e));
    bool before = e.value.type == SS_INT && e.value.number.i == 5 && e.expires_ns == 0 && e.generation == generation_before;
    bool after = e.value.type == SS_FLOAT && e.value.number.u == UINT64_C(0x4004000000000000) && e.expires_ns == UINT64_C(1) << 62 &&
                 e.generation > generation_before;
    return before_or_after(before, after);
}

static void increment_k(void)
{
    struct ss_value one = int_value(1), four = int_value(4);
    struct ss_entry e = {0};
    CHECK_OK(ss_increment(r, "k", 1, &one, &four, 0, &e, WAIT_LONG));
}

static void touch_k(void) { CHECK_OK(ss_touch(r, "k", 1, UINT64_C(1) << 62, WAIT_LONG)); }

static int untouched_or_touched(void)
{
    struct ss_entry e = {0};
    CHECK_OK(read_entry("k", NULL, 0, &e));
    CHECK_EQ(e.generation, generation_before);
    return before_or_after(e.expires_ns == 0, e.expires_ns == UINT64_C(1) << 62);
}

/* Until the next new key makes a table of 2^log2 slots grow: three quarters of it. */
static void fill(unsigned log2)
{
    char key[24];
    for (int i = 0; ss_load(&r->stripes[0].used) < UINT64_C(3) << log2 >> 2; i++) {
        snprintf(key, sizeof key, "filler-%d", i);
        CHECK_OK(put_int(r, key, i));
    }
    CHECK_EQ(atomic_load(&r->header->table_log2[0]), log2);
}

static void fill_to_the_brink(void) { fill(SS_TABLE_LOG2_MIN); }
static void fill_to_the_next_brink(void) { fill(SS_TABLE_LOG2_MIN + 1); }

/* The keys of the commit: any, or two of either word of a set of 128 stripes. */
static char four[4][24];

static void commit_four(void)
{
    struct ss_op ops[4] = {
        {.kind = SS_OP_PUT, .expected = generation_before, .value = text_value("aaaaaaaaaa", 10)},
        {.kind = SS_OP_PUT, .expected = SS_ABSENT, .value = int_value(1)},
        {.kind = SS_OP_DELETE, .expected = SS_ANY},
        {.kind = SS_OP_PUT, .expected = SS_ANY, .value = int_value(2)},
    };
    size_t culprit;
    for (int i = 0; i < 4; i++) {
        ops[i].key = four[i];
        ops[i].key_length = (uint32_t)strlen(four[i]);
    }
    CHECK_OK(ss_commit(r, ops, 4, &culprit, WAIT_LONG));
}

static void prepare_keys(void)
{
    struct ss_entry e = {0};
    CHECK_OK(put_int(r, four[0], 5));
    CHECK_OK(read_entry(four[0], NULL, 0, &e));
    generation_before = e.generation;
    CHECK_OK(put_int(r, four[2], 1));
    CHECK_OK(put_int(r, four[3], 1));
}

static void prepare_commit(void)
{
    for (int i = 0; i < 4; i++)
        snprintf(four[i], sizeof four[i], "key-%d", i);
    prepare_keys();
}

static void prepare_wide_commit(void)
{
    for (int i = 0, n = 0; i < 4; n++) {
        snprintf(four[i], sizeof four[i], "key-%d", n);
        i += (ss_hash(four[i], strlen(four[i]), r->seed) & r->stripe_mask) / 64 == (uint64_t)i % 2;
    }
    prepare_keys();
}

static int commit_or_not(void)
{
    return before_or_after(is_int(four[0], 5) && is_absent(four[1]) && is_int(four[2], 1) && is_int(four[3], 1),
                           is_text(four[0], 'a', 10) && is_int(four[1], 1) && is_absent(four[2]) && is_int(four[3], 2));
}

static void commit_growing(void)
{
    static char keys[8][8];
    struct ss_op ops[8];
    size_t culprit;
    memset(ops, 0, sizeof ops);
    for (int i = 0; i < 8; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        ops[i] = (struct ss_op){.kind = SS_OP_PUT, .key = keys[i], .key_length = 2, .expected = SS_ABSENT, .value = int_value(i)};
    }
    CHECK_OK(ss_commit(r, ops, 8, &culprit, WAIT_LONG));
}

static int eight_or_none(void)
{
    int there = 0;
    char key[8];
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "k%d", i);
        there += is_int(key, i);
    }
    return before_or_after(there == 0, there == 8);
}

static void fill_evicting(size_t length, uint64_t evictions)
{
    struct ss_stats stats;
    char key[24];
    for (int i = 0; ss_stats(r, &stats, WAIT_LONG) == SS_OK && stats.evictions < evictions; i++) {
        snprintf(key, sizeof key, "filler-%d", i);
        put_text(key, 'f', length);
    }
}

static void fill_with_small(void) { fill_evicting(100, 4000); }
static void fill_with_large(void) { fill_evicting(3000, 400); } /* few, or a sweep takes a million instructions */

/* Full, but for what was deleted in other stripes than that of "k". */
static void fill_and_free_elsewhere(void)
{
    static unsigned char text[3000];
    struct ss_value v = text_value(text, sizeof text);
    char key[24];
    uint64_t g;
    int n = 0, rc;
    do {
        snprintf(key, sizeof key, "filler-%d", n++);
        rc = ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, WAIT_LONG);
    } while (rc == SS_OK);
    CHECK_EQ(rc, SS_NOSPC);
    while (n-- > 0) {
        snprintf(key, sizeof key, "filler-%d", n);
        if ((ss_hash(key, strlen(key), r->seed) ^ ss_hash("k", 1, r->seed)) & r->stripe_mask)
            CHECK(del(r, key) <= SS_MISSING);
    }
}

static void add_expired(void)
{
    struct ss_value v = int_value(1);
    uint64_t g;
    CHECK_OK(ss_put(r, "x", 1, &v, 1, SS_ANY, &g, WAIT_LONG));
    CHECK_OK(ss_put(r, "y", 1, &v, 1, SS_ANY, &g, WAIT_LONG));
}

static uint64_t changes_before;
static void note_changes(void) { changes_before = ss_change_token(r); }

static void purge_all(void)
{
    uint64_t n;
    CHECK_OK(ss_purge(r, 0, &n, WAIT_LONG));
    CHECK_EQ(n, 2);
}

static void prepare_purge(void)
{
    add_expired();
    note_changes();
}

/* Both are absent all along; what tells is whether they are still stored. */
static int purged_or_not(void)
{
    struct ss_stats stats;
    CHECK(is_absent("x") && is_absent("y"));
    CHECK_OK(ss_stats(r, &stats, WAIT_LONG));
    return stats.expiring == 0;
}

static void leak_some(void)
{
    text_short();
    for (int i = 0; i < 30; i++) {
        char key[8];
        snprintf(key, sizeof key, "t%d", i);
        put_text(key, 't', 100 + (size_t)i * 10);
        if (i % 2)
            CHECK_OK(del(r, key));
    }
    ss_store(&r->pools[0].free[ss_class_of(200)], 0); /* all of a free list leaks */
}

static void sweep_twice(void)
{
    CHECK_OK(ss_sweep(r, 0, WAIT_LONG));
    CHECK_OK(put_int(r, "swept", 1));
}

static int swept_or_not(void)
{
    CHECK(is_text("k", 'a', 100));
    for (int i = 0; i < 30; i += 2) {
        char key[8];
        snprintf(key, sizeof key, "t%d", i);
        CHECK(is_text(key, 't', 100 + (size_t)i * 10));
    }
    return before_or_after(is_absent("swept"), is_int("swept", 1));
}

static const struct scenario scenarios[] = {
    {"set of a new number", NULL, int_5, absent_or_int_5, 1, 0, false},
    {"set of a new text", NULL, text_short, absent_or_text, 4, 0, false},
    {"set into a freed block", text_removed, text_short, absent_or_text, 1, 0, false},
    {"text replaced by a longer one", text_short, text_longer, text_or_longer, 1, 0, false},
    {"text replaced by a shorter one", text_longer, text_short, longer_or_text, 1, 0, false},
    {"text replaced by compare-and-set", text_short, text_compared_and_set, text_or_longer, 1, 0, false},
    {"text replaced by a number", text_short, int_5, text_or_int_5, 4, 0, false},
    {"number replaced by a text", int_5, text_short, int_5_or_text, 1, 0, false},
    {"set of a number in place", int_5_remembered, int_6, pair_5_or_6, 1, 0, false},
    {"compare-and-set in place, expiry", int_5_remembered, int_to_float_with_expiry, int_or_float, 4, 0, false},
    {"increment in place", int_5_remembered, increment_k, pair_5_or_6, 4, 0, false},
    {"increment that creates", NULL, increment_k, absent_or_int_5, 1, 0, false},
    {"touch", int_5_remembered, touch_k, untouched_or_touched, 1, 0, false},
    {"delete", text_short, remove_k, text_or_absent, 1, 0, false},
    {"set of a new run of pages", NULL, text_run, absent_or_run, 1, 0, false},
    {"run replaced by a longer run", text_run, text_long_run, run_or_longer_run, 4, 0, false},
    {"run replaced by a short text", text_run, text_short, run_or_text, 1, 0, false},
    {"delete of a run of pages", text_run, remove_k, run_or_absent, 1, 0, false},
    {"set after a sweep of other stripes", fill_and_free_elsewhere, text_run, absent_or_run, 4, 0, false},
    {"growth of the table", fill_to_the_brink, int_5, absent_or_int_5, 1, 0, false},
    {"further growth of the table", fill_to_the_next_brink, int_5, absent_or_int_5, 1, 0, false},
    {"commit of four keys, one stripe", prepare_commit, commit_four, commit_or_not, 1, 0, false},
    {"commit of four keys, four stripes", prepare_commit, commit_four, commit_or_not, 4, 0, false},
    {"commit of four keys, 128 stripes", prepare_wide_commit, commit_four, commit_or_not, 128, 0, false},
    {"commit that grows the table", fill_to_the_brink, commit_growing, eight_or_none, 1, 0, false},
    {"eviction of the same class", fill_with_small, text_short, absent_or_text, 1, SS_EVICT, true},
    {"eviction of a window of pages", fill_with_large, text_run, absent_or_run, 4, SS_EVICT, true},
    {"purge", prepare_purge, purge_all, purged_or_not, 1, 0, false},
    {"sweep", leak_some, sweep_twice, swept_or_not, 1, 0, false},
};

static void an_operation_killed_anywhere_is_whole_or_absent(void)
{
    /* All scenarios above. */
    char *only = getenv("ONLY"); /* part of a name, with _ for blanks */
    for (char *c = only; c != NULL && (c = strchr(c, '_')) != NULL;)
        *c = ' ';
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (only == NULL || strstr(scenarios[i].name, only) != NULL)
            kill_at_every_step(&scenarios[i]);
}

/* ---- killed again while repairing --------------------------------------------------- */

static void write_bystander(void)
{
    CHECK_OK(put_int(r, "bystander-0", 0));
    CHECK_OK(ss_sweep(r, 0, WAIT_LONG));
}

static void commit_next(void)
{
    struct ss_op ops[2] = {{.kind = SS_OP_PUT, .key = "bystander-0", .key_length = 11, .expected = SS_ANY, .value = int_value(0)},
                           {.kind = SS_OP_PUT, .key = "bystander-1", .key_length = 11, .expected = SS_ANY, .value = int_value(1000)}};
    size_t culprit;
    CHECK_OK(ss_commit(r, ops, 2, &culprit, WAIT_LONG));
}

static bool is_any_odd(void)
{
    for (uint32_t s = 0; s < r->at.nstripes; s++)
        if (ss_load(&r->stripes[s].version) & 1)
            return true;
    return false;
}

/* Run `act`; the number of its instructions, and of those before and after which
 * a version is odd. */
static long run_and_look(void (*act)(void), long *first_odd, long *last_odd)
{
    long n = 0;
    *first_odd = *last_odd = 0;
    for (pid_t pid = start_stopped(act); step(pid);) {
        n++;
        if (!is_any_odd())
            continue;
        *last_odd = n;
        if (*first_odd == 0)
            *first_odd = n;
    }
    return n;
}

static void kill_the_repairer(const struct scenario *s, void (*next)(void), long points)
{
    long first_odd, last_odd;

    r = new_region(MIB, s->nstripes, s->flags);
    add_bystanders();
    if (s->prepare != NULL)
        s->prepare();
    save();
    long length = run_and_look(s->act, &first_odd, &last_odd);
    for (long p = 1; p <= (last_odd != 0 ? 2 * points : points); p++) {
        restore();
        /* Half of the deaths anywhere, perhaps with locks, and half where repair has most to do. */
        run_for(s->act, p <= points ? length * p / (points + 1) : first_odd + (last_odd - first_odd) * (p - points) / (points + 1));
        judge_every_step(s, next, choose_stride(2 * length * points), 0);
    }
    forget();
    ss_close(r);
}

static void repair_killed_anywhere_is_taken_up_by_the_next(void)
{
    /* First kills spread over an operation, second kills over what the next process does about it. */
    const char *const names[] = {"set of a number in place", "text replaced by a longer one", "commit of four keys, four stripes",
                                 "commit of four keys, 128 stripes"};
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        for (size_t j = 0; j < sizeof names / sizeof *names; j++)
            if (strcmp(scenarios[i].name, names[j]) == 0)
                kill_the_repairer(&scenarios[i], j >= 2 ? commit_next : write_bystander, from_environment("STRIDE", 0) ? 25 : 5);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(an_operation_killed_anywhere_is_whole_or_absent),
        TEST(repair_killed_anywhere_is_taken_up_by_the_next),
    };
    return run_stepping_tests("steps", tests, sizeof tests / sizeof *tests, argc, argv);
}
