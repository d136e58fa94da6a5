/* table.c - see table.h for what it promises.
 *
 * Thread safety, Invariants, Crash: table.h.
 */
#include "table.h"

#include "heap.h"

/* ---- find ------------------------------------------------------------- */

int ss_table_find(struct ss_held *h, uint64_t hash, const void *key, size_t length, struct ss_found *found)
{
    uint64_t tag = hash >> 48, index = ss_home(hash) & h->mask, vacant = UINT64_MAX;

    for (uint64_t n = 0; n <= h->mask; n++, index = (index + 1) & h->mask) {
        uint64_t slot = ss_load(&h->slots[index]);
        if (!ss_slot_is_entry(slot)) {
            if (slot == SS_SLOT_RESERVED)
                continue;
            if (vacant == UINT64_MAX)
                vacant = index;
            if (slot == SS_SLOT_EMPTY) {
                *found = (struct ss_found){.slot = vacant, .had_tomb = vacant != index};
                return SS_OK;
            }
            continue;
        }
        if (slot >> 48 != tag)
            continue;

        uint64_t block = ss_slot_block(slot), meta;
        if (!ss_block_is_sound(h->r, block, h->heap_end, &meta))
            return SS_CORRUPT;
        struct ss_block *b = ss_block_at(h->r, block);
        if (ss_load(&b->hash) == hash && ss_meta_key_length(meta) == length && ss_key_equals(b, key, length)) {
            *found = (struct ss_found){.slot = index, .block = block, .meta = meta, .is_live = !ss_has_expired(ss_load(&b->expires))};
            return SS_OK;
        }
    }
    return SS_CORRUPT; /* T4 */
}

void ss_table_read(const struct ss_held *h, const struct ss_found *found, struct ss_head *head)
{
    const struct ss_block *b = ss_block_at(h->r, found->block);
    *head = (struct ss_head){.generation = ss_load(&b->generation), .expires = ss_load(&b->expires), .number = ss_load(&b->number),
                             .meta = found->meta};
}

bool ss_table_points_to(const struct ss_held *h, uint64_t block)
{
    /* If `block` is nobody's, its first word is anything; then the probe starts
     * anywhere, and still only a slot with this very offset makes it live. */
    uint64_t index = ss_home(ss_load(&ss_block_at(h->r, block)->hash)) & h->mask;

    for (uint64_t n = 0; n <= h->mask; n++, index = (index + 1) & h->mask) {
        uint64_t slot = ss_load(&h->slots[index]);
        if (slot == SS_SLOT_EMPTY)
            return false;
        if (ss_slot_block(slot) == block)
            return true;
    }
    return false;
}

/* ---- change ----------------------------------------------------------- */

void ss_block_fill(const struct ss_held *h, uint64_t block, uint64_t hash, const void *key, const struct ss_head *head,
                   const void *payload)
{
    struct ss_block *b = ss_block_at(h->r, block);
    size_t length = ss_meta_key_length(head->meta);
    const unsigned char *p = key;
    ss_word *w = b->key;

    ss_store(&b->hash, hash);
    ss_store(&b->generation, head->generation);
    ss_store(&b->expires, head->expires);
    ss_store(&b->number, head->number);
    ss_store(&b->meta, head->meta);
    for (; length >= 8; length -= 8, p += 8)
        ss_store(w++, ss_read64(p));
    if (length != 0)
        ss_store(w, ss_tail_word(p, length));
    ss_copy_in(ss_block_payload(b, head->meta), payload, ss_meta_length(head->meta));
}

/* A hole in a probe path must be a tombstone, unless the path ends right behind it. */
static uint64_t vacant_word(const struct ss_held *h, uint64_t index)
{
    return ss_load(&h->slots[(index + 1) & h->mask]) == SS_SLOT_EMPTY ? SS_SLOT_EMPTY : SS_SLOT_TOMB;
}

void ss_table_warn_readers(struct ss_held *h)
{
    ss_store_release(&h->st->version, ss_load(&h->st->version) + 2);
    ss_fence_release();
    ss_crash_fence();
}

void ss_table_count_expiry(struct ss_held *h, uint64_t before, uint64_t after)
{
    ss_add(&h->st->expiring, (uint64_t)(after != 0) - (uint64_t)(before != 0));
    if (after != 0 && after < ss_load(&h->st->soonest))
        ss_store(&h->st->soonest, after);
}

uint64_t ss_table_next_generation(struct ss_held *h)
{
    /* Stored before it is used: a crash may skip a number, never repeat one. */
    uint64_t generation = ss_load(&h->st->generation) + 1;
    ss_store(&h->st->generation, generation);
    ss_crash_fence();
    return generation;
}

