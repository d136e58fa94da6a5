/* table.h - one stripe's hash table: find, publish, unlink, update in place, grow.
 *
 * Thread safety: what takes `h` needs the stripe locked.  ss_table_view() and
 * ss_block_matches() also serve readers without a lock, who see anything at
 * all and validate it by the version afterwards.
 *
 * Invariants:
 *   T1  A block is complete before the store that publishes it in a slot.
 *   T2  The version moves on between unlinking a block, or leaving a table
 *       area, and the first store into that memory by anyone.
 *   T3  While the version is odd, redo says what remains to be stored, in
 *       absolute values.  The store that makes it odd is the commit point.
 *   T4  At least one slot in sixteen is empty, so every probe ends.
 *   T5  Every entry is reachable: between its home and its slot none is empty.
 *
 * A reader takes the version (even, else it goes and locks), follows the table
 * word, a slot and a block, copies, and takes the version again.  Equal: by T2
 * nothing it read had been reused, and by T3 no number was half written.  An
 * insertion changes nothing that a reader could mistake, so it leaves the
 * version alone, and readers of other keys run on.
 *
 * Crash: a change is one store (a slot, an expiry, the table word), or is
 * guarded by T3.  Counters may be stale then; repair recounts them.
 */
#ifndef SS_TABLE_H
#define SS_TABLE_H

#include "lock.h"

/* Where a key is, or would go. */
struct ss_found {
    uint64_t slot;   /* index of its slot, or of the first one free for it */
    uint64_t block;  /* 0: no such entry */
    uint64_t meta;
    bool is_live;    /* there is an entry and it has not expired */
    bool had_tomb;   /* absent: the slot is a tombstone, so already counted as used */
};

/* Everything a block says but the key and the payload. */
struct ss_head {
    uint64_t generation, expires, number, meta;
};

/* The slots that a table word names; SS_CORRUPT if it names none. */
static inline int ss_table_view(const struct ss_region *r, uint32_t stripe, uint64_t word, ss_word **slots, uint64_t *mask)
{
    uint64_t log2 = word >> 1;
    uint64_t committed = atomic_load_explicit(&r->header->table_log2[stripe], memory_order_relaxed);

    if (__builtin_expect(log2 < SS_TABLE_LOG2_MIN || log2 > committed || log2 > r->at.table_log2_max, 0))
        return SS_CORRUPT;
    *slots = ss_table_area(r, stripe, log2, word & 1);
    *mask = (UINT64_C(1) << log2) - 1;
    return SS_OK;
}

/* Does the block at `offset` fit into the heap, by its own account? */
static inline bool ss_block_is_sound(const struct ss_region *r, uint64_t offset, uint64_t heap_end, uint64_t *meta)
{
    /* No sum of what may be anything: it could wrap around. */
    if (offset < r->at.heap || offset % 16 != 0 || offset >= heap_end || heap_end - offset < sizeof(struct ss_block))
        return false;
    *meta = ss_load(&ss_block_at(r, offset)->meta);
    size_t key_length = ss_meta_key_length(*meta);
    return key_length - 1 < SS_KEY_MAX && ss_block_bytes(key_length, ss_meta_length(*meta)) <= heap_end - offset;
}

static inline bool ss_key_equals(const struct ss_block *b, const unsigned char *key, size_t length)
{
    const ss_word *w = b->key;
    for (; length >= 8; length -= 8, key += 8, w++)
        if (ss_load(w) != ss_read64(key))
            return false;
    return length == 0 || ss_load(w) == ss_tail_word(key, length);
}

static inline void *ss_block_payload(struct ss_block *b, uint64_t meta)
{
    return (unsigned char *)b->key + ss_key_bytes(ss_meta_key_length(meta));
}

static inline bool ss_has_expired(uint64_t expires)
{
    return expires != 0 && ss_boottime_ns() >= expires;
}

/* SS_OK (found->block tells), SS_CORRUPT.  On SS_OK there is a slot to insert at. */
int ss_table_find(struct ss_held *h, uint64_t hash, const void *key, size_t length, struct ss_found *found);

void ss_table_read(const struct ss_held *h, const struct ss_found *found, struct ss_head *head);

/* Fill a taken block; nobody sees it yet. */
void ss_block_fill(const struct ss_held *h, uint64_t block, uint64_t hash, const void *key, const struct ss_head *head,
                   const void *payload);

/* Publish `block` for the key that `found` was asked for, in place of what is there. */
int ss_table_publish(struct ss_held *h, const struct ss_found *found, uint64_t hash, uint64_t block, uint64_t expires);
int ss_table_remove(struct ss_held *h, const struct ss_found *found);
void ss_table_write_scalar(struct ss_held *h, const struct ss_found *found, const struct ss_head *head);
void ss_table_write_expiry(struct ss_held *h, const struct ss_found *found, uint64_t expires);

/* Make room for `extra` more keys; slots move, so find again.  SS_NOSPC if there is none. */
int ss_table_reserve(struct ss_held *h, uint64_t extra);

/* Move readers on; after it, what was unlinked may be reused (T2). */
void ss_table_warn_readers(struct ss_held *h);

/* Count a visible write: after its last store, and seen by nobody before it. */
static inline void ss_table_count_change(struct ss_held *h)
{
    ss_store_release(&h->st->changes, ss_load(&h->st->changes) + 1);
}

/* Account for an entry's expiry changing from `before` to `after` (0: none). */
void ss_table_count_expiry(struct ss_held *h, uint64_t before, uint64_t after);

bool ss_table_points_to(const struct ss_held *h, uint64_t block);
uint64_t ss_table_next_generation(struct ss_held *h);

/* Repair (lock.c). */
int ss_table_replay_scalar(struct ss_held *h);
void ss_table_recount(struct ss_held *h);

/* Entries that the caller is about to write, and that must stay meanwhile. */
struct ss_pins {
    bool (*is_pinned)(const void *context, uint64_t hash);
    const void *context;
};

/* Drop every entry that has expired, except pinned ones. */
int ss_table_purge(struct ss_held *h, const struct ss_pins *pins, uint64_t *count);

static inline bool ss_is_pinned(const struct ss_pins *pins, uint64_t hash)
{
    return pins != NULL && pins->is_pinned(pins->context, hash);
}

#endif
