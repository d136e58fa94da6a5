/* txn.c - see txn.h for what it promises, and why it is atomic.
 *
 * Thread safety, Invariants, Crash: txn.h.
 */
#include "txn.h"

#include "entry.h"
#include "room.h"

enum { BUCKETS = 1024, NONE = UINT32_MAX };

struct commit {
    struct ss_region *r;
    struct ss_op *ops;
    size_t count;
    uint64_t stripes[SS_STRIPE_WORDS];      /* bit set: touched */
    uint64_t changed[SS_STRIPE_WORDS];      /* bit set: by a PUT or DELETE */
    bool changes;                           /* there is a PUT or DELETE */
    size_t nheld;
    struct ss_held held[SS_STRIPES_MAX];    /* by rising index */
    uint16_t held_at[SS_STRIPES_MAX];       /* stripe -> place in held */
    uint32_t buckets[BUCKETS];              /* hash -> first op, chained by priv.next */
};

static struct ss_held *held_of(struct commit *c, const struct ss_op *op)
{
    return &c->held[c->held_at[op->priv.stripe]];
}

static void add_stripe(uint64_t *set, uint32_t stripe)
{
    set[stripe / 64] |= UINT64_C(1) << stripe % 64;
}

static bool has_stripe(const uint64_t *set, uint32_t stripe)
{
    return set[stripe / 64] >> stripe % 64 & 1;
}

/* The first stripe of the set from `stripe` on; SS_STRIPES_MAX if there is none. */
static uint32_t next_stripe(const uint64_t *set, uint32_t stripe)
{
    uint64_t from = UINT64_MAX << stripe % 64;

    for (uint32_t w = stripe / 64; w < SS_STRIPE_WORDS; w++, from = UINT64_MAX)
        if ((set[w] & from) != 0)
            return 64 * w + (uint32_t)__builtin_ctzll(set[w] & from);
    return SS_STRIPES_MAX;
}

/* ---- the operations as given ------------------------------------------- */

static int accept(struct commit *c, size_t i)
{
    struct ss_op *op = &c->ops[i];

    if (op->kind < SS_OP_CHECK || op->kind > SS_OP_DELETE || (size_t)op->key_length - 1 >= SS_KEY_MAX)
        return SS_INVALID;
    if (op->kind == SS_OP_PUT && (!ss_value_is_valid(&op->value) || !ss_may_keep(op->expires_ns, op->expected)))
        return SS_INVALID;
    memset(&op->priv, 0, sizeof op->priv);
    op->priv.hash = ss_hash_bytes(op->key, op->key_length, c->r->seed);
    op->priv.stripe = (uint32_t)op->priv.hash & c->r->stripe_mask;
    add_stripe(c->stripes, op->priv.stripe);
    if (op->kind != SS_OP_CHECK) {
        add_stripe(c->changed, op->priv.stripe);
        c->changes = true;
    }

    uint32_t *bucket = &c->buckets[op->priv.hash >> 32 & (BUCKETS - 1)];
    for (uint32_t j = *bucket; j != NONE; j = c->ops[j].priv.next)
        if (c->ops[j].priv.hash == op->priv.hash && c->ops[j].key_length == op->key_length &&
            memcmp(c->ops[j].key, op->key, op->key_length) == 0)
            return SS_INVALID; /* twice the same key */
    op->priv.next = *bucket;
    *bucket = (uint32_t)i;
    return SS_OK;
}

static bool is_participant(const void *context, uint64_t hash)
{
    const struct commit *c = context;
    for (uint32_t j = c->buckets[hash >> 32 & (BUCKETS - 1)]; j != NONE; j = c->ops[j].priv.next)
        if (c->ops[j].priv.hash == hash)
            return true;
    return false;
}

/* ---- locks ------------------------------------------------------------- */

static void unlock_stripes(struct commit *c)
{
    while (c->nheld > 0)
        ss_unlock(&c->held[--c->nheld]);
}

static int lock_stripes(struct commit *c, uint64_t wait)
{
    for (uint32_t s = next_stripe(c->stripes, 0); s < SS_STRIPES_MAX; s = next_stripe(c->stripes, s + 1)) {
        c->held_at[s] = (uint16_t)c->nheld;
        int rc = ss_lock(c->r, s, wait, &c->held[c->nheld]);
        if (rc != SS_OK) {
            unlock_stripes(c);
            return rc;
        }
        c->nheld++;
    }
    return SS_OK;
}

