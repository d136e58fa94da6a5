/* segment.h - what the targets on shared memory share: a sound segment, made once, and hostile bytes in copies of it.
 *
 * The linker wraps mmap() and munmap().  Once the segments are made, a mapping is
 * private, so that what an execution does to it is gone with ss_close(), and it
 * lies between inaccessible pages, so that a read beyond it is a crash and not
 * a neighbour's bytes.  getrandom() is wrapped too: keys hash alike in each run,
 * and an input that crashes today does so tomorrow.
 *
 * Thread safety: none; libFuzzer has one thread.
 */
#ifndef SEGMENT_H
#define SEGMENT_H

#include "region.h"

enum { SEGMENT_KEYS = 12, SEGMENT_KINDS = 2, PLAIN = 0, EVICTING = 1 };

/* What is left of an input; behind its end there are zeros. */
struct input {
    const uint8_t *at, *end;
};

uint64_t take(struct input *input, unsigned bytes);

static inline bool is_over(const struct input *input)
{
    return input->at == input->end;
}

/* A private view of the sound segment of this kind.  `header`, if not NULL, takes the place
 * of its first page in the file itself, until segment_restore().  The status of ss_open(). */
int segment_attach(int kind, const unsigned char *header, struct ss_region **r);
void segment_restore(int kind);
const unsigned char *segment_header(int kind);

/* One of the segment's keys; its length is returned. */
size_t segment_key(uint64_t number, char key[16]);

/* Overwrite some bytes, as `input` says: of which part, where in it, and with what. */
void segment_damage(struct ss_region *r, struct input *input);

/* Every verb on some of the keys and on all stripes; any result will do. */
void segment_use(struct ss_region *r, uint64_t seed);

#endif
