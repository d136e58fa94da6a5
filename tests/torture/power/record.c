/* record.c - a library to preload that writes down what a program asks the disk to do.
 *
 * Every call that changes a file or a name below POWER_ROOT becomes one record in
 * the file POWER_TRACE, in the order in which the calls took effect; so does every
 * change of a shared mapping of such a file, as it is found at the next record.
 * What the program writes to descriptor 1 is recorded as a note, and goes nowhere.
 * `power/trace.py` reads it.
 *
 *     record = kind:u8 first_length:u16 second_length:u16 file:u64 offset:u64 length:u64 first second bytes
 *
 * Thread safety: one mutex covers each call and its record.  Syncs wait outside it,
 * between a record of their beginning and one of their end: what others write
 * meanwhile may, and may not, be covered.
 *
 * A file is known by its inode number.  A number that is used again begins with a
 * CREATE record.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, LINK, MKDIR, RMDIR, STORE, GROW, NOTE };

struct __attribute__((packed)) header {
    uint8_t kind;
    uint16_t first, second;
    uint64_t file, offset, length;
};

#define MAPPINGS 64
#define CHUNK 512

static struct mapping {
    unsigned char *at, *last;
    size_t length;
    uint64_t file, offset;
} mappings[MAPPINGS];

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;
static uint64_t syncs;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static ssize_t real_write(int fd, const void *bytes, size_t length)
{
    static ssize_t (*function)(int, const void *, size_t);
    if (!function)
        function = REAL(write);
    return function(fd, bytes, length);
}

static void put(const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length) {
        ssize_t written = real_write(trace, at, length);
        if (written <= 0)
            abort();
        at += written;
        length -= (size_t)written;
    }
}

static void record_one(enum kind kind, uint64_t file, uint64_t offset, uint64_t length, const char *first, const char *second,
                       const void *bytes, size_t count)
{
    struct header header = {(uint8_t)kind, (uint16_t)strlen(first), (uint16_t)strlen(second), file, offset, length};
    put(&header, sizeof header);
    put(first, header.first);
    put(second, header.second);
    put(bytes, count);
}

/* What was stored into mappings since the last record; needs the mutex. */
static void record_stores(void)
{
    for (struct mapping *map = mappings; map < mappings + MAPPINGS; map++) {
        if (!map->at || memcmp(map->at, map->last, map->length) == 0)
            continue;
        for (size_t start = 0; start < map->length; start += CHUNK) {
            size_t count = map->length - start < CHUNK ? map->length - start : CHUNK;
            if (memcmp(map->at + start, map->last + start, count) == 0)
                continue;
            memcpy(map->last + start, map->at + start, count);
            record_one(STORE, map->file, map->offset + start, count, "", "", map->last + start, count);
        }
    }
}

static void record(enum kind kind, uint64_t file, uint64_t offset, uint64_t length, const char *first, const char *second,
                   const void *bytes, size_t count)
{
    record_stores();
    record_one(kind, file, offset, length, first, second, bytes, count);
}

__attribute__((constructor)) static void begin(void)
{
    const char *wanted = getenv("POWER_ROOT"), *into = getenv("POWER_TRACE");
    struct stat found;
    if (!wanted || !into || !realpath(wanted, root) || stat(root, &found) != 0)
        return;
    root_length = strlen(root);
    trace = REAL(open)(into, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0)
        abort();
    trace = REAL(fcntl)(trace, F_DUPFD_CLOEXEC, 200);
    record(MKDIR, found.st_ino, 0, 0, root, "", NULL, 0);
}

__attribute__((destructor)) static void end(void)
{
    if (trace >= 0)
        record(NOTE, 0, 0, 4, "", "", "end\n", 4);
}

/* --- What is ours to record ------------------------------------------------ */