/* Have the last owner's record taken up by all whom it concerns. */
static int settle(struct ss_region *r, uint64_t wait)
{
    uint64_t stripes[SS_STRIPE_WORDS];

    for (size_t w = 0; w < SS_STRIPE_WORDS; w++)
        stripes[w] = ss_load(&r->header->txn_stripes[w]);
    for (uint32_t s = next_stripe(stripes, 0); s < r->at.nstripes; s = next_stripe(stripes, s + 1)) {
        struct ss_held h;
        if ((ss_load_acquire(&r->stripes[s].version) & 1) == 0)
            continue;
        int rc = ss_lock(r, s, wait, &h);
        if (rc != SS_OK)
            return rc;
        ss_unlock(&h);
    }
    ss_store(&r->header->txn_state, SS_TXN_IDLE);
    return SS_OK;
}

static int lock_record(struct ss_region *r, uint64_t wait)
{
    bool owner_died;
    int rc = ss_mutex_lock(r, &r->header->txn_mutex, wait, &owner_died);
    if (rc != SS_OK)
        return rc;
    if (owner_died)
        ss_mutex_repaired(&r->header->txn_mutex); /* the state says all; it is settled below, or by the next */
    if (ss_load(&r->header->txn_state) != SS_TXN_IDLE && (rc = settle(r, wait)) != SS_OK)
        ss_mutex_unlock(&r->header->txn_mutex);
    return rc;
}

int ss_txn_settle(struct ss_region *r, uint64_t wait)
{
    int rc = lock_record(r, wait);
    if (rc == SS_OK)
        ss_mutex_unlock(&r->header->txn_mutex);
    return rc;
}

/* ---- before the commit point: everything that may fail ------------------ */

static int check_expectations(struct commit *c, size_t *culprit)
{
    struct ss_found found;

    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        struct ss_held *h = held_of(c, op);
        int rc = ss_table_find(h, op->priv.hash, op->key, op->key_length, &found);
        if (rc != SS_OK)
            return rc;
        op->existed = found.is_live;
        op->priv.old_block = found.block;
        uint64_t generation = ss_current_generation(h, &found);
        if (op->expected != SS_ANY && op->expected != generation) {
            op->generation = generation;
            *culprit = i;
            return SS_MISMATCH;
        }
        if (op->kind == SS_OP_PUT)
            op->priv.expires = ss_kept(h, &found, op->expires_ns);
    }
    return SS_OK;
}

static int reserve_tables(struct commit *c)
{
    const struct ss_pins pins = {is_participant, c};
    uint64_t extra[SS_STRIPES_MAX]; /* of the stripe held at this place */

    memset(extra, 0, c->nheld * sizeof *extra);
    for (size_t i = 0; i < c->count; i++)
        if (c->ops[i].kind == SS_OP_PUT && c->ops[i].priv.old_block == 0)
            extra[c->held_at[c->ops[i].priv.stripe]]++;
    for (size_t k = 0; k < c->nheld; k++) {
        int rc = extra[k] == 0 ? SS_OK : ss_room_reserve(&c->held[k], extra[k], &pins);
        if (rc != SS_OK)
            return rc;
    }
    return SS_OK;
}

static void give_blocks(struct commit *c, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (c->ops[i].priv.new_block != 0) {
            ss_heap_give(held_of(c, &c->ops[i]), c->ops[i].priv.new_block);
            c->ops[i].priv.new_block = 0;
        }
}

static uint64_t bytes_of(const struct ss_op *op)
{
    return ss_block_bytes(op->key_length, op->value.length);
}

/* A block for each PUT.  Sweeping would take blocks that nobody knows yet for
 * leaked, so to make room all are given back first, and taken anew. */
static int take_blocks(struct commit *c)
{
    const struct ss_pins pins = {is_participant, c};
    struct ss_room room = {.held = c->held, .count = c->nheld, .pins = &pins};

    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        if (op->kind != SS_OP_PUT)
            continue;
        if (bytes_of(op) > c->r->at.heap_size)
            return give_blocks(c, i), SS_TOOBIG;
        int rc = ss_room_take(held_of(c, op), bytes_of(op), &pins, &op->priv.new_block);
        if (rc == SS_OK)
            continue;
        op->priv.new_block = 0;
        give_blocks(c, i);
        if (rc == SS_NOSPC)
            rc = ss_room_make(&room, held_of(c, op), bytes_of(op));
        if (rc != SS_OK)
            return rc;
        i = SIZE_MAX; /* from the start */
    }
    return SS_OK;
}

