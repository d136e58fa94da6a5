/* entry.c - the verbs on one key.
 *
 * Each verb is linearizable: it takes effect at the one store named in table.h,
 * or, for a read, at the moment its version was first seen.
 *
 * Thread safety: any thread of any process; each call locks at most the key's
 * stripe, and tries others only to reclaim memory.
 *
 * Invariants: table.h's.  An entry past its deadline is treated as absent by
 * every verb; its block stays until somebody overwrites or purges it.
 *
 * Crash: each verb is whole or absent (table.h); what it had taken but not
 * published is leaked until the next sweep.
 */
#include "entry.h"

#include "room.h"

enum { READ_TRIES = 4 };

/* ---- reading ----------------------------------------------------------- */

static void describe(const struct ss_head *head, struct ss_entry *entry)
{
    entry->generation = head->generation;
    entry->expires_ns = head->expires;
    entry->value.type = ss_meta_type(head->meta);
    entry->value.length = ss_meta_length(head->meta);
    entry->value.number.u = head->number;
    entry->value.payload = NULL;
}

/* One attempt without the lock; SS_WOULDBLOCK if a writer came in between, and
 * SS_CORRUPT is certain. */
static int read_once(const struct ss_region *r, uint64_t hash, const void *key, size_t length, void *buffer, size_t capacity,
                     struct ss_entry *entry)
{
    uint32_t stripe = (uint32_t)hash & r->stripe_mask;
    const struct ss_stripe *st = &r->stripes[stripe];
    uint64_t version = ss_load_acquire(&st->version), mask, meta;
    ss_word *slots;
    int rc;

    if (version & 1)
        return SS_WOULDBLOCK;
    rc = ss_table_view(r, stripe, ss_load_acquire(&st->table), &slots, &mask);
    if (rc != SS_OK)
        goto validate;

    uint64_t tag = hash >> 48, index = ss_home(hash) & mask;
    rc = SS_CORRUPT; /* unless the probe ends (T4) */
    for (uint64_t n = 0; n <= mask; n++, index = (index + 1) & mask) {
        uint64_t slot = ss_load_acquire(&slots[index]);
        if (slot == SS_SLOT_EMPTY) {
            rc = SS_MISSING;
            break;
        }
        if (slot >> 48 != tag || !ss_slot_is_entry(slot))
            continue;
        struct ss_block *b = ss_block_at(r, ss_slot_block(slot));
        /* The heap's end only after the slot: an insertion, of which no version
         * warns, may have made the heap grow for the very block it published. */
        if (!ss_block_is_sound(r, ss_slot_block(slot), ss_heap_end(r), &meta))
            break;
        if (ss_load(&b->hash) != hash || ss_meta_key_length(meta) != length || !ss_key_equals(b, key, length))
            continue;

        struct ss_head head = {.generation = ss_load(&b->generation), .expires = ss_load(&b->expires),
                               .number = ss_load(&b->number), .meta = meta};
        describe(&head, entry);
        rc = SS_OK;
        /* Absent only if this deadline was in force when the clock was read: by
         * then a touch, of which no version warns, may have put it off. */
        if (ss_has_expired(head.expires))
            rc = ss_load(&b->expires) == head.expires ? SS_MISSING : SS_WOULDBLOCK;
        else if (ss_meta_length(meta) > capacity)
            rc = SS_TOOSMALL;
        else if (ss_meta_length(meta) != 0)
            ss_copy_out(buffer, ss_block_payload(b, meta), ss_meta_length(meta));
        break;
    }
validate:
    ss_fence_acquire();
    return ss_load(&st->version) == version ? rc : SS_WOULDBLOCK;
}

static int copy_found(struct ss_held *h, const struct ss_found *found, void *buffer, size_t capacity, struct ss_entry *entry)
{
    struct ss_head head;
    ss_table_read(h, found, &head);
    describe(&head, entry);
    if (ss_meta_length(head.meta) > capacity)
        return SS_TOOSMALL;
    if (ss_meta_length(head.meta) != 0)
        ss_copy_out(buffer, ss_block_payload(ss_block_at(h->r, found->block), head.meta), ss_meta_length(head.meta));
    return SS_OK;
}

static int read_locked(struct ss_region *r, uint64_t hash, const void *key, size_t length, void *buffer, size_t capacity,
                       struct ss_entry *entry, uint64_t wait)
{
    struct ss_held h;
    struct ss_found found;
    int rc = ss_lock(r, (uint32_t)hash & r->stripe_mask, wait, &h);
    if (rc != SS_OK)
        return rc;
    rc = ss_table_find(&h, hash, key, length, &found);
    if (rc == SS_OK)
        rc = found.is_live ? copy_found(&h, &found, buffer, capacity, entry) : SS_MISSING;
    ss_unlock(&h);
    return rc;
}

