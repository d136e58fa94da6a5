/* test_processes.c - several processes, killed and not; opening, refusing, unlinking; a full file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static struct ss_region *attach(const char *name)
{
    struct ss_options o = {0};
    struct ss_region *r;
    CHECK_OK(ss_open(test_dir, name, &o, &r));
    return r;
}

static int try_attach(const char *name, uint32_t flags)
{
    struct ss_options o = {.flags = flags};
    struct ss_region *r;
    int rc = ss_open(test_dir, name, &o, &r);
    ss_close(r);
    return rc;
}

static struct ss_region *create(const char *name, uint64_t size, uint32_t flags)
{
    struct ss_options o = {.size = size, .mode = 0600, .flags = SS_CREATE | flags};
    struct ss_region *r;
    CHECK_OK(ss_open(test_dir, name, &o, &r));
    return r;
}

static void join_child(pid_t pid)
{
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- sharing --------------------------------------------------------------- */

static void processes_lose_no_increment(void)
{
    /* 3 processes, each with its own mapping, 30,000 increments each. */
    enum { N = 30000 };
    struct ss_region *r = create("r", MIB, 0);
    pid_t pids[3];

    for (int i = 0; i < 3; i++)
        if ((pids[i] = fork()) == 0) {
            struct ss_region *own = attach("r");
            struct ss_value one = int_value(1), zero = int_value(0);
            struct ss_entry e = {0};
            for (int k = 0; k < N; k++)
                CHECK_OK(ss_increment(own, "n", 1, &one, &zero, 0, &e, WAIT_LONG));
            _exit(0);
        }
    for (int i = 0; i < 3; i++)
        join_child(pids[i]);
    CHECK_EQ(get_int(r, "n"), 3 * N);
    must_be_whole(r, true);
    ss_close(r);
}

static void one_creator_wins_and_all_share_its_region(void)
{
    /* 6 processes create the same name at once, 30 times: all increments end up in one region, though some are killed. */
    for (int round = 0; round < 30; round++) {
        pid_t pids[6], doomed = 0;
        char name[24];
        int go[2], survivors = 0, status;
        snprintf(name, sizeof name, "race-%d", round);
        CHECK_EQ(pipe(go), 0);
        for (int i = 0; i < 6; i++)
            if ((pids[i] = fork()) == 0) {
                struct ss_value one = int_value(1), zero = int_value(0);
                struct ss_entry e = {0};
                char byte;
                close(go[1]);
                if (read(go[0], &byte, 1) != 0) /* until the other end is closed */
                    _exit(1);
                struct ss_region *r = create(name, MIB, 0);
                CHECK_OK(ss_increment(r, "n", 1, &one, &zero, 0, &e, WAIT_LONG));
                _exit(0);
            }
        close(go[0]);
        close(go[1]);
        doomed = pids[round % 6];
        if (round % 2)
            kill(doomed, SIGKILL);
        for (int i = 0; i < 6; i++) {
            CHECK_EQ(waitpid(pids[i], &status, 0), pids[i]);
            survivors += WIFEXITED(status) && WEXITSTATUS(status) == 0;
            CHECK(pids[i] == doomed || WIFEXITED(status));
        }
        struct ss_region *r = attach(name);
        int64_t n = get_int(r, "n");
        CHECK(n == survivors || n == survivors + 1); /* the victim's may have come through */
        must_be_whole(r, true);
        ss_close(r);
    }
}

/* ---- kill -9 at random ------------------------------------------------------ */

enum { KEYS = 300, PAYLOAD_MAX = 6000 };

/* Values prove themselves: seed, then bytes that follow from seed and key. */
static struct ss_value proving_value(uint64_t draw, int k, unsigned char *p)
{
    size_t n = 8 + (draw % 16 == 0 ? draw >> 16 & 4095 : draw >> 16 & 255);
    memcpy(p, &draw, 8);
    for (size_t i = 8; i < n; i++)
        p[i] = (unsigned char)(draw + (uint64_t)k * 13 + i * 7);
    return text_value(p, n);
}

