/* steps.h - the stepper: runs an operation instruction by instruction, and judges what a death after each would leave.
 *
 * A child maps the region, stops, and is then stepped instruction by
 * instruction (ptrace).  While it is stopped after one, the parent copies the
 * region and does to the copy what the kernel would do on the child's death
 * (marks the robust mutexes it owns), then judges the copy as a survivor would:
 * the entries are exactly as before the operation or exactly as after it, and
 * never "after" and later "before" again; check() finds every invariant kept; a
 * sweep of every stripe, which locks it, leaves no leak; the region can be
 * written.  One pass per operation sees all its instructions; really killing a
 * child for each would take the square of that.  Real kills, through the
 * kernel, are done at a few points of each operation here, at every point of a
 * removal in test_openings, and at random ones in test_processes.
 *
 * By default a long operation is judged only every few instructions, so that
 * all takes about half a minute; STRIDE=1 judges after every one.
 */
#ifndef STEPS_H
#define STEPS_H

#include <unistd.h>

#include "harness.h"
#include "region.h"

extern struct ss_region *r; /* what scenarios work on: the region, or the copy that is judged */

/* One operation; `state` says 0 for before, 1 for after, else fails the test. */
struct scenario {
    const char *name;
    void (*prepare)(void);
    void (*act)(void);
    int (*state)(void);
    uint32_t nstripes, flags;
    bool bystanders_may_go; /* eviction */
};

/* The suite's main(): as run_tests(), and then says how much was stepped and killed. */
int run_stepping_tests(const char *suite, const struct test *tests, size_t count, int argc, char **argv);

/* A child that stops before it does `act`, and one instruction of it: false if it was the last. */
pid_t start_stopped(void (*act)(void));
bool step(pid_t pid);

/* Run `act` in a child and really kill it after `steps` instructions; the number it got to run. */
long run_for(void (*act)(void), long steps);

/* For the report of a failure: where the child is that is judged. */
void judge_at(const char *name, long instruction);

/* Remember all committed bytes of r; put them back; forget them. */
void save(void);
void restore(void);
void forget(void);

void add_bystanders(void);
long choose_stride(long length);
void kill_at_every_step(const struct scenario *s);

/* Step through `act` on r; judge a copy after each `stride` instructions. */
void judge_every_step(const struct scenario *s, void (*act)(void), long stride, int least);

/* ---- what the scenarios look at ------------------------------------------------- */

enum { TEXT_MAX = 60000 };

int read_entry(const char *key, void *buffer, size_t capacity, struct ss_entry *e);
bool is_absent(const char *key);
bool is_int(const char *key, int64_t i);
bool is_text(const char *key, char c, size_t length);
void put_text(const char *key, char c, size_t length);

/* 0 or 1; fails the test unless it is exactly one of them. */
int before_or_after(bool before, bool after);

#endif