int ss_get(struct ss_region *r, const void *key, size_t length, void *buffer, size_t capacity, struct ss_entry *entry, uint64_t wait)
{
    if (length - 1 >= SS_KEY_MAX)
        return SS_INVALID;
    uint64_t hash = ss_hash_bytes(key, length, r->seed);
    int rc = SS_WOULDBLOCK;

    for (int tries = 0; tries < READ_TRIES && rc == SS_WOULDBLOCK; tries++)
        rc = read_once(r, hash, key, length, buffer, capacity, entry);
    if (rc == SS_WOULDBLOCK)
        rc = read_locked(r, hash, key, length, buffer, capacity, entry, wait);
    if (rc != SS_OK && rc != SS_TOOSMALL)
        return rc;
    ss_mark_used(r, hash);
    return rc;
}

/* ---- writing ----------------------------------------------------------- */

bool ss_value_is_valid(const struct ss_value *v)
{
    if (v->type < SS_INT || v->type > SS_MSGPACK)
        return false;
    if (ss_is_scalar(v->type))
        return v->length == 0;
    return v->length == 0 || v->payload != NULL;
}

uint64_t ss_value_number(const struct ss_value *v)
{
    return v->type <= SS_FLOAT ? v->number.u : 0;
}

uint64_t ss_current_generation(const struct ss_held *h, const struct ss_found *found)
{
    return found->is_live ? ss_load(&ss_block_at(h->r, found->block)->generation) : SS_ABSENT;
}

static bool is_this_hash(const void *context, uint64_t hash)
{
    return *(const uint64_t *)context == hash;
}

/* Lock the key's stripe, for writing, and find the key. */
static int begin(struct ss_region *r, const void *key, size_t length, uint64_t wait, uint64_t *hash, struct ss_held *h,
                 struct ss_found *found)
{
    if (length - 1 >= SS_KEY_MAX)
        return SS_INVALID;
    if (ss_is_unlinked(r))
        return SS_UNLINKED;
    *hash = ss_hash_bytes(key, length, r->seed);
    int rc = ss_lock(r, (uint32_t)*hash & r->stripe_mask, wait, h);
    if (rc != SS_OK)
        return rc;
    rc = ss_table_find(h, *hash, key, length, found);
    if (rc != SS_OK)
        ss_unlock(h);
    return rc;
}

/* Take a block and a slot for the key, at whatever the region allows. */
static int take_block(struct ss_held *h, uint64_t hash, const void *key, size_t length, uint64_t bytes, struct ss_found *found,
                      uint64_t *block)
{
    const struct ss_pins pins = {is_this_hash, &hash};
    struct ss_room room = {.held = h, .count = 1, .pins = &pins};
    int rc = found->block == 0 ? ss_room_reserve(h, 1, &pins) : SS_OK;

    if (rc != SS_OK)
        return rc;
    while ((rc = ss_room_take(h, bytes, &pins, block)) == SS_NOSPC)
        if ((rc = ss_room_make(&room, h, bytes)) != SS_OK)
            return rc;
    if (rc != SS_OK)
        return rc;
    return ss_table_find(h, hash, key, length, found); /* neighbours may have moved or gone */
}

int ss_entry_write(struct ss_held *h, uint64_t hash, const void *key, size_t length, struct ss_found *found, struct ss_head *head,
                   const void *payload)
{
    uint64_t block, bytes = ss_block_bytes(length, ss_meta_length(head->meta));
    bool was_scalar = found->block != 0 && ss_is_scalar(ss_meta_type(found->meta));

    if (was_scalar && ss_meta_length(found->meta) == 0 && ss_is_scalar(ss_meta_type(head->meta))) {
        head->generation = ss_table_next_generation(h);
        ss_table_write_scalar(h, found, head);
        return SS_OK;
    }
    if (bytes > h->r->at.heap_size)
        return SS_TOOBIG;
    int rc = take_block(h, hash, key, length, bytes, found, &block);
    if (rc != SS_OK)
        return rc;
    head->generation = ss_table_next_generation(h);
    ss_block_fill(h, block, hash, key, head, payload);
    return ss_table_publish(h, found, hash, block, head->expires);
}

