/* segment.c - see segment.h. */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum { GUARD = 1 << 20, ENTRIES = 60 };

void *__real_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t length);
int __wrap_munmap(void *at, size_t length);
ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags);

static struct {
    char name[32], spare[32]; /* two links to it, since one may be removed */
    int fd;
    unsigned char header[SS_PAGE];
} sound[SEGMENT_KINDS];
static int directory = -1;
static bool is_private;

void *__wrap_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (at != NULL || (flags & MAP_SHARED) == 0 || !is_private)
        return __real_mmap(at, length, protection, flags, fd, offset);
    unsigned char *all = __real_mmap(NULL, length + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return all;
    return __real_mmap(all + GUARD, length, protection, MAP_PRIVATE | MAP_FIXED, fd, offset);
}

int __wrap_munmap(void *at, size_t length)
{
    if (!is_private)
        return __real_munmap(at, length);
    return __real_munmap((unsigned char *)at - GUARD, length + 2 * GUARD);
}

ssize_t __wrap_getrandom(void *buffer, size_t length, unsigned flags)
{
    (void)flags;
    memset(buffer, 0x5a, length);
    return (ssize_t)length;
}

static void must(bool is_so, const char *what)
{
    if (!is_so) {
        perror(what);
        abort();
    }
}

uint64_t take(struct input *input, unsigned bytes)
{
    uint64_t number = 0;
    for (unsigned i = 0; i < bytes && !is_over(input); i++)
        number |= (uint64_t)*input->at++ << 8 * i;
    return number;
}

size_t segment_key(uint64_t number, char key[16])
{
    return (size_t)snprintf(key, 16, number % 3 == 0 ? "k%u" : "a-longer-%u", (unsigned)(number % SEGMENT_KEYS));
}

static void fill(struct ss_region *r)
{
    static char payload[9000];
    char key[16];
    uint64_t generation;

    for (uint64_t i = 0; i < ENTRIES; i++) {
        struct ss_value text = {.type = SS_STR, .length = (uint32_t)(i % 9 == 8 ? 5000 + i * 20 : i * 7), .payload = payload};
        struct ss_value number = {.type = SS_INT, .number.i = (int64_t)i};
        size_t length = i < SEGMENT_KEYS ? segment_key(i, key) : (size_t)snprintf(key, sizeof key, "filler-%u", (unsigned)i);
        must(ss_put(r, key, length, i % 3 == 1 ? &number : &text, i % 11 == 10, SS_ANY, &generation, SS_TRY) == SS_OK, "ss_put");
        if (i % 5 == 4)
            must(ss_delete(r, key, length, SS_ANY, NULL, 0, NULL, SS_TRY) <= SS_MISSING, "ss_delete");
    }
}

/* A child that outlives us, however we end, removes the directory: a fuzzer ends by a signal, or by _exit(). */
static void remove_when_over(const char *path)
{
    int ends[2];
    char byte;

    must(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        close(ends[1]);
        signal(SIGINT, SIG_IGN);
        while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
            continue;
        for (int kind = 0; kind < SEGMENT_KINDS; kind++) {
            unlinkat(directory, sound[kind].name, 0);
            unlinkat(directory, sound[kind].spare, 0);
        }
        rmdir(path);
        _exit(0);
    }
    close(ends[0]);
}

