/* steps.c - see steps.h. */
#define _GNU_SOURCE
#include "steps.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { BYSTANDERS = 20, JUDGED_PER_CASE = 400, KILLS_PER_CASE = 3 };

struct ss_region *r;
static uint64_t total_kills, total_judged;
static const char *killed_in; /* for the report of a failure */
static long killed_after;

void judge_at(const char *name, long instruction)
{
    killed_in = name;
    killed_after = instruction;
    total_judged++;
}

/* ---- copies ------------------------------------------------------------------ */

static void copy_range(unsigned char *to, uint64_t offset, uint64_t length)
{
    memcpy(to + offset, r->base + offset, length);
}

/* Both areas of the stripe's tables outside the nursery: where, and how many bytes. */
static uint64_t tables_of(const struct ss_header *header, uint32_t s, uint64_t *length)
{
    unsigned log2 = atomic_load(&header->table_log2[s]);
    *length = log2 == SS_TABLE_LOG2_MIN ? 0 : 2 * sizeof(ss_word) << log2;
    return (uint64_t)((unsigned char *)ss_table_area(r, s, log2, 0) - r->base);
}

/* All committed bytes of r, to the same offsets at `to`. */
static void copy_region(unsigned char *to)
{
    copy_range(to, 0, r->at.pages + r->at.heap_pages * sizeof(ss_word));
    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        uint64_t length, offset = tables_of(r->header, s, &length);
        copy_range(to, offset, length);
    }
    copy_range(to, r->at.heap, ss_load(&r->header->heap_committed));
}

static unsigned char *saved;

void save(void)
{
    saved = calloc(1, r->at.total);
    copy_region(saved);
}

void restore(void)
{
    struct ss_header *header = (struct ss_header *)saved;
    /* The same ranges as were saved: what was committed since is free pages again. */
    memcpy(r->base, saved, r->at.pages + r->at.heap_pages * sizeof(ss_word));
    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        uint64_t length, offset = tables_of(header, s, &length);
        memcpy(r->base + offset, saved + offset, length);
    }
    memcpy(r->base + r->at.heap, saved + r->at.heap, ss_load(&header->heap_committed));
}

void forget(void)
{
    free(saved);
}

/* What the kernel does to the robust mutexes of a dead thread. */
static void owner_died(pthread_mutex_t *mutex, pid_t owner)
{
    const int tid_mask = 0x3fffffff, died = 0x40000000, waiters = (int)0x80000000;
    int word = mutex->__data.__lock;
    if ((word & tid_mask) == owner)
        mutex->__data.__lock = (word & waiters) | died;
}

static void bury(struct ss_region *corpse, pid_t owner)
{
    owner_died(&corpse->header->page_mutex, owner);
    owner_died(&corpse->header->txn_mutex, owner);
    for (uint32_t s = 0; s < corpse->at.nstripes; s++)
        owner_died(&corpse->stripes[s].mutex, owner);
}

/* ---- the stepper --------------------------------------------------------------- */

pid_t start_stopped(void (*act)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        act();
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSTOPPED(status));
    return pid;
}

