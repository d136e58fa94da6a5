/* test_model.c - random operations on a region and on a plain array agree, step by step.
 *
 * The clock is the test's own (the linker wraps clock_gettime), so expiry is
 * exact: both sides see the same instant.
 */
#define _GNU_SOURCE
#include <time.h>

#include "harness.h"

enum { KEYS = 2500, LENGTH_MAX = 6000, TXN_MOST = 40, BUFFERS = 3 * TXN_MOST };

static uint64_t fake_boottime = UINT64_C(1000000);
static void (*before_clock_read)(void); /* called once */
int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (clock != CLOCK_BOOTTIME)
        return __real_clock_gettime(clock, t);
    if (before_clock_read != NULL) {
        void (*event)(void) = before_clock_read;
        before_clock_read = NULL;
        event();
    }
    t->tv_sec = (time_t)(fake_boottime / 1000000000u);
    t->tv_nsec = (long)(fake_boottime % 1000000000u);
    return 0;
}

/* The reference. */
struct expectation {
    bool is_present;
    uint32_t type, length;
    uint64_t number; /* or the seed of the payload */
    uint64_t generation, expires;
};

static struct model {
    struct ss_region *r;
    struct expectation at[KEYS];
    uint64_t last_generation[KEYS];
    uint64_t seed;
    bool may_evict;
    uint64_t refused;
    uint64_t large_one_in; /* values */
} m;

static char *key_of(int k, size_t *length)
{
    static char keys[BUFFERS][SS_KEY_MAX];
    static int turn;
    char *key = keys[turn = (turn + 1) % BUFFERS];
    int n = snprintf(key, SS_KEY_MAX, "key-%d-", k);
    size_t extra = k % 50 == 0 ? 400 : (size_t)k % 23;
    memset(key + n, 'x', extra);
    *length = (size_t)n + extra;
    return key;
}

static const void *payload_of(uint64_t number, uint32_t length)
{
    static unsigned char buffers[BUFFERS][LENGTH_MAX];
    static int turn;
    unsigned char *p = buffers[turn = (turn + 1) % BUFFERS];
    for (uint32_t i = 0; i < length; i++)
        p[i] = (unsigned char)(number * 31 + i * 7 + (i >> 8));
    return p;
}

static struct ss_value random_value(struct expectation *x)
{
    uint64_t draw = next_random(&m.seed);
    struct ss_value v = {.type = SS_INT + (uint32_t)(draw % 9)};

    if (v.type <= SS_FLOAT)
        v.number.u = v.type == SS_UINT ? draw | UINT64_C(1) << 63 : draw >> 20;
    if (v.type == SS_FLOAT)
        v.number.f = (double)(draw >> 40);
    *x = (struct expectation){.is_present = true, .type = v.type, .number = v.number.u};
    if (v.type >= SS_STR) {
        x->number = draw >> 16;
        x->length = v.length = (uint32_t)(draw % m.large_one_in == 0 ? draw % LENGTH_MAX : draw % 120);
        v.payload = payload_of(x->number, v.length);
    }
    return v;
}

static uint64_t random_expiry(void)
{
    uint64_t draw = next_random(&m.seed);
    return draw % 3 != 0 ? 0 : fake_boottime + (draw >> 8) % 20000;
}

static struct expectation *live(int k)
{
    struct expectation *x = &m.at[k];
    if (x->is_present && x->expires != 0 && fake_boottime >= x->expires)
        x->is_present = false;
    return x;
}

static uint64_t random_expected(int k)
{
    uint64_t now = live(k)->is_present ? m.at[k].generation : SS_ABSENT;
    switch (next_random(&m.seed) % 6) {
    case 0: return now;
    case 1: return SS_ABSENT;
    case 2: return now + 1;
    default: return SS_ANY;
    }
}

static bool matches(int k, uint64_t expected)
{
    return expected == SS_ANY || expected == (live(k)->is_present ? m.at[k].generation : SS_ABSENT);
}

/* A region that evicts may have lost any entry since we last saw it. */
static void forget_evicted(int k)
{
    struct ss_entry e = {0};
    size_t length;
    char *key = key_of(k, &length);
    if (m.may_evict && ss_get(m.r, key, length, NULL, 0, &e, SS_TRY) == SS_MISSING)
        m.at[k].is_present = false;
}

static void must_agree(int k)
{
    static unsigned char buffer[LENGTH_MAX];
    struct expectation *x = live(k);
    struct ss_entry e = {0};
    size_t length;
    char *key = key_of(k, &length);

    int rc = ss_get(m.r, key, length, buffer, sizeof buffer, &e, SS_TRY);
    if (rc == SS_MISSING && m.may_evict)
        x->is_present = false;
    CHECK_EQ(rc, x->is_present ? SS_OK : SS_MISSING);
    if (rc != SS_OK)
        return;
    CHECK_EQ(e.value.type, x->type);
    CHECK_EQ(e.value.length, x->length);
    CHECK_EQ(e.generation, x->generation);
    CHECK_EQ(e.expires_ns, x->expires);
    if (x->type >= SS_STR)
        CHECK(memcmp(buffer, payload_of(x->number, x->length), x->length) == 0);
    else
        CHECK_EQ(e.value.number.u, x->number);
}