static void make_segments(void)
{
    char path[] = "/dev/shm/ss-fuzz-XXXXXX";

    must(mkdtemp(path) != NULL && (directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0, path);
    for (int kind = 0; kind < SEGMENT_KINDS; kind++) {
        snprintf(sound[kind].name, sizeof sound[kind].name, "segment-%d", kind);
        snprintf(sound[kind].spare, sizeof sound[kind].spare, "spare-%d", kind);
    }
    remove_when_over(path);
    for (int kind = 0; kind < SEGMENT_KINDS; kind++) {
        struct ss_options o = {.size = SS_SIZE_MIN, .nstripes = kind == EVICTING ? 2 : 4, .mode = 0600,
                               .flags = SS_CREATE | (kind == EVICTING ? SS_EVICT : 0)};
        struct ss_region *r;
        must(ss_open(directory, sound[kind].name, &o, &r) == SS_OK, "ss_open");
        fill(r);
        memcpy(sound[kind].header, r->base, SS_PAGE);
        must((sound[kind].fd = openat(directory, sound[kind].name, O_RDWR)) >= 0, "openat");
        must(fallocate(sound[kind].fd, 0, 0, (off_t)r->at.total) == 0, "fallocate"); /* hostile sizes may lie about it, not break it */
        must(linkat(directory, sound[kind].name, directory, sound[kind].spare, 0) == 0, "linkat");
        ss_close(r);
    }
    is_private = true;
}

const unsigned char *segment_header(int kind)
{
    if (directory < 0)
        make_segments();
    return sound[kind].header;
}

static bool is_changed[SEGMENT_KINDS];

int segment_attach(int kind, const unsigned char *header, struct ss_region **r)
{
    const struct ss_options o = {.size = SS_SIZE_MIN};

    if (header != NULL && memcmp(segment_header(kind), header, SS_PAGE) != 0) {
        must(pwrite(sound[kind].fd, header, SS_PAGE, 0) == SS_PAGE, "pwrite");
        is_changed[kind] = true;
    }
    segment_header(kind);
    return ss_open(directory, sound[kind].name, &o, r);
}

void segment_restore(int kind)
{
    if (is_changed[kind])
        must(pwrite(sound[kind].fd, sound[kind].header, SS_PAGE, 0) == SS_PAGE, "pwrite");
    is_changed[kind] = false;
    /* An opener that found the mark of a removal has removed the name. */
    if (faccessat(directory, sound[kind].name, F_OK, 0) != 0)
        must(linkat(directory, sound[kind].spare, directory, sound[kind].name, 0) == 0, "linkat");
}

/* ---- damage ------------------------------------------------------------------ */

/* Where a part of the segment begins, and how long it is. */
static uint64_t part(const struct ss_region *r, uint64_t which, uint64_t *length)
{
    uint64_t stripe = which / 16 % r->at.nstripes;
    uint64_t table = ss_load(&r->stripes[stripe].table), log2 = table >> 1;

    switch (which % 16) {
    case 0:
        *length = SS_PAGE - offsetof(struct ss_header, unlinked);
        return offsetof(struct ss_header, unlinked);
    case 1:
    case 2:
    case 3: /* all of a stripe but its mutex */
        *length = sizeof(struct ss_stripe) - offsetof(struct ss_stripe, version);
        return r->at.stripes + stripe * sizeof(struct ss_stripe) + offsetof(struct ss_stripe, version);
    case 4: /* its mutex: the links are written before they are followed, unless a peer writes them while it is held */
        *length = sizeof(pthread_mutex_t);
        return r->at.stripes + stripe * sizeof(struct ss_stripe);
    case 5:
    case 6:
        *length = sizeof(struct ss_pool);
        return r->at.pools + stripe * sizeof(struct ss_pool);
    case 7:
        *length = 8 * sizeof(struct ss_redo);
        return r->at.redo;
    case 8:
    case 9: /* the first slots, of any table */
    case 10:
        if (log2 < SS_TABLE_LOG2_MIN || log2 > r->at.table_log2_max)
            break;
        *length = sizeof(ss_word) << SS_TABLE_LOG2_MIN;
        return (uint64_t)((unsigned char *)ss_table_area(r, (uint32_t)stripe, log2, table & 1) - r->base);
    case 11:
    case 12:
        *length = 64 * sizeof(ss_word);
        return r->at.pages;
    case 13:
        break;
    default: /* the first blocks */
        *length = 40 << SS_PAGE_SHIFT;
        return r->at.heap;
    }
    *length = r->at.total;
    return 0;
}

void segment_damage(struct ss_region *r, struct input *input)
{
    uint64_t length, which = take(input, 1), at = take(input, 3), how = take(input, 1);
    uint64_t begin = part(r, which, &length), offset = begin + at % length;

    if (how % 2 == 0) { /* a word */
        offset &= ~(uint64_t)7;
        uint64_t *word = (uint64_t *)(r->base + offset);
        switch (how / 2 % 6) {
        case 0: *word = take(input, 8); break;
        case 1: *word ^= UINT64_C(1) << how / 12; break;
        case 2: *word = r->at.heap + take(input, 3) % r->at.heap_size; break;
        case 3: *word = 0; break;
        case 4: *word = UINT64_MAX; break;
        default: *word += take(input, 1) - 128; break;
        }
        return;
    }
    for (uint64_t n = 1 + how / 2 % 16; n > 0 && offset < r->at.total && !is_over(input); n--)
        r->base[offset++] = (unsigned char)take(input, 1);
}

/* ---- use --------------------------------------------------------------------- */

void segment_use(struct ss_region *r, uint64_t seed)
{
    static char buffer[9000];
    struct ss_value one = {.type = SS_INT, .number.i = 1}, text = {.type = SS_STR, .length = 200, .payload = buffer};
    struct ss_report report;
    struct ss_stats stats;
    struct ss_entry e = {0};
    uint64_t g, n;
    size_t used, culprit;
    char key[16], other[16];

    for (uint64_t i = 0; i < SEGMENT_KEYS; i++) {
        size_t length = segment_key(i, key);
        ss_get(r, key, length, buffer, sizeof buffer, &e, SS_TRY);
        switch ((seed >> i % 8 * 3 ^ i) % 8) {
        case 0: ss_put(r, key, length, &one, 0, SS_ANY, &g, SS_TRY); break;
        case 1: ss_put(r, key, length, &text, 0, SS_ANY, &g, SS_TRY); break;
        case 2: ss_delete(r, key, length, SS_ANY, buffer, sizeof buffer, &e, SS_TRY); break;
        case 3: ss_increment(r, key, length, &one, &one, 0, &e, SS_TRY); break;
        case 4: ss_touch(r, key, length, seed, SS_TRY); break;
        case 5: {
            struct ss_op ops[2] = {
                {.kind = SS_OP_PUT, .key = key, .key_length = (uint32_t)length, .expected = SS_ANY, .value = text},
                {.kind = SS_OP_PUT, .key = other, .key_length = (uint32_t)segment_key(i + 1, other), .expected = SS_ANY, .value = one}};
            ss_commit(r, ops, 2, &culprit, SS_TRY);
            break;
        }
        case 6:
            text.length = 4000 + (uint32_t)i * 300;
            ss_put(r, key, length, &text, 0, SS_ANY, &g, SS_TRY);
            text.length = 200;
            break;
        default: break;
        }
    }
    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        ss_keys(r, s, "k", 1, buffer, sizeof buffer, &used, &n, SS_TRY);
        ss_purge(r, s, &n, SS_TRY);
        if ((seed >> s & 1) != 0)
            ss_sweep(r, s, SS_TRY);
        if ((seed >> s & 2) != 0)
            ss_clear(r, s, "a-", 2, &n, SS_TRY);
    }
    ss_count(r, &n, SS_TRY);
    ss_stats(r, &stats, SS_TRY);
    ss_check(r, &report, SS_TRY);
}
