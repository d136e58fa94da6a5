/* lock.c - robust mutexes with a try, a spin and a deadline; repair of a stripe.
 *
 * Promises, invariants and crash behaviour are lock.h's.
 *
 * Thread safety: as lock.h.  Nothing here keeps state of its own.
 */
#define _GNU_SOURCE
#include "lock.h"

#include <errno.h>
#include <time.h>

#include "table.h"
#include "txn.h"

enum { SPINS = 20 }; /* about a microsecond; the caller still holds its GIL */

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- mutexes ---------------------------------------------------------- */

static inline int kind_of(const pthread_mutex_t *mutex)
{
#if defined(__GLIBC__)
    return mutex->__data.__kind;
#else
    int kind; /* musl: _m_type is the first word */
    memcpy(&kind, mutex, sizeof kind);
    return kind;
#endif
}

int ss_mutex_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);
    if (rc == 0)
        rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (rc == 0)
        rc = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    if (rc == 0)
        rc = pthread_mutex_init(mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    errno = rc;
    return rc == 0 ? SS_OK : SS_SYS;
}

int ss_sound_mutex_kind(int *kind)
{
    pthread_mutex_t mutex;
    int rc = ss_mutex_init(&mutex);
    if (rc == SS_OK) {
        *kind = kind_of(&mutex);
        pthread_mutex_destroy(&mutex);
    }
    return rc;
}

/* musl has no clocklock, nor has glibc before 2.30.  What was compiled there, as
 * the wheels are, still takes it where it runs with a libc that has it. */
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 30)
#define HAS_CLOCKLOCK 1
#endif
#endif
#ifndef HAS_CLOCKLOCK
extern int pthread_mutex_clocklock(pthread_mutex_t *, clockid_t, const struct timespec *) __attribute__((weak));
#define HAS_CLOCKLOCK (pthread_mutex_clocklock != NULL)
#endif

/* timedlock runs on the wall clock: one that is set forward ends a wait too soon,
 * so the time that is left is looked up again; one that is set back lets a wait
 * for who does not unlock last longer. */
static int lock_by_wall_clock(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = ss_monotonic_ns();
        uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        uint64_t nsec = (uint64_t)at.tv_nsec + left % 1000000000u;
        at.tv_sec += (time_t)(left / 1000000000u + nsec / 1000000000u);
        at.tv_nsec = (long)(nsec % 1000000000u);
        int rc = pthread_mutex_timedlock(mutex, &at);
        if (rc != ETIMEDOUT || left == 0)
            return rc;
    }
}

static int lock_until(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    /* gcc 12's TSan does not intercept clocklock and would not know of the lock. */
    if (SS_TSAN || !HAS_CLOCKLOCK)
        return lock_by_wall_clock(mutex, deadline_ns);
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u), .tv_nsec = (long)(deadline_ns % 1000000000u)};
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &at);
}

static int lock_slowly(pthread_mutex_t *mutex, uint64_t wait)
{
    int rc = EBUSY;
    for (int i = 0; i < SPINS && rc == EBUSY; i++) {
        cpu_relax();
        rc = pthread_mutex_trylock(mutex);
    }
    if (rc == EBUSY && wait != SS_TRY)
        rc = lock_until(mutex, wait);
    return rc;
}

int ss_mutex_lock(const struct ss_region *r, pthread_mutex_t *mutex, uint64_t wait, bool *owner_died)
{
    *owner_died = false;
    if (kind_of(mutex) != r->mutex_kind)
        return SS_CORRUPT;

    int rc = pthread_mutex_trylock(mutex);
    if (rc == EBUSY)
        rc = lock_slowly(mutex, wait);
    switch (rc) {
    case 0:
        return SS_OK;
    case EOWNERDEAD:
        *owner_died = true;
        return SS_OK;
    case EBUSY:
        return SS_WOULDBLOCK;
    case ETIMEDOUT:
        return SS_TIMEOUT;
    default: /* ENOTRECOVERABLE, EINVAL...: no state that we ever make */
        return SS_CORRUPT;
    }
}

void ss_mutex_unlock(pthread_mutex_t *mutex)
{
    pthread_mutex_unlock(mutex);
}

void ss_mutex_repaired(pthread_mutex_t *mutex)
{
    pthread_mutex_consistent(mutex);
}

/* ---- stripes ---------------------------------------------------------- */

static int finish_change(struct ss_held *h)
{
    switch (ss_load(&h->st->redo_kind)) {
    case SS_REDO_SCALAR:
        return ss_table_replay_scalar(h);
    case SS_REDO_TXN:
        return ss_txn_replay(h);
    default:
        return SS_CORRUPT;
    }
}

static int repair(struct ss_held *h)
{
    uint64_t version = ss_load(&h->st->version);

    if (version & 1) {
        int rc = finish_change(h);
        if (rc != SS_OK)
            return rc;
    }
    ss_table_recount(h);
    ss_store(&h->st->flags, ss_load(&h->st->flags) | SS_STRIPE_LEAKY);
    ss_add(&ss_pool(h)->recoveries, 1);
    ss_table_count_change(h); /* its owner may have died before telling */
    ss_store_release(&h->st->version, (version | 1) + 1);
    ss_fence_release();
    return SS_OK;
}

int ss_lock(struct ss_region *r, uint32_t stripe, uint64_t wait, struct ss_held *h)
{
    struct ss_stripe *st = &r->stripes[stripe];
    bool owner_died;

    int rc = ss_mutex_lock(r, &st->mutex, wait, &owner_died);
    if (rc != SS_OK)
        return rc;
    h->r = r;
    h->st = st;
    h->index = stripe;
    h->wait = wait;
    h->heap_end = ss_heap_end(r);
    rc = ss_table_view(r, stripe, ss_load(&st->table), &h->slots, &h->mask);
    if (__builtin_expect(rc == SS_OK && (owner_died || (ss_load(&st->version) & 1)), 0))
        rc = repair(h);
    if (__builtin_expect(owner_died, 0)) /* also if beyond repair: else nobody could lock it again to say so */
        ss_mutex_repaired(&st->mutex);
    if (rc != SS_OK)
        ss_mutex_unlock(&st->mutex);
    return rc;
}

void ss_unlock(struct ss_held *h)
{
    ss_mutex_unlock(&h->st->mutex);
}

/* ---- clocks ----------------------------------------------------------- */

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t ss_boottime_ns(void)
{
    return now_ns(CLOCK_BOOTTIME);
}

uint64_t ss_monotonic_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}
