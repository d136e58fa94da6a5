/* test_readers.c - a reader overtaken by a writer after every single instruction.
 *
 * A child that reads one entry is stepped to its n-th instruction (ptrace) and
 * stopped there while the parent completes a write; then it runs to its end.
 * For every n until the read takes no more: what it returned is the entry as it
 * was before the write, or as it is after, and never an error, since nothing is
 * wrong with the region.  No lock is held at any stop, so it never waits.
 *
 * By default a long read is stopped only every few instructions; STRIDE=1 stops
 * it at every one.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "region.h"

enum { LONG_TEXT = 9000, STOPS_PER_CASE = 150 };

static struct ss_region *r;
static unsigned char text[LONG_TEXT];

/* What the child saw; shared with it. */
static struct sight {
    int status;
    struct ss_entry entry;
    unsigned char payload[LONG_TEXT];
} *seen;

struct encounter {
    const char *name;
    void (*prepare)(void);
    void (*overtake)(void);
    bool (*is_fine)(void); /* of what was seen */
    uint32_t nstripes, flags;
};

static pid_t start_reader(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        seen->status = ss_get(r, "k", 1, seen->payload, sizeof seen->payload, &seen->entry, WAIT_LONG);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSTOPPED(status));
    return pid;
}

/* The number of instructions it got to run: fewer than `steps` if it ended. */
static long proceed(pid_t pid, long steps)
{
    int status;
    for (long n = 0; n < steps; n++) {
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status))
            return n;
    }
    return steps;
}

static void run_out(pid_t pid)
{
    int status;
    CHECK_EQ(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static long read_length(const struct encounter *e)
{
    r = new_region(MIB, e->nstripes, e->flags);
    e->prepare();
    long length = proceed(start_reader(), 1000000);
    ss_close(r);
    return length;
}

static void overtake_everywhere(const struct encounter *e)
{
    long length = read_length(e), stride = from_environment("STRIDE", 1 + length / STOPS_PER_CASE);

    for (long n = 0; n < length; n += stride) {
        r = new_region(MIB, e->nstripes, e->flags);
        memset(seen, 0, sizeof *seen);
        e->prepare();
        pid_t pid = start_reader();
        if (proceed(pid, n) == n) {
            e->overtake();
            run_out(pid);
        }
        if (!e->is_fine())
            fail_at(__FILE__, __LINE__, "%s: overtaken after %ld instructions, the reader got '%s'", e->name, n,
                    ss_strerror(seen->status));
        must_be_whole(r, true);
        ss_close(r);
    }
    if (from_environment("VERBOSE", 0))
        printf("    %-34s %5ld instructions, every %ld\n", e->name, length, stride);
}

/* ---- encounters --------------------------------------------------------------- */

static void put_text(const char *key, char c, size_t length)
{
    struct ss_value v = text_value(text, length);
    uint64_t g;
    memset(text, c, length);
    CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, WAIT_LONG));
}

static bool saw_nothing(void) { return seen->status == SS_MISSING; }
static bool saw_int(int64_t i)
{
    return seen->status == SS_OK && seen->entry.value.type == SS_INT && seen->entry.value.number.i == i;
}