static int is_below(const char *path)
{
    return trace >= 0 && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

/* Returns the inode of what a descriptor below the root is open on, else 0. */
static uint64_t file_of(int fd)
{
    char path[PATH_MAX];
    struct stat found;
    int error = errno;
    uint64_t file = trace >= 0 && path_of(fd, path) && fstat(fd, &found) == 0 ? found.st_ino : 0;
    errno = error;
    return file;
}

static int absolute(int directory, const char *path, char *whole)
{
    char base[PATH_MAX];
    if (trace < 0)
        return 0;
    if (path[0] == '/')
        base[0] = 0;
    else if (directory == AT_FDCWD) {
        if (!getcwd(base, sizeof base))
            return 0;
    } else {
        path_of(directory, base);
    }
    if (snprintf(whole, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", path) >= PATH_MAX)
        return 0;
    return is_below(whole);
}

/* --- Files ------------------------------------------------------------------- */

static int open_recorded(int directory, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE || !absolute(directory, path, whole))
        return REAL(openat)(directory, path, flags, mode);
    struct stat found;
    pthread_mutex_lock(&mutex);
    int is_there = stat(whole, &found) == 0;
    int fd = REAL(openat)(directory, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fstat(fd, &found) == 0) {
        if (!is_there)
            record(CREATE, found.st_ino, 0, 0, whole, "", NULL, 0);
        else if (flags & O_TRUNC)
            record(TRUNCATE, found.st_ino, 0, 0, "", "", NULL, 0);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

#define MODE_OF(flags, mode)                                                                                                   \
    mode_t mode = 0;                                                                                                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                                     \
        va_list rest;                                                                                                          \
        va_start(rest, flags);                                                                                                 \
        mode = va_arg(rest, mode_t);                                                                                           \
        va_end(rest);                                                                                                          \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_recorded(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_recorded(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_recorded(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_recorded(directory, path, flags | O_LARGEFILE, mode);
}

static ssize_t pwrite_recorded(int fd, const void *bytes, size_t length, off64_t offset)
{
    pthread_mutex_lock(&mutex);
    uint64_t file = file_of(fd);
    ssize_t written = REAL(pwrite64)(fd, bytes, length, offset);
    int error = errno;
    if (file && written > 0)
        record(WRITE, file, (uint64_t)offset, (uint64_t)written, "", "", bytes, (size_t)written);
    pthread_mutex_unlock(&mutex);
    errno = error;
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite_recorded(fd, bytes, length, offset); }

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
    return pwrite_recorded(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    if (trace < 0 || fd == trace)
        return real_write(fd, bytes, length);
    pthread_mutex_lock(&mutex);
    ssize_t written = (ssize_t)length;
    int error = errno;
    if (fd == 1) {
        record(NOTE, 0, 0, length, "", "", bytes, length);
    } else {
        uint64_t file = file_of(fd);
        written = real_write(fd, bytes, length);
        error = errno;
        if (file && written > 0) {
            off_t stop = lseek(fd, 0, SEEK_CUR);
            record(WRITE, file, (uint64_t)(stop - written), (uint64_t)written, "", "", bytes, (size_t)written);
        }
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return written;
}

static int truncate_recorded(int fd, off64_t length)
{
    pthread_mutex_lock(&mutex);
    uint64_t file = file_of(fd);
    record_stores();
    int result = REAL(ftruncate64)(fd, length);
    int error = errno;
    if (file && result == 0)
        record(TRUNCATE, file, 0, (uint64_t)length, "", "", NULL, 0);
    pthread_mutex_unlock(&mutex);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return truncate_recorded(fd, length); }

int ftruncate64(int fd, off64_t length) { return truncate_recorded(fd, length); }

static int allocate_recorded(int fd, off64_t offset, off64_t length)
{
    pthread_mutex_lock(&mutex);
    uint64_t file = file_of(fd);
    int result = REAL(posix_fallocate64)(fd, offset, length);
    if (file && result == 0)
        record(GROW, file, 0, (uint64_t)(offset + length), "", "", NULL, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return allocate_recorded(fd, offset, length); }

int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocate_recorded(fd, offset, length); }

/* --- Syncs --------------------------------------------------------------------- */

static uint64_t begin_sync(uint64_t file)
{
    pthread_mutex_lock(&mutex);
    uint64_t number = ++syncs;
    record(SYNC_BEGIN, file, number, 0, "", "", NULL, 0);
    pthread_mutex_unlock(&mutex);
    return number;
}

static void end_sync(uint64_t file, uint64_t number)
{
    pthread_mutex_lock(&mutex);
    record(SYNC_END, file, number, 0, "", "", NULL, 0);
    pthread_mutex_unlock(&mutex);
}

static int sync_recorded(int fd, int (*call)(int))
{
    uint64_t file = file_of(fd), number = file ? begin_sync(file) : 0;
    int result = call(fd), error = errno;
    if (file && result == 0)
        end_sync(file, number);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_recorded(fd, REAL(fsync)); }

int fdatasync(int fd) { return sync_recorded(fd, REAL(fdatasync)); }

/* --- Mappings -------------------------------------------------------------------- */

static void *map_recorded(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    void *(*call)(void *, size_t, int, int, int, off64_t) = REAL(mmap64);
    if (trace < 0 || fd < 0 || !(flags & MAP_SHARED) || !(protection & PROT_WRITE))
        return call(at, length, protection, flags, fd, offset);
    pthread_mutex_lock(&mutex);
    uint64_t file = file_of(fd);
    void *mapped = call(at, length, protection, flags, fd, offset);
    int error = errno;
    if (file && mapped != MAP_FAILED) {
        struct mapping *map = mappings;
        while (map < mappings + MAPPINGS && map->at)
            map++;
        if (map == mappings + MAPPINGS)
            abort();
        *map = (struct mapping){mapped, malloc(length), length, file, (uint64_t)offset};
        memcpy(map->last, mapped, length);
    }
    pthread_mutex_unlock(&mutex);
    errno = error;
    return mapped;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map_recorded(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return map_recorded(at, length, protection, flags, fd, offset);
}

int munmap(void *at, size_t length)
{
    pthread_mutex_lock(&mutex);
    for (struct mapping *map = mappings; map < mappings + MAPPINGS; map++)
        if (map->at == at) {
            record_stores();
            free(map->last);
            *map = (struct mapping){0};
        }
    int result = REAL(munmap)(at, length);
    pthread_mutex_unlock(&mutex);
    return result;
}

int msync(void *at, size_t length, int flags)
{
    uint64_t file = 0, number = 0;
    pthread_mutex_lock(&mutex);
    for (struct mapping *map = mappings; map < mappings + MAPPINGS; map++)
        if (map->at == at && map->length == length)
            file = map->file;
    pthread_mutex_unlock(&mutex);
    if (file)
        number = begin_sync(file);
    int result = REAL(msync)(at, length, flags), error = errno;
    if (file && result == 0 && (flags & MS_SYNC))
        end_sync(file, number);
    errno = error;
    return result;
}

/* --- Names ------------------------------------------------------------------------- */

#define NAMED(call, kind, number, one, two)                                                                                    \
    pthread_mutex_lock(&mutex);                                                                                                \
    int result = (call), error = errno;                                                                                        \
    if (result == 0)                                                                                                           \
        record(kind, number, 0, 0, one, two, NULL, 0);                                                                         \
    pthread_mutex_unlock(&mutex);                                                                                              \
    errno = error;                                                                                                             \
    return result;

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    char one[PATH_MAX], two[PATH_MAX];
    if (!absolute(from_directory, from, one) || !absolute(to_directory, to, two))
        return REAL(renameat)(from_directory, from, to_directory, to);
    NAMED(REAL(renameat)(from_directory, from, to_directory, to), RENAME, 0, one, two)
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int directory, const char *path, int flags)
{
    char whole[PATH_MAX];
    if (!absolute(directory, path, whole))
        return REAL(unlinkat)(directory, path, flags);
    NAMED(REAL(unlinkat)(directory, path, flags), flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, whole, "")
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags)
{
    char one[PATH_MAX], two[PATH_MAX];
    if (!absolute(from_directory, from, one) || !absolute(to_directory, to, two))
        return REAL(linkat)(from_directory, from, to_directory, to, flags);
    NAMED(REAL(linkat)(from_directory, from, to_directory, to, flags), LINK, 0, one, two)
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int mkdirat(int directory, const char *path, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat found;
    if (!absolute(directory, path, whole))
        return REAL(mkdirat)(directory, path, mode);
    NAMED(REAL(mkdirat)(directory, path, mode), MKDIR, stat(whole, &found) == 0 ? found.st_ino : 0, whole, "")
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
