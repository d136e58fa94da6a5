/* test_hostile.c - random bytes in a region end in an error code, never in a crash or a hang.
 *
 * The linker wraps mmap(): every shared mapping lies between inaccessible
 * pages, so that a read beyond it is a crash and not a neighbour's bytes.  Each
 * round works in a child with an alarm, on a region freshly made and then
 * damaged behind its handle's back.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "room.h"

void *__real_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset);

enum { GUARD = 1 << 20, ENTRIES = 400 };

void *__wrap_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (at != NULL || (flags & MAP_SHARED) == 0)
        return __real_mmap(at, length, protection, flags, fd, offset);
    unsigned char *all = __real_mmap(NULL, length + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return all;
    return __real_mmap(all + GUARD, length, protection, flags | MAP_FIXED, fd, offset);
}

static struct ss_region *filled_region(uint64_t seed, uint32_t flags)
{
    static char payload[7000];
    struct ss_region *r = new_region(MIB, 4, flags);
    uint64_t g;
    char key[16];

    for (int i = 0; i < ENTRIES; i++) {
        uint64_t draw = next_random(&seed);
        struct ss_value v = draw % 3 == 0 ? int_value(i) : text_value(payload, draw % 40 == 1 ? draw % sizeof payload : draw % 300);
        snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(ss_put(r, key, strlen(key), &v, draw % 5 == 0 ? 1 : 0, SS_ANY, &g, SS_TRY));
        if (draw % 7 == 0)
            CHECK(del(r, key) <= SS_MISSING);
    }
    return r;
}

enum target { TABLES_AND_HEAP, PAGE_WORDS, STRIPES, REDO_AND_ODD, ANYWHERE, TARGETS };

static ss_word *table_of(const struct ss_region *r, uint32_t stripe)
{
    uint64_t word = ss_load(&r->stripes[stripe].table);
    return ss_table_area(r, stripe, word >> 1, word & 1);
}

static void damage(struct ss_region *r, enum target target, uint64_t *seed)
{
    uint64_t committed = ss_load(&r->header->heap_committed);

    for (int i = 0; i < 30; i++) {
        uint64_t draw = next_random(seed), bits = next_random(seed), offset;
        switch (target) {
        case TABLES_AND_HEAP:
            offset = draw % 2 ? r->at.heap + draw % committed
                              : (uint64_t)((unsigned char *)table_of(r, draw % 4) - r->base) + (draw >> 8) % 1024;
            break;
        case PAGE_WORDS:
            offset = r->at.pages + draw % ((committed >> SS_PAGE_SHIFT) * 8);
            break;
        case STRIPES: /* all of a stripe but its mutex, or its pool */
            offset = bits >> 60 ? (uint64_t)((unsigned char *)&r->pools[draw % 4] - r->base) + (draw >> 8) % sizeof(struct ss_pool)
                                : (uint64_t)((unsigned char *)&r->stripes[draw % 4].version - r->base) +
                                      (draw >> 8) % (sizeof(struct ss_stripe) - offsetof(struct ss_stripe, version));
            break;
        case REDO_AND_ODD:
            offset = draw % 2 ? r->at.redo + draw % 512 : (uint64_t)((unsigned char *)&r->header->txn_state - r->base) + draw % 80;
            ss_store(&r->stripes[draw % 4].version, 1);
            ss_store(&r->stripes[draw % 4].redo_kind, draw % 3);
            ss_store(&r->stripes[draw % 4].redo_block, bits % r->at.total);
            break;
        default: /* the mutexes too; their links are a peer's to corrupt only while held */
            offset = offsetof(struct ss_header, unlinked) + draw % (r->at.total - offsetof(struct ss_header, unlinked));
            if (draw % 4 == 0)
                offset = (uint64_t)((unsigned char *)&r->stripes[draw % 4].mutex - r->base) + (draw >> 8) % 24;
        }
        offset &= ~(uint64_t)7;
        uint64_t *word = (uint64_t *)(r->base + offset);
        switch (bits % 4) {
        case 0: *word = bits >> 2; break;
        case 1: *word ^= UINT64_C(1) << (bits >> 2) % 64; break;
        case 2: *word = r->at.heap + (bits >> 2) % committed; break;
        default: *word = bits % 8 == 3 ? UINT64_MAX : 0;
        }
    }
}

