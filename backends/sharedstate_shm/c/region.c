/* region.c - create, find, verify, map and unlink the file that is a region.
 *
 * Creation: the file is built without a name (O_TMPFILE), complete with every
 * mutex, and then linked under its name.  Of several creators exactly one link
 * succeeds; the others open what it made.  Half-made regions have no name.
 *
 * Opening: the file is verified from a private copy of its header before it is
 * mapped, because touching a mapped page that the file lacks is SIGBUS.  For
 * the same reason a file with fewer blocks than it committed is refused.
 *
 * Unlinking: the header is marked first, so holders stop writing; then the name
 * goes.  Only who holds flock() on the region's file may remove its name, and
 * a new region can take the name only once it is gone: so a remover that found
 * the name on its own file cannot remove a successor.  Somebody killed between
 * mark and removal leaves a name on a marked region; the next opener removes it.
 *
 * Thread safety: all state is in locals or in the new handle.
 *
 * Crash: see above; flock() and O_TMPFILE die with their process.
 */
#define _GNU_SOURCE
#include "region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock.h"

#define PAGE_ROUND(n) (((n) + SS_PAGE - 1) & ~(uint64_t)(SS_PAGE - 1))

static const uint64_t size_max = UINT64_C(1) << 46;

/* ---- geometry --------------------------------------------------------- */

static uint32_t log2_ceil(uint64_t n)
{
    return n <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(n - 1);
}

/* The more stripes, the less often do writers of different keys meet in one.  But
 * each keeps partly filled pages, so there are few in a small heap; and fewer with
 * SS_EVICT, where each makes room in its own pages, and looks for them among all. */
static uint32_t default_stripes(uint64_t size, uint32_t flags)
{
    uint64_t mib = size >> 20, n = mib >= 64 ? 4 * mib : 2 * mib, most = SS_STRIPES_MAX;

    if (flags & SS_EVICT) {
        n = mib;
        most = 64;
    }
    return (uint32_t)(n >= most ? most : n < 4 ? 4 : UINT64_C(1) << (63 - __builtin_clzll(n)));
}

static void lay_out(struct ss_geometry *at, uint64_t heap_size, uint32_t nstripes, uint32_t flags)
{
    uint64_t per_stripe = heap_size / nstripes;

    *at = (struct ss_geometry){.heap_size = heap_size, .heap_pages = heap_size >> SS_PAGE_SHIFT, .nstripes = nstripes};
    /* Blocks take 48 bytes at least: a table of one slot per 32 bytes never
     * fills beyond two thirds, unless the hash favours its stripe greatly. */
    at->table_log2_max = log2_ceil(per_stripe / 32);
    if (at->table_log2_max <= SS_TABLE_LOG2_MIN)
        at->table_log2_max = SS_TABLE_LOG2_MIN + 1;
    at->touch_log2 = log2_ceil(per_stripe / 256);

    at->stripes = SS_PAGE;
    at->pools = at->stripes + nstripes * sizeof(struct ss_stripe);
    at->touch = PAGE_ROUND(at->pools + nstripes * sizeof(struct ss_pool));
    at->redo = PAGE_ROUND(at->touch + ((flags & SS_EVICT) ? (uint64_t)nstripes << at->touch_log2 : 0));
    at->nursery = at->redo + SS_TXN_MAX * sizeof(struct ss_redo);
    at->pages = PAGE_ROUND(at->nursery + ((uint64_t)nstripes << (SS_TABLE_LOG2_MIN + 4)));
    at->tables = PAGE_ROUND(at->pages + at->heap_pages * sizeof(ss_word));
    at->heap = at->tables + ((uint64_t)nstripes << (at->table_log2_max + 4));
    at->total = at->heap + heap_size;
}

uint64_t ss_committed_bytes(const struct ss_geometry *at, const struct ss_header *header)
{
    uint64_t heap = ss_load(&header->heap_committed);
    uint64_t sum = at->pages + PAGE_ROUND((heap >> SS_PAGE_SHIFT) * sizeof(ss_word)) + heap;
    for (uint32_t s = 0; s < at->nstripes; s++) {
        unsigned log2 = atomic_load(&header->table_log2[s]) & 63u;
        sum += log2 <= SS_TABLE_LOG2_MIN ? 0 : 2 * sizeof(ss_word) << log2;
    }
    return sum;
}

int ss_commit_range(const struct ss_region *r, uint64_t offset, uint64_t length)
{
    for (int tries = 0; tries < 1000; tries++) {
        if (fallocate(r->fd, 0, (off_t)offset, (off_t)length) == 0)
            return SS_OK;
        if (errno != EINTR)
            break;
    }
    return errno == ENOSPC || errno == EDQUOT || errno == ENOMEM || errno == EFBIG ? SS_NOSPC : SS_SYS;
}

