/* test_threads.c - what concurrent threads may and may not see of one another.
 *
 * Threads stop at a deadline (QUICK shortens it), never by count alone, so the
 * claims are checked over as many interleavings as the machine gives.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

static struct {
    struct ss_region *r;
    uint64_t until;
    _Atomic uint64_t failures, done;
    _Atomic bool stop;
} t;

static bool in_time(void)
{
    return !t.stop && ss_monotonic_ns() < t.until;
}

/* In a thread a failure is counted; fail_at() must not jump across stacks. */
#define EXPECT(condition) expect(condition, __LINE__)

static void expect(bool condition, int line)
{
    if (condition)
        return;
    if (t.failures++ == 0)
        printf("    first broken expectation: line %d\n", line);
    t.stop = true;
}

static void run_threads(struct ss_region *r, int n, void *(*const bodies[])(void *), double seconds)
{
    pthread_t threads[16];
    if (from_environment("QUICK", 0))
        seconds /= 3;
    t.r = r;
    t.failures = t.done = 0;
    t.stop = false;
    t.until = ss_monotonic_ns() + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < n; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, bodies[i], (void *)(intptr_t)i), 0);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(t.failures, 0);
}

/* ---- increments ---------------------------------------------------------- */

static void *increment_until_told(void *arg)
{
    struct ss_value one = int_value(1), zero = int_value(0);
    struct ss_entry e = {0};
    uint64_t last = 0, n = 0;
    (void)arg;
    while (in_time()) {
        EXPECT(ss_increment(t.r, "n", 1, &one, &zero, 0, &e, WAIT_LONG) == SS_OK);
        EXPECT(e.generation > last); /* handed out once, and growing */
        last = e.generation;
        n++;
    }
    t.done += n;
    return NULL;
}

static void no_increment_is_lost(void)
{
    /* 4 threads; the total is the number of calls. */
    struct ss_region *r = new_region(MIB, 0, 0);
    void *(*const bodies[])(void *) = {increment_until_told, increment_until_told, increment_until_told, increment_until_told};
    run_threads(r, 4, bodies, 1);
    CHECK_EQ((uint64_t)get_int(r, "n"), t.done);
    must_be_whole(r, true);
    ss_close(r);
}

/* ---- values that prove themselves ----------------------------------------- */

enum { PROOF_KEYS = 20, PROOF_MAX = 700 };

static size_t proof(uint64_t seed, int key, unsigned char *p)
{
    size_t n = 16 + seed % (PROOF_MAX - 16);
    memcpy(p, &seed, 8);
    for (size_t i = 8; i < n; i++)
        p[i] = (unsigned char)(seed + (uint64_t)key * 13 + i * 7);
    return n;
}

static void *write_proofs(void *arg)
{
    uint64_t seed = (uint64_t)(intptr_t)arg, g;
    unsigned char p[PROOF_MAX];
    char key[8];
    while (in_time()) {
        int k = (int)(next_random(&seed) % PROOF_KEYS);
        size_t n = (size_t)snprintf(key, sizeof key, "k%d", k);
        struct ss_value v = text_value(p, proof(next_random(&seed), k, p));
        int rc = seed % 10 == 0 ? ss_delete(t.r, key, n, SS_ANY, NULL, 0, NULL, WAIT_LONG)
                                : ss_put(t.r, key, n, &v, 0, SS_ANY, &g, WAIT_LONG);
        EXPECT(rc == SS_OK || rc == SS_MISSING);
    }
    return NULL;
}

static void *read_proofs(void *arg)
{
    uint64_t seed = 99, claimed, last[PROOF_KEYS] = {0};
    unsigned char p[PROOF_MAX], q[PROOF_MAX];
    struct ss_entry e = {0};
    char key[8];
    (void)arg;
    while (in_time()) {
        int k = (int)(next_random(&seed) % PROOF_KEYS);
        size_t n = (size_t)snprintf(key, sizeof key, "k%d", k);
        int rc = ss_get(t.r, key, n, p, sizeof p, &e, WAIT_LONG);
        EXPECT(rc == SS_OK || rc == SS_MISSING);
        if (rc != SS_OK)
            continue;
        memcpy(&claimed, p, 8);
        EXPECT(e.value.length == proof(claimed, k, q) && memcmp(p, q, e.value.length) == 0);
        EXPECT(e.generation >= last[k]);
        last[k] = e.generation;
    }
    return NULL;
}

