/* heap.c - see heap.h for what it promises.
 *
 * Thread safety, Invariants, Crash: heap.h.
 */
#include "heap.h"

#include "table.h"

static const uint64_t commit_chunk = 1 << 20;

/* ---- pages ------------------------------------------------------------ */

/* A head whose pages all lie in the heap, or 0. */
static uint64_t sound_head(const struct ss_region *r, uint64_t page, uint64_t end)
{
    uint64_t word = ss_load(&r->pages[page]);
    uint64_t count = ss_page_count(word);
    enum ss_page_kind kind = ss_page_kind(word);

    if (kind != SS_PAGE_SPAN && kind != SS_PAGE_RUN)
        return 0;
    if (count == 0 || count > end - page || ss_page_stripe(word) >= r->at.nstripes)
        return 0;
    if (kind == SS_PAGE_SPAN && (ss_page_class(word) >= SS_CLASSES || count != ss_class_pages(ss_page_class(word))))
        return 0;
    return word;
}

static uint64_t pages_committed(const struct ss_region *r)
{
    return (ss_heap_end(r) - r->at.heap) >> SS_PAGE_SHIFT;
}

/* H1 says what is whole; the rest was being taken or given back. */
static void repair_pages(const struct ss_region *r)
{
    uint64_t end = pages_committed(r), used = 0;

    for (uint64_t page = 0; page < end;) {
        uint64_t word = sound_head(r, page, end);
        if (word != 0) {
            used += ss_page_count(word);
            page += ss_page_count(word);
        } else {
            ss_store(&r->pages[page++], SS_PAGE_FREE);
        }
    }
    ss_store(&r->header->pages_used, used);
    ss_store(&r->header->page_hint, 0);
}

int ss_pages_lock(const struct ss_region *r, uint64_t wait)
{
    bool owner_died;
    int rc = ss_mutex_lock(r, &r->header->page_mutex, wait, &owner_died);
    if (rc == SS_OK && owner_died) {
        repair_pages(r);
        ss_mutex_repaired(&r->header->page_mutex);
    }
    return rc;
}

void ss_pages_unlock(const struct ss_region *r)
{
    ss_mutex_unlock(&r->header->page_mutex);
}

/* Commit until `pages` heap pages are backed; a chunk ahead if there is room. */
static int commit_pages_locked(const struct ss_region *r, uint64_t pages)
{
    uint64_t have = pages_committed(r);
    uint64_t chunk = commit_chunk < r->at.heap_size / 8 ? commit_chunk : r->at.heap_size / 8;
    uint64_t want = have + (chunk >> SS_PAGE_SHIFT);

    if (want > r->at.heap_pages)
        want = r->at.heap_pages;
    if (want < pages)
        want = pages;
    for (;; want = pages) {
        int rc = ss_commit_range(r, r->at.pages, want * sizeof(ss_word));
        if (rc == SS_OK)
            rc = ss_commit_range(r, ss_page_offset(r, have), (want - have) << SS_PAGE_SHIFT);
        if (rc == SS_OK)
            break;
        if (rc != SS_NOSPC || want == pages)
            return rc;
    }
    ss_store_release(&r->header->heap_committed, want << SS_PAGE_SHIFT); /* L3 */
    return SS_OK;
}

/* First fit; the last resort is to commit more. */
static int find_pages_locked(const struct ss_region *r, uint64_t count, uint64_t *first)
{
    uint64_t end = pages_committed(r), hint = ss_load(&r->header->page_hint), start;
    bool passed_free = false;

    if (hint > end)
        hint = end;
    start = hint;
    if (count > r->at.heap_pages)
        return SS_NOSPC;
    for (uint64_t page = hint; page < end && page - start < count; page++) {
        if (ss_load(&r->pages[page]) == SS_PAGE_FREE) {
            passed_free = true;
        } else {
            start = page + 1;
            if (!passed_free)
                ss_store(&r->header->page_hint, start);
        }
    }
    if (start + count > end) {
        if (count > r->at.heap_pages - start)
            return SS_NOSPC;
        int rc = commit_pages_locked(r, start + count);
        if (rc != SS_OK)
            return rc;
    }
    *first = start;
    return SS_OK;
}

static int take_pages(struct ss_held *h, enum ss_page_kind kind, uint32_t class, uint64_t count, uint64_t *offset)
{
    const struct ss_region *r = h->r;
    uint64_t first;

    int rc = ss_pages_lock(r, h->wait);
    if (rc != SS_OK)
        return rc;
    rc = find_pages_locked(r, count, &first);
    if (rc == SS_OK) {
        for (uint64_t i = 1; i < count; i++)
            ss_store(&r->pages[first + i], ss_page_word(SS_PAGE_REST, 0, 0, i));
        ss_crash_fence();
        ss_store_release(&r->pages[first], ss_page_word(kind, class, h->index, count)); /* H1: head last */
        ss_add(&r->header->pages_used, count);
        *offset = ss_page_offset(r, first);
    }
    ss_pages_unlock(r);
    h->heap_end = ss_heap_end(r);
    return rc;
}

