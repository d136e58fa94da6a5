/* ss_shm.h - the public face of the shared-memory table: everything module.c may call.
 *
 * A region is one file on tmpfs, mapped by any number of processes, that holds
 * entries: key -> (value, generation, expiry).  Every call is atomic between
 * threads, interpreters and processes, and stays so if a caller is killed at
 * any instruction.
 *
 * Thread safety: every function may be called by any thread of any process
 * with an open region; ss_close() alone must run after all others have
 * returned.  No function ever returns with a mutex held.
 *
 * Results: SS_OK; a positive outcome, where nothing is wrong; or a negative
 * error, after which nothing was written (but SS_CORRUPT may have been met when
 * freeing the old value of a completed write).  With SS_SYS, `errno` says why.
 *
 * Waiting: readers take no lock unless writers keep getting in their way.
 * Whatever may need a lock takes `wait`: SS_TRY, which spins for about a
 * microsecond and then returns SS_WOULDBLOCK; or a CLOCK_MONOTONIC deadline in
 * nanoseconds, after which it returns SS_TIMEOUT.  So a caller can try first,
 * and only then give up its GIL and wait, in slices between which it looks
 * after signals.  SS_WOULDBLOCK and SS_TIMEOUT mean that nothing was done
 * (keyspace-wide calls say what they may have done).
 */
#ifndef SS_SHM_H
#define SS_SHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SS_FORMAT = 3,             /* version of the region format */
    SS_KEY_MAX = 512,          /* bytes of a key, at least 1 */
    SS_TXN_MAX = 4096,         /* operations in one ss_commit() */
    SS_STRIPES_MAX = 1024,
    SS_SIZE_MIN = 1024 * 1024, /* smallest `size` of a region */
};

enum ss_status {
    SS_OK = 0,

    SS_MISSING = 1, /* no such live entry */
    SS_MISMATCH,    /* the entry is at another generation than expected */
    SS_TOOSMALL,    /* the buffer is; the needed length was reported */
    SS_WOULDBLOCK,  /* SS_TRY only: somebody else is writing just now */
    SS_TIMEOUT,     /* the deadline passed */

    SS_NOSPC = -1,      /* region or file system full; nothing was lost */
    SS_TOOBIG = -2,     /* the value could not fit into an empty region */
    SS_TYPE = -3,       /* increment of something that is not a number */
    SS_OVERFLOW = -4,   /* result outside [-2**63, 2**64 - 1] */
    SS_INVALID = -5,    /* an argument breaks this header's rules */
    SS_UNLINKED = -6,   /* the region was unlinked: reads work, writes are refused */
    SS_CORRUPT = -7,    /* bytes in the region break an invariant */
    SS_NOTSEG = -8,     /* not a region at all */
    SS_TRUNCATED = -9,  /* shorter or longer than its header says */
    SS_VERSION = -10,   /* another format version */
    SS_LAYOUT = -11,    /* same version, but another libc, word size or compiler layout */
    SS_CHECKSUM = -12,  /* the header's bytes were damaged */
    SS_OWNER = -13,     /* belongs to another user */
    SS_HOLES = -14,     /* memory it committed is gone: a sparse copy */
    SS_BOOT = -15,      /* written before the last reboot */
    SS_SYS = -16,       /* a system call failed: see errno */
};

/* A short English phrase for a status; never NULL. */
const char *ss_strerror(int status);

/* ---- regions ---------------------------------------------------------- */

struct ss_region;

enum {
    SS_CREATE = 1,    /* ss_open: create the region if the name is free */
    SS_EVICT = 2,     /* creation: when full, evict least recently used entries */
    SS_ANY_OWNER = 4, /* ss_open: accept a region that another user owns */
};

struct ss_options {
    uint64_t size;     /* creation: bytes for entries; tables and header come on top */
    uint32_t nstripes; /* creation: a power of two, or 0 for the sizing rule */
    uint32_t mode;     /* creation: permission bits, whatever the umask says */
    uint32_t flags;    /* SS_CREATE | SS_EVICT | SS_ANY_OWNER */
};

struct ss_info {
    uint64_t size;           /* bytes for entries */
    uint64_t mapped;         /* bytes of the whole file, mostly uncommitted */
    uint64_t max_value;      /* longest payload that ss_put() may accept */
    uint32_t nstripes;
    uint32_t flags;          /* SS_EVICT or 0 */
    bool created;            /* by this very ss_open() */
};