static void fill_blocks(struct commit *c)
{
    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        struct ss_held *h = held_of(c, op);
        if (op->kind != SS_OP_PUT)
            continue;
        op->generation = ss_table_next_generation(h);
        const struct ss_head head = {.generation = op->generation, .expires = op->priv.expires, .number = ss_value_number(&op->value),
                                     .meta = ss_meta(op->value.type, op->key_length, op->value.length)};
        ss_block_fill(h, op->priv.new_block, op->priv.hash, op->key, &head, op->value.payload);
    }
}

/* Where each change goes.  A reserved slot is passed over by later searches. */
static int reserve_slots(struct commit *c)
{
    struct ss_found found;

    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        struct ss_held *h = held_of(c, op);
        if (op->kind == SS_OP_CHECK)
            continue;
        int rc = ss_table_find(h, op->priv.hash, op->key, op->key_length, &found);
        if (rc != SS_OK)
            return rc;
        op->priv.slot = found.slot;
        op->priv.old_block = found.block;
        if (found.block != 0) {
            op->priv.old_expires = ss_load(&ss_block_at(c->r, found.block)->expires);
        } else if (op->kind == SS_OP_PUT) {
            ss_store(&h->slots[found.slot], SS_SLOT_RESERVED);
            ss_add(&h->st->used, !found.had_tomb);
        }
    }
    return SS_OK;
}

static void drop_slots(struct commit *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->ops[i].kind == SS_OP_PUT && c->ops[i].priv.old_block == 0 && c->ops[i].priv.slot <= held_of(c, &c->ops[i])->mask) {
            ss_word *slot = &held_of(c, &c->ops[i])->slots[c->ops[i].priv.slot];
            if (ss_load(slot) == SS_SLOT_RESERVED)
                ss_store(slot, SS_SLOT_TOMB);
        }
}

/* ---- the commit point and what follows ---------------------------------- */

static bool changes_slot(const struct ss_op *op)
{
    return op->kind == SS_OP_PUT || (op->kind == SS_OP_DELETE && op->priv.old_block != 0);
}

static void write_record(struct commit *c)
{
    struct ss_header *header = c->r->header;
    uint64_t n = 0;

    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        if (!changes_slot(op))
            continue;
        struct ss_redo *redo = ss_redo_at(c->r, n++);
        uint64_t offset = (uint64_t)((unsigned char *)&held_of(c, op)->slots[op->priv.slot] - c->r->base);
        ss_store(&redo->where, (uint64_t)op->priv.stripe << 48 | offset);
        /* Never empty: a neighbour of this commit may have its path over it. */
        ss_store(&redo->word, op->kind == SS_OP_PUT ? ss_slot_word(op->priv.hash, op->priv.new_block) : SS_SLOT_TOMB);
    }
    ss_store(&header->txn_count, n);
    for (size_t w = 0; w < SS_STRIPE_WORDS; w++)
        ss_store(&header->txn_stripes[w], c->changed[w]); /* X1 */
    ss_crash_fence();
    ss_store_release(&header->txn_state, SS_TXN_PREPARED);
    ss_crash_fence();
}

static void step_versions(struct commit *c)
{
    for (size_t k = 0; k < c->nheld; k++) {
        struct ss_stripe *st = c->held[k].st;
        if (!has_stripe(c->changed, c->held[k].index))
            continue;
        ss_store(&st->redo_kind, SS_REDO_TXN);
        ss_crash_fence();
        ss_store_release(&st->version, ss_load(&st->version) + 1);
    }
    ss_crash_fence();
    ss_fence_release();
}

static void store_slots(struct commit *c)
{
    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        if (!changes_slot(op))
            continue;
        ss_word *slot = &held_of(c, op)->slots[op->priv.slot];
        ss_store_release(slot, op->kind == SS_OP_PUT ? ss_slot_word(op->priv.hash, op->priv.new_block) : SS_SLOT_TOMB);
    }
    ss_crash_fence();
}

static void settle_accounts(struct commit *c)
{
    for (size_t i = 0; i < c->count; i++) {
        struct ss_op *op = &c->ops[i];
        struct ss_held *h = held_of(c, op);
        uint64_t expires = op->kind == SS_OP_PUT ? op->priv.expires : 0;
        if (!changes_slot(op))
            continue;
        ss_add(&h->st->live, (uint64_t)(op->kind == SS_OP_PUT) - (uint64_t)(op->priv.old_block != 0));
        if ((op->priv.old_expires | expires) != 0)
            ss_table_count_expiry(h, op->priv.old_expires, expires);
        ss_table_count_change(h);
        if (op->priv.old_block != 0)
            ss_heap_give(h, op->priv.old_block);
    }
}

