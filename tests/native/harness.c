/* harness.c - see harness.h. */
#define _GNU_SOURCE
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

static jmp_buf on_failure;
static pid_t main_process;
int test_dir = -1;
uint64_t wait_long;

void fail_at(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("    %s:%d: ", file, line);
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
    if (getpid() != main_process)
        _exit(99); /* the parent sees it in the status */
    longjmp(on_failure, 1);
}

static void make_dir(char *path)
{
    strcpy(path, "/dev/shm/ss-native-XXXXXX");
    if (mkdtemp(path) == NULL || (test_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        perror(path);
        exit(2);
    }
}

static void remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            if (unlinkat(test_dir, e->d_name, 0) != 0)
                unlinkat(test_dir, e->d_name, AT_REMOVEDIR);
    if (dir != NULL)
        closedir(dir);
    close(test_dir);
    rmdir(path);
}

int run_tests(const char *suite, const struct test *tests, size_t count, int argc, char **argv)
{
    static volatile int passed, failed;
    char path[64];

    main_process = getpid();
    for (volatile size_t i = 0; i < count; i++) {
        if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL)
            continue;
        make_dir(path);
        uint64_t began = ss_monotonic_ns();
        wait_long = began + UINT64_C(1800000000000);
        if (setjmp(on_failure) == 0) {
            tests[i].run();
            passed = passed + 1;
        } else {
            printf("  FAILED %s\n", tests[i].name);
            failed = failed + 1;
        }
        if (from_environment("VERBOSE", 0))
            printf("  %6.2f s %s\n", (double)(ss_monotonic_ns() - began) / 1e9, tests[i].name);
        fflush(stdout);
        remove_dir(path);
    }
    printf("%s: %d passed, %d failed\n", suite, passed, failed);
    return failed != 0;
}

struct ss_region *new_region(uint64_t size, uint32_t nstripes, uint32_t flags)
{
    static int serial;
    char name[32];
    struct ss_region *r;
    struct ss_options o = {.size = size, .nstripes = nstripes, .mode = 0600, .flags = flags | SS_CREATE};
    snprintf(name, sizeof name, "region-%d", serial++);
    CHECK_OK(ss_open(test_dir, name, &o, &r));
    unlinkat(test_dir, name, 0); /* behind its back: nobody else needs the name */
    return r;
}

struct ss_value int_value(int64_t i)
{
    return (struct ss_value){.type = SS_INT, .number.i = i};
}

struct ss_value float_value(double f)
{
    return (struct ss_value){.type = SS_FLOAT, .number.f = f};
}

struct ss_value text_value(const void *bytes, size_t length)
{
    return (struct ss_value){.type = SS_STR, .length = (uint32_t)length, .payload = bytes};
}

int put_int(struct ss_region *r, const char *key, int64_t i)
{
    struct ss_value v = int_value(i);
    uint64_t generation;
    return ss_put(r, key, strlen(key), &v, 0, SS_ANY, &generation, WAIT_LONG);
}

int64_t get_int(struct ss_region *r, const char *key)
{
    struct ss_entry e;
    CHECK_OK(ss_get(r, key, strlen(key), NULL, 0, &e, WAIT_LONG));
    CHECK_EQ(e.value.type, SS_INT);
    return e.value.number.i;
}

int del(struct ss_region *r, const char *key)
{
    return ss_delete(r, key, strlen(key), SS_ANY, NULL, 0, NULL, WAIT_LONG);
}

void must_be_whole(struct ss_region *r, bool after_sweep)
{
    struct ss_info info;
    struct ss_report report;

    ss_get_info(r, &info);
    for (uint32_t s = 0; after_sweep && s < info.nstripes; s++)
        CHECK_OK(ss_sweep(r, s, WAIT_LONG));
    int rc = ss_check(r, &report, WAIT_LONG);
    if (rc != SS_OK)
        fail_at(__FILE__, __LINE__, "check: %s: %s", ss_strerror(rc), report.message);
    if (after_sweep)
        CHECK_EQ(report.leaked_blocks, 0);
}

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

long from_environment(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtol(text, NULL, 10) : otherwise;
}