/* Open `name` in the directory `dirfd`, or create it.  Of several creators one
 * wins, and the others attach to its region: nobody ever sees a half-made one.
 * When attaching, size, nstripes, mode and SS_EVICT are the region's own. */
int ss_open(int dirfd, const char *name, const struct ss_options *options, struct ss_region **out);

/* The format version that the file `name` claims to have, 0 if it is no region:
 * to say more about SS_VERSION. */
uint32_t ss_version_of(int dirfd, const char *name);

/* Unmap.  No thread may be inside any call on `region`. */
void ss_close(struct ss_region *region);

/* Mark the region unlinked, so that no holder goes on writing to a ghost, then
 * remove `name` if it still names this region (else SS_MISSING). */
int ss_unlink(struct ss_region *region, int dirfd, const char *name);

void ss_get_info(const struct ss_region *region, struct ss_info *out);

/* ---- values ----------------------------------------------------------- */

enum ss_type {
    SS_INT = 1, /* int64_t */
    SS_UINT,    /* uint64_t above INT64_MAX; smaller ones are stored as SS_INT */
    SS_FLOAT,
    SS_NONE,
    SS_TRUE,
    SS_FALSE,
    SS_STR, /* from here on `length` payload bytes, opaque to this library */
    SS_BYTES,
    SS_MSGPACK,
};

struct ss_value {
    uint32_t type;   /* enum ss_type */
    uint32_t length; /* payload bytes; 0 for scalars */
    union {
        int64_t i;
        uint64_t u;
        double f;
    } number;            /* SS_INT, SS_UINT, SS_FLOAT; else 0 */
    const void *payload; /* input only */
};

/* What is known of an entry without its payload. */
struct ss_entry {
    uint64_t generation; /* grows with each write of the key, for ever */
    uint64_t expires_ns; /* on CLOCK_BOOTTIME; 0: never */
    struct ss_value value;
};

#define SS_TRY UINT64_C(0)      /* wait: do not */
#define SS_ABSENT UINT64_C(0)   /* expected generation: there must be no entry */
#define SS_ANY UINT64_MAX       /* expected generation: whatever is there */
#define SS_KEEP UINT64_MAX      /* expires_ns of a put that expects a generation: as it is at that moment */

uint64_t ss_boottime_ns(void);  /* the clock of expires_ns */
uint64_t ss_monotonic_ns(void); /* the clock of wait deadlines */
uint64_t ss_hash(const void *key, size_t length, uint64_t seed);

/* ---- single entries: linearizable ------------------------------------- */

/* Copy the entry out.  SS_TOOSMALL fills `entry` but not `buffer`; capacity 0
 * therefore asks for the metadata of an entry that has a payload. */
int ss_get(struct ss_region *region, const void *key, size_t key_length, void *buffer, size_t capacity, struct ss_entry *entry,
           uint64_t wait);

/* Store, if the entry is at generation `expected` (SS_ABSENT: add; SS_ANY:
 * set).  `generation` receives the new one; on SS_MISMATCH the current one. */
int ss_put(struct ss_region *region, const void *key, size_t key_length, const struct ss_value *value, uint64_t expires_ns,
           uint64_t expected, uint64_t *generation, uint64_t wait);

/* Remove, if at generation `expected`.  With `entry` not NULL the old value is
 * copied out as by ss_get(), and SS_TOOSMALL removes nothing. */
int ss_delete(struct ss_region *region, const void *key, size_t key_length, uint64_t expected, void *buffer, size_t capacity,
              struct ss_entry *entry, uint64_t wait);

/* Add `by` to a number; an absent entry counts as `initial`, and only then is
 * `expires_ns` used.  Two integers give an integer, otherwise a float. */
int ss_increment(struct ss_region *region, const void *key, size_t key_length, const struct ss_value *by,
                 const struct ss_value *initial, uint64_t expires_ns, struct ss_entry *entry, uint64_t wait);

/* Change the expiry alone; the generation stays. */
int ss_touch(struct ss_region *region, const void *key, size_t key_length, uint64_t expires_ns, uint64_t wait);

/* ---- several entries: serializable, all or nothing -------------------- */

enum ss_op_kind { SS_OP_CHECK = 1, SS_OP_PUT, SS_OP_DELETE };

struct ss_op {
    uint32_t kind;
    uint32_t key_length;
    const void *key;        /* no key may occur twice in one commit */
    uint64_t expected;      /* generation, SS_ABSENT or SS_ANY */
    struct ss_value value;  /* SS_OP_PUT */
    uint64_t expires_ns;    /* SS_OP_PUT */

