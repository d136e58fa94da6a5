/* layout.h - the bytes of a region: what lies where, and what every byte means.
 *
 *   0          header       fixed facts | mutable words | page mutex | transaction record's head
 *              stripes      nstripes x { mutex, version, table | scalar redo | counters }
 *              pools        nstripes x { free blocks of each class }
 *              touch        one byte per 256 heap bytes, only with SS_EVICT; the one thing readers write
 *              redo         SS_TXN_MAX x { slot, new word }
 *              nursery      two areas x nstripes of slot words: every stripe's first table
 *              pages        one word per heap page                 committed along with the heap
 *              tables       nstripes x two areas of slot words     committed as they grow
 *              heap         pages of 4 KiB                         committed in chunks
 *
 * A key's stripe is fixed by its hash.  The stripe's table maps hash -> block
 * by linear probing; a block holds the whole entry.  A slot is one word:
 *
 *   63      48 47                    0
 *   | tag 16 | offset of block  48   |      0 empty, 1 tombstone, 2 reserved
 *
 * Invariants, verified by ss_check():
 *   L1  The region holds offsets from its base, never pointers: each process
 *       maps it at another address.
 *   L2  Geometry follows from (heap size, nstripes, flags) alone, so no stored
 *       offset of an area is ever trusted.
 *   L3  Bytes are committed before the word that says so is stored, so a
 *       region always has at least the memory that it counts on.
 *   L4  A block belongs to the stripe that owns its page, for life.
 */
#ifndef SS_LAYOUT_H
#define SS_LAYOUT_H

#include <pthread.h>

#include "ss_shm.h"
#include "word.h"

#define SS_MAGIC UINT64_C(0x314d485353454853) /* "SHESSHM1" */

enum {
    SS_PAGE_SHIFT = 12,
    SS_PAGE = 1 << SS_PAGE_SHIFT,
    SS_CLASSES = 26,
    SS_BLOCK_SMALL_MAX = 4096, /* larger blocks are runs of whole pages */
    SS_TABLE_LOG2_MIN = 7,     /* in the nursery; both areas of any larger table are whole pages */
    SS_STRIPE_WORDS = SS_STRIPES_MAX / 64, /* of a bit set of stripes */
};

/* Written before the region has a name, never after. */
struct ss_fixed {
    uint64_t magic;
    uint32_t version;
    uint32_t flags;
    uint64_t layout;     /* hash over what a different build may lay out differently */
    uint64_t heap_size;
    uint64_t total_size;
    uint32_t nstripes;
    uint32_t unused;
    uint64_t seed;
    uint8_t boot_id[16];
    uint64_t checksum;   /* hash over all of the above */
};

enum ss_txn_state { SS_TXN_IDLE, SS_TXN_PREPARED, SS_TXN_COMMITTED };

struct ss_header {
    struct ss_fixed fixed;

    _Alignas(64) ss_word unlinked;                        /* 0 -> 1 once */
    ss_word heap_committed;                               /* bytes; page mutex */
    _Alignas(64) _Atomic uint8_t table_log2[SS_STRIPES_MAX]; /* committed size of both areas; stripe mutex */

    _Alignas(64) ss_word waiters;
    _Atomic uint32_t change_seq;                          /* futex */

    _Alignas(64) pthread_mutex_t page_mutex;
    ss_word page_hint;                                    /* no free page below it */
    ss_word pages_used;
    ss_word evict_hand;                                   /* page where eviction goes on; any value will do */

    _Alignas(64) pthread_mutex_t txn_mutex;
    ss_word txn_state;
    ss_word txn_count;
    ss_word txn_stripes[SS_STRIPE_WORDS];                 /* bit set: whose versions go odd */
};

enum ss_redo_kind { SS_REDO_SCALAR = 1, SS_REDO_TXN = 2 };
enum ss_stripe_flags { SS_STRIPE_LEAKY = 1 };

/* Writers of different keys meet in a stripe's cache lines, and a line that another
 * core wrote last costs as much as a whole write in place: so that touches only
 * the first two.  An odd number of lines, and no more than this, so that those of
 * all stripes fall into all sets of a cache and into few pages. */
struct ss_stripe {
    /* What every writer takes, and what readers look at. */
    _Alignas(64) pthread_mutex_t mutex;
    ss_word version; /* odd: a change is half done, redo says which */
    ss_word table;   /* log2 of slots << 1 | area */

    /* What the in-place write of a scalar needs besides. */
    _Alignas(64) ss_word generation; /* the last one given out */
    ss_word changes;                 /* writes that became visible */
    ss_word redo_kind;
    ss_word redo_block;
    ss_word redo_generation;
    ss_word redo_expires;
    ss_word redo_number;
    ss_word redo_meta;

    /* Counters; recovery recounts the first four. */
    _Alignas(64) ss_word live;
    ss_word used;     /* slots not empty */
    ss_word expiring;
    ss_word soonest;  /* no entry expires earlier */
    ss_word flags;
    ss_word garbage;  /* blocks freed and not taken again since the last sweep */
    ss_word hand;     /* of the eviction clock: a slot index */
    ss_word evictions;
};

/* What a stripe's blocks are taken from, and what it counts but rarely. */
struct ss_pool {
    _Alignas(64) ss_word free[SS_CLASSES]; /* list heads; the link is a free block's first word */
    ss_word bump[SS_CLASSES];              /* next untouched block of the newest span; 0: none */
    ss_word bump_end[SS_CLASSES];          /* where that span ends */
    ss_word purged;
    ss_word recoveries;
    ss_word sweeps;
};

