/* wait.c - sleep until some entry changes; wake the sleepers.
 *
 * Each stripe counts its visible writes; the sum over the stripes is the change
 * token.  Counters only grow, so equal sums mean equal counters.
 *
 * A waiter announces itself (waiters = 1), then compares the token once more,
 * then sleeps on change_seq as it was before all that.  A writer counts its
 * change, unlocks, then looks at `waiters`.  With a full barrier on either
 * side, one of the two sees the other:
 *
 *   waiter: waiters = 1;  barrier;  token?          writer: ++changes;  barrier;  waiters?
 *
 * Thread safety: any thread; no lock is held anywhere here.
 *
 * Crash: a waiter that dies leaves waiters = 1, which costs the next writer one
 * idle wake-up.  A writer that dies before its wake-up delays the waiters to
 * the end of their slice.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lock.h"

static const uint64_t slice_max_ns = 100000000;

static void wake(struct ss_region *r)
{
    ss_store(&r->header->waiters, 0);
    atomic_fetch_add(&r->header->change_seq, 1);
    syscall(SYS_futex, &r->header->change_seq, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void ss_notify(struct ss_region *r)
{
#if defined(__x86_64__) && !SS_TSAN
    /* The unlock before this call ended in a locked instruction, a full barrier
     * already.  If a libc ever did without, a wake-up could come a slice late. */
    ss_crash_fence();
#elif !SS_TSAN
    atomic_thread_fence(memory_order_seq_cst);
#endif
    if (__builtin_expect(ss_load(&r->header->waiters) != 0, 0))
        wake(r);
}

uint64_t ss_change_token(const struct ss_region *r)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < r->at.nstripes; s++)
        sum += ss_load_acquire(&r->stripes[s].changes);
    return sum;
}

int ss_wait(struct ss_region *r, uint64_t token, uint64_t timeout_ns)
{
    uint32_t seq = atomic_load(&r->header->change_seq);
    uint64_t slice = timeout_ns < slice_max_ns ? timeout_ns : slice_max_ns;
    struct timespec relative = {.tv_nsec = (long)slice};

    atomic_store(&r->header->waiters, 1);
#if !SS_TSAN
    atomic_thread_fence(memory_order_seq_cst);
#endif
    if (ss_change_token(r) != token)
        return SS_OK;
    if (slice != 0 && syscall(SYS_futex, &r->header->change_seq, FUTEX_WAIT, seq, &relative, NULL, 0) != 0 && errno != EAGAIN &&
        errno != EINTR && errno != ETIMEDOUT)
        return SS_SYS;
    return ss_change_token(r) != token ? SS_OK : SS_TIMEOUT;
}