int ss_put(struct ss_region *r, const void *key, size_t length, const struct ss_value *value, uint64_t expires_ns,
           uint64_t expected, uint64_t *generation, uint64_t wait)
{
    struct ss_held h;
    struct ss_found found;
    uint64_t hash;

    if (!ss_value_is_valid(value) || !ss_may_keep(expires_ns, expected))
        return SS_INVALID;
    int rc = begin(r, key, length, wait, &hash, &h, &found);
    if (rc != SS_OK)
        return rc;
    if (expected != SS_ANY && (*generation = ss_current_generation(&h, &found)) != expected) {
        ss_unlock(&h);
        return SS_MISMATCH;
    }
    struct ss_head head = {.expires = ss_kept(&h, &found, expires_ns), .number = ss_value_number(value),
                           .meta = ss_meta(value->type, length, value->length)};
    rc = ss_entry_write(&h, hash, key, length, &found, &head, value->payload);
    if (rc == SS_OK) {
        *generation = head.generation;
        ss_mark_used(r, hash);
    }
    ss_unlock_and_notify(&h);
    return rc;
}

int ss_delete(struct ss_region *r, const void *key, size_t length, uint64_t expected, void *buffer, size_t capacity,
              struct ss_entry *entry, uint64_t wait)
{
    struct ss_held h;
    struct ss_found found;
    uint64_t hash;

    int rc = begin(r, key, length, wait, &hash, &h, &found);
    if (rc != SS_OK)
        return rc;
    if (!found.is_live) {
        rc = SS_MISSING;
        if (found.block != 0 && ss_table_remove(&h, &found) != SS_OK)
            rc = SS_CORRUPT;
    } else if (expected != SS_ANY && ss_current_generation(&h, &found) != expected) {
        rc = SS_MISMATCH;
    } else {
        if (entry != NULL)
            rc = copy_found(&h, &found, buffer, capacity, entry);
        if (rc == SS_OK)
            rc = ss_table_remove(&h, &found);
    }
    ss_unlock_and_notify(&h);
    return rc;
}

int ss_touch(struct ss_region *r, const void *key, size_t length, uint64_t expires_ns, uint64_t wait)
{
    struct ss_held h;
    struct ss_found found;
    uint64_t hash;

    int rc = begin(r, key, length, wait, &hash, &h, &found);
    if (rc != SS_OK)
        return rc;
    if (found.is_live)
        ss_table_write_expiry(&h, &found, expires_ns);
    else
        rc = SS_MISSING;
    ss_unlock_and_notify(&h);
    return rc;
}

/* ---- increment --------------------------------------------------------- */

static __int128 as_integer(const struct ss_value *v)
{
    return v->type == SS_INT ? (__int128)v->number.i : (__int128)v->number.u;
}

static double as_float(const struct ss_value *v)
{
    return v->type == SS_INT ? (double)v->number.i : v->type == SS_UINT ? (double)v->number.u : v->number.f;
}

static int add_numbers(const struct ss_value *a, const struct ss_value *b, struct ss_value *sum)
{
    *sum = (struct ss_value){0};
    if (a->type == SS_FLOAT || b->type == SS_FLOAT) {
        sum->type = SS_FLOAT;
        sum->number.f = as_float(a) + as_float(b);
        return SS_OK;
    }
    __int128 exact = as_integer(a) + as_integer(b);
    if (exact < INT64_MIN || exact > (__int128)UINT64_MAX)
        return SS_OVERFLOW;
    sum->type = exact <= INT64_MAX ? SS_INT : SS_UINT;
    sum->number.u = (uint64_t)exact;
    return SS_OK;
}

static bool is_number(const struct ss_value *v)
{
    return v->type >= SS_INT && v->type <= SS_FLOAT;
}

static int increment_locked(struct ss_held *h, uint64_t hash, const void *key, size_t length, struct ss_found *found,
                            const struct ss_value *by, const struct ss_value *initial, struct ss_head *head)
{
    struct ss_value old = *initial, sum;

    if (found->is_live) {
        ss_table_read(h, found, head);
        old.type = ss_meta_type(head->meta);
        old.number.u = head->number;
        if (!is_number(&old) || ss_meta_length(head->meta) != 0)
            return SS_TYPE;
    }
    int rc = add_numbers(&old, by, &sum);
    if (rc != SS_OK)
        return rc;
    head->number = sum.number.u;
    head->meta = ss_meta(sum.type, length, 0);
    return ss_entry_write(h, hash, key, length, found, head, NULL);
}

int ss_increment(struct ss_region *r, const void *key, size_t length, const struct ss_value *by, const struct ss_value *initial,
                 uint64_t expires_ns, struct ss_entry *entry, uint64_t wait)
{
    struct ss_held h;
    struct ss_found found;
    struct ss_head head = {.expires = expires_ns};
    uint64_t hash;

    if (!is_number(by) || !is_number(initial))
        return SS_INVALID;
    int rc = begin(r, key, length, wait, &hash, &h, &found);
    if (rc != SS_OK)
        return rc;
    rc = increment_locked(&h, hash, key, length, &found, by, initial, &head);
    if (rc == SS_OK) {
        describe(&head, entry);
        ss_mark_used(r, hash);
    }
    ss_unlock_and_notify(&h);
    return rc;
}