/* ---- identity --------------------------------------------------------- */

/* What a different build could lay out differently under the same version. */
static uint64_t layout_hash(void)
{
    const uint64_t facts[] = {
        sizeof(pthread_mutex_t), sizeof(struct ss_header), sizeof(struct ss_stripe), sizeof(struct ss_pool),
        sizeof(struct ss_block), offsetof(struct ss_header, page_mutex), offsetof(struct ss_header, txn_state),
        offsetof(struct ss_stripe, version), offsetof(struct ss_pool, free), SS_STRIPES_MAX, SS_PAGE, SS_CLASSES, SS_TXN_MAX,
        SS_TABLE_LOG2_MIN, ss_class_bytes(SS_CLASSES - 1),
#if defined(__GLIBC__)
        1, /* a mutex means something else to musl */
#else
        2,
#endif
        /* Keys hash alike everywhere, or lookups would miss. */
        ss_hash("sharedstate shm layout", 22, 1),
    };
    return ss_hash(facts, sizeof facts, SS_FORMAT);
}

static uint64_t checksum_of(const struct ss_fixed *fixed)
{
    return ss_hash(fixed, offsetof(struct ss_fixed, checksum), SS_MAGIC);
}

static int read_boot_id(uint8_t id[16])
{
    char text[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SS_SYS;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);

    int digits = 0;
    memset(id, 0, 16);
    for (ssize_t i = 0; i < n && digits < 32; i++) {
        char c = text[i];
        unsigned nibble;
        if (c >= '0' && c <= '9')
            nibble = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            nibble = (unsigned)(c - 'a') + 10;
        else
            continue;
        id[digits / 2] = (uint8_t)((unsigned)id[digits / 2] << 4 | nibble);
        digits++;
    }
    if (digits == 32)
        return SS_OK;
    errno = EIO;
    return SS_SYS;
}

/* ---- mapping ---------------------------------------------------------- */

/* Takes over `fd`, also on failure. */
static int map(int fd, const struct ss_geometry *at, uint32_t flags, uint64_t seed, struct ss_region **out)
{
    struct ss_region *r = calloc(1, sizeof *r);
    void *base = r == NULL ? MAP_FAILED : mmap(NULL, at->total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED || ss_sound_mutex_kind(&r->mutex_kind) != SS_OK) {
        int saved = errno;
        if (base != MAP_FAILED)
            munmap(base, at->total);
        free(r);
        close(fd);
        errno = saved;
        return SS_SYS;
    }
    r->base = base;
    r->header = base;
    r->at = *at;
    r->stripes = (struct ss_stripe *)(r->base + at->stripes);
    r->pools = (struct ss_pool *)(r->base + at->pools);
    r->pages = (ss_word *)(r->base + at->pages);
    r->seed = seed;
    r->flags = flags & SS_EVICT;
    r->stripe_mask = at->nstripes - 1;
    r->fd = fd;
    *out = r;
    return SS_OK;
}

void ss_close(struct ss_region *r)
{
    if (r == NULL)
        return;
    munmap(r->base, r->at.total);
    close(r->fd);
    free(r);
}

/* ---- creation --------------------------------------------------------- */

static int initialise(struct ss_region *r, struct ss_fixed *fixed)
{
    int rc = ss_commit_range(r, 0, r->at.pages);
    if (rc != SS_OK)
        return rc;

    fixed->checksum = checksum_of(fixed);
    r->header->fixed = *fixed;
    rc = ss_mutex_init(&r->header->page_mutex);
    if (rc == SS_OK)
        rc = ss_mutex_init(&r->header->txn_mutex);
    for (uint32_t s = 0; rc == SS_OK && s < r->at.nstripes; s++) {
        atomic_store(&r->header->table_log2[s], (uint8_t)SS_TABLE_LOG2_MIN);
        ss_store(&r->stripes[s].table, SS_TABLE_LOG2_MIN << 1);
        ss_store(&r->stripes[s].soonest, UINT64_MAX);
        rc = ss_mutex_init(&r->stripes[s].mutex);
    }
    return rc;
}

static int link_as(int fd, int dirfd, const char *name)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW) == 0)
        return SS_OK;
    return SS_SYS;
}

