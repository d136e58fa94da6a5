/* check.c - ss_check(): does the region keep every invariant of its format?
 *
 * What is looked at: the header (L2), and that the file has all memory that it
 * counts on (L3).  Then, stripe by stripe under its lock: the version is even (T3);
 * each slot names a sound block of this stripe (L4, H2) that holds a key which
 * hashes here, is reachable (T5) and is found at this very slot, so no key and
 * no block occurs twice (H3); generations are not ahead of the stripe's
 * counter; the counters are those of the table; each free list holds free
 * blocks of its class, each once.  Then the pages, under their mutex (H1), and
 * that no more is counted on than was committed (L3).
 *
 * Blocks in no place are not an error but a leak (heap.h); they are counted.
 *
 * Thread safety: any thread; other threads may go on working.
 *
 * Crash: writes nothing but what ss_lock() repairs.
 */
#include <stdarg.h>
#include <stdio.h>

#include "heap.h"
#include "table.h"
#include "txn.h"

struct check {
    struct ss_region *r;
    struct ss_report *report;
};

__attribute__((format(printf, 2, 3))) static int broken(const struct check *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->report->message, sizeof c->report->message, format, args);
    va_end(args);
    return SS_CORRUPT;
}

static uint64_t slot_offset(const struct ss_held *h, uint64_t index)
{
    return (uint64_t)((unsigned char *)&h->slots[index] - h->r->base);
}

/* ---- entries ----------------------------------------------------------- */

static int check_entry(const struct check *c, struct ss_held *h, uint64_t index)
{
    uint64_t slot = ss_load(&h->slots[index]), block = ss_slot_block(slot), meta;
    unsigned char key[SS_KEY_MAX];
    struct ss_span span;
    struct ss_found found;

    if (!ss_block_is_sound(h->r, block, h->heap_end, &meta) || ss_heap_span_of(h->r, h->index, block, &span) != SS_OK)
        return broken(c, "L4/H2: slot at %#llx names no block of stripe %u: %#llx", (unsigned long long)slot_offset(h, index),
                      h->index, (unsigned long long)slot);
    const struct ss_block *b = ss_block_at(h->r, block);
    size_t length = ss_meta_key_length(meta);
    if (ss_block_bytes(length, ss_meta_length(meta)) > ss_span_block_bytes(&span))
        return broken(c, "H2: block at %#llx is longer than its place", (unsigned long long)block);
    ss_copy_out(key, b->key, length);
    uint64_t hash = ss_hash_bytes(key, length, h->r->seed);
    if (hash != ss_load(&b->hash) || hash >> 48 != slot >> 48)
        return broken(c, "T1: block at %#llx has a key that does not hash to its hash or tag", (unsigned long long)block);
    if ((hash & h->r->stripe_mask) != h->index)
        return broken(c, "L4: block at %#llx belongs to another stripe than %u", (unsigned long long)block, h->index);
    if (ss_table_find(h, hash, key, length, &found) != SS_OK || found.slot != index)
        return broken(c, "T5: key of block at %#llx is not found at its slot %#llx", (unsigned long long)block,
                      (unsigned long long)slot_offset(h, index));
    uint64_t generation = ss_load(&b->generation);
    if (generation == 0 || generation > ss_load(&h->st->generation))
        return broken(c, "generation %llu of block at %#llx is ahead of its stripe", (unsigned long long)generation,
                      (unsigned long long)block);
    uint32_t type = ss_meta_type(meta);
    if (type < SS_INT || type > SS_MSGPACK || (type <= SS_FALSE && ss_meta_length(meta) != 0))
        return broken(c, "block at %#llx has type %u with %u payload bytes", (unsigned long long)block, type, ss_meta_length(meta));
    return SS_OK;
}

static int check_table(const struct check *c, struct ss_held *h)
{
    uint64_t live = 0, used = 0, expiring = 0, soonest = UINT64_MAX;

    for (uint64_t i = 0; i <= h->mask; i++) {
        uint64_t slot = ss_load(&h->slots[i]);
        used += slot != SS_SLOT_EMPTY;
        if (slot == SS_SLOT_RESERVED)
            return broken(c, "slot at %#llx is reserved, but no commit runs", (unsigned long long)slot_offset(h, i));
        if (!ss_slot_is_entry(slot))
            continue;
        int rc = check_entry(c, h, i);
        if (rc != SS_OK)
            return rc;
        live++;
        uint64_t expires = ss_load(&ss_block_at(h->r, ss_slot_block(slot))->expires);
        expiring += expires != 0;
        if (expires != 0 && expires < soonest)
            soonest = expires;
    }
    if (used > h->mask + 1 - (h->mask + 1) / 16)
        return broken(c, "T4: stripe %u has %llu of %llu slots in use", h->index, (unsigned long long)used,
                      (unsigned long long)(h->mask + 1));
    if (live != ss_load(&h->st->live) || used != ss_load(&h->st->used) || expiring != ss_load(&h->st->expiring) ||
        soonest < ss_load(&h->st->soonest))
        return broken(c, "stripe %u counts live %llu used %llu expiring %llu, but has %llu %llu %llu", h->index,
                      (unsigned long long)ss_load(&h->st->live), (unsigned long long)ss_load(&h->st->used),
                      (unsigned long long)ss_load(&h->st->expiring), (unsigned long long)live, (unsigned long long)used,
                      (unsigned long long)expiring);
    c->report->entries += live;
    return SS_OK;
}

