/* test_planted.c - faults on purpose, one for each tool: a tool that lets them pass proves nothing.
 *
 * In no list of suites: `make asan ASAN_SUITES=planted` and its like must fail,
 * and so must `make analyze ANALYZED=../../tests/native/test_planted.c`.
 */
#include <pthread.h>

#include "harness.h"

static int shared; /* guarded by nothing */

static void *count_up(void *unused)
{
    for (int i = 0; i < 1000; i++)
        shared++;
    return unused;
}

static void two_threads_write_one_number(void)
{
    /* For ThreadSanitizer. */
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, count_up, NULL), 0);
    count_up(NULL);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static void a_byte_behind_an_allocation_is_read(void)
{
    /* For AddressSanitizer, valgrind and gcc -fanalyzer. */
    volatile size_t length = 16;
    volatile char *bytes = calloc(length, 1);
    CHECK(bytes != NULL && bytes[length] != 77);
    free((void *)bytes);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(two_threads_write_one_number),
        TEST(a_byte_behind_an_allocation_is_read),
    };
    return run_tests("planted", tests, sizeof tests / sizeof *tests, argc, argv);
}
