/* fuzz_region.c - attach to a segment of hostile bytes, and use whatever could be attached to.
 *
 * An input is a first byte of choices, a seed for the verbs, then damage: to the
 * header as it lies in the file before the attach, with its checksum made good
 * again or not, and to everything else behind it.  The outcome is a status, never
 * a crash, a hang, or a byte read outside the mapping.
 */
#include "../../../backends/sharedstate_shm/c/region.c" /* for checksum_of() */

#include "segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* Overwrite bytes of the header: those that are fixed, or any. */
static void damage_header(unsigned char header[SS_PAGE], struct input *input)
{
    uint64_t how = take(input, 1), at = take(input, 2) % (how & 1 ? sizeof(struct ss_fixed) : SS_PAGE);

    for (uint64_t n = 1 + how / 2 % 8; n > 0 && at < SS_PAGE && !is_over(input); n--)
        header[at++] = (unsigned char)take(input, 1);
}

/* What a header that was made on purpose would have: a checksum, and perhaps the size that follows from the rest. */
static void make_good(unsigned char header[SS_PAGE], bool with_size)
{
    struct ss_fixed fixed;
    struct ss_geometry at;

    memcpy(&fixed, header, sizeof fixed);
    if (with_size && fixed.heap_size >= SS_SIZE_MIN && fixed.heap_size <= size_max && fixed.nstripes - 1 < SS_STRIPES_MAX) {
        lay_out(&at, fixed.heap_size, fixed.nstripes, fixed.flags);
        fixed.total_size = at.total;
    }
    fixed.checksum = checksum_of(&fixed);
    memcpy(header, &fixed, sizeof fixed);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, bytes + length};
    uint64_t choices = take(&input, 1), seed = take(&input, 3);
    int kind = choices & 1;
    _Alignas(struct ss_header) unsigned char header[SS_PAGE];
    struct ss_region *r;

    memcpy(header, segment_header(kind), SS_PAGE);
    for (uint64_t n = choices >> 1 & 3; n > 0 && !is_over(&input); n--)
        damage_header(header, &input);
    if (choices & 8)
        make_good(header, (choices & 16) != 0);
    if (segment_attach(kind, header, &r) == SS_OK) {
        while (!is_over(&input))
            segment_damage(r, &input);
        segment_use(r, seed);
        ss_close(r);
    }
    segment_restore(kind);
    return 0;
}
