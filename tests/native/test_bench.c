/* test_bench.c - not a test: nanoseconds per call from C, one thread, minimum of many short rounds. */
#define _GNU_SOURCE
#include "harness.h"
#include "lock.h"

enum { CALLS = 10000, ROUNDS = 200, KEYS = 10000 }; /* short rounds: on a busy machine only those stay undisturbed */

static struct ss_region *region;
static char keys[KEYS][16];
static size_t lengths[KEYS];
static char buffer[2048], payload[2048];

static void get(const void *key, size_t length)
{
    struct ss_entry e;
    CHECK_OK(ss_get(region, key, length, buffer, sizeof buffer, &e, SS_TRY));
}

static void set_int(const void *key, size_t length)
{
    const struct ss_value v = {.type = SS_INT, .number.i = 7};
    uint64_t g;
    CHECK_OK(ss_put(region, key, length, &v, 0, SS_ANY, &g, SS_TRY));
}

static void set_100(const void *key, size_t length)
{
    const struct ss_value v = {.type = SS_STR, .length = 100, .payload = payload};
    uint64_t g;
    CHECK_OK(ss_put(region, key, length, &v, 0, SS_ANY, &g, SS_TRY));
}

static void set_1024(const void *key, size_t length)
{
    const struct ss_value v = {.type = SS_STR, .length = 1024, .payload = payload};
    uint64_t g;
    CHECK_OK(ss_put(region, key, length, &v, 0, SS_ANY, &g, SS_TRY));
}

static void increment(const void *key, size_t length)
{
    const struct ss_value one = {.type = SS_INT, .number.i = 1}, zero = {.type = SS_INT};
    struct ss_entry e;
    CHECK_OK(ss_increment(region, key, length, &one, &zero, 0, &e, SS_TRY));
}

static void commit_two(const void *key, size_t length)
{
    struct ss_op ops[2] = {
        {.kind = SS_OP_PUT, .key = key, .key_length = (uint32_t)length, .expected = SS_ANY, .value = {.type = SS_INT}},
        {.kind = SS_OP_PUT, .key = "other", .key_length = 5, .expected = SS_ANY, .value = {.type = SS_INT}},
    };
    size_t culprit;
    CHECK_OK(ss_commit(region, ops, 2, &culprit, SS_TRY));
}

/* The floor under every write: libc's robust mutex alone. */
static pthread_mutex_t mutex;

static void lock_and_unlock(const void *key, size_t length)
{
    (void)key, (void)length;
    pthread_mutex_trylock(&mutex);
    pthread_mutex_unlock(&mutex);
}

static void hash_alone(const void *key, size_t length)
{
    __asm__ volatile("" : : "r"(ss_hash(key, length, 1)));
}

static void empty(const void *key, size_t length)
{
    __asm__ volatile("" : : "r"(key), "r"(length));
}

static double measure(void (*call)(const void *, size_t), bool hot)
{
    static int order[KEYS];
    uint64_t seed = 1, best = UINT64_MAX;

    for (int i = 0; i < KEYS; i++)
        order[i] = hot ? 0 : (int)(next_random(&seed) % KEYS);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t began = ss_monotonic_ns();
        for (int i = 0, k = 0; i < CALLS; i++, k = k + 1 == KEYS ? 0 : k + 1)
            call(keys[order[k]], lengths[order[k]]);
        uint64_t took = ss_monotonic_ns() - began;
        best = took < best ? took : best;
    }
    return (double)best / CALLS;
}

static void report(const char *name, void (*call)(const void *, size_t))
{
    double loop = measure(empty, true), hot = measure(call, true), spread = measure(call, false);
    printf("%-22s hot key %6.1f ns   %d keys %6.1f ns   (loop %.1f)\n", name, hot - loop, KEYS, spread - loop, loop);
}

static void bench(void)
{
    region = new_region(64 * MIB, 0, 0);
    for (int i = 0; i < KEYS; i++)
        lengths[i] = (size_t)snprintf(keys[i], sizeof keys[i], "key:%d", i);
    for (int i = 0; i < KEYS; i++)
        set_int(keys[i], lengths[i]);
    CHECK_OK(ss_mutex_init(&mutex));
    report("(robust mutex alone)", lock_and_unlock);
    report("(hash alone)", hash_alone);
    report("get int", get);
    report("set int in place", set_int);
    report("increment in place", increment);
    for (int i = 0; i < KEYS; i++)
        set_100(keys[i], lengths[i]);
    report("get 100 B", get);
    report("set 100 B", set_100);
    for (int i = 0; i < KEYS; i++)
        set_1024(keys[i], lengths[i]);
    report("get 1 KiB", get);
    report("set 1 KiB", set_1024);
    report("commit of 2 keys", commit_two);
    ss_close(region);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {TEST(bench)};
    return run_tests("bench", tests, 1, argc, argv);
}