static void no_reader_sees_a_torn_value(void)
{
    /* 2 writers replace and delete self-proving payloads in one stripe, 2 readers; generations never go back. */
    struct ss_region *r = new_region(MIB, 1, 0);
    void *(*const bodies[])(void *) = {write_proofs, read_proofs, write_proofs, read_proofs};
    run_threads(r, 4, bodies, 1.5);
    must_be_whole(r, true);
    ss_close(r);
}

/* ---- a number and its generation ------------------------------------------ */

static void *count_in_step(void *arg)
{
    struct ss_value one = int_value(1), zero = int_value(0);
    struct ss_entry e = {0};
    (void)arg;
    while (in_time()) {
        EXPECT(ss_increment(t.r, "pair", 4, &one, &zero, 0, &e, WAIT_LONG) == SS_OK);
        EXPECT((uint64_t)e.value.number.i == e.generation);
    }
    return NULL;
}

static void *read_in_step(void *arg)
{
    struct ss_entry e = {0};
    (void)arg;
    while (in_time())
        if (ss_get(t.r, "pair", 4, NULL, 0, &e, WAIT_LONG) == SS_OK)
            EXPECT((uint64_t)e.value.number.i == e.generation);
    return NULL;
}

static void a_number_and_its_generation_are_one(void)
{
    /* The only key of its stripe is counted up from 1: number and generation are equal in every read. */
    struct ss_region *r = new_region(MIB, 1, 0);
    void *(*const bodies[])(void *) = {count_in_step, read_in_step, count_in_step, read_in_step};
    run_threads(r, 4, bodies, 1);
    must_be_whole(r, true);
    ss_close(r);
}

/* ---- transfers ------------------------------------------------------------- */

enum { ACCOUNTS = 8, TOTAL = 800 };

static size_t account(char *key, int k)
{
    return (size_t)snprintf(key, 16, "account-%d", k);
}

static void *transfer(void *arg)
{
    uint64_t seed = (uint64_t)(intptr_t)arg + 1;
    char keys[2][16];
    while (in_time()) {
        struct ss_op ops[2];
        struct ss_entry e = {0};
        size_t culprit;
        int from = (int)(next_random(&seed) % ACCOUNTS), to = (from + 1 + (int)(next_random(&seed) % (ACCOUNTS - 1))) % ACCOUNTS;
        memset(ops, 0, sizeof ops);
        for (int i = 0; i < 2; i++) {
            ops[i].kind = SS_OP_PUT;
            ops[i].key = keys[i];
            ops[i].key_length = (uint32_t)account(keys[i], i ? to : from);
            EXPECT(ss_get(t.r, keys[i], ops[i].key_length, NULL, 0, &e, WAIT_LONG) == SS_OK);
            ops[i].expected = e.generation;
            ops[i].value = int_value(e.value.number.i + (i ? 1 : -1));
        }
        int rc = ss_commit(t.r, ops, 2, &culprit, WAIT_LONG);
        EXPECT(rc == SS_OK || rc == SS_MISMATCH);
        t.done += rc == SS_OK;
    }
    return NULL;
}

/* Read all, then have the generations confirmed at one instant. */
static void *audit(void *arg)
{
    char keys[ACCOUNTS][16];
    (void)arg;
    while (in_time()) {
        struct ss_op ops[ACCOUNTS];
        struct ss_entry e = {0};
        int64_t sum = 0;
        size_t culprit;
        memset(ops, 0, sizeof ops);
        for (int i = 0; i < ACCOUNTS; i++) {
            ops[i].kind = SS_OP_CHECK;
            ops[i].key = keys[i];
            ops[i].key_length = (uint32_t)account(keys[i], i);
            EXPECT(ss_get(t.r, keys[i], ops[i].key_length, NULL, 0, &e, WAIT_LONG) == SS_OK);
            ops[i].expected = e.generation;
            sum += e.value.number.i;
        }
        if (ss_commit(t.r, ops, ACCOUNTS, &culprit, WAIT_LONG) == SS_OK)
            EXPECT(sum == TOTAL);
    }
    return NULL;
}