static int give_pages(struct ss_held *h, const struct ss_span *span)
{
    const struct ss_region *r = h->r;
    uint64_t count = ss_page_count(span->word);

    int rc = ss_pages_lock(r, h->wait);
    if (rc != SS_OK)
        return rc;
    for (uint64_t i = 0; i < count; i++) {
        ss_store(&r->pages[span->page + i], SS_PAGE_FREE); /* H1: head first */
        ss_crash_fence();
    }
    if (span->page < ss_load(&r->header->page_hint))
        ss_store(&r->header->page_hint, span->page);
    ss_add(&r->header->pages_used, -count);
    ss_pages_unlock(r);
    return SS_OK;
}

/* ---- blocks ----------------------------------------------------------- */

uint64_t ss_span_block_bytes(const struct ss_span *span)
{
    if (ss_page_kind(span->word) == SS_PAGE_SPAN)
        return ss_class_bytes(ss_page_class(span->word));
    return ss_page_count(span->word) << SS_PAGE_SHIFT;
}

int ss_heap_span_of(const struct ss_region *r, uint32_t stripe, uint64_t offset, struct ss_span *span)
{
    uint64_t end = pages_committed(r);
    if (offset < r->at.heap || offset >= ss_page_offset(r, end))
        return SS_CORRUPT;

    uint64_t page = (offset - r->at.heap) >> SS_PAGE_SHIFT;
    uint64_t word = ss_load(&r->pages[page]);
    if (ss_page_kind(word) == SS_PAGE_REST) {
        if (ss_page_count(word) > page)
            return SS_CORRUPT;
        page -= ss_page_count(word);
    }
    *span = (struct ss_span){.page = page, .word = sound_head(r, page, end)};
    if (span->word == 0 || ss_page_stripe(span->word) != stripe)
        return SS_CORRUPT;

    uint64_t inside = offset - ss_page_offset(r, page);
    uint64_t bytes = ss_span_block_bytes(span);
    if (ss_page_kind(span->word) == SS_PAGE_RUN)
        return inside == 0 ? SS_OK : SS_CORRUPT;
    if ((uint32_t)inside % (uint32_t)bytes != 0 || inside + bytes > ss_page_count(span->word) << SS_PAGE_SHIFT) /* H2 */
        return SS_CORRUPT;
    return SS_OK;
}

/* One store takes the block from wherever it was; the caller may write into it
 * only after that store, or a crash between would leave a list through it. */
static void took(struct ss_held *h)
{
    uint64_t garbage = ss_load(&h->st->garbage);
    if (garbage != 0)
        ss_store(&h->st->garbage, garbage - 1);
}

static bool is_block_of_class(const struct ss_held *h, uint64_t offset, uint32_t class)
{
    struct ss_span span;
    return ss_heap_span_of(h->r, h->index, offset, &span) == SS_OK && ss_page_kind(span.word) == SS_PAGE_SPAN &&
           ss_page_class(span.word) == class;
}

/* Of a class without a block: itself, or while pages are short one of up to twice
 * the size that has some.  Else the last pages would go to spans that stay mostly
 * empty, one for each class of each stripe.  Not with SS_EVICT: there pages are
 * always short, and classes even out by evicting from one another. */
static uint32_t class_to_take(const struct ss_held *h, uint32_t class)
{
    const uint32_t per_doubling = 4;

    if ((h->r->flags & SS_EVICT) != 0 || ss_load(&h->r->header->pages_used) <= h->r->at.heap_pages / 4 * 3)
        return class;
    for (uint32_t c = class + 1; c < SS_CLASSES && c <= class + per_doubling; c++)
        if ((ss_load(&ss_pool(h)->free[c]) | ss_load(&ss_pool(h)->bump[c])) != 0)
            return c;
    return class;
}

/* The next block of the span, round its end; 0 if that was the first. */
static uint64_t block_behind(uint64_t block, uint64_t bytes, uint64_t span_end, uint64_t span_bytes, uint64_t first)
{
    uint64_t base = span_end - span_bytes;
    uint64_t next = block + 2 * bytes <= span_end ? block + bytes : base;
    return next != base + first ? next : 0;
}

