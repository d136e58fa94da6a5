/* heap.h - where blocks come from: pages, spans of one size class, and runs.
 *
 * Pages are shared by all stripes under the page mutex.  A stripe takes a span
 * (1, 2 or 4 pages cut into blocks of one class) or, for a block above 4 KiB, a
 * run of pages; from then on it alone gives the blocks out, under its own lock.
 *
 * Thread safety: functions that take `h` need that stripe locked; the page
 * mutex is taken inside, for a few hundred instructions.
 *
 * Invariants, verified by ss_check():
 *   H1  A page word that is a head owns the `count` pages from it on; the others
 *       are REST and say how far back it is.  A head is written last and
 *       cleared first, so a REST that no head covers is a free page.
 *   H2  A block is at a multiple of its class size from its span's head.
 *   H3  A block is in at most one place: a slot, a free list, or what is left of
 *       the newest span of its class: from bump on, round to the first block.
 *
 * Crash: every step is one store; between two of them a block or a span may be
 * in *no* place.  It is leaked, not lost: ss_heap_sweep() asks of every block
 * of the stripe whether a slot points to it, and frees what nobody knows.
 */
#ifndef SS_HEAP_H
#define SS_HEAP_H

#include "lock.h"

struct ss_span {
    uint64_t page; /* index of the head */
    uint64_t word; /* its page word */
};

/* The page mutex, repaired if its owner died: results as ss_mutex_lock(). */
int ss_pages_lock(const struct ss_region *r, uint64_t wait);
void ss_pages_unlock(const struct ss_region *r);

/* The span or run whose block starts at `offset`; SS_CORRUPT if none of `stripe` does. */
int ss_heap_span_of(const struct ss_region *r, uint32_t stripe, uint64_t offset, struct ss_span *span);
uint64_t ss_span_block_bytes(const struct ss_span *span);

/* Whether a page word may be the head of a span or run of `stripe`.  Nearly none is,
 * and to look for those of one stripe means to look at all: so this comes first. */
static inline bool ss_page_may_head(uint64_t word, uint32_t stripe)
{
    return ss_page_stripe(word) == stripe && (ss_page_kind(word) == SS_PAGE_SPAN || ss_page_kind(word) == SS_PAGE_RUN);
}

/* Take a block for `bytes`; its contents are for the caller to fill.  SS_OK,
 * SS_NOSPC, SS_CORRUPT, or as ss_mutex_lock() for the page mutex. */
int ss_heap_take(struct ss_held *h, uint64_t bytes, uint64_t *offset);

/* Give a block back.  Readers must have been warned (version) before. */
int ss_heap_give(struct ss_held *h, uint64_t offset);

/* Free what no slot points to; hand empty spans back. */
int ss_heap_sweep(struct ss_held *h);

#endif
