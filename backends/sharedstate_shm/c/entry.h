/* entry.h - what entry.c and txn.c share about values and generations.
 *
 * Thread safety: what takes `h` needs the stripe locked; the rest is pure.
 */
#ifndef SS_ENTRY_H
#define SS_ENTRY_H

#include "table.h"

static inline bool ss_is_scalar(uint32_t type)
{
    return type >= SS_INT && type <= SS_FALSE;
}

bool ss_value_is_valid(const struct ss_value *value);
uint64_t ss_value_number(const struct ss_value *value); /* the word stored; 0 for types that are their own value */
uint64_t ss_current_generation(const struct ss_held *h, const struct ss_found *found);

/* SS_KEEP is for an entry that is known to be there. */
static inline bool ss_may_keep(uint64_t expires, uint64_t expected)
{
    return expires != SS_KEEP || (expected != SS_ANY && expected != SS_ABSENT);
}

/* The deadline of a put whose expectation has held; the clock is not asked again. */
static inline uint64_t ss_kept(const struct ss_held *h, const struct ss_found *found, uint64_t expires)
{
    return expires == SS_KEEP ? ss_load(&ss_block_at(h->r, found->block)->expires) : expires;
}

/* Put `head` and the payload where `found` says, in place if both are scalars.
 * head->generation is given here. */
int ss_entry_write(struct ss_held *h, uint64_t hash, const void *key, size_t length, struct ss_found *found, struct ss_head *head,
                   const void *payload);

#endif
