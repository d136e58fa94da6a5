/* sampling.c - the rare half of counting: a sample of the keys; see counts.h.
 *
 * Each module that counts has its own copy.  It knows nothing of files: where no
 * page is attached there is no room for samples, and none is drawn.
 */
#include "counts.h"

#include <string.h>

enum { SAMPLES = 63, SAMPLE_BYTES = 64, KEY_BYTES = 54, MEAN_DISTANCE = 16 };

struct sample {
    _Atomic uint32_t whole;
    uint8_t kind;
    uint8_t length;
    char key[KEY_BYTES];
    _Atomic uint32_t begun;
};

_Static_assert(sizeof(struct sample) == SAMPLE_BYTES, "part of the format");
_Static_assert(SS_COUNTERS * sizeof(uint64_t) == SAMPLE_BYTES, "samples begin behind the counters");

static uint32_t next_random(uint32_t random)
{
    random = random ? random : 0x9e3779b9u;
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    return random;
}

void ss_sample(struct ss_counts *counts, enum ss_tallied kind, const char *key, size_t length)
{
    if (atomic_flag_test_and_set_explicit(&counts->is_sampling, memory_order_acquire))
        return; /* another thread draws one just now */
    counts->random = next_random(counts->random);
    atomic_store_explicit(&counts->until_sample, 1 + (int)(counts->random >> 8) % (2 * MEAN_DISTANCE - 1), memory_order_relaxed);
    _Atomic uint64_t *at = atomic_load_explicit(&counts->at, memory_order_acquire);
    if (at != counts->own) {
        uint64_t number = atomic_load_explicit(&at[SS_SAMPLES], memory_order_relaxed) + 1;
        struct sample *sample = (struct sample *)(at + SS_COUNTERS) + number % SAMPLES;
        size_t kept = length < KEY_BYTES ? length : KEY_BYTES;
        atomic_store_explicit(&sample->begun, (uint32_t)number, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        sample->kind = (uint8_t)kind;
        sample->length = (uint8_t)(length < UINT8_MAX ? length : UINT8_MAX);
        memcpy(sample->key, key, kept);
        memset(sample->key + kept, 0, KEY_BYTES - kept);
        atomic_store_explicit(&sample->whole, (uint32_t)number, memory_order_release);
        atomic_store_explicit(&at[SS_SAMPLES], number, memory_order_relaxed);
    }
    atomic_flag_clear_explicit(&counts->is_sampling, memory_order_release);
}
