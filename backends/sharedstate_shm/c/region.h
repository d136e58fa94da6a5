/* region.h - a handle on one mapped region, and where its parts are.
 *
 * Thread safety: a handle never changes between ss_open() and ss_close(), so
 * any thread may read it without a lock.  What it says about geometry was
 * computed at open and is believed; what the region's bytes say is not.
 */
#ifndef SS_REGION_H
#define SS_REGION_H

#include "layout.h"

struct ss_geometry {
    uint64_t stripes, pools, touch, redo, nursery, pages, tables, heap, total; /* offsets; total is the file's size */
    uint64_t heap_size, heap_pages;
    uint32_t nstripes;
    uint32_t table_log2_max;
    uint32_t touch_log2; /* touch bytes per stripe */
};

struct ss_region {
    unsigned char *base;
    struct ss_header *header;
    struct ss_stripe *stripes;
    struct ss_pool *pools;
    ss_word *pages;
    struct ss_geometry at;
    uint64_t seed;
    uint32_t flags;
    uint32_t stripe_mask;
    int mutex_kind; /* the kind word that every sound mutex of the region has */
    int fd;
    bool created;
};

static inline struct ss_block *ss_block_at(const struct ss_region *r, uint64_t offset)
{
    return (struct ss_block *)(r->base + offset);
}

/* One of a stripe's two areas for tables of 2^log2 slots.  The smallest lie side by
 * side in the nursery, so that they are few pages.  The larger ones share the
 * stripe's room, with area 1 right behind area 0 of the same size: thus behind
 * both areas of each smaller size too, and a table that grows goes there. */
static inline ss_word *ss_table_area(const struct ss_region *r, uint32_t stripe, uint64_t log2, uint64_t area)
{
    uint64_t offset = log2 == SS_TABLE_LOG2_MIN
        ? r->at.nursery + ((area * r->at.nstripes + stripe) << (SS_TABLE_LOG2_MIN + 3))
        : r->at.tables + ((uint64_t)stripe << (r->at.table_log2_max + 4)) + (area << (log2 + 3));
    return (ss_word *)(r->base + offset);
}

static inline uint64_t ss_page_offset(const struct ss_region *r, uint64_t page)
{
    return r->at.heap + (page << SS_PAGE_SHIFT);
}

static inline struct ss_redo *ss_redo_at(const struct ss_region *r, uint64_t index)
{
    return (struct ss_redo *)(r->base + r->at.redo) + index;
}

static inline uint64_t ss_heap_end(const struct ss_region *r)
{
    uint64_t committed = ss_load_acquire(&r->header->heap_committed);
    return r->at.heap + (committed <= r->at.heap_size ? committed : r->at.heap_size);
}

static inline bool ss_is_unlinked(const struct ss_region *r)
{
    return ss_load(&r->header->unlinked) != 0;
}

/* Recency, for the eviction clock.  Readers must not write into blocks, which
 * may be somebody else's by now; these bytes stay what they are. */
static inline _Atomic uint8_t *ss_touch_byte(const struct ss_region *r, uint64_t hash)
{
    uint64_t stripe = hash & r->stripe_mask;
    /* Bits that do not choose the slot: else the clock, which goes by slots, would
     * clear a byte for one entry just before it meets its next-door sharer. */
    uint64_t index = hash >> 32 & ((UINT64_C(1) << r->at.touch_log2) - 1);
    return (_Atomic uint8_t *)(r->base + r->at.touch + (stripe << r->at.touch_log2) + index);
}

static inline void ss_mark_used(const struct ss_region *r, uint64_t hash)
{
    if ((r->flags & SS_EVICT) == 0)
        return;
    _Atomic uint8_t *byte = ss_touch_byte(r, hash);
    if (atomic_load_explicit(byte, memory_order_relaxed) == 0)
        atomic_store_explicit(byte, 1, memory_order_relaxed);
}

/* Is the header still the one that the region was opened by, and the file as large as it says?  SS_OK, or why not. */
int ss_verify_header(const struct ss_region *r);

/* Back a range of the file with memory: SS_OK, SS_NOSPC or SS_SYS. */
int ss_commit_range(const struct ss_region *r, uint64_t offset, uint64_t length);

/* What the region's own words say is committed: never more than is. */
uint64_t ss_committed_bytes(const struct ss_geometry *at, const struct ss_header *header);

#endif
