/* room.h - a block, and a slot, at any price that the region's policy allows.
 *
 * When the heap has nothing left, in this order: drop what has expired and
 * sweep, in the stripe at hand, then in one after another.  With SS_EVICT, evict an old
 * entry of the same size class; or else whole spans of old entries of this
 * stripe, since only whole pages serve another class; or else whatever lies in
 * the next window of adjacent pages, since a large value needs a run of them.
 *
 * Thread safety: needs the given stripes locked.  Others are only tried, since
 * the lock order forbids waiting for them.
 *
 * Invariant: a pinned entry is never dropped.  Sweeping takes blocks that were
 * taken but not yet published for leaked ones, so ss_room_make() may be called
 * only while the caller has none.
 *
 * Crash: made of steps that each are crash-safe (heap.h, table.h).
 */
#ifndef SS_ROOM_H
#define SS_ROOM_H

#include "heap.h"
#include "table.h"

struct ss_room {
    struct ss_held *held; /* stripes the caller has locked */
    size_t count;
    const struct ss_pins *pins;
    unsigned stage;       /* start with 0 */
    uint32_t reclaimed;   /* start with 0 */
    uint64_t windows;     /* start with 0 */
};

/* ss_table_reserve(), with SS_EVICT at the price of entries where the table cannot grow. */
int ss_room_reserve(struct ss_held *h, uint64_t extra, const struct ss_pins *pins);

/* ss_heap_take(), at most at the price of evicting one entry of the same class. */
int ss_room_take(struct ss_held *h, uint64_t bytes, const struct ss_pins *pins, uint64_t *block);

/* Do the next thing that might help to find `bytes` in stripe `h`.  SS_OK: try
 * again; SS_NOSPC: nothing is left to do. */
int ss_room_make(struct ss_room *room, struct ss_held *h, uint64_t bytes);

#endif
