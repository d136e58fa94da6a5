/* room.c - see room.h for what it promises.
 *
 * Thread safety, Invariants, Crash: room.h.
 */
#include "room.h"

enum {
    CLOCK_STEPS = 512, /* slots looked at for a victim of the same class, and a quarter of the table */
    STAGE_RECLAIM_HELD = 0,
    STAGE_RECLAIM_OTHERS,
    STAGE_EVICT_OLD,
    STAGE_EVICT_OLD_AGAIN, /* the first look may have found all of them young */
    STAGE_EVICT_WINDOWS,
    STAGE_GIVE_UP,
};

/* ---- reclaim: costs nobody anything ------------------------------------ */

static bool worth_sweeping(const struct ss_held *h)
{
    uint64_t garbage = ss_load(&h->st->garbage);
    if (ss_load(&h->st->flags) & SS_STRIPE_LEAKY)
        return true;
    /* Who may evict has a cheaper way than to sweep for a few blocks. */
    return (h->r->flags & SS_EVICT) ? garbage > 8 + ss_load(&h->st->live) / 8 : garbage != 0;
}

static int reclaim(struct ss_held *h, const struct ss_pins *pins, bool *gained)
{
    uint64_t purged;
    int rc = ss_table_purge(h, pins, &purged);
    if (rc == SS_OK && (purged != 0 || worth_sweeping(h))) {
        *gained = true;
        rc = ss_heap_sweep(h);
    }
    return rc;
}

/* ---- eviction ---------------------------------------------------------- */

static bool test_and_clear_touch(const struct ss_held *h, uint64_t hash)
{
    _Atomic uint8_t *byte = ss_touch_byte(h->r, hash);
    if (atomic_load_explicit(byte, memory_order_relaxed) == 0)
        return false;
    atomic_store_explicit(byte, 0, memory_order_relaxed);
    return true;
}

/* `block` as it was found sound in that slot: by now a peer may have scribbled into it. */
static int evict(struct ss_held *h, uint64_t slot, uint64_t block)
{
    struct ss_found found = {.slot = slot, .block = block};
    ss_add(&h->st->evictions, 1);
    return ss_table_remove(h, &found);
}

/* SS_MISSING if the hand meets no old entry of this class within its steps. */
static int evict_of_class(struct ss_held *h, uint32_t class, const struct ss_pins *pins)
{
    uint64_t hand = ss_load(&h->st->hand), meta;
    struct ss_span span;

    for (uint64_t n = 0; n < CLOCK_STEPS + h->mask / 4; n++, hand++) {
        uint64_t slot = ss_load(&h->slots[hand & h->mask]);
        if (!ss_slot_is_entry(slot))
            continue;
        uint64_t block = ss_slot_block(slot);
        if (!ss_block_is_sound(h->r, block, h->heap_end, &meta) || ss_heap_span_of(h->r, h->index, block, &span) != SS_OK)
            return SS_CORRUPT;
        uint64_t hash = ss_load(&ss_block_at(h->r, block)->hash);
        if (ss_page_kind(span.word) != SS_PAGE_SPAN || ss_page_class(span.word) != class || ss_is_pinned(pins, hash) ||
            test_and_clear_touch(h, hash))
            continue;
        ss_store(&h->st->hand, hand + 1);
        return evict(h, hand & h->mask, block);
    }
    ss_store(&h->st->hand, hand);
    return SS_MISSING;
}

static bool find_slot_of(const struct ss_held *h, uint64_t block, uint64_t *index)
{
    *index = ss_home(ss_load(&ss_block_at(h->r, block)->hash)) & h->mask;
    for (uint64_t n = 0; n <= h->mask; n++, *index = (*index + 1) & h->mask) {
        uint64_t slot = ss_load(&h->slots[*index]);
        if (slot == SS_SLOT_EMPTY)
            return false;
        if (ss_slot_block(slot) == block)
            return true;
    }
    return false;
}

/* Empty a span, unless it holds a pinned entry or, if `spare_young`, many
 * entries that were used since the last look. */