__attribute__((noreturn)) static void write_until_killed(struct ss_region *r, uint64_t seed)
{
    struct ss_value one = int_value(1), zero = int_value(0);
    unsigned char payload[4][PAYLOAD_MAX];
    char keys[4][16];
    struct ss_entry e = {0};
    uint64_t g, n;
    size_t culprit;

    for (;;) {
        uint64_t draw = next_random(&seed);
        struct ss_op ops[4];
        int k = (int)(draw >> 40) % KEYS;
        memset(ops, 0, sizeof ops);
        for (int i = 0; i < 4; i++) {
            snprintf(keys[i], sizeof keys[i], "k%d", (k + i * 17) % KEYS);
            ops[i] = (struct ss_op){.kind = SS_OP_PUT, .key = keys[i], .key_length = (uint32_t)strlen(keys[i]), .expected = SS_ANY,
                                    .value = proving_value(next_random(&seed), (k + i * 17) % KEYS, payload[i])};
        }
        int rc;
        switch (draw % 10) {
        case 0: case 1: case 2: case 3: rc = ss_put(r, keys[0], strlen(keys[0]), &ops[0].value, draw >> 20 & 3 ? 0 : ss_boottime_ns() + 3000000, SS_ANY, &g, WAIT_LONG); break;
        case 4: rc = ss_delete(r, keys[0], strlen(keys[0]), SS_ANY, NULL, 0, NULL, WAIT_LONG); break;
        case 5: rc = ss_increment(r, "number", 6, &one, &zero, 0, &e, WAIT_LONG); break;
        case 6: case 7: rc = ss_commit(r, ops, 4, &culprit, WAIT_LONG); break;
        case 8: rc = ss_purge(r, (uint32_t)(draw >> 20) % 4, &n, WAIT_LONG); break;
        default: rc = draw >> 20 & 15 ? SS_OK : ss_sweep(r, (uint32_t)(draw >> 24) % 4, WAIT_LONG);
        }
        if (rc < 0 && rc != SS_NOSPC)
            _exit(1);
    }
}

static void every_value_proves_itself(struct ss_region *r)
{
    unsigned char p[PAYLOAD_MAX], q[PAYLOAD_MAX];
    struct ss_entry e = {0};
    char key[16];
    uint64_t draw;

    for (int k = 0; k < KEYS; k++) {
        size_t n = (size_t)snprintf(key, sizeof key, "k%d", k);
        int rc = ss_get(r, key, n, p, sizeof p, &e, WAIT_LONG);
        if (rc == SS_MISSING)
            continue;
        CHECK_OK(rc);
        memcpy(&draw, p, 8);
        CHECK_EQ(proving_value(draw, k, q).length, e.value.length);
        CHECK(memcmp(p, q, e.value.length) == 0);
    }
}