static int take_small(struct ss_held *h, uint32_t class, uint64_t *offset)
{
    struct ss_pool *pool = ss_pool(h);
    uint64_t head = ss_load(&pool->free[class]);
    uint64_t next = ss_load(&pool->bump[class]);

    if ((head | next) == 0) {
        class = class_to_take(h, class);
        head = ss_load(&pool->free[class]);
        next = ss_load(&pool->bump[class]);
    }

    if (head != 0) {
        if (!is_block_of_class(h, head, class))
            return SS_CORRUPT;
        ss_store(&pool->free[class], ss_load(&ss_block_at(h->r, head)->hash));
        took(h);
        *offset = head;
        return SS_OK;
    }
    uint64_t bytes = ss_class_bytes(class), span_bytes = ss_class_pages(class) << SS_PAGE_SHIFT;
    uint64_t first = ss_first_block(h->index, span_bytes / bytes) * bytes;
    if (next == 0) {
        int rc = take_pages(h, SS_PAGE_SPAN, class, ss_class_pages(class), &next);
        if (rc != SS_OK)
            return rc;
        ss_store(&pool->bump_end[class], next + span_bytes);
        next += first;
    } else if (!is_block_of_class(h, next, class)) {
        return SS_CORRUPT;
    }
    ss_crash_fence();
    ss_store(&pool->bump[class], block_behind(next, bytes, ss_load(&pool->bump_end[class]), span_bytes, first));
    *offset = next;
    return SS_OK;
}

int ss_heap_take(struct ss_held *h, uint64_t bytes, uint64_t *offset)
{
    int rc;
    if (bytes <= SS_BLOCK_SMALL_MAX)
        rc = take_small(h, ss_class_of(bytes), offset);
    else
        rc = take_pages(h, SS_PAGE_RUN, 0, (bytes + SS_PAGE - 1) >> SS_PAGE_SHIFT, offset);
    /* For a crash: filled only once taken.  For a late reader: what it sees of
     * the new bytes it sees after the version that warned it. */
    ss_crash_fence();
    ss_fence_release();
    return rc;
}

static void push(struct ss_held *h, uint32_t class, uint64_t offset)
{
    ss_store(&ss_block_at(h->r, offset)->hash, ss_load(&ss_pool(h)->free[class]));
    ss_crash_fence();
    ss_store(&ss_pool(h)->free[class], offset);
}

int ss_heap_give(struct ss_held *h, uint64_t offset)
{
    struct ss_span span;
    int rc = ss_heap_span_of(h->r, h->index, offset, &span);
    if (rc != SS_OK)
        return rc;
    if (ss_page_kind(span.word) == SS_PAGE_SPAN) {
        push(h, ss_page_class(span.word), offset);
        ss_add(&h->st->garbage, 1);
        return SS_OK;
    }
    if (give_pages(h, &span) != SS_OK) /* the page mutex is busy: leave it to a sweep */
        ss_store(&h->st->flags, ss_load(&h->st->flags) | SS_STRIPE_LEAKY);
    return SS_OK;
}

/* ---- sweep ------------------------------------------------------------ */

static int sweep_span(struct ss_held *h, const struct ss_span *span)
{
    uint64_t base = ss_page_offset(h->r, span->page);
    uint64_t bytes = ss_span_block_bytes(span);
    uint64_t blocks = (ss_page_count(span->word) << SS_PAGE_SHIFT) / bytes;
    bool is_empty = true;

    for (uint64_t i = 0; i < blocks && is_empty; i++)
        is_empty = !ss_table_points_to(h, base + i * bytes);
    if (is_empty)
        return give_pages(h, span);
    if (ss_page_kind(span->word) == SS_PAGE_SPAN)
        for (uint64_t i = blocks; i-- > 0;) /* so that low addresses are taken first */
            if (!ss_table_points_to(h, base + i * bytes))
                push(h, ss_page_class(span->word), base + i * bytes);
    return SS_OK;
}

int ss_heap_sweep(struct ss_held *h)
{
    struct ss_region *r = h->r;
    uint64_t end = pages_committed(r);

    /* From here to the end, what is not yet pushed again counts as leaked. */
    ss_store(&h->st->flags, ss_load(&h->st->flags) | SS_STRIPE_LEAKY);
    for (uint32_t class = 0; class < SS_CLASSES; class++) {
        ss_store(&ss_pool(h)->free[class], 0);
        ss_store(&ss_pool(h)->bump[class], 0);
    }
    ss_crash_fence();
    for (uint64_t page = 0; page < end;) {
        /* Words of other stripes' pages may change meanwhile; ours do not. */
        struct ss_span span = {.page = page};
        if (!ss_page_may_head(ss_load(&r->pages[page]), h->index) || (span.word = sound_head(r, page, end)) == 0) {
            page++;
            continue;
        }
        int rc = sweep_span(h, &span);
        if (rc != SS_OK)
            return rc;
        page += ss_page_count(span.word);
    }
    ss_store(&h->st->garbage, 0);
    ss_add(&ss_pool(h)->sweeps, 1);
    ss_store(&h->st->flags, ss_load(&h->st->flags) & ~(uint64_t)SS_STRIPE_LEAKY);
    return SS_OK;
}
