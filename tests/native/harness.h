/* harness.h - a test is a function named as a claim, with the claim in full as its first line.
 *
 * A failed CHECK ends its test, not the program; the program prints one line
 * per failure and "N passed, M failed" at the end.  Each test gets a directory
 * of its own on tmpfs, removed afterwards.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "ss_shm.h"

struct test {
    const char *name;
    void (*run)(void);
};

#define TEST(function) {#function, function}

int run_tests(const char *suite, const struct test *tests, size_t count, int argc, char **argv);

__attribute__((noreturn, format(printf, 3, 4))) void fail_at(const char *file, int line, const char *format, ...);

#define CHECK(condition) ((condition) ? (void)0 : fail_at(__FILE__, __LINE__, "%s", #condition))
#define CHECK_EQ(actual, expected)                                                                              \
    do {                                                                                                        \
        long long a_ = (long long)(actual), e_ = (long long)(expected);                                         \
        if (a_ != e_)                                                                                           \
            fail_at(__FILE__, __LINE__, "%s is %lld, not %s (%lld)", #actual, a_, #expected, e_);               \
    } while (0)
#define CHECK_OK(call)                                                                                          \
    do {                                                                                                        \
        int s_ = (call);                                                                                        \
        if (s_ != SS_OK)                                                                                        \
            fail_at(__FILE__, __LINE__, "%s: %s", #call, ss_strerror(s_));                                      \
    } while (0)

/* ---- what most tests need ---------------------------------------------- */

extern int test_dir; /* descriptor of this test's directory */

enum { KIB = 1024, MIB = 1024 * 1024 };

/* A deadline that only a hang reaches; fixed when the test starts, so that a test
 * that counts instructions does not count those of reading the clock. */
#define WAIT_LONG wait_long
extern uint64_t wait_long;

struct ss_region *new_region(uint64_t size, uint32_t nstripes, uint32_t flags);
struct ss_value int_value(int64_t i);
struct ss_value float_value(double f);
struct ss_value text_value(const void *bytes, size_t length);

int put_int(struct ss_region *r, const char *key, int64_t i);
int64_t get_int(struct ss_region *r, const char *key); /* fails the test if absent or no int */
int del(struct ss_region *r, const char *key);

/* Fails the test unless the region is whole and, if `after_sweep`, leaks nothing. */
void must_be_whole(struct ss_region *r, bool after_sweep);

/* A small generator: the same sequence for the same seed. */
uint64_t next_random(uint64_t *state);

/* `text`, or the number in the environment variable. */
long from_environment(const char *name, long otherwise);

#endif