/* ---- memory ------------------------------------------------------------ */

static int check_free_lists(const struct check *c, const struct ss_held *h, uint64_t *known)
{
    uint64_t most = h->r->at.heap_size / ss_class_bytes(0);
    struct ss_span span;

    for (uint32_t class = 0; class < SS_CLASSES; class++) {
        uint64_t bump = ss_load(&ss_pool(h)->bump[class]);
        uint64_t n = 0;
        for (uint64_t block = ss_load(&ss_pool(h)->free[class]); block != 0; block = ss_load(&ss_block_at(h->r, block)->hash)) {
            if (ss_heap_span_of(h->r, h->index, block, &span) != SS_OK || ss_page_kind(span.word) != SS_PAGE_SPAN ||
                ss_page_class(span.word) != class)
                return broken(c, "H3: free list %u of stripe %u holds %#llx", class, h->index, (unsigned long long)block);
            if (ss_table_points_to(h, block))
                return broken(c, "H3: block at %#llx is both free and live", (unsigned long long)block);
            if (++n > most)
                return broken(c, "H3: free list %u of stripe %u has no end", class, h->index);
        }
        *known += n;
        if (bump == 0)
            continue;
        uint64_t end = ss_load(&ss_pool(h)->bump_end[class]);
        if (ss_heap_span_of(h->r, h->index, bump, &span) != SS_OK || ss_page_kind(span.word) != SS_PAGE_SPAN ||
            ss_page_class(span.word) != class ||
            end != ss_page_offset(h->r, span.page + ss_page_count(span.word)))
            return broken(c, "H3: bump block %u of stripe %u is at %#llx, end %#llx", class, h->index, (unsigned long long)bump,
                          (unsigned long long)end);
        uint64_t bytes = ss_class_bytes(class), blocks = (ss_page_count(span.word) << SS_PAGE_SHIFT) / bytes;
        uint64_t first = ss_first_block(h->index, blocks), next = (bump - ss_page_offset(h->r, span.page)) / bytes;
        *known += next < first ? first - next : blocks - next + first;
    }
    return SS_OK;
}

static uint64_t blocks_owned(const struct ss_held *h)
{
    uint64_t pages = (h->heap_end - h->r->at.heap) >> SS_PAGE_SHIFT, blocks = 0;
    struct ss_span span;

    for (uint64_t page = 0; page < pages; page++) {
        if (ss_page_may_head(ss_load(&h->r->pages[page]), h->index) &&
            ss_heap_span_of(h->r, h->index, ss_page_offset(h->r, page), &span) == SS_OK)
            blocks += (ss_page_count(span.word) << SS_PAGE_SHIFT) / ss_span_block_bytes(&span);
    }
    return blocks;
}

static int check_stripe(const struct check *c, struct ss_held *h)
{
    uint64_t known = 0;

    int rc = check_table(c, h);
    if (rc == SS_OK)
        rc = check_free_lists(c, h, &known);
    if (rc != SS_OK)
        return rc;
    known += ss_load(&h->st->live);
    uint64_t owned = blocks_owned(h);
    if (known > owned)
        return broken(c, "H3: stripe %u has %llu blocks but knows of %llu", h->index, (unsigned long long)owned,
                      (unsigned long long)known);
    c->report->leaked_blocks += owned - known;
    return SS_OK;
}

static int check_pages(const struct check *c)
{
    struct ss_region *r = c->r;
    uint64_t end = (ss_heap_end(r) - r->at.heap) >> SS_PAGE_SHIFT, used = 0, head = 0, left = 0;

    for (uint64_t page = 0; page < end; page++) {
        uint64_t word = ss_load(&r->pages[page]), count = ss_page_count(word);
        unsigned long long at = (unsigned long long)(r->at.pages + page * sizeof(ss_word));
        if (left > 0) {
            if (ss_page_kind(word) != SS_PAGE_REST || count != page - head)
                return broken(c, "H1: page word at %#llx should be the rest of a span", at);
            left--;
            continue;
        }
        if (word == SS_PAGE_FREE) {
            if (page < ss_load(&r->header->page_hint))
                return broken(c, "H1: free page word at %#llx is below the hint", at);
            continue;
        }
        struct ss_span span;
        if (ss_heap_span_of(r, ss_page_stripe(word), ss_page_offset(r, page), &span) != SS_OK || span.page != page)
            return broken(c, "H1: page word at %#llx is neither free nor a head", at);
        used += count;
        head = page;
        left = count - 1;
    }
    if (used != ss_load(&r->header->pages_used))
        return broken(c, "H1: %llu pages are in use, but %llu are counted", (unsigned long long)used,
                      (unsigned long long)ss_load(&r->header->pages_used));
    return SS_OK;
}

