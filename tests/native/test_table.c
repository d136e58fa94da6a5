/* test_table.c - what each verb promises, one claim at a time, in one process. */
#define _GNU_SOURCE
#include <math.h>
#include <sys/stat.h>

#include "harness.h"

static uint64_t generation_of(struct ss_region *r, const char *key)
{
    struct ss_entry e = {0};
    int rc = ss_get(r, key, strlen(key), NULL, 0, &e, SS_TRY);
    CHECK(rc == SS_OK || rc == SS_TOOSMALL);
    return e.generation;
}

static void every_type_comes_back_as_itself(void)
{
    /* All nine types, with the payload's exact bytes, for keys of 1 to 512 bytes. */
    struct ss_region *r = new_region(MIB, 0, 0);
    char key[SS_KEY_MAX], buffer[100], payload[100];
    uint64_t generation;
    memset(key, 'k', sizeof key);
    memset(payload, 'p', sizeof payload);

    for (size_t length = 1; length <= sizeof key; length++) {
        uint32_t type = SS_INT + (uint32_t)length % 9;
        struct ss_value v = {.type = type}, *w;
        struct ss_entry e = {0};
        if (type <= SS_FLOAT)
            v.number.u = length * UINT64_C(0x123456789abcdef);
        if (type >= SS_STR) {
            v.length = (uint32_t)length % sizeof payload;
            v.payload = payload;
        }
        CHECK_OK(ss_put(r, key, length, &v, 0, SS_ABSENT, &generation, SS_TRY));
        CHECK_OK(ss_get(r, key, length, buffer, sizeof buffer, &e, SS_TRY));
        w = &e.value;
        CHECK(w->type == v.type && w->length == v.length && w->number.u == v.number.u);
        CHECK(memcmp(buffer, payload, w->length) == 0);
        CHECK_EQ(e.generation, generation);
    }
    must_be_whole(r, true);
    ss_close(r);
}

static void keys_outside_1_to_512_bytes_are_refused(void)
{
    /* INVALID, from every verb, without touching the region. */
    struct ss_region *r = new_region(MIB, 0, 0);
    char key[SS_KEY_MAX + 1] = {0};
    struct ss_value v = int_value(1);
    struct ss_entry e = {0};
    uint64_t g;
    const size_t lengths[] = {0, SS_KEY_MAX + 1};

    for (int i = 0; i < 2; i++) {
        CHECK_EQ(ss_get(r, key, lengths[i], NULL, 0, &e, SS_TRY), SS_INVALID);
        CHECK_EQ(ss_put(r, key, lengths[i], &v, 0, SS_ANY, &g, SS_TRY), SS_INVALID);
        CHECK_EQ(ss_delete(r, key, lengths[i], SS_ANY, NULL, 0, NULL, SS_TRY), SS_INVALID);
        CHECK_EQ(ss_increment(r, key, lengths[i], &v, &v, 0, &e, SS_TRY), SS_INVALID);
        CHECK_EQ(ss_touch(r, key, lengths[i], 0, SS_TRY), SS_INVALID);
    }
    ss_close(r);
}

static void generations_only_grow(void)
{
    /* Across set, in-place set, delete, re-create, expiry and clear. */
    struct ss_region *r = new_region(MIB, 1, 0);
    struct ss_value text = text_value("x", 1), number = int_value(1);
    uint64_t last = 0, g, n;

    for (int i = 0; i < 100; i++) {
        CHECK_OK(ss_put(r, "k", 1, i % 3 ? &number : &text, i % 5 == 0 ? 1 : 0, SS_ANY, &g, SS_TRY));
        CHECK(g > last);
        last = g;
        if (i % 7 == 0)
            del(r, "k");
        if (i % 11 == 0)
            CHECK_OK(ss_clear(r, 0, "", 0, &n, SS_TRY));
    }
    ss_close(r);
}