static void accept_generation(int k, uint64_t generation)
{
    CHECK(generation > m.last_generation[k]);
    m.last_generation[k] = m.at[k].generation = generation;
}

/* ---- one random step each ----------------------------------------------- */

/* A new deadline, or, where an entry is expected, that which it has. */
static uint64_t random_expiry_or_keep(uint64_t expected)
{
    bool may_keep = expected != SS_ANY && expected != SS_ABSENT;
    return may_keep && next_random(&m.seed) % 2 == 0 ? SS_KEEP : random_expiry();
}

static void step_put(int k)
{
    struct expectation x;
    struct ss_value v = random_value(&x);
    uint64_t expected = random_expected(k), expires = random_expiry_or_keep(expected), before = m.at[k].expires, g;
    size_t length;
    char *key = key_of(k, &length);

    forget_evicted(k);
    int rc = ss_put(m.r, key, length, &v, expires, expected, &g, SS_TRY);
    if (rc == SS_NOSPC && !m.may_evict && matches(k, expected)) {
        m.refused++;
        return;
    }
    CHECK_EQ(rc, matches(k, expected) ? SS_OK : SS_MISMATCH);
    if (rc != SS_OK)
        return;
    m.at[k] = x;
    m.at[k].expires = expires == SS_KEEP ? before : expires;
    accept_generation(k, g);
}

static void step_delete(int k)
{
    uint64_t expected = random_expected(k);
    size_t length;
    char *key = key_of(k, &length);

    forget_evicted(k);
    int want = !live(k)->is_present ? SS_MISSING : matches(k, expected) ? SS_OK : SS_MISMATCH;
    CHECK_EQ(ss_delete(m.r, key, length, expected, NULL, 0, NULL, SS_TRY), want);
    if (want == SS_OK)
        m.at[k].is_present = false;
}

static void step_increment(int k)
{
    struct ss_value by = int_value((int64_t)(next_random(&m.seed) % 100) - 50), initial = int_value(1000);
    uint64_t expires = random_expiry();
    struct expectation *x = live(k);
    struct ss_entry e = {0};
    size_t length;
    char *key = key_of(k, &length);

    forget_evicted(k);
    bool was_there = x->is_present;
    int rc = ss_increment(m.r, key, length, &by, &initial, expires, &e, SS_TRY);
    if (rc == SS_NOSPC && !was_there && !m.may_evict)
        return;
    if (was_there && x->type > SS_FLOAT) {
        CHECK_EQ(rc, SS_TYPE);
        return;
    }
    CHECK_OK(rc);
    if (!was_there)
        *x = (struct expectation){.is_present = true, .type = SS_INT, .number = 1000, .expires = expires};
    if (x->type == SS_FLOAT) {
        double f;
        memcpy(&f, &x->number, sizeof f);
        f += (double)by.number.i;
        memcpy(&x->number, &f, sizeof f);
    } else {
        x->number += by.number.u;
    }
    CHECK_EQ(e.value.number.u, x->number);
    accept_generation(k, e.generation);
}

static void step_touch(int k)
{
    uint64_t expires = random_expiry();
    size_t length;
    char *key = key_of(k, &length);

    forget_evicted(k);
    CHECK_EQ(ss_touch(m.r, key, length, expires, SS_TRY), live(k)->is_present ? SS_OK : SS_MISSING);
    m.at[k].expires = expires;
}

static void step_commit(int first)
{
    struct ss_op ops[TXN_MOST];
    struct expectation x[TXN_MOST];
    size_t count = 1 + next_random(&m.seed) % TXN_MOST, culprit = 0, length;
    bool all = true;

    memset(ops, 0, sizeof ops);
    for (size_t i = 0; i < count; i++) {
        int k = (first + (int)i * 7) % KEYS;
        forget_evicted(k);
        ops[i].kind = SS_OP_CHECK + (uint32_t)(next_random(&m.seed) % 3);
        ops[i].key = key_of(k, &length);
        ops[i].key_length = (uint32_t)length;
        ops[i].expected = next_random(&m.seed) % 30 == 0 ? random_expected(k)
                          : live(k)->is_present          ? m.at[k].generation
                                                         : SS_ABSENT;
        ops[i].value = random_value(&x[i]);
        ops[i].expires_ns = random_expiry_or_keep(ops[i].expected);
        x[i].expires = ops[i].expires_ns == SS_KEEP ? m.at[k].expires : ops[i].expires_ns;
        all = all && matches(k, ops[i].expected);
    }
    int rc = ss_commit(m.r, ops, count, &culprit, SS_TRY);
    if (rc == SS_NOSPC && all) {
        m.refused++;
        return;
    }
    CHECK_EQ(rc, all ? SS_OK : SS_MISMATCH);
    for (size_t i = 0; i < count && rc == SS_OK; i++) {
        int k = (first + (int)i * 7) % KEYS;
        if (ops[i].kind == SS_OP_DELETE)
            m.at[k].is_present = false;
        if (ops[i].kind == SS_OP_PUT) {
            m.at[k] = x[i];
            accept_generation(k, ops[i].generation);
        }
    }
}