static int create(int dirfd, const char *name, const struct ss_options *o, struct ss_region **out)
{
    struct ss_fixed fixed = {.magic = SS_MAGIC, .version = SS_FORMAT, .flags = o->flags & SS_EVICT, .layout = layout_hash()};
    struct ss_geometry at;
    struct ss_region *r;

    if (o->size < SS_SIZE_MIN || o->size > size_max || o->nstripes > SS_STRIPES_MAX || (o->nstripes & (o->nstripes - 1)) != 0)
        return SS_INVALID;
    fixed.heap_size = PAGE_ROUND(o->size);
    fixed.nstripes = o->nstripes != 0 ? o->nstripes : default_stripes(o->size, o->flags);
    lay_out(&at, fixed.heap_size, fixed.nstripes, fixed.flags);
    fixed.total_size = at.total;
    if (getrandom(&fixed.seed, sizeof fixed.seed, 0) != sizeof fixed.seed || read_boot_id(fixed.boot_id) != SS_OK)
        return SS_SYS;

    int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return SS_SYS;
    if (ftruncate(fd, (off_t)at.total) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return SS_SYS;
    }
    int rc = map(fd, &at, fixed.flags, fixed.seed, &r);
    if (rc != SS_OK)
        return rc;
    rc = initialise(r, &fixed);
    if (rc == SS_OK && fchmod(fd, (mode_t)(o->mode & 0777)) != 0) /* umask must not narrow it */
        rc = SS_SYS;
    if (rc == SS_OK)
        rc = link_as(fd, dirfd, name);
    if (rc != SS_OK) {
        int saved = errno;
        ss_close(r);
        errno = saved;
        return rc;
    }
    r->created = true;
    *out = r;
    return SS_OK;
}

/* ---- opening ---------------------------------------------------------- */

/* Everything that can be told without mapping the file. */
static int verify(int fd, uint32_t flags, struct ss_geometry *at, struct ss_fixed *fixed)
{
    union {
        struct ss_header header;
        unsigned char bytes[SS_PAGE];
    } page;
    struct stat st;
    uint8_t boot_id[16];

    if (fstat(fd, &st) != 0)
        return SS_SYS;
    if (!S_ISREG(st.st_mode))
        return SS_NOTSEG;
    if (st.st_uid != geteuid() && (flags & SS_ANY_OWNER) == 0)
        return SS_OWNER;

    memset(&page, 0, sizeof page);
    ssize_t n = pread(fd, &page, sizeof page, 0);
    if (n < 0)
        return SS_SYS;
    *fixed = page.header.fixed;
    if (n < (ssize_t)sizeof fixed->magic || fixed->magic != SS_MAGIC)
        return SS_NOTSEG;
    if (n < (ssize_t)sizeof page)
        return SS_TRUNCATED;
    if (fixed->version != SS_FORMAT)
        return SS_VERSION;
    if (fixed->layout != layout_hash())
        return SS_LAYOUT;
    if (fixed->checksum != checksum_of(fixed))
        return SS_CHECKSUM;
    if (fixed->nstripes == 0 || fixed->nstripes > SS_STRIPES_MAX || (fixed->nstripes & (fixed->nstripes - 1)) != 0 ||
        fixed->heap_size < SS_SIZE_MIN || fixed->heap_size > size_max || fixed->heap_size % SS_PAGE != 0)
        return SS_CORRUPT;
    lay_out(at, fixed->heap_size, fixed->nstripes, fixed->flags);
    if (fixed->total_size != at->total)
        return SS_CORRUPT;
    if (read_boot_id(boot_id) != SS_OK)
        return SS_SYS;
    if (memcmp(boot_id, fixed->boot_id, sizeof boot_id) != 0)
        return SS_BOOT;

    /* Counters first, blocks second: a holder may commit more in between. */
    uint64_t committed = ss_committed_bytes(at, &page.header);
    if (fstat(fd, &st) != 0)
        return SS_SYS;
    if ((uint64_t)st.st_size != at->total)
        return SS_TRUNCATED;
    if ((uint64_t)st.st_blocks * 512 < committed)
        return SS_HOLES;
    return SS_OK;
}

int ss_verify_header(const struct ss_region *r)
{
    struct ss_geometry at;
    struct ss_fixed fixed;
    int rc = verify(r->fd, SS_ANY_OWNER, &at, &fixed);

    return rc == SS_OK && (at.total != r->at.total || fixed.seed != r->seed) ? SS_CORRUPT : rc;
}