int ss_table_publish(struct ss_held *h, const struct ss_found *found, uint64_t hash, uint64_t block, uint64_t expires)
{
    uint64_t before = 0;

    if (found->block != 0)
        before = ss_load(&ss_block_at(h->r, found->block)->expires);
    ss_store_release(&h->slots[found->slot], ss_slot_word(hash, block)); /* T1 */
    ss_crash_fence();
    if (found->block == 0) {
        ss_add(&h->st->live, 1);
        ss_add(&h->st->used, !found->had_tomb);
    }
    if ((before | expires) != 0)
        ss_table_count_expiry(h, before, expires);
    ss_table_count_change(h);
    if (found->block == 0)
        return SS_OK;
    ss_table_warn_readers(h); /* T2 */
    return ss_heap_give(h, found->block);
}

int ss_table_remove(struct ss_held *h, const struct ss_found *found)
{
    uint64_t expires = ss_load(&ss_block_at(h->r, found->block)->expires);
    uint64_t vacant = vacant_word(h, found->slot);

    ss_store_release(&h->slots[found->slot], vacant);
    ss_crash_fence();
    ss_add(&h->st->live, UINT64_MAX);
    ss_add(&h->st->used, vacant == SS_SLOT_EMPTY ? UINT64_MAX : 0);
    if (expires != 0)
        ss_table_count_expiry(h, expires, 0);
    ss_table_count_change(h);
    ss_table_warn_readers(h);
    return ss_heap_give(h, found->block);
}

static void store_head(struct ss_held *h, uint64_t block, const struct ss_head *head)
{
    struct ss_block *b = ss_block_at(h->r, block);
    ss_store(&b->number, head->number);
    ss_store(&b->generation, head->generation);
    ss_store(&b->expires, head->expires);
    ss_store(&b->meta, head->meta);
}

void ss_table_write_scalar(struct ss_held *h, const struct ss_found *found, const struct ss_head *head)
{
    struct ss_stripe *st = h->st;
    uint64_t before = ss_load(&ss_block_at(h->r, found->block)->expires);
    uint64_t version = ss_load(&st->version);

    ss_store(&st->redo_kind, SS_REDO_SCALAR);
    ss_store(&st->redo_block, found->block);
    ss_store(&st->redo_number, head->number);
    ss_store(&st->redo_generation, head->generation);
    ss_store(&st->redo_expires, head->expires);
    ss_store(&st->redo_meta, head->meta);
    ss_crash_fence();
    ss_store_release(&st->version, version + 1); /* T3 */
    ss_crash_fence();
    ss_fence_release();
    store_head(h, found->block, head);
    ss_crash_fence();
    ss_store_release(&st->version, version + 2);
    ss_crash_fence();
    if ((before | head->expires) != 0)
        ss_table_count_expiry(h, before, head->expires);
    ss_table_count_change(h);
}

int ss_table_replay_scalar(struct ss_held *h)
{
    uint64_t block = ss_load(&h->st->redo_block), meta;
    struct ss_head head = {.number = ss_load(&h->st->redo_number), .generation = ss_load(&h->st->redo_generation),
                           .expires = ss_load(&h->st->redo_expires), .meta = ss_load(&h->st->redo_meta)};
    struct ss_span span;

    if (!ss_block_is_sound(h->r, block, h->heap_end, &meta) || ss_heap_span_of(h->r, h->index, block, &span) != SS_OK)
        return SS_CORRUPT;
    if (ss_meta_key_length(head.meta) != ss_meta_key_length(meta) || ss_meta_length(head.meta) != 0)
        return SS_CORRUPT;
    store_head(h, block, &head);
    ss_crash_fence();
    return SS_OK;
}

void ss_table_write_expiry(struct ss_held *h, const struct ss_found *found, uint64_t expires)
{
    struct ss_block *b = ss_block_at(h->r, found->block);
    uint64_t before = ss_load(&b->expires);

    ss_store(&b->expires, expires);
    ss_crash_fence();
    if ((before | expires) != 0)
        ss_table_count_expiry(h, before, expires);
    ss_table_count_change(h);
}

void ss_table_recount(struct ss_held *h)
{
    uint64_t live = 0, used = 0, expiring = 0, soonest = UINT64_MAX, meta;

    for (uint64_t i = 0; i <= h->mask; i++) {
        uint64_t slot = ss_load(&h->slots[i]);
        if (slot == SS_SLOT_RESERVED) /* its commit never happened */
            ss_store(&h->slots[i], SS_SLOT_TOMB);
        used += slot != SS_SLOT_EMPTY;
        if (!ss_slot_is_entry(slot))
            continue;
        live++;
        if (!ss_block_is_sound(h->r, ss_slot_block(slot), h->heap_end, &meta))
            continue;
        uint64_t expires = ss_load(&ss_block_at(h->r, ss_slot_block(slot))->expires);
        expiring += expires != 0;
        if (expires != 0 && expires < soonest)
            soonest = expires;
    }
    ss_store(&h->st->live, live);
    ss_store(&h->st->used, used);
    ss_store(&h->st->expiring, expiring);
    ss_store(&h->st->soonest, soonest);
    ss_crash_fence();
}