/* Without locks: if generations were equal before and after, the sum is of one instant. */
static void *audit_twice(void *arg)
{
    char key[16];
    (void)arg;
    while (in_time()) {
        uint64_t generations[2][ACCOUNTS];
        int64_t sum = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < ACCOUNTS; i++) {
                struct ss_entry e = {0};
                EXPECT(ss_get(t.r, key, account(key, i), NULL, 0, &e, WAIT_LONG) == SS_OK);
                generations[pass][i] = e.generation;
                sum += pass == 0 ? e.value.number.i : 0;
            }
        if (memcmp(generations[0], generations[1], sizeof generations[0]) == 0)
            EXPECT(sum == TOTAL);
    }
    return NULL;
}

static void a_commit_is_seen_whole(void)
{
    /* Transfers between 8 accounts in several stripes: every consistent reading sums to the total. */
    struct ss_region *r = new_region(MIB, 4, 0);
    void *(*const bodies[])(void *) = {transfer, audit, transfer, audit_twice};
    char key[16];

    for (int i = 0; i < ACCOUNTS; i++)
        CHECK(account(key, i) > 0 && put_int(r, key, TOTAL / ACCOUNTS) == SS_OK);
    run_threads(r, 4, bodies, 1.5);
    CHECK(t.done > 0);
    int64_t sum = 0;
    for (int i = 0; i < ACCOUNTS; i++) {
        account(key, i);
        sum += get_int(r, key);
    }
    CHECK_EQ(sum, TOTAL);
    must_be_whole(r, true);
    ss_close(r);
}

/* Whoever has seen the new value of the first key must find the new one of the second. */
static void *write_pairs(void *arg)
{
    struct ss_op ops[2] = {{.kind = SS_OP_PUT, .key = "left", .key_length = 4, .expected = SS_ANY},
                           {.kind = SS_OP_PUT, .key = "right", .key_length = 5, .expected = SS_ANY}};
    size_t culprit;
    (void)arg;
    for (int64_t i = 1; in_time(); i++) {
        ops[0].value = ops[1].value = int_value(i);
        EXPECT(ss_commit(t.r, ops, 2, &culprit, WAIT_LONG) == SS_OK);
    }
    return NULL;
}

static void *read_pairs(void *arg)
{
    const char *const keys[2] = {"left", "right"};
    int first = (int)(intptr_t)arg & 1;
    while (in_time()) {
        struct ss_entry a = {0}, b = {0};
        if (ss_get(t.r, keys[first], strlen(keys[first]), NULL, 0, &a, WAIT_LONG) == SS_OK &&
            ss_get(t.r, keys[!first], strlen(keys[!first]), NULL, 0, &b, WAIT_LONG) == SS_OK)
            EXPECT(b.value.number.i >= a.value.number.i);
    }
    return NULL;
}

static void commits_become_visible_at_once(void)
{
    /* Two keys always written together: who read either one, reads the other at least as new. */
    struct ss_region *r = new_region(MIB, 4, 0);
    void *(*const bodies[])(void *) = {write_pairs, read_pairs, read_pairs};
    CHECK_OK(put_int(r, "left", 0));
    CHECK_OK(put_int(r, "right", 0));
    run_threads(r, 3, bodies, 1);
    must_be_whole(r, true);
    ss_close(r);
}

/* ---- everything at once ----------------------------------------------------- */

