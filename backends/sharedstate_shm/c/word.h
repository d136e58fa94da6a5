/* word.h - shared 64-bit words, and the hash of keys.
 *
 * Everything that two processes may touch at once is a word accessed through
 * these functions, except payload bytes, which ss_copy_out() reads.
 *
 * Two orders matter, and they are not the same:
 *   - what a concurrent reader sees: release, acquire and the fences below;
 *   - what a killed writer leaves: exactly the stores before the instruction
 *     at which it died, in program order, because the kernel hands its lock on
 *     only after they have retired.  So against a crash it suffices that the
 *     compiler keeps the order: ss_crash_fence() costs nothing.
 */
#ifndef SS_WORD_H
#define SS_WORD_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define SS_TSAN 1
#else
#define SS_TSAN 0
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "keys are compared and stored as little-endian words");

typedef _Atomic uint64_t ss_word;

static inline uint64_t ss_load(const ss_word *w)
{
    return atomic_load_explicit(w, memory_order_relaxed);
}

static inline uint64_t ss_load_acquire(const ss_word *w)
{
    return atomic_load_explicit(w, memory_order_acquire);
}

static inline void ss_store(ss_word *w, uint64_t value)
{
    atomic_store_explicit(w, value, memory_order_relaxed);
}

static inline void ss_store_release(ss_word *w, uint64_t value)
{
    atomic_store_explicit(w, value, memory_order_release);
}

/* For counters that only the holder of a lock writes. */
static inline void ss_add(ss_word *w, uint64_t delta)
{
    ss_store(w, ss_load(w) + delta);
}

static inline void ss_crash_fence(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* TSan does not model fences and gcc says so for each.  They order atomic
 * accesses only, about which TSan never complains. */
static inline void ss_fence_acquire(void)
{
#if !SS_TSAN
    atomic_thread_fence(memory_order_acquire);
#endif
}

static inline void ss_fence_release(void)
{
#if !SS_TSAN
    atomic_thread_fence(memory_order_release);
#endif
}

/* One to seven bytes as a word padded with zeros, without reading beyond them. */
static inline uint64_t ss_tail_word(const unsigned char *p, size_t n)
{
    if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        return low | (uint64_t)high << (8 * (n - 4));
    }
    return (uint64_t)p[0] | (uint64_t)p[n >> 1] << (8 * (n >> 1)) | (uint64_t)p[n - 1] << (8 * (n - 1));
}

/* Copy bytes that a writer may be overwriting; the caller validates the
 * version afterwards and throws torn bytes away.  Formally a race: C11 offers
 * no tearing copy.  Word-wise atomic loads are race-free but take 36 ns instead
 * of 10 for 1 KiB, so only the build that looks for races pays for them. */
static inline void ss_copy_out(void *to, const void *from, size_t n)
{
#if SS_TSAN
    unsigned char *d = to;
    const _Atomic unsigned char *s = from;
    for (size_t i = 0; i < n; i++)
        d[i] = atomic_load_explicit(&s[i], memory_order_relaxed);
#else
    memcpy(to, from, n);
    ss_crash_fence();
#endif
}

/* The writer's counterpart: fills a block that a late reader may still see. */
static inline void ss_copy_in(void *to, const void *from, size_t n)
{
#if SS_TSAN
    _Atomic unsigned char *d = to;
    const unsigned char *s = from;
    for (size_t i = 0; i < n; i++)
        atomic_store_explicit(&d[i], s[i], memory_order_relaxed);
#else
    if (n != 0)
        memcpy(to, from, n);
    ss_crash_fence();
#endif
}

/* ---- the hash: 64x64 -> 128 bit multiply and fold, after wyhash ---------- */

#define SS_HASH_0 UINT64_C(0xa0761d6478bd642f)
#define SS_HASH_1 UINT64_C(0xe7037ed1a0b428db)
#define SS_HASH_2 UINT64_C(0x8ebc6af09c88c6e3)

static inline uint64_t ss_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t ss_read64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint64_t ss_hash_bytes(const void *key, size_t length, uint64_t seed)
{
    const unsigned char *p = key;
    uint64_t a = 0, b = 0;

    seed ^= SS_HASH_0;
    if (length > 16) {
        size_t rest = length;
        do {
            seed = ss_fold(ss_read64(p) ^ SS_HASH_1, ss_read64(p + 8) ^ seed);
            p += 16;
            rest -= 16;
        } while (rest > 16);
        a = ss_read64(p + rest - 16); /* may overlap bytes already taken */
        b = ss_read64(p + rest - 8);
    } else if (length >= 8) {
        a = ss_read64(p);
        b = ss_read64(p + length - 8);
    } else if (length > 0) {
        a = ss_tail_word(p, length);
    }
    return ss_fold(SS_HASH_2 ^ length, ss_fold(a ^ SS_HASH_1, b ^ seed));
}

#endif
