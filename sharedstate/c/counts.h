/* counts.h - how often a handle was asked, and for what, where other processes can look.
 *
 * A handle counts in memory of its own until it has a place among the store's
 * sharers (backend/presence.py), and from then on in a page of the store's file
 * of counters (backend/counters.py), which it alone writes to and anybody reads:
 *
 *        0  the page's first 64 bytes: hits, misses, writes, samples; rest zero
 *       64  63 samples: the keys of about one call in 16, the newest ones
 *
 *     sample n (from 1 on), in place n mod 63 of 64 bytes:
 *        0  n mod 2^32   is written last: the sample is whole
 *        4  kind         0 a hit, 1 a miss, 2 a write
 *        5  length of the key, 255 for that or more
 *        6  the key's first 54 bytes
 *       60  n mod 2^32   is written first: this place changes now
 *
 * So a call costs two additions in lines of memory that nobody else writes to,
 * and whoever reads costs the handle nothing.  Samples are drawn at random
 * distances: a program that goes through its keys in turn shows all of them.
 *
 * Thread safety: with a GIL, by it: who counts holds it.  Without, every addition
 * is atomic, and only one thread at a time writes a sample.
 *
 * Invariants:
 *   C1  `at` is `own`, or a page that is mapped until the object goes: never
 *       unmapped at detaching, since another thread may be about to add to it.
 *   C2  A forked child counts in its own memory, from zero, until it has a page of
 *       its own: forks.c sees to that before anything of the child runs.
 *   C3  What was counted in `own` is added to the page that follows, once.
 */
#ifndef SS_COUNTS_H
#define SS_COUNTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "forks.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SS_COUNTS_CAPSULE "sharedstate.counts.1" /* the number is this layout's: the modules of a package share it */

enum ss_tallied { SS_HIT, SS_MISS, SS_WRITE, SS_SAMPLES, SS_COUNTERS = 8 };

struct ss_counts {
    _Atomic uint64_t *_Atomic at;
    _Atomic int until_sample; /* calls */
    uint32_t random;          /* guarded by is_sampling */
    atomic_flag is_sampling;
    _Atomic uint64_t own[SS_COUNTERS];
    struct ss_in_child in_child;
};

/* Add to `counter`, which whoever holds the GIL, or else anybody, writes to. */
static inline void ss_add(_Atomic uint64_t *counter, uint64_t by)
{
#ifdef Py_GIL_DISABLED
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
#else
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
#endif
}

/* Draw a sample; counts.c. */
void ss_sample(struct ss_counts *counts, enum ss_tallied kind, const char *key, size_t length);

/* Return whether the call that is counted now is one to draw a sample of. */
static inline int ss_tally_one(struct ss_counts *counts, enum ss_tallied kind)
{
    ss_add(&atomic_load_explicit(&counts->at, memory_order_relaxed)[kind], 1);
    int left = atomic_load_explicit(&counts->until_sample, memory_order_relaxed) - 1;
    atomic_store_explicit(&counts->until_sample, left, memory_order_relaxed);
    return left <= 0;
}

/* Count one call for `key`. */
static inline void ss_tally(struct ss_counts *counts, enum ss_tallied kind, const char *key, size_t length)
{
    if (ss_tally_one(counts, kind))
        ss_sample(counts, kind, key, length);
}

/* Add the type Counts to the module.  Returns 0, or -1 with an exception set. */
int ss_add_counts(PyObject *module);

#endif
