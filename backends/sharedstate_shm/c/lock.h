/* lock.h - take and leave the region's mutexes; repair what a dead owner left.
 *
 * Lock order: transaction mutex, then stripes by rising index, then the page
 * mutex.  Who holds one stripe and wants another out of order (to reclaim
 * memory) may only try.
 *
 * Thread safety: a `struct ss_held` is proof that its thread owns the stripe;
 * functions that need the lock take one.
 *
 * Invariants:
 *   K1  Whoever gets a stripe sees it whole: an even version, and counters that
 *       are those of the table.  ss_lock() repairs before it returns.
 *   K2  An odd version under the lock means that an owner died there, whether
 *       or not this locker is told so (EOWNERDEAD): a first repair may have
 *       failed, or died as well.
 *   K3  No mutex is handed to libc before its kind word was compared with that
 *       of a sound one: glibc aborts the process on a kind that it cannot know.
 *   K4  EOWNERDEAD from a try is ownership too.
 *
 * Crash: repair stores absolute values only, so it may die and be repeated at
 * any point.  It replays the stripe's redo record if the version is odd,
 * recounts the table, and moves the version on, since the owner may have died
 * between unlinking a block and saying so.
 */
#ifndef SS_LOCK_H
#define SS_LOCK_H

#include "region.h"

struct ss_held {
    struct ss_region *r;
    struct ss_stripe *st;
    ss_word *slots;     /* the current table */
    uint64_t mask;      /* slots - 1 */
    uint64_t heap_end;  /* offsets of blocks end here; grows under the page mutex */
    uint64_t wait;
    uint32_t index;
};

/* Writes in place do without, so it is looked up when wanted. */
static inline struct ss_pool *ss_pool(const struct ss_held *h)
{
    return &h->r->pools[h->index];
}

int ss_mutex_init(pthread_mutex_t *mutex);
int ss_sound_mutex_kind(int *kind);

/* SS_OK, SS_WOULDBLOCK, SS_TIMEOUT, SS_CORRUPT. */
int ss_mutex_lock(const struct ss_region *r, pthread_mutex_t *mutex, uint64_t wait, bool *owner_died);
void ss_mutex_unlock(pthread_mutex_t *mutex);
void ss_mutex_repaired(pthread_mutex_t *mutex); /* before unlocking, after owner_died */

/* Lock one stripe.  On anything but SS_OK nothing is held. */
int ss_lock(struct ss_region *r, uint32_t stripe, uint64_t wait, struct ss_held *h);
void ss_unlock(struct ss_held *h);

/* Tell ss_wait() after a visible write, once no lock is held. */
void ss_notify(struct ss_region *r);

static inline void ss_unlock_and_notify(struct ss_held *h)
{
    ss_unlock(h);
    ss_notify(h->r);
}

#endif