static void add_and_compare_and_set_obey_the_expected_generation(void)
{
    /* ABSENT adds only once; a number stores only while it is current; the loser learns the current one. */
    struct ss_region *r = new_region(MIB, 0, 0);
    struct ss_value v = int_value(1), w = text_value("w", 1);
    uint64_t first, second, g;

    CHECK_OK(ss_put(r, "k", 1, &v, 0, SS_ABSENT, &first, SS_TRY));
    CHECK_EQ(ss_put(r, "k", 1, &v, 0, SS_ABSENT, &g, SS_TRY), SS_MISMATCH);
    CHECK_EQ(g, first);
    CHECK_OK(ss_put(r, "k", 1, &w, 0, first, &second, SS_TRY));
    CHECK_EQ(ss_put(r, "k", 1, &v, 0, first, &g, SS_TRY), SS_MISMATCH);
    CHECK_EQ(g, second);
    CHECK_EQ(ss_put(r, "none", 4, &v, 0, first, &g, SS_TRY), SS_MISMATCH);
    CHECK_EQ(g, SS_ABSENT);
    CHECK_EQ(ss_delete(r, "k", 1, first, NULL, 0, NULL, SS_TRY), SS_MISMATCH);
    CHECK_OK(ss_delete(r, "k", 1, second, NULL, 0, NULL, SS_TRY));
    ss_close(r);
}

static void delete_hands_out_the_old_value_or_keeps_it(void)
{
    /* pop: the value comes with the deletion; too small a buffer deletes nothing. */
    struct ss_region *r = new_region(MIB, 0, 0);
    struct ss_value v = text_value("payload", 7);
    struct ss_entry e = {0};
    char buffer[7];
    uint64_t g;

    CHECK_OK(ss_put(r, "k", 1, &v, 0, SS_ANY, &g, SS_TRY));
    CHECK_EQ(ss_delete(r, "k", 1, SS_ANY, buffer, 3, &e, SS_TRY), SS_TOOSMALL);
    CHECK_EQ(e.value.length, 7);
    CHECK_OK(ss_delete(r, "k", 1, SS_ANY, buffer, 7, &e, SS_TRY));
    CHECK(memcmp(buffer, "payload", 7) == 0);
    CHECK_EQ(e.generation, g);
    CHECK_EQ(ss_delete(r, "k", 1, SS_ANY, NULL, 0, NULL, SS_TRY), SS_MISSING);
    ss_close(r);
}

static void increment_keeps_to_64_bits(void)
{
    /* [-2**63, 2**64-1] exactly; beyond is OVERFLOW and changes nothing; floats make floats. */
    struct ss_region *r = new_region(MIB, 0, 0);
    struct ss_value one = int_value(1), minus = int_value(-1), zero = int_value(0), half = float_value(0.5);
    struct ss_value top = {.type = SS_UINT, .number.u = UINT64_MAX}, bottom = int_value(INT64_MIN), text = text_value("1", 1);
    struct ss_entry e = {0};
    uint64_t g;

    CHECK_OK(ss_increment(r, "k", 1, &one, &zero, 0, &e, SS_TRY));
    CHECK_EQ(e.value.number.i, 1);
    CHECK_OK(ss_put(r, "k", 1, &(struct ss_value){.type = SS_INT, .number.i = INT64_MAX}, 0, SS_ANY, &g, SS_TRY));
    CHECK_OK(ss_increment(r, "k", 1, &one, &zero, 0, &e, SS_TRY));
    CHECK(e.value.type == SS_UINT && e.value.number.u == (uint64_t)INT64_MAX + 1);
    CHECK_OK(ss_increment(r, "k", 1, &minus, &zero, 0, &e, SS_TRY));
    CHECK(e.value.type == SS_INT && e.value.number.i == INT64_MAX);
    CHECK_OK(ss_put(r, "k", 1, &top, 0, SS_ANY, &g, SS_TRY));
    CHECK_EQ(ss_increment(r, "k", 1, &one, &zero, 0, &e, SS_TRY), SS_OVERFLOW);
    CHECK_OK(ss_put(r, "k", 1, &bottom, 0, SS_ANY, &g, SS_TRY));
    CHECK_EQ(ss_increment(r, "k", 1, &minus, &zero, 0, &e, SS_TRY), SS_OVERFLOW);
    CHECK_EQ(generation_of(r, "k"), g);
    CHECK_OK(ss_increment(r, "f", 1, &half, &one, 0, &e, SS_TRY));
    CHECK(e.value.type == SS_FLOAT && fabs(e.value.number.f - 1.5) < 1e-9);
    CHECK_OK(ss_put(r, "t", 1, &text, 0, SS_ANY, &g, SS_TRY));
    CHECK_EQ(ss_increment(r, "t", 1, &one, &zero, 0, &e, SS_TRY), SS_TYPE);
    ss_close(r);
}