static void *do_anything(void *arg)
{
    uint64_t seed = (uint64_t)(intptr_t)arg + 100, g, n;
    static unsigned char payload[9000];
    struct ss_value one = int_value(1), zero = int_value(0);
    char key[16], buffer[9000];
    size_t used, culprit;
    struct ss_entry e = {0};

    while (in_time()) {
        uint64_t draw = next_random(&seed);
        size_t length = (size_t)snprintf(key, sizeof key, "k%d", (int)(draw >> 40) % 2000);
        struct ss_value v = text_value(payload, draw >> 20 & 7 ? (draw >> 24) % 300 : (draw >> 24) % sizeof payload);
        struct ss_op ops[2] = {{.kind = SS_OP_PUT, .key = key, .key_length = (uint32_t)length, .expected = SS_ANY, .value = v},
                               {.kind = SS_OP_DELETE, .key = "other", .key_length = 5, .expected = SS_ANY}};
        int rc;
        switch (draw % 12) {
        case 0: case 1: case 2: rc = ss_put(t.r, key, length, &v, 0, SS_ANY, &g, WAIT_LONG); break;
        case 3: rc = ss_put(t.r, key, length, &one, ss_boottime_ns() + 1000000, SS_ANY, &g, WAIT_LONG); break;
        case 4: rc = ss_delete(t.r, key, length, SS_ANY, NULL, 0, NULL, WAIT_LONG); break;
        case 5: rc = ss_increment(t.r, key, length, &one, &zero, 0, &e, WAIT_LONG); break;
        case 6: rc = ss_commit(t.r, ops, 2, &culprit, WAIT_LONG); break;
        case 7: rc = ss_keys(t.r, (uint32_t)(draw >> 30) % 4, "k1", 2, buffer, sizeof buffer, &used, &n, WAIT_LONG); break;
        case 8: rc = draw >> 30 & 63 ? ss_count(t.r, &n, WAIT_LONG) : ss_clear(t.r, (uint32_t)(draw >> 36) % 4, "k2", 2, &n, WAIT_LONG); break;
        case 9: rc = draw >> 30 & 15 ? ss_touch(t.r, key, length, 0, WAIT_LONG) : ss_sweep(t.r, (uint32_t)(draw >> 36) % 4, WAIT_LONG); break;
        default: rc = ss_get(t.r, key, length, buffer, sizeof buffer, &e, WAIT_LONG);
        }
        EXPECT(rc >= SS_OK || rc == SS_TYPE || rc == SS_NOSPC);
        EXPECT(rc != SS_TIMEOUT);
    }
    return NULL;
}

static void all_verbs_together_keep_the_region_whole(void)
{
    /* 4 threads do everything in a region too small for it, with and without eviction. */
    void *(*const bodies[])(void *) = {do_anything, do_anything, do_anything, do_anything};
    for (int evict = 0; evict < 2; evict++) {
        struct ss_region *r = new_region(SS_SIZE_MIN, 4, evict ? SS_EVICT : 0);
        run_threads(r, 4, bodies, 1);
        must_be_whole(r, true);
        ss_close(r);
    }
}

/* ---- waiting ------------------------------------------------------------------ */

static void *count_to_hundred(void *arg)
{
    (void)arg;
    for (int i = 1; i <= 100; i++) {
        uint64_t token;
        int64_t seen = 0;
        struct ss_entry e = {0};
        do { /* answer each number of the other side */
            token = ss_change_token(t.r);
            if (ss_get(t.r, "ping", 4, NULL, 0, &e, WAIT_LONG) == SS_OK)
                seen = e.value.number.i;
        } while (seen < i && in_time() && (ss_wait(t.r, token, 100000000), true));
        EXPECT(seen >= i);
        EXPECT(put_int(t.r, "pong", i) == SS_OK);
    }
    return NULL;
}

static void *ask_hundred(void *arg)
{
    (void)arg;
    for (int i = 1; i <= 100; i++) {
        uint64_t token;
        int64_t seen = 0;
        struct ss_entry e = {0};
        EXPECT(put_int(t.r, "ping", i) == SS_OK);
        do {
            token = ss_change_token(t.r);
            if (ss_get(t.r, "pong", 4, NULL, 0, &e, WAIT_LONG) == SS_OK)
                seen = e.value.number.i;
        } while (seen < i && in_time() && (ss_wait(t.r, token, 100000000), true));
        EXPECT(seen >= i);
    }
    t.done = ss_monotonic_ns();
    return NULL;
}

static void no_wake_up_is_missed(void)
{
    /* Two threads answer each other 100 times through ss_wait() far faster than slices of 100 ms would. */
    struct ss_region *r = new_region(MIB, 4, 0);
    void *(*const bodies[])(void *) = {count_to_hundred, ask_hundred};
    uint64_t began = ss_monotonic_ns();
    run_threads(r, 2, bodies, 30);
    CHECK(t.done - began < UINT64_C(5000000000));
    ss_close(r);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(no_increment_is_lost),
        TEST(no_reader_sees_a_torn_value),
        TEST(a_number_and_its_generation_are_one),
        TEST(a_commit_is_seen_whole),
        TEST(commits_become_visible_at_once),
        TEST(all_verbs_together_keep_the_region_whole),
        TEST(no_wake_up_is_missed),
    };
    return run_tests("threads", tests, sizeof tests / sizeof *tests, argc, argv);
}