static void apply(struct commit *c)
{
    write_record(c);                                             /* 2, 3 */
    step_versions(c);                                            /* 4: odd */
    ss_store_release(&c->r->header->txn_state, SS_TXN_COMMITTED); /* 5 */
    ss_crash_fence();
    ss_fence_release();
    store_slots(c);                                              /* 6 */
    step_versions(c);                                            /* 7: even */
    ss_store_release(&c->r->header->txn_state, SS_TXN_IDLE);     /* 8 */
    ss_crash_fence();
    settle_accounts(c);
}

int ss_txn_replay(struct ss_held *h)
{
    struct ss_region *r = h->r;
    uint64_t count = ss_load(&r->header->txn_count), meta;
    uint64_t first = (uint64_t)((unsigned char *)h->slots - r->base);

    if (ss_load_acquire(&r->header->txn_state) != SS_TXN_COMMITTED)
        return SS_OK; /* died before the commit point: nothing was stored */
    if (count > SS_TXN_MAX)
        return SS_CORRUPT;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t where = ss_load(&ss_redo_at(r, i)->where), word = ss_load(&ss_redo_at(r, i)->word);
        uint64_t offset = where & SS_OFFSET_MASK;
        struct ss_span span;
        if (where >> 48 != h->index)
            continue;
        if (offset < first || offset - first > h->mask * sizeof(ss_word) || offset % sizeof(ss_word) != 0)
            return SS_CORRUPT;
        if (word != SS_SLOT_TOMB && (!ss_block_is_sound(r, ss_slot_block(word), h->heap_end, &meta) ||
                                     ss_heap_span_of(r, h->index, ss_slot_block(word), &span) != SS_OK))
            return SS_CORRUPT;
        ss_store_release((ss_word *)(r->base + offset), word);
    }
    ss_crash_fence();
    return SS_OK;
}

/* ---- ss_commit ---------------------------------------------------------- */

static int commit_locked(struct commit *c, size_t *culprit)
{
    int rc = check_expectations(c, culprit);
    if (rc != SS_OK || !c->changes)
        return rc;
    if ((rc = reserve_tables(c)) != SS_OK || (rc = take_blocks(c)) != SS_OK)
        return rc;
    fill_blocks(c);
    if ((rc = reserve_slots(c)) != SS_OK) { /* only if the table is corrupt */
        drop_slots(c);
        give_blocks(c, c->count);
        return rc;
    }
    apply(c);
    return SS_OK;
}

/* One operation needs no record: table.h makes it atomic by itself. */
static int commit_one(struct commit *c, size_t *culprit)
{
    struct ss_op *op = &c->ops[0];
    struct ss_held *h = &c->held[0];
    struct ss_found found;

    int rc = check_expectations(c, culprit);
    if (rc == SS_OK)
        rc = ss_table_find(h, op->priv.hash, op->key, op->key_length, &found);
    if (rc != SS_OK || op->kind == SS_OP_CHECK)
        return rc;
    if (op->kind == SS_OP_DELETE)
        return found.block != 0 ? ss_table_remove(h, &found) : SS_OK;
    struct ss_head head = {.expires = op->priv.expires, .number = ss_value_number(&op->value),
                           .meta = ss_meta(op->value.type, op->key_length, op->value.length)};
    rc = ss_entry_write(h, op->priv.hash, op->key, op->key_length, &found, &head, op->value.payload);
    op->generation = head.generation;
    return rc;
}

int ss_commit(struct ss_region *r, struct ss_op *ops, size_t count, size_t *culprit, uint64_t wait)
{
    struct commit c;

    if (count == 0)
        return SS_OK;
    if (count > SS_TXN_MAX)
        return SS_INVALID;
    c.r = r;
    c.ops = ops;
    c.count = count;
    c.changes = false;
    c.nheld = 0;
    memset(c.stripes, 0, sizeof c.stripes);
    memset(c.changed, 0, sizeof c.changed);
    memset(c.buckets, 0xff, sizeof c.buckets);
    for (size_t i = 0; i < count; i++) {
        int rc = accept(&c, i);
        if (rc != SS_OK)
            return rc;
    }
    if (c.changes && ss_is_unlinked(r))
        return SS_UNLINKED;

    bool needs_record = c.changes && count > 1;
    int rc = needs_record ? lock_record(r, wait) : SS_OK;
    if (rc != SS_OK)
        return rc;
    rc = lock_stripes(&c, wait);
    if (rc == SS_OK)
        rc = count == 1 ? commit_one(&c, culprit) : commit_locked(&c, culprit);
    unlock_stripes(&c);
    if (needs_record)
        ss_mutex_unlock(&r->header->txn_mutex);
    if (c.changes)
        ss_notify(r);
    return rc;
}