static void an_expired_entry_is_absent_to_every_verb(void)
{
    /* get, add, compare-and-set, increment, touch, delete, count, keys, commit. */
    struct ss_region *r = new_region(MIB, 1, 0);
    struct ss_value v = int_value(5), one = int_value(1), zero = int_value(0);
    struct ss_entry e = {0};
    uint64_t g, old, n;
    size_t used, culprit;
    const uint64_t past = 1;

    CHECK_OK(ss_put(r, "k", 1, &v, past, SS_ANY, &old, SS_TRY));
    CHECK_EQ(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY), SS_MISSING);
    CHECK_EQ(ss_touch(r, "k", 1, 0, SS_TRY), SS_MISSING);
    CHECK_OK(ss_keys(r, 0, "", 0, NULL, 0, &used, &n, SS_TRY));
    CHECK_EQ(n, 0);
    CHECK_EQ(ss_put(r, "k", 1, &v, 0, old, &g, SS_TRY), SS_MISMATCH);
    CHECK_EQ(g, SS_ABSENT);
    CHECK_OK(ss_put(r, "k", 1, &v, past, SS_ABSENT, &g, SS_TRY));
    CHECK(g > old);
    struct ss_op check = {.kind = SS_OP_CHECK, .key = "k", .key_length = 1, .expected = SS_ABSENT};
    CHECK_OK(ss_commit(r, &check, 1, &culprit, SS_TRY));
    CHECK_OK(ss_increment(r, "k", 1, &one, &zero, past, &e, SS_TRY));
    CHECK_EQ(e.value.number.i, 1);
    CHECK_EQ(e.expires_ns, past);
    CHECK_EQ(ss_delete(r, "k", 1, SS_ANY, NULL, 0, NULL, SS_TRY), SS_MISSING);
    CHECK_OK(ss_put(r, "k", 1, &v, past, SS_ANY, &g, SS_TRY));
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(n, 0);
    must_be_whole(r, true);
    ss_close(r);
}

static void touch_changes_the_expiry_and_not_the_generation(void)
{
    /* In both directions; increment of a live entry leaves its expiry alone. */
    struct ss_region *r = new_region(MIB, 0, 0);
    struct ss_value one = int_value(1), zero = int_value(0);
    struct ss_entry e = {0};
    uint64_t later = ss_boottime_ns() + UINT64_C(3600000000000), g;

    CHECK_OK(put_int(r, "k", 1));
    g = generation_of(r, "k");
    CHECK_OK(ss_touch(r, "k", 1, later, SS_TRY));
    CHECK_OK(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY));
    CHECK_EQ(e.expires_ns, later);
    CHECK_EQ(e.generation, g);
    CHECK_OK(ss_increment(r, "k", 1, &one, &zero, 77, &e, SS_TRY));
    CHECK_EQ(e.expires_ns, later);
    CHECK_OK(ss_put(r, "k", 1, &one, SS_KEEP, e.generation, &g, SS_TRY));
    CHECK_EQ(ss_put(r, "k", 1, &one, SS_KEEP, SS_ANY, &g, SS_TRY), SS_INVALID); /* of what nobody has seen */
    CHECK_EQ(ss_put(r, "k", 1, &one, SS_KEEP, SS_ABSENT, &g, SS_TRY), SS_INVALID);
    CHECK_OK(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY));
    CHECK_EQ(e.expires_ns, later);
    CHECK_OK(put_int(r, "k", 2)); /* a set without expiry drops the old one */
    CHECK_OK(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY));
    CHECK_EQ(e.expires_ns, 0);
    must_be_whole(r, true);
    ss_close(r);
}