/* With the region marked unlinked, remove its name if that still is its. */
static int remove_name(int fd, int dirfd, const char *name)
{
    struct stat own, named;
    int rc = SS_SYS;

    while (flock(fd, LOCK_EX) != 0)
        if (errno != EINTR)
            return SS_SYS;
    if (fstat(fd, &own) == 0) {
        if (fstatat(dirfd, name, &named, AT_SYMLINK_NOFOLLOW) != 0)
            rc = errno == ENOENT ? SS_MISSING : SS_SYS;
        else if (own.st_dev != named.st_dev || own.st_ino != named.st_ino)
            rc = SS_MISSING;
        else
            rc = unlinkat(dirfd, name, 0) == 0 ? SS_OK : SS_SYS;
    }
    int saved = errno;
    flock(fd, LOCK_UN);
    errno = saved;
    return rc;
}

static int attach(int dirfd, const char *name, const struct ss_options *o, struct ss_region **out)
{
    struct ss_geometry at;
    struct ss_fixed fixed;

    /* Without O_CREAT: in a sticky directory with fs.protected_regular the
     * kernel refuses O_CREAT on somebody else's file, even to root. */
    int fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        /* Symbolic links, directories and devices are foreign objects. */
        return errno == ELOOP || errno == EISDIR || errno == ENXIO ? SS_NOTSEG : SS_SYS;
    }
    int rc = verify(fd, o->flags, &at, &fixed);
    if (rc != SS_OK) {
        int saved = errno;
        close(fd);
        errno = saved;
        return rc;
    }
    rc = map(fd, &at, fixed.flags, fixed.seed, out);
    if (rc != SS_OK || !ss_is_unlinked(*out))
        return rc;

    rc = remove_name((*out)->fd, dirfd, name); /* its unlinker died halfway */
    int saved = errno;
    ss_close(*out);
    *out = NULL;
    errno = saved;
    return rc == SS_SYS ? SS_SYS : SS_UNLINKED;
}

int ss_open(int dirfd, const char *name, const struct ss_options *o, struct ss_region **out)
{
    int rc = SS_UNLINKED;

    *out = NULL;
    /* Each turn means that somebody else created or unlinked the name just now. */
    for (int turn = 0; turn < 100; turn++) {
        rc = attach(dirfd, name, o, out);
        if (rc == SS_UNLINKED)
            continue;
        if (rc != SS_SYS || errno != ENOENT || (o->flags & SS_CREATE) == 0)
            return rc;
        rc = create(dirfd, name, o, out);
        if (rc != SS_SYS || errno != EEXIST)
            return rc;
    }
    return rc;
}

uint32_t ss_version_of(int dirfd, const char *name)
{
    struct ss_fixed fixed;
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return 0;
    ssize_t n = pread(fd, &fixed, sizeof fixed, 0);
    close(fd);
    return n == sizeof fixed && fixed.magic == SS_MAGIC ? fixed.version : 0;
}

int ss_unlink(struct ss_region *r, int dirfd, const char *name)
{
    ss_store_release(&r->header->unlinked, 1);
    return remove_name(r->fd, dirfd, name);
}

void ss_get_info(const struct ss_region *r, struct ss_info *out)
{
    uint64_t most = r->at.heap_size - ss_block_bytes(SS_KEY_MAX, 0);
    *out = (struct ss_info){
        .size = r->at.heap_size,
        .mapped = r->at.total,
        .max_value = most < UINT32_MAX ? most : UINT32_MAX,
        .nstripes = r->at.nstripes,
        .flags = r->flags,
        .created = r->created,
    };
}

uint64_t ss_hash(const void *key, size_t length, uint64_t seed)
{
    return ss_hash_bytes(key, length, seed);
}

const char *ss_strerror(int status)
{
    switch ((enum ss_status)status) {
    case SS_OK: return "success";
    case SS_MISSING: return "no such entry";
    case SS_MISMATCH: return "entry is at another generation";
    case SS_TOOSMALL: return "buffer too small";
    case SS_WOULDBLOCK: return "another writer is active";
    case SS_TIMEOUT: return "timed out";
    case SS_NOSPC: return "no space left";
    case SS_TOOBIG: return "value too big for this region";
    case SS_TYPE: return "entry is not a number";
    case SS_OVERFLOW: return "result does not fit into 64 bits";
    case SS_INVALID: return "invalid argument";
    case SS_UNLINKED: return "region was unlinked";
    case SS_CORRUPT: return "region is corrupt";
    case SS_NOTSEG: return "not a sharedstate region";
    case SS_TRUNCATED: return "file size contradicts the region's header";
    case SS_VERSION: return "region has another format version";
    case SS_LAYOUT: return "region was made by an incompatible build";
    case SS_CHECKSUM: return "region header is damaged";
    case SS_OWNER: return "region belongs to another user";
    case SS_HOLES: return "region has lost memory it had committed";
    case SS_BOOT: return "region is from before the last boot";
    case SS_SYS: return "system call failed";
    }
    return "unknown status";
}