/* ---- expiry ----------------------------------------------------------- */

int ss_table_purge(struct ss_held *h, const struct ss_pins *pins, uint64_t *count)
{
    uint64_t soonest = UINT64_MAX, now, meta;

    *count = 0;
    if (ss_load(&h->st->expiring) == 0 || (now = ss_boottime_ns()) < ss_load(&h->st->soonest))
        return SS_OK;
    /* Downwards, so that a run of dead slots before an empty one empties wholly. */
    for (uint64_t i = h->mask + 1; i-- > 0;) {
        uint64_t slot = ss_load(&h->slots[i]);
        if (!ss_slot_is_entry(slot))
            continue;
        struct ss_found found = {.slot = i, .block = ss_slot_block(slot)};
        if (!ss_block_is_sound(h->r, found.block, h->heap_end, &meta))
            return SS_CORRUPT;
        struct ss_block *b = ss_block_at(h->r, found.block);
        uint64_t expires = ss_load(&b->expires);
        if (expires == 0)
            continue;
        if (expires > now || ss_is_pinned(pins, ss_load(&b->hash))) {
            soonest = expires < soonest ? expires : soonest;
            continue;
        }
        int rc = ss_table_remove(h, &found);
        if (rc != SS_OK)
            return rc;
        ss_add(&ss_pool(h)->purged, 1);
        ++*count;
    }
    ss_store(&h->st->soonest, soonest);
    return SS_OK;
}

/* ---- growth ----------------------------------------------------------- */

static int commit_tables(struct ss_held *h, uint64_t log2)
{
    const struct ss_region *r = h->r;
    uint64_t have = atomic_load(&r->header->table_log2[h->index]);
    if (log2 <= have)
        return SS_OK;
    uint64_t offset = (uint64_t)((unsigned char *)ss_table_area(r, h->index, log2, 0) - r->base);
    int rc = ss_commit_range(r, offset, 2 * sizeof(ss_word) << log2);
    if (rc != SS_OK)
        return rc;
    atomic_store(&r->header->table_log2[h->index], (uint8_t)log2); /* L3 */
    return SS_OK;
}

/* Copy the entries into the stripe's other area and flip: no heap, no failure. */
static int move_table(struct ss_held *h, uint64_t log2)
{
    uint64_t word = ss_load(&h->st->table), mask = (UINT64_C(1) << log2) - 1, live = 0, meta;
    uint64_t other = log2 > word >> 1 ? 1 : ~word & 1; /* no overlap: region.h */
    ss_word *to = ss_table_area(h->r, h->index, log2, other);

    for (uint64_t i = 0; i <= mask; i++)
        ss_store(&to[i], SS_SLOT_EMPTY);
    for (uint64_t i = 0; i <= h->mask; i++) {
        uint64_t slot = ss_load(&h->slots[i]);
        if (!ss_slot_is_entry(slot))
            continue;
        if (!ss_block_is_sound(h->r, ss_slot_block(slot), h->heap_end, &meta) || live == mask)
            return SS_CORRUPT;
        uint64_t index = ss_home(ss_load(&ss_block_at(h->r, ss_slot_block(slot))->hash)) & mask;
        while (ss_load(&to[index]) != SS_SLOT_EMPTY)
            index = (index + 1) & mask;
        ss_store(&to[index], slot);
        live++;
    }
    ss_crash_fence();
    ss_store_release(&h->st->table, log2 << 1 | other);
    ss_crash_fence();
    ss_store(&h->st->used, live);
    ss_table_warn_readers(h); /* T2: the area left behind is the next one's target */
    h->slots = to;
    h->mask = mask;
    return SS_OK;
}

int ss_table_reserve(struct ss_held *h, uint64_t extra)
{
    uint64_t slots = h->mask + 1, used = ss_load(&h->st->used), live = ss_load(&h->st->live);
    if (used + extra <= slots - slots / 4)
        return SS_OK;

    uint64_t log2 = ss_load(&h->st->table) >> 1, want = log2;
    while (want < h->r->at.table_log2_max && live + extra > (UINT64_C(1) << want) / 2)
        want++;
    if (want == log2 && want == h->r->at.table_log2_max && used + extra <= slots - slots / 16)
        return SS_OK; /* as large as it gets: clear tombstones only when nothing else helps */
    int rc = commit_tables(h, want);
    if (rc == SS_OK)
        return live + extra <= (UINT64_C(1) << want) - (UINT64_C(1) << want) / 16 ? move_table(h, want) : SS_NOSPC; /* T4 */
    if (rc != SS_NOSPC || live + extra > slots - slots / 16)
        return rc;
    /* No memory to grow: go on at a higher load, without the tombstones. */
    return used + extra <= slots - slots / 16 ? SS_OK : move_table(h, log2);
}