static void compare_all(void)
{
    struct ss_info info;
    uint64_t count, present = 0, listed = 0, n;
    static char buffer[KEYS * 64 + KEYS / 50 * 512];
    size_t used;

    for (int k = 0; k < KEYS; k++) {
        must_agree(k);
        present += live(k)->is_present;
    }
    ss_get_info(m.r, &info);
    for (uint32_t s = 0; s < info.nstripes; s++) {
        CHECK_OK(ss_keys(m.r, s, "", 0, buffer, sizeof buffer, &used, &n, SS_TRY));
        listed += n;
    }
    CHECK_EQ(listed, present);
    CHECK_OK(ss_count(m.r, &count, SS_TRY));
    CHECK_EQ(count, present);
    must_be_whole(m.r, false);
}

static void run_model(uint64_t size, uint32_t nstripes, uint32_t flags, uint64_t seed)
{
    long steps = from_environment("QUICK", 0) ? 30000 : 200000;

    memset(&m, 0, sizeof m);
    m.r = new_region(size, nstripes, flags);
    m.seed = seed;
    m.large_one_in = size < 4 * MIB ? 2 : 30;
    m.may_evict = flags & SS_EVICT;
    for (long i = 0; i < steps; i++) {
        uint64_t draw = next_random(&m.seed);
        /* The window of keys in use wanders, so that tables grow and empty. */
        int k = (int)((draw >> 32) % (uint64_t)(i / (steps / 10) % 2 ? KEYS : KEYS / 20));
        fake_boottime += draw % 8;
        switch (draw >> 8 & 15) {
        case 0: case 1: case 2: case 3: case 4: step_put(k); break;
        case 5: case 6: step_delete(k); break;
        case 7: case 8: step_increment(k); break;
        case 9: step_touch(k); break;
        case 10: case 11: step_commit(k); break;
        default: must_agree(k);
        }
        if (i % (steps / 20) == 0)
            compare_all();
    }
    compare_all();
    must_be_whole(m.r, true);
    ss_close(m.r);
}

static void a_roomy_region_agrees_with_the_model(void)
{
    /* 200,000 random steps over 2,500 keys, nothing refused. */
    run_model(16 * MIB, 0, 0, 1);
    CHECK_EQ(m.refused, 0);
}

static void a_full_region_agrees_with_the_model(void)
{
    /* The same where space often runs out: what is refused changes nothing. */
    run_model(SS_SIZE_MIN, 1, 0, 2);
    CHECK(m.refused > 0);
}

static void an_evicting_region_agrees_but_for_what_it_evicted(void)
{
    /* An entry is as the model says, or gone; nothing is refused. */
    run_model(SS_SIZE_MIN, 4, SS_EVICT, 3);
}

/* ---- a deadline put off under a reader's eyes ----------------------------------- */

static struct ss_region *leased;

static void renew_in_time_then_pass_the_deadline(void)
{
    CHECK_OK(ss_touch(leased, "k", 1, fake_boottime + 1000, SS_TRY));
    fake_boottime += 500;
}

static void replace_in_time_then_pass_the_deadline(void)
{
    struct ss_value v = int_value(2);
    uint64_t g;
    CHECK_OK(ss_put(leased, "k", 1, &v, fake_boottime + 1000, SS_ANY, &g, SS_TRY));
    fake_boottime += 500;
}

static void an_entry_renewed_in_time_is_never_absent(void)
{
    /* A reader that saw the old deadline and reads the clock after it finds the entry, which never expired. */
    void (*const events[])(void) = {renew_in_time_then_pass_the_deadline, replace_in_time_then_pass_the_deadline};
    struct ss_value v = int_value(1);
    struct ss_entry e = {0};
    uint64_t g;

    for (size_t i = 0; i < 2; i++) {
        leased = new_region(MIB, 1, 0);
        CHECK_OK(ss_put(leased, "k", 1, &v, fake_boottime + 100, SS_ANY, &g, SS_TRY));
        before_clock_read = events[i];
        CHECK_OK(ss_get(leased, "k", 1, NULL, 0, &e, SS_TRY));
        CHECK_EQ(e.expires_ns, fake_boottime + 500);
        fake_boottime += 1000;
        CHECK_EQ(ss_get(leased, "k", 1, NULL, 0, &e, SS_TRY), SS_MISSING);
        ss_close(leased);
    }
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(a_roomy_region_agrees_with_the_model),
        TEST(a_full_region_agrees_with_the_model),
        TEST(an_evicting_region_agrees_but_for_what_it_evicted),
        TEST(an_entry_renewed_in_time_is_never_absent),
    };
    return run_tests("model", tests, sizeof tests / sizeof *tests, argc, argv);
}