/* Key bytes follow, padded with zeros to a whole word, then payload bytes. */
struct ss_block {
    ss_word hash; /* or the link of a free list */
    ss_word generation;
    ss_word expires;
    ss_word number;
    ss_word meta; /* payload length << 32 | key length << 16 | type */
    ss_word key[];
};

struct ss_redo {
    ss_word where; /* stripe << 48 | offset of the slot */
    ss_word word;  /* what to store there */
};

/* Page word: kind (4 bits), and by kind: size class (6) and stripe (10), and pages
 * from here on (head) or back to the head (rest). */
enum ss_page_kind { SS_PAGE_FREE, SS_PAGE_SPAN, SS_PAGE_RUN, SS_PAGE_REST };

static_assert(sizeof(void *) == 8 && sizeof(ss_word) == 8, "64-bit only");
static_assert(sizeof(struct ss_fixed) == 80, "part of the region format");
static_assert(sizeof(struct ss_header) <= SS_PAGE, "the header is one page");
static_assert(offsetof(struct ss_stripe, generation) == 64, "mutex, version and table are one line");
static_assert(offsetof(struct ss_stripe, live) == 128, "a write in place needs no third line");
static_assert(sizeof(struct ss_stripe) == 192 && sizeof(struct ss_pool) == 704, "odd numbers of lines");
static_assert(SS_STRIPES_MAX % 64 == 0 && SS_STRIPES_MAX <= 1024, "whole words of a bit set; ten bits of a page word");
static_assert(sizeof(struct ss_block) == 40, "part of the region format");

#define SS_SLOT_EMPTY UINT64_C(0)
#define SS_SLOT_TOMB UINT64_C(1)
#define SS_SLOT_RESERVED UINT64_C(2) /* a tombstone that a running commit will fill */
#define SS_OFFSET_MASK ((UINT64_C(1) << 48) - 1)

static inline uint64_t ss_slot_word(uint64_t hash, uint64_t block)
{
    return (hash >> 48) << 48 | block;
}

static inline uint64_t ss_slot_block(uint64_t slot)
{
    return slot & SS_OFFSET_MASK;
}

static inline bool ss_slot_is_entry(uint64_t slot)
{
    return slot > SS_SLOT_RESERVED;
}

static inline uint64_t ss_home(uint64_t hash)
{
    return hash >> 16; /* the low bits chose the stripe */
}

static inline uint64_t ss_meta(uint32_t type, uint64_t key_length, uint64_t length)
{
    return length << 32 | key_length << 16 | type;
}

static inline uint32_t ss_meta_type(uint64_t meta)
{
    return (uint32_t)(meta & 0xff);
}

static inline size_t ss_meta_key_length(uint64_t meta)
{
    return (size_t)(meta >> 16 & 0xffff);
}

static inline uint32_t ss_meta_length(uint64_t meta)
{
    return (uint32_t)(meta >> 32);
}

static inline uint64_t ss_key_bytes(size_t key_length) /* as stored */
{
    return (key_length + 7) & ~(uint64_t)7;
}

static inline uint64_t ss_block_bytes(size_t key_length, uint64_t length)
{
    return sizeof(struct ss_block) + ss_key_bytes(key_length) + length;
}

static inline uint64_t ss_page_word(enum ss_page_kind kind, uint32_t class, uint32_t stripe, uint64_t pages)
{
    return pages << 20 | (uint64_t)stripe << 10 | (uint64_t)class << 4 | kind;
}

static inline enum ss_page_kind ss_page_kind(uint64_t word)
{
    return (enum ss_page_kind)(word & 3);
}

static inline uint32_t ss_page_class(uint64_t word)
{
    return (uint32_t)(word >> 4 & 63);
}

static inline uint32_t ss_page_stripe(uint64_t word)
{
    return (uint32_t)(word >> 10 & 1023);
}

static inline uint64_t ss_page_count(uint64_t word)
{
    return word >> 20;
}

/* Size classes: 48, 64, then four per doubling up to 4096. */
static inline uint32_t ss_class_of(uint64_t bytes)
{
    if (bytes <= 64)
        return bytes > 48;
    uint32_t log2 = 63 - (uint32_t)__builtin_clzll(bytes - 1);
    return 2 + (log2 - 6) * 4 + (uint32_t)((bytes - 1) >> (log2 - 2)) - 4;
}

static inline uint64_t ss_class_bytes(uint32_t class)
{
    if (class < 2)
        return class == 0 ? 48 : 64;
    return (uint64_t)(5 + (class - 2) % 4) << (4 + (class - 2) / 4);
}

/* The fewest pages that blocks of the class fill up to a sixteenth, or one if up
 * to four pages do not.  No more, since each stripe keeps a partly filled span of
 * every class in use, and that must stay little beside a small heap. */
static inline uint64_t ss_class_pages(uint32_t class)
{
    static const uint8_t pages[SS_CLASSES] = {
        1, 1,       /* 48, 64 */
        1, 1, 1, 1, /* 80 to 128 */
        1, 1, 1, 1, /* 160 to 256 */
        1, 1, 1, 1, /* 320 to 512 */
        1, 1, 2, 1, /* 640, 768, 896, 1024 */
        1, 2, 4, 1, /* 1280, 1536, 1792, 2048 */
        2, 3, 1, 1, /* 2560, 3072, 3584, 4096 */
    };
    return pages[class];
}

/* Which block of a span is its stripe's first: another one for its neighbours, or
 * the first entries of all stripes would crowd into the same few sets of a cache,
 * those at the beginning of a page.  From there on, and round to it. */
static inline uint64_t ss_first_block(uint32_t stripe, uint64_t blocks)
{
    return stripe % 8 * blocks / 8;
}

#endif