    uint64_t generation;    /* out: the new one of a PUT; on SS_MISMATCH the current one of the culprit */
    bool existed;           /* out: a live entry was there */

    struct {                /* scratch of ss_commit() */
        uint64_t hash, slot, old_block, new_block, old_expires, expires;
        uint32_t stripe, next;
    } priv;
};

/* Do all of `ops`, or none.  On SS_MISMATCH `*culprit` is the index of the
 * first operation whose expectation failed. */
int ss_commit(struct ss_region *region, struct ss_op *ops, size_t count, size_t *culprit, uint64_t wait);

/* ---- the keyspace ----------------------------------------------------- */

/* Live entries, each stripe counted at one instant. */
int ss_count(struct ss_region *region, uint64_t *count, uint64_t wait);

/* The live keys of one stripe (0 .. nstripes-1) that start with `prefix`, at
 * one instant, each once: as (uint16_t length, bytes) records without padding.
 * `used` receives the bytes written, or on SS_TOOSMALL the bytes needed. */
int ss_keys(struct ss_region *region, uint32_t stripe, const void *prefix, size_t prefix_length, void *buffer, size_t capacity,
            size_t *used, uint64_t *count, uint64_t wait);

/* Delete every entry of one stripe whose key starts with `prefix`. */
int ss_clear(struct ss_region *region, uint32_t stripe, const void *prefix, size_t prefix_length, uint64_t *count, uint64_t wait);

/* Drop expired entries of one stripe (memory only: they were absent anyway). */
int ss_purge(struct ss_region *region, uint32_t stripe, uint64_t *count, uint64_t wait);

/* Reclaim memory that dead writers of one stripe left behind, and return its
 * empty pages to the others.  Done by itself when memory is short. */
int ss_sweep(struct ss_region *region, uint32_t stripe, uint64_t wait);

/* ---- waiting for change ----------------------------------------------- */

/* A number that differs after any write became visible.  Take the token, look
 * at the entries, then wait on the token: no change is missed. */
uint64_t ss_change_token(const struct ss_region *region);

/* Wait until the token differs (SS_OK), for at most `timeout_ns` and never for
 * more than 100 ms, nor beyond a signal (SS_TIMEOUT).  Look again at the
 * entries after either: a writer killed between its write and its wake-up
 * leaves a change that no token tells of before the stripe is next locked. */
int ss_wait(struct ss_region *region, uint64_t token, uint64_t timeout_ns);

/* ---- looking at a region ---------------------------------------------- */

struct ss_stats {
    uint64_t entries;          /* stored, expired ones included until they are purged */
    uint64_t expiring;         /* of these, with an expiry */
    uint64_t evictions;        /* entries evicted for space since creation */
    uint64_t purged;           /* expired entries dropped since creation */
    uint64_t recoveries;       /* dead lock owners cleaned up after */
    uint64_t sweeps;
    uint64_t slots;            /* capacity of the hash tables */
    uint64_t size;             /* bytes for entries */
    uint64_t used_bytes;       /* bytes of pages in use */
    uint64_t committed_bytes;  /* file-system memory taken */
};

int ss_stats(struct ss_region *region, struct ss_stats *out, uint64_t wait);

struct ss_report {
    uint64_t entries;
    uint64_t leaked_blocks;    /* reachable from nowhere, until the next sweep */
    char message[240];         /* which invariant is broken, and at which offset */
};

/* Verify every invariant of the format, stripe by stripe. */
int ss_check(struct ss_region *region, struct ss_report *report, uint64_t wait);

/* ---- repairing a region that nobody else uses -------------------------- */

struct ss_salvaged {
    uint64_t sound;      /* entries that break no invariant */
    uint64_t broken;     /* the others */
    uint64_t generation; /* the last one given out in this stripe, as it says */
};

/* The keys of one stripe's sound entries, expired ones too, as records like those
 * of ss_keys(); SS_CORRUPT if its table cannot be found.  Looks at a stripe that
 * cannot be locked as well. */
int ss_salvage(struct ss_region *region, uint32_t stripe, void *buffer, size_t capacity, size_t *used,
               struct ss_salvaged *salvaged);

/* Let no stripe give out a generation up to `floor` from now on. */
int ss_raise_generations(struct ss_region *region, uint64_t floor, uint64_t wait);

#endif