static int evict_span(struct ss_held *h, uint64_t base, const struct ss_span *span, const struct ss_pins *pins, bool spare_young,
                      bool *done)
{
    uint64_t bytes = ss_span_block_bytes(span), slot;
    uint64_t blocks = (ss_page_count(span->word) << SS_PAGE_SHIFT) / bytes, live = 0, young = 0;

    *done = false;
    for (uint64_t i = 0; i < blocks; i++) {
        if (!ss_table_points_to(h, base + i * bytes))
            continue;
        uint64_t hash = ss_load(&ss_block_at(h->r, base + i * bytes)->hash);
        if (ss_is_pinned(pins, hash))
            return SS_OK;
        live++;
        young += test_and_clear_touch(h, hash);
    }
    if (spare_young && 4 * young > live)
        return SS_OK;
    for (uint64_t i = 0; i < blocks; i++) {
        if (!find_slot_of(h, base + i * bytes, &slot))
            continue;
        int rc = evict(h, slot, base + i * bytes);
        if (rc != SS_OK)
            return rc;
    }
    *done = true;
    return SS_OK;
}

/* Empty spans of this stripe that begin in [first, first + count), cyclically,
 * until `pages` pages are free; then hand them back. */
static int evict_pages(struct ss_held *h, uint64_t first, uint64_t count, uint64_t pages, const struct ss_pins *pins,
                       bool spare_young, uint64_t *freed)
{
    struct ss_region *r = h->r;
    uint64_t end = (h->heap_end - r->at.heap) >> SS_PAGE_SHIFT;

    *freed = 0;
    if (end == 0) /* only if a peer said so since the caller looked */
        return SS_OK;
    for (uint64_t n = 0; n < count && *freed < pages; n++) {
        uint64_t page = (first + n) % end, base = ss_page_offset(r, page);
        struct ss_span span;
        bool done;
        if (!ss_page_may_head(ss_load(&r->pages[page]), h->index) || ss_heap_span_of(r, h->index, base, &span) != SS_OK)
            continue;
        int rc = evict_span(h, base, &span, pins, spare_young, &done);
        if (rc != SS_OK)
            return rc;
        if (done)
            *freed += ss_page_count(span.word);
        ss_store(&r->header->evict_hand, page + 1);
    }
    return *freed != 0 ? ss_heap_sweep(h) : SS_OK;
}

/* Old entries of any class, until `count` are gone; young ones if there are no others. */
static int evict_some(struct ss_held *h, uint64_t count, const struct ss_pins *pins)
{
    uint64_t hand = ss_load(&h->st->hand), meta;
    int rc = SS_OK;

    for (uint64_t n = 0; n < 2 * (h->mask + 1) && count != 0 && rc == SS_OK; n++, hand++) {
        uint64_t slot = ss_load(&h->slots[hand & h->mask]);
        if (!ss_slot_is_entry(slot))
            continue;
        uint64_t block = ss_slot_block(slot);
        if (!ss_block_is_sound(h->r, block, h->heap_end, &meta))
            return SS_CORRUPT;
        uint64_t hash = ss_load(&ss_block_at(h->r, block)->hash);
        if (ss_is_pinned(pins, hash) || test_and_clear_touch(h, hash))
            continue;
        rc = evict(h, hand & h->mask, block);
        count--;
    }
    ss_store(&h->st->hand, hand);
    return rc;
}

/* ---- the public three -------------------------------------------------- */

int ss_room_reserve(struct ss_held *h, uint64_t extra, const struct ss_pins *pins)
{
    int rc = ss_table_reserve(h, extra);
    if (rc != SS_NOSPC || (h->r->flags & SS_EVICT) == 0 || extra > h->mask - h->mask / 8)
        return rc;
    /* Some more, since to clear away what they leave costs a walk through the table. */
    rc = evict_some(h, extra + h->mask / 16, pins);
    return rc == SS_OK ? ss_table_reserve(h, extra) : rc;
}

int ss_room_take(struct ss_held *h, uint64_t bytes, const struct ss_pins *pins, uint64_t *block)
{
    int rc = ss_heap_take(h, bytes, block);
    if (rc != SS_NOSPC || (h->r->flags & SS_EVICT) == 0 || bytes > SS_BLOCK_SMALL_MAX)
        return rc;
    rc = evict_of_class(h, ss_class_of(bytes), pins);
    if (rc != SS_OK)
        return rc == SS_MISSING ? SS_NOSPC : rc;
    return ss_heap_take(h, bytes, block);
}

static struct ss_held *find_held(const struct ss_room *room, uint32_t stripe)
{
    for (size_t i = 0; i < room->count; i++)
        if (room->held[i].index == stripe)
            return &room->held[i];
    return NULL;
}