bool step(pid_t pid)
{
    int status;
    CHECK_EQ(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) {
        CHECK_EQ(WEXITSTATUS(status), 0);
        return false;
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    return true;
}

long run_for(void (*act)(void), long steps)
{
    pid_t pid = start_stopped(act);
    for (long n = 0; n < steps; n++)
        if (!step(pid))
            return n;
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    total_kills++;
    return steps;
}

static void bystander(char *key, int i)
{
    snprintf(key, 24, "bystander-%d", i);
}

void add_bystanders(void)
{
    char key[24];
    for (int i = 0; i < BYSTANDERS; i++) {
        bystander(key, i);
        CHECK_OK(put_int(r, key, i * 1000));
    }
}

static void check_after_kill(const struct scenario *s, int *least)
{
    char key[24];
    struct ss_entry e = {0};

    int state = s->state();
    CHECK(state >= *least);
    *least = state;
    for (int i = 0; i < BYSTANDERS; i++) {
        bystander(key, i);
        int rc = ss_get(r, key, strlen(key), NULL, 0, &e, WAIT_LONG);
        CHECK(rc == SS_OK || (rc == SS_MISSING && s->bystanders_may_go));
        CHECK(rc != SS_OK || e.value.number.i == i * 1000);
    }
    must_be_whole(r, false);
    must_be_whole(r, true);
    CHECK_EQ(s->state(), state);
    int rc = put_int(r, "bystander-0", 0);
    CHECK(rc == SS_OK);
}

long choose_stride(long length)
{
    long stride = from_environment("STRIDE", 0);
    return stride != 0 ? stride : 1 + length / JUDGED_PER_CASE;
}

void judge_every_step(const struct scenario *s, void (*act)(void), long stride, int least)
{
    struct ss_region *alive = r, *corpse = new_region(MIB, s->nstripes, s->flags);
    long n = 0;

    corpse->seed = r->seed; /* which is also among the bytes copied */
    for (pid_t pid = start_stopped(act); step(pid);) {
        if (++n % stride != 0)
            continue;
        judge_at(s->name, n);
        copy_region(corpse->base);
        bury(corpse, pid);
        r = corpse;
        check_after_kill(s, &least);
        r = alive;
    }
    killed_in = NULL;
    ss_close(corpse);
}

void kill_at_every_step(const struct scenario *s)
{
    int least = 0;
    r = new_region(MIB, s->nstripes, s->flags);
    add_bystanders();
    if (s->prepare != NULL)
        s->prepare();
    save();
    CHECK_EQ(s->state(), 0);
    long length = run_for(s->act, 100000000);
    CHECK_EQ(s->state(), 1);
    must_be_whole(r, true);
    restore();
    judge_every_step(s, s->act, choose_stride(length), 0);
    for (long k = 1; k <= KILLS_PER_CASE; k++) {
        restore();
        killed_in = s->name;
        killed_after = length * k / (KILLS_PER_CASE + 1);
        run_for(s->act, killed_after);
        check_after_kill(s, &least);
    }
    if (from_environment("VERBOSE", 0))
        printf("    %-34s %u stripes: %6ld instructions, every %ld\n", s->name, s->nstripes, length, choose_stride(length)), fflush(stdout);
    forget();
    ss_close(r);
}

/* ---- what the scenarios look at ------------------------------------------------- */

int read_entry(const char *key, void *buffer, size_t capacity, struct ss_entry *e)
{
    return ss_get(r, key, strlen(key), buffer, capacity, e, WAIT_LONG);
}

bool is_absent(const char *key)
{
    struct ss_entry e = {0};
    return read_entry(key, NULL, 0, &e) == SS_MISSING;
}

bool is_int(const char *key, int64_t i)
{
    struct ss_entry e = {0};
    return read_entry(key, NULL, 0, &e) == SS_OK && e.value.type == SS_INT && e.value.number.i == i;
}

bool is_text(const char *key, char c, size_t length)
{
    static unsigned char buffer[TEXT_MAX];
    struct ss_entry e = {0};
    if (read_entry(key, buffer, sizeof buffer, &e) != SS_OK || e.value.type != SS_STR || e.value.length != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if (buffer[i] != (unsigned char)c)
            return false;
    return true;
}

int before_or_after(bool before, bool after)
{
    CHECK(before != after);
    return after;
}

void put_text(const char *key, char c, size_t length)
{
    static unsigned char text[TEXT_MAX];
    struct ss_value v = text_value(text, length);
    uint64_t g;
    memset(text, c, length);
    CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, WAIT_LONG));
}

/* ---- the suite ------------------------------------------------------------------- */

int run_stepping_tests(const char *suite, const struct test *tests, size_t count, int argc, char **argv)
{
    /* A string instruction traps once per element: have libc not use them. */
    if (getenv("GLIBC_TUNABLES") == NULL) {
        setenv("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000", 1);
        execv("/proc/self/exe", argv);
    }
    /* Stepper and stepped take turns: on one CPU that costs no wake-up between two. */
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    int failed = run_tests(suite, tests, count, argc, argv);
    if (failed && killed_in != NULL)
        printf("%s: last kill was in '%s' after %ld instructions\n", suite, killed_in, killed_after);
    printf("%s: %llu instructions judged, %llu real kills\n", suite, (unsigned long long)total_judged, (unsigned long long)total_kills);
    return failed;
}