int ss_check(struct ss_region *r, struct ss_report *report, uint64_t wait)
{
    const struct check c = {r, report};
    int rc = SS_OK;

    memset(report, 0, sizeof *report);
    rc = ss_verify_header(r);
    if (rc == SS_SYS)
        return rc;
    if (rc != SS_OK)
        return broken(&c, "L2/L3: header at 0: %s", ss_strerror(rc));
    rc = ss_txn_settle(r, wait);
    if (rc == SS_CORRUPT)
        return broken(&c, "X1: the transactions' mutex at %#zx is damaged, or a commit cannot be settled",
                      offsetof(struct ss_header, txn_mutex));
    if (rc != SS_OK)
        return rc;
    if (ss_load(&r->header->heap_committed) > r->at.heap_size || ss_load(&r->header->heap_committed) % SS_PAGE != 0)
        return broken(&c, "L3: more committed than there is");
    for (uint32_t s = 0; s < r->at.nstripes && rc == SS_OK; s++) {
        struct ss_held h;
        rc = ss_lock(r, s, wait, &h);
        if (rc == SS_CORRUPT)
            return broken(&c, "T3: stripe %u cannot be locked or repaired", s);
        if (rc != SS_OK)
            return rc;
        rc = check_stripe(&c, &h);
        ss_unlock(&h);
    }
    if (rc != SS_OK)
        return rc;
    rc = ss_pages_lock(r, wait);
    if (rc == SS_CORRUPT)
        return broken(&c, "H1: the page mutex is damaged");
    if (rc != SS_OK)
        return rc;
    rc = check_pages(&c);
    ss_pages_unlock(r);
    return rc;
}

/* ---- salvage ----------------------------------------------------------- */

int ss_salvage(struct ss_region *r, uint32_t stripe, void *buffer, size_t capacity, size_t *used, struct ss_salvaged *out)
{
    struct ss_report ignored;
    const struct check c = {r, &ignored};
    struct ss_held h;
    unsigned char *at = buffer;

    *used = 0;
    *out = (struct ss_salvaged){0};
    if (stripe >= r->at.nstripes)
        return SS_INVALID;
    bool is_locked = ss_lock(r, stripe, SS_TRY, &h) == SS_OK; /* which finishes what a dead writer began */
    h.r = r;
    h.st = &r->stripes[stripe];
    h.index = stripe;
    h.heap_end = ss_heap_end(r);
    out->generation = ss_load(&h.st->generation);
    int rc = ss_load(&r->header->heap_committed) > r->at.heap_size ? SS_CORRUPT : SS_OK;
    if (rc == SS_OK && !is_locked)
        rc = ss_table_view(r, stripe, ss_load(&h.st->table), &h.slots, &h.mask);
    for (uint64_t i = 0; rc == SS_OK && i <= h.mask; i++) {
        uint64_t slot = ss_load(&h.slots[i]);
        if (!ss_slot_is_entry(slot))
            continue;
        if (check_entry(&c, &h, i) != SS_OK) {
            out->broken++;
            continue;
        }
        const struct ss_block *b = ss_block_at(r, ss_slot_block(slot));
        uint16_t length = (uint16_t)ss_meta_key_length(ss_load(&b->meta));
        if (capacity >= *used + sizeof length + length) {
            memcpy(at + *used, &length, sizeof length);
            ss_copy_out(at + *used + sizeof length, b->key, length);
        }
        *used += sizeof length + length;
        out->sound++;
    }
    if (is_locked)
        ss_unlock(&h);
    if (rc != SS_OK)
        return rc;
    return *used <= capacity ? SS_OK : SS_TOOSMALL;
}

int ss_raise_generations(struct ss_region *r, uint64_t floor, uint64_t wait)
{
    for (uint32_t s = 0; s < r->at.nstripes; s++) {
        struct ss_held h;
        int rc = ss_lock(r, s, wait, &h);
        if (rc != SS_OK)
            return rc;
        if (ss_load(&h.st->generation) < floor)
            ss_store(&h.st->generation, floor);
        ss_unlock(&h);
    }
    return SS_OK;
}
