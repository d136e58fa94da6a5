/* scan.c - the verbs on many keys at once: count, keys, clear, purge, sweep, stats.
 *
 * Each handles one stripe at a time under its lock, so what it says of a
 * stripe was true at one instant; of the whole region it is a sum of instants.
 *
 * Thread safety: any thread of any process; never two stripes at once.
 *
 * Crash: each entry is deleted by its own store; a killed ss_clear() has
 * deleted some of them.
 */
#include "heap.h"
#include "table.h"

int ss_count(struct ss_region *r, uint64_t *count, uint64_t wait)
{
    uint64_t sum = 0, purged;

    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        struct ss_held h;
        int rc = ss_lock(r, s, wait, &h);
        if (rc != SS_OK)
            return rc;
        rc = ss_table_purge(&h, NULL, &purged); /* looks at the table only if something is due */
        sum += ss_load(&h.st->live);
        ss_unlock(&h);
        if (rc != SS_OK)
            return rc;
    }
    *count = sum;
    return SS_OK;
}

/* ---- walking one stripe ------------------------------------------------ */

struct cursor {
    struct ss_held *h;
    const unsigned char *prefix;
    size_t prefix_length;
    uint64_t next; /* slots above it are done */
    uint64_t now;  /* 0 until the first entry that may expire */
};

static bool has_prefix(const struct cursor *c, const struct ss_block *b, uint64_t meta)
{
    unsigned char key[SS_KEY_MAX + 8];
    size_t length = ss_meta_key_length(meta);

    if (length < c->prefix_length)
        return false;
    ss_copy_out(key, b->key, c->prefix_length);
    return memcmp(key, c->prefix, c->prefix_length) == 0;
}

/* The next live entry whose key has the prefix: SS_OK, SS_MISSING, SS_CORRUPT. */
static int next_entry(struct cursor *c, struct ss_found *found)
{
    while (c->next-- > 0) {
        uint64_t slot = ss_load(&c->h->slots[c->next]), meta;
        if (!ss_slot_is_entry(slot))
            continue;
        if (!ss_block_is_sound(c->h->r, ss_slot_block(slot), c->h->heap_end, &meta))
            return SS_CORRUPT;
        const struct ss_block *b = ss_block_at(c->h->r, ss_slot_block(slot));
        uint64_t expires = ss_load(&b->expires);
        if (expires != 0 && c->now == 0)
            c->now = ss_boottime_ns();
        if ((expires != 0 && c->now >= expires) || !has_prefix(c, b, meta))
            continue;
        *found = (struct ss_found){.slot = c->next, .block = ss_slot_block(slot), .meta = meta, .is_live = true};
        return SS_OK;
    }
    return SS_MISSING;
}

/* On SS_OK the stripe is locked. */
static int start(struct ss_region *r, uint32_t stripe, const void *prefix, size_t prefix_length, uint64_t wait, struct ss_held *h,
                 struct cursor *c)
{
    if (stripe >= r->at.nstripes)
        return SS_INVALID;
    int rc = ss_lock(r, stripe, wait, h);
    if (rc == SS_OK)
        *c = (struct cursor){.h = h, .prefix = prefix, .prefix_length = prefix_length,
                             .next = ss_load(&h->st->live) != 0 ? h->mask + 1 : 0};
    return rc;
}

int ss_keys(struct ss_region *r, uint32_t stripe, const void *prefix, size_t prefix_length, void *buffer, size_t capacity,
            size_t *used, uint64_t *count, uint64_t wait)
{
    struct ss_held h;
    struct cursor c;
    struct ss_found found;
    size_t at = 0;

    *count = 0;
    int rc = start(r, stripe, prefix, prefix_length, wait, &h, &c);
    if (rc != SS_OK)
        return rc;
    while ((rc = next_entry(&c, &found)) == SS_OK) {
        uint16_t length = (uint16_t)ss_meta_key_length(found.meta);
        if (capacity >= at + sizeof length + length) {
            memcpy((unsigned char *)buffer + at, &length, sizeof length);
            ss_copy_out((unsigned char *)buffer + at + sizeof length, ss_block_at(r, found.block)->key, length);
        }
        at += sizeof length + length;
        ++*count;
    }
    ss_unlock(&h);
    *used = at;
    if (rc != SS_MISSING)
        return rc;
    return at <= capacity ? SS_OK : SS_TOOSMALL;
}

int ss_clear(struct ss_region *r, uint32_t stripe, const void *prefix, size_t prefix_length, uint64_t *count, uint64_t wait)
{
    struct ss_held h;
    struct cursor c;
    struct ss_found found;

    *count = 0;
    if (ss_is_unlinked(r))
        return SS_UNLINKED;
    int rc = start(r, stripe, prefix, prefix_length, wait, &h, &c);
    if (rc != SS_OK)
        return rc;
    while ((rc = next_entry(&c, &found)) == SS_OK && (rc = ss_table_remove(&h, &found)) == SS_OK)
        ++*count;
    ss_unlock_and_notify(&h);
    return rc == SS_MISSING ? SS_OK : rc;
}

int ss_purge(struct ss_region *r, uint32_t stripe, uint64_t *count, uint64_t wait)
{
    struct ss_held h;

    *count = 0;
    if (stripe >= r->at.nstripes)
        return SS_INVALID;
    int rc = ss_lock(r, stripe, wait, &h);
    if (rc != SS_OK)
        return rc;
    rc = ss_table_purge(&h, NULL, count);
    ss_unlock(&h);
    return rc;
}

int ss_sweep(struct ss_region *r, uint32_t stripe, uint64_t wait)
{
    struct ss_held h;

    if (stripe >= r->at.nstripes)
        return SS_INVALID;
    int rc = ss_lock(r, stripe, wait, &h);
    if (rc != SS_OK)
        return rc;
    rc = ss_heap_sweep(&h);
    ss_unlock(&h);
    return rc;
}

int ss_stats(struct ss_region *r, struct ss_stats *out, uint64_t wait)
{
    *out = (struct ss_stats){.size = r->at.heap_size};
    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        struct ss_held h;
        int rc = ss_lock(r, s, wait, &h); /* so that a dead owner's counters are repaired first */
        if (rc != SS_OK)
            return rc;
        out->entries += ss_load(&h.st->live);
        out->expiring += ss_load(&h.st->expiring);
        out->evictions += ss_load(&h.st->evictions);
        out->purged += ss_load(&ss_pool(&h)->purged);
        out->recoveries += ss_load(&ss_pool(&h)->recoveries);
        out->sweeps += ss_load(&ss_pool(&h)->sweeps);
        out->slots += h.mask + 1;
        ss_unlock(&h);
    }
    out->used_bytes = ss_load(&r->header->pages_used) << SS_PAGE_SHIFT;
    out->committed_bytes = ss_committed_bytes(&r->at, r->header);
    return SS_OK;
}