static void keys_lists_each_live_key_once(void)
{
    /* With and without a prefix; too small a buffer tells the size that suffices. */
    struct ss_region *r = new_region(4 * MIB, 4, 0);
    enum { N = 3000 };
    static unsigned char seen[N];
    static char buffer[N * 16];
    char key[24];
    size_t used;
    uint64_t n, total = 0;

    memset(seen, 0, sizeof seen);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "%s%d", i % 2 ? "odd:" : "even:", i);
        CHECK_OK(put_int(r, key, i));
    }
    for (uint32_t s = 0; s < 4; s++) {
        CHECK_EQ(ss_keys(r, s, "odd:", 4, NULL, 0, &used, &n, SS_TRY), SS_TOOSMALL);
        CHECK_OK(ss_keys(r, s, "odd:", 4, buffer, used, &used, &n, SS_TRY));
        total += n;
        for (char *p = buffer; p < buffer + used;) {
            uint16_t length;
            memcpy(&length, p, 2);
            CHECK(memcmp(p + 2, "odd:", 4) == 0);
            snprintf(key, sizeof key, "%.*s", length - 4, p + 6);
            CHECK(!seen[atoi(key)]);
            seen[atoi(key)] = 1;
            p += 2 + length;
        }
    }
    CHECK_EQ(total, N / 2);
    for (uint32_t s = 0; s < 4; s++)
        CHECK_OK(ss_clear(r, s, "odd:", 4, &n, SS_TRY));
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(n, N / 2);
    must_be_whole(r, true);
    ss_close(r);
}

static void a_commit_is_all_or_nothing(void)
{
    /* One failed expectation stops all; its index is told; success gives every PUT a new generation. */
    struct ss_region *r = new_region(MIB, 4, 0);
    enum { N = 100 };
    static char keys[N][16];
    struct ss_op ops[N];
    size_t culprit = 999;
    uint64_t n;

    memset(ops, 0, sizeof ops);
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        ops[i] = (struct ss_op){.kind = SS_OP_PUT, .key = keys[i], .key_length = (uint32_t)strlen(keys[i]), .expected = SS_ABSENT,
                                .value = int_value(i)};
    }
    CHECK_OK(put_int(r, "k57", -1));
    CHECK_EQ(ss_commit(r, ops, N, &culprit, SS_TRY), SS_MISMATCH);
    CHECK_EQ(culprit, 57);
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(n, 1);
    ops[57].expected = ops[57].generation;
    CHECK_OK(ss_commit(r, ops, N, &culprit, SS_TRY));
    for (int i = 0; i < N; i++)
        CHECK_EQ(get_int(r, keys[i]), i);
    for (int i = 0; i < N; i++) {
        ops[i].kind = i % 2 ? SS_OP_DELETE : SS_OP_CHECK;
        ops[i].expected = ops[i].generation;
    }
    CHECK_OK(ss_commit(r, ops, N, &culprit, SS_TRY));
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(n, N / 2);
    ops[1].key = ops[3].key;
    ops[1].key_length = ops[3].key_length;
    CHECK_EQ(ss_commit(r, ops, N, &culprit, SS_TRY), SS_INVALID);
    must_be_whole(r, true);
    ss_close(r);
}