static void kill_writers(uint32_t flags, long kills)
{
    struct ss_region *r = create(flags ? "evicting" : "plain", MIB, flags);
    uint64_t seed = 5;
    pid_t pids[2];

    for (int i = 0; i < 2; i++)
        if ((pids[i] = fork()) == 0)
            write_until_killed(attach(flags ? "evicting" : "plain"), (uint64_t)i + 1);
    for (long n = 0; n < kills; n++) {
        int victim = (int)(next_random(&seed) % 2), status;
        uint64_t until = ss_monotonic_ns() + 1000000 + next_random(&seed) % 12000000;
        do
            every_value_proves_itself(r); /* meanwhile, a reader without locks */
        while (ss_monotonic_ns() < until);
        kill(pids[victim], SIGKILL);
        CHECK_EQ(waitpid(pids[victim], &status, 0), pids[victim]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* not: an error of its own */
        must_be_whole(r, false);
        if ((pids[victim] = fork()) == 0)
            write_until_killed(attach(flags ? "evicting" : "plain"), seed);
    }
    for (int i = 0; i < 2; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    every_value_proves_itself(r);
    must_be_whole(r, true);
    CHECK_OK(put_int(r, "still usable", 1));
    ss_close(r);
}

static void writers_killed_at_random_leave_a_whole_region(void)
{
    /* 300 kills among 2 writers that do everything, commits included; check() after each, no leak after a sweep. */
    kill_writers(0, from_environment("KILLS", from_environment("QUICK", 0) ? 40 : 300));
}

static void killed_evictors_leave_a_whole_region(void)
{
    /* The same, 300 kills, in a region that is always full and evicts. */
    kill_writers(SS_EVICT, from_environment("KILLS", from_environment("QUICK", 0) ? 40 : 300));
}

static void a_stopped_writer_blocks_writers_and_not_readers(void)
{
    /* With the only stripe's owner stopped: get works, set is WOULDBLOCK or TIMEOUT; after its death both work. */
    for (int round = 0; round < 200; round++) {
        struct ss_region *r = new_region(MIB, 1, 0);
        struct ss_value v = int_value(1);
        struct ss_entry e = {0};
        uint64_t g;
        pid_t pid;
        int rc;

        CHECK_OK(put_int(r, "k", 1));
        if ((pid = fork()) == 0)
            for (;;)
                for (int i = 0; i < 3; i++)
                    ss_sweep(r, 0, WAIT_LONG); /* holds the stripe nearly all the time */
        while (ss_put(r, "k", 1, &v, 0, SS_ANY, &g, SS_TRY) == SS_OK)
            ;
        kill(pid, SIGSTOP);
        CHECK_EQ(waitpid(pid, NULL, WUNTRACED), pid);
        rc = ss_put(r, "k", 1, &v, 0, SS_ANY, &g, SS_TRY);
        CHECK(rc == SS_WOULDBLOCK || rc == SS_OK);
        CHECK_OK(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY));
        bool was_held = rc == SS_WOULDBLOCK;
        if (was_held)
            CHECK_EQ(ss_put(r, "k", 1, &v, 0, SS_ANY, &g, ss_monotonic_ns() + 2000000), SS_TIMEOUT);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        CHECK_OK(ss_put(r, "k", 1, &v, 0, SS_ANY, &g, SS_TRY));
        must_be_whole(r, true);
        ss_close(r);
        if (was_held && round >= 5)
            return;
    }
    CHECK(!"the writer was never caught with the lock");
}

/* ---- opening what should be refused ------------------------------------------ */

static void patch(const char *name, off_t at, const void *bytes, size_t n)
{
    int fd = openat(test_dir, name, O_WRONLY);
    CHECK_EQ(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
}

static void copy_sparse(const char *from, const char *to, bool with_holes)
{
    static unsigned char page[4096], zero[4096];
    int in = openat(test_dir, from, O_RDONLY), out = openat(test_dir, to, O_CREAT | O_TRUNC | O_RDWR, 0600);
    struct stat st;
    fstat(in, &st);
    CHECK_EQ(ftruncate(out, st.st_size), 0);
    for (off_t at = 0; at < st.st_size; at += 4096) {
        CHECK_EQ(pread(in, page, 4096, at), 4096);
        if (!with_holes || memcmp(page, zero, 4096) != 0)
            CHECK_EQ(pwrite(out, page, 4096, at), 4096);
    }
    close(in);
    close(out);
}

static void each_wrong_file_is_refused_with_its_own_reason(void)
{
    /* Foreign, truncated, other version, layout, checksum, boot, holes, owner, links: and none is harmed. */
    struct ss_region *r = create("good", MIB, 0);
    struct stat st;
    uint64_t word = 77;

    fstatat(test_dir, "good", &st, 0);
    CHECK_EQ(try_attach("none", 0), SS_SYS);
    CHECK_EQ(errno, ENOENT);

    close(openat(test_dir, "empty", O_CREAT | O_RDWR, 0600));
    CHECK_EQ(try_attach("empty", 0), SS_NOTSEG);
    patch("empty", 0, "#!/bin/sh something else entirely", 33);
    CHECK_EQ(try_attach("empty", SS_CREATE), SS_NOTSEG);
    CHECK_EQ(symlinkat("good", test_dir, "link"), 0);
    CHECK_EQ(try_attach("link", 0), SS_NOTSEG);
    CHECK_EQ(mkdirat(test_dir, "dir", 0700), 0);
    CHECK_EQ(try_attach("dir", 0), SS_NOTSEG);
    CHECK_EQ(mkfifoat(test_dir, "fifo", 0600), 0);
    CHECK_EQ(try_attach("fifo", 0), SS_NOTSEG);

    copy_sparse("good", "bad", false);
    CHECK_EQ(try_attach("bad", 0), SS_OK); /* an exact copy on this boot is a region */
    patch("bad", 8, &word, 4);
    CHECK_EQ(try_attach("bad", 0), SS_VERSION);
    copy_sparse("good", "bad", false);
    patch("bad", 16, &word, 8);
    CHECK_EQ(try_attach("bad", 0), SS_LAYOUT);
    copy_sparse("good", "bad", false);
    patch("bad", 24, &word, 8);
    CHECK_EQ(try_attach("bad", 0), SS_CHECKSUM);
    copy_sparse("good", "bad", false);
    uint64_t header[10]; /* struct ss_fixed, whose boot id is words 7 and 8 */
    int fd = openat(test_dir, "bad", O_RDWR);
    CHECK_EQ(pread(fd, header, sizeof header, 0), (ssize_t)sizeof header);
    header[7] ^= 1;
    header[9] = ss_hash(header, 72, header[0]);
    CHECK_EQ(pwrite(fd, header, sizeof header, 0), (ssize_t)sizeof header);
    CHECK_EQ(try_attach("bad", 0), SS_BOOT);
    copy_sparse("good", "bad", false);
    CHECK_EQ(ftruncate(fd, st.st_size - 4096), 0);
    CHECK_EQ(try_attach("bad", 0), SS_TRUNCATED);
    CHECK_EQ(ftruncate(fd, 100), 0);
    CHECK_EQ(try_attach("bad", 0), SS_TRUNCATED);
    close(fd);
    copy_sparse("good", "bad", true);
    CHECK_EQ(try_attach("bad", 0), SS_HOLES);
    copy_sparse("good", "bad", false);
    if (geteuid() == 0) {
        CHECK_EQ(fchownat(test_dir, "bad", 12345, (gid_t)-1, 0), 0);
        CHECK_EQ(try_attach("bad", 0), SS_OWNER);
        CHECK_EQ(try_attach("bad", SS_ANY_OWNER), SS_OK);
    } else {
        printf("    owner check skipped: needs root\n");
    }
    CHECK_OK(put_int(r, "k", 1));
    must_be_whole(r, true);
    ss_close(r);
}

static void the_mode_is_what_was_asked_for(void)
{
    /* Whatever the umask. */
    struct ss_options o = {.size = MIB, .mode = 0660, .flags = SS_CREATE};
    struct ss_region *r;
    struct stat st;
    mode_t old = umask(077);
    CHECK_OK(ss_open(test_dir, "r", &o, &r));
    umask(old);
    fstatat(test_dir, "r", &st, 0);
    CHECK_EQ(st.st_mode & 0777, 0660);
    ss_close(r);
}

static void nobody_writes_to_an_unlinked_region(void)
{
    /* Every writing verb of every holder is UNLINKED, reads go on; the name is free for a new region. */
    struct ss_region *r = create("r", MIB, 0), *other = attach("r"), *fresh;
    struct ss_value v = int_value(2);
    struct ss_op op[2] = {{.kind = SS_OP_PUT, .key = "a", .key_length = 1, .expected = SS_ANY, .value = v},
                          {.kind = SS_OP_DELETE, .key = "k", .key_length = 1, .expected = SS_ANY}};
    struct ss_entry e = {0};
    uint64_t g, n;
    size_t culprit;

    CHECK_OK(put_int(r, "k", 1));
    CHECK_OK(ss_unlink(r, test_dir, "r"));
    CHECK_EQ(ss_put(other, "k", 1, &v, 0, SS_ANY, &g, SS_TRY), SS_UNLINKED);
    CHECK_EQ(ss_delete(other, "k", 1, SS_ANY, NULL, 0, NULL, SS_TRY), SS_UNLINKED);
    CHECK_EQ(ss_increment(other, "k", 1, &v, &v, 0, &e, SS_TRY), SS_UNLINKED);
    CHECK_EQ(ss_touch(other, "k", 1, 0, SS_TRY), SS_UNLINKED);
    CHECK_EQ(ss_commit(other, op, 2, &culprit, SS_TRY), SS_UNLINKED);
    CHECK_EQ(ss_clear(other, 0, "", 0, &n, SS_TRY), SS_UNLINKED);
    CHECK_EQ(get_int(other, "k"), 1);
    fresh = create("r", MIB, 0);
    CHECK_EQ(ss_get(fresh, "k", 1, NULL, 0, &e, SS_TRY), SS_MISSING);
    CHECK_EQ(ss_unlink(other, test_dir, "r"), SS_MISSING); /* that name is another's by now */
    CHECK_OK(put_int(fresh, "k", 3));
    ss_close(r);
    ss_close(other);
    ss_close(fresh);
}

static void a_half_done_unlink_is_finished_by_the_next_opener(void)
{
    /* Marked but still named, as a killed unlinker leaves it: create gives a new region, attach finds none. */
    struct ss_region *r = create("r", MIB, 0), *fresh;

    CHECK_OK(put_int(r, "k", 1));
    CHECK_EQ(linkat(test_dir, "r", test_dir, "hidden", 0), 0);
    CHECK_OK(ss_unlink(r, test_dir, "hidden")); /* marks the region; the name "r" remains */
    CHECK_EQ(try_attach("r", 0), SS_SYS);
    CHECK_EQ(errno, ENOENT);
    fresh = create("r", MIB, 0);
    CHECK_OK(put_int(fresh, "k", 2));
    ss_close(r);
    ss_close(fresh);
}

/* ---- a full file system -------------------------------------------------------- */

static void a_full_file_system_is_refused_and_loses_nothing(void)
{
    /* A 3 MiB tmpfs under a 16 MiB region: NOSPC, never SIGBUS; all data stays, delete and set go on. */
    struct ss_region *r;
    struct ss_options o = {.size = 16 * MIB, .mode = 0600, .flags = SS_CREATE};
    static char payload[1000], out[1000];
    struct ss_value v = text_value(payload, sizeof payload);
    struct ss_entry e = {0};
    char path[64], key[16];
    uint64_t g;
    int n = 0, rc;

    snprintf(path, sizeof path, "/proc/self/fd/%d", test_dir);
    CHECK_EQ(mkdirat(test_dir, "small", 0700), 0);
    int dir = openat(test_dir, "small", O_RDONLY | O_DIRECTORY);
    snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
    if (mount("none", path, "tmpfs", 0, "size=3m") != 0) {
        printf("    skipped: mounting a tmpfs needs root\n");
        close(dir);
        return;
    }
    close(dir);
    dir = openat(test_dir, "small", O_RDONLY | O_DIRECTORY);
    rc = ss_open(dir, "r", &o, &r);
    for (; rc == SS_OK; n++) {
        snprintf(key, sizeof key, "k%d", n);
        memcpy(payload, &n, sizeof n);
        rc = ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY);
    }
    CHECK_EQ(rc, SS_NOSPC);
    CHECK(--n > 1000);
    CHECK_EQ(ss_open(dir, "second", &o, &(struct ss_region *){0}), SS_NOSPC);
    for (int i = 0; i < n; i++) {
        int back;
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_get(r, key, strlen(key), out, sizeof out, &e, SS_TRY));
        memcpy(&back, out, sizeof back);
        CHECK_EQ(back, i);
    }
    must_be_whole(r, true);
    for (int i = 0; i < n; i += 2) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(del(r, key));
        CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY));
    }
    must_be_whole(r, true);
    ss_close(r);
    close(dir);
    umount2(path, MNT_DETACH);
    dir = openat(test_dir, "small", O_RDONLY | O_DIRECTORY);
    snprintf(path, sizeof path, "/proc/self/fd/%d", dir);
    umount2(path, MNT_DETACH);
    close(dir);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(processes_lose_no_increment),
        TEST(one_creator_wins_and_all_share_its_region),
        TEST(writers_killed_at_random_leave_a_whole_region),
        TEST(killed_evictors_leave_a_whole_region),
        TEST(a_stopped_writer_blocks_writers_and_not_readers),
        TEST(each_wrong_file_is_refused_with_its_own_reason),
        TEST(the_mode_is_what_was_asked_for),
        TEST(nobody_writes_to_an_unlinked_region),
        TEST(a_half_done_unlink_is_finished_by_the_next_opener),
        TEST(a_full_file_system_is_refused_and_loses_nothing),
    };
    return run_tests("processes", tests, sizeof tests / sizeof *tests, argc, argv);
}