static bool saw_text(char c, size_t length)
{
    if (seen->status != SS_OK || seen->entry.value.type != SS_STR || seen->entry.value.length != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if (seen->payload[i] != (unsigned char)c)
            return false;
    return true;
}

static void nothing(void) {}
static void text_a(void) { put_text("k", 'a', 100); }
static void int_5(void) { CHECK_OK(put_int(r, "k", 5)); }
static void run_a(void) { put_text("k", 'a', LONG_TEXT); }

static bool nothing_or_run_b(void) { return saw_nothing() || saw_text('b', LONG_TEXT); }
static bool text_a_or_b(void) { return saw_text('a', 100) || saw_text('b', 90); }
static bool text_a_or_nothing(void) { return saw_text('a', 100) || saw_nothing(); }
static bool run_a_or_nothing(void) { return saw_text('a', LONG_TEXT) || saw_nothing(); }
static bool int_5_or_7(void) { return saw_int(5) || saw_int(7); }
static bool text_a_only(void) { return saw_text('a', 100); }
static bool text_a_or_float(void)
{
    return saw_text('a', 100) || (seen->status == SS_OK && seen->entry.value.type == SS_FLOAT && seen->entry.value.number.f == 2.5);
}

/* The region counts on no heap page yet: the first entry lies beyond all of it. */
static void add_beyond_the_heap(void) { put_text("k", 'b', LONG_TEXT); }

static void replace_and_reuse(void)
{
    put_text("k", 'b', 90);
    put_text("another", 'c', 90); /* takes the very block */
}

static void remove_and_reuse(void)
{
    CHECK_OK(del(r, "k"));
    put_text("another", 'c', 90);
}

static void remove_run_and_reuse(void)
{
    CHECK_OK(del(r, "k"));
    for (int i = 0; i < 40; i++) {
        char key[16];
        snprintf(key, sizeof key, "small-%d", i);
        put_text(key, 'c', 1000);
    }
}

static void write_in_place_twice(void)
{
    CHECK_OK(put_int(r, "k", 6));
    CHECK_OK(put_int(r, "k", 7));
}

/* Two moves of the table: the second one writes over the area that the reader knows. */
static void grow_twice(void)
{
    for (int i = 0; i < 1200; i++) {
        char key[16];
        snprintf(key, sizeof key, "more-%d", i);
        CHECK_OK(put_int(r, key, i));
    }
}

static void commit_with_others(void)
{
    static const char *const keys[] = {"k", "x", "y", "z"};
    struct ss_op ops[4] = {{0}};
    size_t culprit;
    for (int i = 0; i < 4; i++) {
        ops[i].kind = SS_OP_PUT;
        ops[i].key = keys[i];
        ops[i].key_length = 1;
        ops[i].expected = SS_ANY;
        ops[i].value = float_value(2.5);
    }
    CHECK_OK(ss_commit(r, ops, 4, &culprit, WAIT_LONG));
}

static void evict_all(void)
{
    for (int i = 0; i < 200; i++) {
        char key[16];
        snprintf(key, sizeof key, "new-%d", i);
        put_text(key, 'c', LONG_TEXT);
    }
}

static const struct encounter encounters[] = {
    {"first entry of the heap", nothing, add_beyond_the_heap, nothing_or_run_b, 4, 0},
    {"replaced, block reused", text_a, replace_and_reuse, text_a_or_b, 4, 0},
    {"removed, block reused", text_a, remove_and_reuse, text_a_or_nothing, 1, 0},
    {"removed, pages reused", run_a, remove_run_and_reuse, run_a_or_nothing, 1, 0},
    {"written in place", int_5, write_in_place_twice, int_5_or_7, 4, 0},
    {"table moved twice", text_a, grow_twice, text_a_only, 1, 0},
    {"committed with others", text_a, commit_with_others, text_a_or_float, 4, 0},
    {"evicted", text_a, evict_all, text_a_or_nothing, 4, SS_EVICT},
};

static void a_reader_overtaken_anywhere_sees_before_or_after(void)
{
    /* Whatever write completes between any two instructions of ss_get(), it returns the entry from before or after it. */
    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(seen != MAP_FAILED);

    for (size_t i = 0; i < sizeof encounters / sizeof *encounters; i++)
        overtake_everywhere(&encounters[i]);

    munmap(seen, sizeof *seen);
}

int main(int argc, char **argv)
{
    static const struct test tests[] = {
        TEST(a_reader_overtaken_anywhere_sees_before_or_after),
    };
    /* As in test_steps: a string instruction would trap once per byte, and one CPU costs no wake-ups. */
    if (getenv("GLIBC_TUNABLES") == NULL) {
        setenv("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000", 1);
        execv("/proc/self/exe", argv);
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    return run_tests("readers", tests, sizeof tests / sizeof *tests, argc, argv);
}