static void a_commit_of_4096_keys_grows_the_tables_first(void)
{
    /* The largest commit, into tables far too small for it. */
    struct ss_region *r = new_region(4 * MIB, 1, 0);
    static char keys[SS_TXN_MAX + 1][16];
    static struct ss_op ops[SS_TXN_MAX + 1];
    size_t culprit;
    uint64_t n;

    for (int i = 0; i <= SS_TXN_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        ops[i] = (struct ss_op){.kind = SS_OP_PUT, .key = keys[i], .key_length = (uint32_t)strlen(keys[i]), .expected = SS_ABSENT,
                                .value = int_value(i)};
    }
    CHECK_EQ(ss_commit(r, ops, SS_TXN_MAX + 1, &culprit, SS_TRY), SS_INVALID);
    CHECK_OK(ss_commit(r, ops, SS_TXN_MAX, &culprit, SS_TRY));
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(n, SS_TXN_MAX);
    must_be_whole(r, true);
    ss_close(r);
}

static void values_of_any_size_come_back(void)
{
    /* Around every class and page boundary, and up to most of the region. */
    struct ss_region *r = new_region(2 * MIB, 4, 0);
    static unsigned char in[2 * MIB], out[2 * MIB];
    struct ss_entry e = {0};
    struct ss_info info;
    uint64_t g, seed = 7;

    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)next_random(&seed);
    for (size_t n = 1; n < MIB * 2 / 3; n = n < 5000 ? n + 13 : n * 3 / 2) {
        struct ss_value v = text_value(in, n);
        CHECK_OK(ss_put(r, "k", 1, &v, 0, SS_ANY, &g, SS_TRY));
        CHECK_OK(ss_get(r, "k", 1, out, sizeof out, &e, SS_TRY));
        CHECK_EQ(e.value.length, n);
        CHECK(memcmp(in, out, n) == 0);
    }
    ss_get_info(r, &info);
    struct ss_value whole = text_value(in, info.max_value);
    struct ss_value more = text_value(in, info.size);
    CHECK_OK(del(r, "k"));
    CHECK_OK(ss_put(r, "k", 1, &whole, 0, SS_ANY, &g, SS_TRY));
    CHECK_EQ(ss_put(r, "l", 1, &whole, 0, SS_ANY, &g, SS_TRY), SS_NOSPC);
    CHECK_EQ(ss_put(r, "l", 1, &more, 0, SS_ANY, &g, SS_TRY), SS_TOOBIG);
    must_be_whole(r, true);
    ss_close(r);
}

static void a_full_region_refuses_and_loses_nothing(void)
{
    /* NOSPC at the brink; all entries stay readable; space freed in one class serves another. */
    struct ss_region *r = new_region(MIB, 4, 0);
    char key[24], payload[200] = {0}, out[200];
    struct ss_value v = text_value(payload, sizeof payload), big = text_value(payload, 90);
    struct ss_entry e = {0};
    uint64_t g;
    int n = 0, rc;

    for (;; n++) {
        snprintf(key, sizeof key, "k%d", n);
        memcpy(payload, &n, sizeof n);
        if ((rc = ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY)) != SS_OK)
            break;
    }
    CHECK_EQ(rc, SS_NOSPC);
    CHECK(n > MIB / 300);
    for (int i = 0; i < n; i++) {
        int back;
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_get(r, key, strlen(key), out, sizeof out, &e, SS_TRY));
        memcpy(&back, out, sizeof back);
        CHECK_EQ(back, i);
    }
    must_be_whole(r, false);
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(del(r, key));
    }
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_put(r, key, strlen(key), &big, 0, SS_ANY, &g, SS_TRY));
    }
    must_be_whole(r, true);
    ss_close(r);
}

