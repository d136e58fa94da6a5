/* test_openings.c - death after every single instruction of a region's creation, and of its removal.
 *
 * Both happen in the file system, so nothing is copied.  A creator is looked at
 * after each instruction, since what the others can see of it, if it dies there,
 * is what they see now: no name at all, or a whole region.  A remover holds
 * flock() for a moment, so it is really killed, once for each instruction.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "steps.h"

static const struct ss_options attach_only = {.size = MIB};
static struct ss_options creation = {.size = MIB, .nstripes = 4, .mode = 0640, .flags = SS_CREATE};

static void create_it(void)
{
    struct ss_region *created;
    CHECK_OK(ss_open(test_dir, "born", &creation, &created));
    CHECK_OK(put_int(created, "k", 5));
}

/* Attached to and found whole: 1 without the key, 2 with it; 0 if there is no name yet. */
static int look_at_the_born(void)
{
    struct stat st;
    struct ss_entry e = {0};
    struct ss_region *found;

    int rc = ss_open(test_dir, "born", &attach_only, &found);
    if (rc == SS_SYS && errno == ENOENT)
        return 0;
    CHECK_OK(rc);
    CHECK_EQ(fstatat(test_dir, "born", &st, 0), 0);
    CHECK_EQ(st.st_mode & 07777, 0640); /* never open to more than it was made for */
    CHECK_EQ(st.st_nlink, 1);
    rc = ss_get(found, "k", 1, NULL, 0, &e, SS_TRY);
    CHECK(rc == SS_MISSING || (rc == SS_OK && e.value.number.i == 5));
    for (uint32_t s = 0; s < found->at.nstripes; s++)
        CHECK(found->stripes[s].mutex.__data.__lock != 0 || ss_load(&found->stripes[s].table) == SS_TABLE_LOG2_MIN << 1);
    ss_close(found);
    return rc == SS_OK ? 2 : 1;
}

static void create_killed_anywhere(const char *name, uint32_t flags)
{
    long stride = from_environment("STRIDE", 0) ? from_environment("STRIDE", 0) : 23, n = 0, seen[3] = {0};
    int least = 0;

    creation.flags = SS_CREATE | flags;
    for (pid_t pid = start_stopped(create_it); step(pid);) {
        if (++n % stride != 0)
            continue;
        judge_at(name, n);
        int state = look_at_the_born();
        CHECK(state >= least);
        seen[least = state]++;
    }
    CHECK(seen[0] != 0);
    CHECK_EQ(look_at_the_born(), 2);
    CHECK_EQ(unlinkat(test_dir, "born", 0), 0);
    for (long k = 1; k <= 40; k++) {
        run_for(create_it, n * k / 41);
        /* Whoever comes next creates it, or finds it whole, and repairs what the writer left. */
        judge_at(name, n * k / 41);
        CHECK_OK(ss_open(test_dir, "born", &creation, &r));
        CHECK_OK(put_int(r, "k", 6));
        must_be_whole(r, true);
        ss_close(r);
        CHECK_EQ(unlinkat(test_dir, "born", 0), 0);
    }
}

static void a_creation_killed_anywhere_leaves_a_whole_region_or_none(void)
{
    /* And of none, not even a name; a region that has one has its permissions too. */
    create_killed_anywhere("creation", 0);
    create_killed_anywhere("creation with eviction", SS_EVICT);
}

static char reopened[32];

/* By a descriptor of its own: a lock on one that its parent has open too would outlive it. */
static void remove_it(void)
{
    r->fd = open(reopened, O_RDWR | O_CLOEXEC);
    CHECK_OK(ss_unlink(r, test_dir, "dying"));
}

static void a_removal_killed_anywhere_leaves_the_region_or_its_successor(void)
{
    /* A holder reads on, and writes only while the name is still its; an opener gets the old region, or a new one. */
    struct ss_options o = {.size = MIB, .nstripes = 1, .mode = 0600, .flags = SS_CREATE};
    struct ss_region *next;
    struct ss_entry e = {0};
    bool is_over = false;
    int least = 0;

    for (long k = 1; !is_over; k++) {
        CHECK_OK(ss_open(test_dir, "dying", &o, &r));
        CHECK_OK(put_int(r, "k", 5));
        snprintf(reopened, sizeof reopened, "/proc/self/fd/%d", r->fd);
        is_over = run_for(remove_it, k) < k;
        judge_at("removal", k);
        int written = put_int(r, "k", 6);
        CHECK(written == SS_OK || written == SS_UNLINKED);
        CHECK_EQ(get_int(r, "k"), written == SS_OK ? 6 : 5);
        CHECK_OK(ss_open(test_dir, "dying", &o, &next));
        int rc = ss_get(next, "k", 1, NULL, 0, &e, SS_TRY);
        CHECK(rc == (written == SS_OK ? SS_OK : SS_MISSING)); /* no write to a ghost: who writes is who is found */
        CHECK((written != SS_OK) >= least);
        least = written != SS_OK;
        must_be_whole(next, true);
        CHECK_OK(ss_unlink(next, test_dir, "dying"));
        ss_close(next);
        ss_close(r);
    }
    CHECK_EQ(least, 1);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(a_creation_killed_anywhere_leaves_a_whole_region_or_none),
        TEST(a_removal_killed_anywhere_leaves_the_region_or_its_successor),
    };
    return run_stepping_tests("openings", tests, sizeof tests / sizeof *tests, argc, argv);
}