/* Every verb, on every key; any result will do. */
static void use_everything(struct ss_region *r, uint64_t seed)
{
    static char buffer[9000];
    struct ss_value one = int_value(1), text = text_value(buffer, 200);
    struct ss_report report;
    struct ss_stats stats;
    struct ss_entry e = {0};
    uint64_t g, n;
    size_t used, culprit;
    char key[16], other[16];

    ss_check(r, &report, ss_monotonic_ns() + 1000000);
    for (int i = 0; i < ENTRIES; i++) {
        size_t length = (size_t)snprintf(key, sizeof key, "k%d", i);
        ss_get(r, key, length, buffer, sizeof buffer, &e, SS_TRY);
        switch (next_random(&seed) % 8) {
        case 0: ss_put(r, key, length, &one, 0, SS_ANY, &g, SS_TRY); break;
        case 1: ss_put(r, key, length, &text, 0, SS_ANY, &g, SS_TRY); break;
        case 2: ss_delete(r, key, length, SS_ANY, buffer, sizeof buffer, &e, SS_TRY); break;
        case 3: ss_increment(r, key, length, &one, &one, 0, &e, SS_TRY); break;
        case 4: ss_touch(r, key, length, next_random(&seed), SS_TRY); break;
        case 5: {
            size_t n2 = (size_t)snprintf(other, sizeof other, "n%d", i);
            struct ss_op ops[2] = {{.kind = SS_OP_PUT, .key = key, .key_length = (uint32_t)length, .expected = SS_ANY, .value = text},
                                   {.kind = SS_OP_PUT, .key = other, .key_length = (uint32_t)n2, .expected = SS_ANY, .value = one}};
            ss_commit(r, ops, 2, &culprit, SS_TRY);
            break;
        }
        default: break;
        }
    }
    for (uint32_t s = 0; s < 4; s++) {
        ss_keys(r, s, "k", 1, buffer, sizeof buffer, &used, &n, SS_TRY);
        ss_purge(r, s, &n, SS_TRY);
        ss_sweep(r, s, SS_TRY);
        ss_clear(r, s, "k1", 2, &n, SS_TRY);
    }
    ss_count(r, &n, SS_TRY);
    ss_stats(r, &stats, SS_TRY);
    ss_check(r, &report, SS_TRY);
}

static void damage_and_use(enum target target, long rounds)
{
    uint64_t seed = 1000 + (uint64_t)target;

    if (from_environment("QUICK", 0))
        rounds /= 5;
    for (long i = 0; i < rounds; i++) {
        int status;
        uint64_t round_seed = next_random(&seed);
        pid_t pid = fork();
        if (pid == 0) {
            struct ss_region *r = filled_region(round_seed, i % 2 ? SS_EVICT : 0);
            damage(r, target, &round_seed);
            alarm(20);
            use_everything(r, round_seed);
            _exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_at(__FILE__, __LINE__, "round %ld of target %d: status %#x", i, target, status);
    }
}

static void hostile_entries_are_no_danger(void)
{
    /* Slots and blocks: 1,500 rounds of 30 damaged words, every verb on every key. */
    damage_and_use(TABLES_AND_HEAP, 1500);
}

static void hostile_page_words_are_no_danger(void)
{
    /* The same for the page table. */
    damage_and_use(PAGE_WORDS, 1500);
}

static void hostile_stripes_are_no_danger(void)
{
    /* The same for versions, table words, counters, free lists. */
    damage_and_use(STRIPES, 1500);
}

static void hostile_redo_records_are_no_danger(void)
{
    /* Odd versions with any record: replayed if sound, refused if not. */
    damage_and_use(REDO_AND_ODD, 1500);
}

static void hostile_bytes_anywhere_are_no_danger(void)
{
    /* Header words and mutexes included. */
    damage_and_use(ANYWHERE, 1500);
}

static void a_heap_that_shrinks_under_an_eviction_is_no_danger(void)
{
    /* A peer makes the heap empty after this stripe was locked, and before the others are. */
    struct ss_region *r = filled_region(2, SS_EVICT);
    struct ss_held h;

    CHECK_OK(ss_lock(r, 0, SS_TRY, &h));
    struct ss_room room = {.held = &h, .count = 1, .stage = 4}; /* STAGE_EVICT_WINDOWS */
    ss_store(&r->header->heap_committed, 0);
    while (ss_room_make(&room, &h, 200000) == SS_OK)
        continue; /* whatever it says it has gained, it ends */
    ss_unlock(&h);
    ss_close(r);
}

static void check_names_the_damage(void)
{
    /* One flipped bit in a key is found by ss_check(), and told by its invariant and offset. */
    struct ss_region *r = filled_region(1, 0);
    struct ss_report report;

    for (uint64_t i = 0;; i++) {
        uint64_t slot = ss_load(&table_of(r, 0)[i]);
        if (!ss_slot_is_entry(slot))
            continue;
        ss_word *word = ss_block_at(r, ss_slot_block(slot))->key;
        ss_store(word, ss_load(word) ^ 1);
        break;
    }
    CHECK_EQ(ss_check(r, &report, SS_TRY), SS_CORRUPT);
    CHECK(strncmp(report.message, "T1: block at 0x", 15) == 0);
    ss_close(r);
}

int main(int argc, char **argv)
{
    const struct test tests[] = {
        TEST(hostile_entries_are_no_danger),
        TEST(hostile_page_words_are_no_danger),
        TEST(hostile_stripes_are_no_danger),
        TEST(hostile_redo_records_are_no_danger),
        TEST(hostile_bytes_anywhere_are_no_danger),
        TEST(a_heap_that_shrinks_under_an_eviction_is_no_danger),
        TEST(check_names_the_damage),
    };
    return run_tests("hostile", tests, sizeof tests / sizeof *tests, argc, argv);
}