static void what_other_stripes_have_freed_serves_a_large_value(void)
{
    /* A run of three pages for a key of one stripe, where only the three others had anything to give back. */
    struct ss_region *r = new_region(MIB, 4, 0);
    static unsigned char payload[9000];
    struct ss_value small = text_value(payload, 200), large = text_value(payload, sizeof payload);
    uint64_t g, own = 0, n;
    size_t used;
    char key[24], buffer[16];

    CHECK_OK(put_int(r, "large", 0));
    for (int i = 0, rc = SS_OK; rc == SS_OK; i++) {
        snprintf(key, sizeof key, "k%d", i);
        rc = ss_put(r, key, strlen(key), &small, 0, SS_ANY, &g, SS_TRY);
    }
    for (uint32_t s = 0; s < 4; s++) {
        CHECK_OK(ss_keys(r, s, "large", 5, buffer, sizeof buffer, &used, &n, SS_TRY));
        if (n == 0)
            CHECK_OK(ss_clear(r, s, "k", 1, &n, SS_TRY));
        else
            own++;
    }
    CHECK_EQ(own, 1);
    CHECK_OK(ss_put(r, "large", 5, &large, 0, SS_ANY, &g, SS_TRY));
    must_be_whole(r, true);
    ss_close(r);
}

static void a_small_region_holds_values_of_many_sizes(void)
{
    /* Of 16 to 4,000 bytes, the shorter the more often: more than half of 1 MiB and two thirds of 8 MiB before the first NOSPC. */
    static unsigned char payload[4000];
    for (uint64_t size = 1; size <= 8; size += 7) {
        struct ss_region *r = new_region(size * MIB, 0, 0);
        uint64_t g, seed = size, bytes = 0;
        char key[24];
        for (int i = 0, rc = SS_OK; rc == SS_OK; i++) {
            uint64_t draw = next_random(&seed), most = UINT64_C(16) << draw % 8;
            struct ss_value v = text_value(payload, most + (draw >> 8) % (most == 2048 ? 1952 : most));
            snprintf(key, sizeof key, "k%d", i);
            rc = ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY);
            CHECK(rc == SS_OK || rc == SS_NOSPC);
            bytes += rc == SS_OK ? strlen(key) + v.length : 0;
        }
        CHECK(bytes > size * MIB * (size == 1 ? 50 : 66) / 100);
        must_be_whole(r, true);
        ss_close(r);
    }
}

static void a_region_begins_small_with_as_many_stripes_as_befit_its_size(void)
{
    /* Two per MiB, four from 64 MiB on, one if it evicts; a new region takes 128 KiB and 12 KiB per MiB at the most. */
    const struct { uint64_t mib; uint32_t flags, nstripes; } cases[] = {
        {1, 0, 4}, {4, 0, 8}, {8, 0, 16}, {63, 0, 64}, {64, 0, 256}, {128, 0, 512}, {256, 0, 1024}, {1024, 0, 1024},
        {1, SS_EVICT, 4}, {8, SS_EVICT, 8}, {64, SS_EVICT, 64}, {1024, SS_EVICT, 64},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ss_region *r = new_region(cases[i].mib * MIB, 0, cases[i].flags);
        struct ss_stats stats;
        struct ss_info info;
        ss_get_info(r, &info);
        CHECK_EQ(info.nstripes, cases[i].nstripes);
        CHECK_OK(ss_stats(r, &stats, SS_TRY));
        CHECK(stats.committed_bytes < (128 + 12 * cases[i].mib) * KIB);
        ss_close(r);
    }
}

static void eviction_makes_room_for_values_of_any_size(void)
{
    /* Twenty times the region's size goes in without NOSPC; every entry not evicted is there; evictions are counted. */
    struct ss_region *r = new_region(MIB, 4, SS_EVICT);
    static unsigned char payload[60 * KIB];
    struct ss_stats stats;
    uint64_t g, seed = 1, n;
    char key[24];

    for (int i = 0; i < 20000; i++) {
        uint64_t draw = next_random(&seed);
        struct ss_value v = text_value(payload, draw % 100 == 0 ? draw % sizeof payload : draw % 1500);
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY));
    }
    CHECK_OK(ss_stats(r, &stats, SS_TRY));
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK_EQ(stats.evictions + n, 20000);
    CHECK(n > 400);
    must_be_whole(r, true);
    ss_close(r);
}