/* In one stripe, if it can be had: reclaim, or with `window` evict what lies in
 * the window of that many pages at `first`. */
static int in_stripe(struct ss_room *room, struct ss_region *r, uint32_t stripe, uint64_t first, uint64_t window, bool *gained)
{
    struct ss_held *held = find_held(room, stripe), other;
    uint64_t freed = 0;
    int rc;

    if (held == NULL && ss_lock(r, stripe, SS_TRY, &other) != SS_OK)
        return SS_OK;
    if (window == 0)
        rc = reclaim(held != NULL ? held : &other, room->pins, gained);
    else
        rc = evict_pages(held != NULL ? held : &other, first, window, UINT64_MAX, room->pins, false, &freed);
    *gained |= freed != 0;
    if (held == NULL)
        ss_unlock(&other);
    return rc == SS_WOULDBLOCK || rc == SS_TIMEOUT ? SS_OK : rc; /* only another stripe's page mutex */
}

/* In the stripes that no earlier call came to, until so many pages are free: to
 * sweep all at once could take as long as the caller is willing to wait. */
static int reclaim_others(struct ss_room *room, uint64_t need, bool *gained)
{
    struct ss_region *r = room->held->r;
    int rc = SS_OK;

    while (rc == SS_OK && room->reclaimed < r->at.nstripes &&
           !(*gained && ss_load(&r->header->pages_used) + need <= r->at.heap_pages))
        rc = in_stripe(room, r, (room->held->index + room->reclaimed++) & r->stripe_mask, 0, 0, gained);
    return rc;
}

/* A span may begin up to three pages before the window and reach into it. */
static int evict_window(struct ss_room *room, struct ss_held *h, uint64_t need, bool *gained)
{
    uint64_t end = (h->heap_end - h->r->at.heap) >> SS_PAGE_SHIFT;
    uint64_t first = end == 0 ? 0 : ss_load(&h->r->header->evict_hand) % end;

    if (end == 0 || room->windows++ > 2 * (end / need + 1)) {
        room->stage = STAGE_GIVE_UP;
        return SS_OK;
    }
    if (first + need > end)
        first = 0;
    int rc = SS_OK;
    for (uint32_t i = 0; i < h->r->at.nstripes && rc == SS_OK; i++)
        rc = in_stripe(room, h->r, (h->index + i) & h->r->stripe_mask, first < 3 ? 0 : first - 3, need + 3, gained);
    ss_store(&h->r->header->evict_hand, first + need);
    return rc;
}

static int evict_old(struct ss_room *room, struct ss_held *h, uint64_t need, bool *gained)
{
    uint64_t end = (h->heap_end - h->r->at.heap) >> SS_PAGE_SHIFT, freed;
    uint64_t reserve = h->r->at.heap_pages / h->r->at.nstripes / 32; /* to sweep less often */

    int rc = evict_pages(h, ss_load(&h->r->header->evict_hand), end, need > reserve ? need : reserve, room->pins, true, &freed);
    *gained = freed != 0;
    return rc;
}

int ss_room_make(struct ss_room *room, struct ss_held *h, uint64_t bytes)
{
    uint64_t need = bytes <= SS_BLOCK_SMALL_MAX ? ss_class_pages(ss_class_of(bytes)) : (bytes + SS_PAGE - 1) >> SS_PAGE_SHIFT;
    bool gained = false;
    int rc = SS_OK;

    while (rc == SS_OK && !gained) {
        switch (room->stage) {
        case STAGE_RECLAIM_HELD:
            rc = reclaim(h, room->pins, &gained);
            room->stage = STAGE_RECLAIM_OTHERS;
            break;
        case STAGE_RECLAIM_OTHERS:
            rc = reclaim_others(room, need, &gained);
            if (room->reclaimed == h->r->at.nstripes)
                room->stage = (h->r->flags & SS_EVICT) ? STAGE_EVICT_OLD : STAGE_GIVE_UP;
            break;
        case STAGE_EVICT_OLD:
        case STAGE_EVICT_OLD_AGAIN:
            rc = evict_old(room, h, need, &gained);
            room->stage++;
            break;
        case STAGE_EVICT_WINDOWS:
            rc = evict_window(room, h, need, &gained);
            break;
        default:
            return SS_NOSPC;
        }
    }
    return rc;
}