static void eviction_spares_what_is_used(void)
{
    /* Of 50 keys read all the time fewer than a quarter of what chance would take are evicted. */
    struct ss_region *r = new_region(MIB, 4, SS_EVICT);
    enum { HOT = 50, ROUNDS = 30000 };
    static unsigned char payload[200];
    struct ss_value v = text_value(payload, sizeof payload);
    struct ss_entry e = {0};
    uint64_t g, n;
    char key[24];
    int lost = 0;

    for (int i = 0; i < ROUNDS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY));
        snprintf(key, sizeof key, "hot%d", i % HOT);
        if (ss_get(r, key, strlen(key), payload, sizeof payload, &e, SS_TRY) != SS_OK) {
            CHECK_OK(ss_put(r, key, strlen(key), &v, 0, SS_ANY, &g, SS_TRY));
            lost += i >= HOT;
        }
    }
    CHECK_OK(ss_count(r, &n, SS_TRY));
    CHECK(lost < HOT * ROUNDS / (int)n / 4);
    must_be_whole(r, true);
    ss_close(r);
}

static void the_hash_spreads_and_depends_on_the_seed(void)
{
    /* 512 stripes filled by 512,000 similar keys stay within 20 % of even; another seed gives another hash. */
    static int count[512];
    char key[32];
    for (int i = 0; i < 512000; i++) {
        int n = snprintf(key, sizeof key, "user:%d", i);
        count[ss_hash(key, (size_t)n, 1) % 512]++;
    }
    for (int i = 0; i < 512; i++)
        CHECK(count[i] > 800 && count[i] < 1200);
    CHECK(ss_hash("a", 1, 1) != ss_hash("a", 1, 2));
    CHECK(ss_hash("a", 1, 1) != ss_hash("a\0", 2, 1));
}

static void a_wait_ends_with_the_change_it_waits_for(void)
{
    /* Every kind of visible write changes the token; nothing else does; an idle wait times out. */
    struct ss_region *r = new_region(MIB, 4, 0);
    struct ss_entry e = {0};
    uint64_t token = ss_change_token(r);

    CHECK_EQ(ss_wait(r, token, 1000000), SS_TIMEOUT);
    CHECK_OK(put_int(r, "k", 1));
    CHECK_OK(ss_wait(r, token, 1000000));
    token = ss_change_token(r);
    CHECK_OK(ss_get(r, "k", 1, NULL, 0, &e, SS_TRY));
    CHECK_EQ(ss_change_token(r), token);
    CHECK_OK(put_int(r, "k", 2));
    CHECK(ss_change_token(r) != token);
    token = ss_change_token(r);
    CHECK_OK(ss_touch(r, "k", 1, 0, SS_TRY));
    CHECK(ss_change_token(r) != token);
    token = ss_change_token(r);
    CHECK_OK(del(r, "k"));
    CHECK(ss_change_token(r) != token);
    ss_close(r);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(every_type_comes_back_as_itself),
        TEST(keys_outside_1_to_512_bytes_are_refused),
        TEST(generations_only_grow),
        TEST(add_and_compare_and_set_obey_the_expected_generation),
        TEST(delete_hands_out_the_old_value_or_keeps_it),
        TEST(increment_keeps_to_64_bits),
        TEST(an_expired_entry_is_absent_to_every_verb),
        TEST(touch_changes_the_expiry_and_not_the_generation),
        TEST(keys_lists_each_live_key_once),
        TEST(a_commit_is_all_or_nothing),
        TEST(a_commit_of_4096_keys_grows_the_tables_first),
        TEST(values_of_any_size_come_back),
        TEST(a_full_region_refuses_and_loses_nothing),
        TEST(what_other_stripes_have_freed_serves_a_large_value),
        TEST(a_small_region_holds_values_of_many_sizes),
        TEST(a_region_begins_small_with_as_many_stripes_as_befit_its_size),
        TEST(eviction_makes_room_for_values_of_any_size),
        TEST(eviction_spares_what_is_used),
        TEST(the_hash_spreads_and_depends_on_the_seed),
        TEST(a_wait_ends_with_the_change_it_waits_for),
    };
    return run_tests("table", tests, sizeof tests / sizeof *tests, argc, argv);
}
