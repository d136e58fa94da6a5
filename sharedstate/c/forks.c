/* forks.c - what a process must know about its forks, and what they must not carry over.
 *
 * `forks`, below, is process-wide on purpose.  A fork happens to the process and
 * not to an interpreter, and so do file descriptors; the handlers of
 * pthread_atfork() take no argument and run with no interpreter at all.
 *
 * Why pthread_atfork and not os.register_at_fork.  uWSGI forks its workers from
 * C and runs no Python hook; the C library runs its handlers all the same.
 *
 *     parent                                   child
 *     ------                                   -----
 *     fd = open("lock"); close_on_fork(fd)
 *     flock(fd, LOCK_EX)                       (the lock belongs to the open file
 *     fork() ----------------------------->     description, which both now share)
 *       before:  take forks.mutex              in the handler: close(fd), epoch += 1,
 *       after:   free it                       forget all, free the mutex
 *     dies; the kernel closes the last         works on, holding nothing: the lock
 *     descriptor, and the lock is free         is its parent's alone
 *
 * Without the close the child would hold the parent's lock for as long as it
 * lives; were it to unlock instead, it would unlock its parent.  The close runs
 * before any Python code of the child, so a lock object of the child sees a new
 * fork_epoch() and must forget its descriptor, whose number may soon be another
 * file's.
 *
 * What Python closes by itself, as it does a socket that the garbage collector
 * finds in a cycle, cannot be told to forget a number.  blank_on_fork(fd) closes
 * likewise, and has the child keep the number: an unconnected socket stands there
 * until whoever owned it closes it.
 *
 * A fork by another thread may fall between open() and close_on_fork(), and its
 * child then shares the description unregistered.  forks_made() betrays that:
 * read it before the open and after the registration, and if it grew, close
 * (before locking) and open anew.  On the way back, unlock first: between
 * keep_on_fork() and close() a child may inherit too, but nothing is locked.
 *
 * Thread safety: every function may be called by any thread of any interpreter.
 *
 * Invariants, with forks.mutex held:
 *   F1  fds[0..count) are the registered descriptors, each once; one that is to be
 *       blanked stands there as ~fd.
 *   F2  `children` lists what ss_in_child() was given and ss_not_in_child() was not.
 *   F3  The mutex is taken around every fork, so the child finds both whole
 *       and its handler needs no allocation, no wait and no atomics.
 *   F4  Nobody waits for a GIL, or runs Python, while holding the mutex.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CLOSED_ON_FORK 65536

static struct {
    pthread_once_t once;
    int setup_error;
    _Atomic unsigned long long epoch; /* forks between the first process and this one */
    _Atomic unsigned long long made;  /* forks that this process, or a forebear, has begun */
    pthread_mutex_t mutex;
    int *fds;        /* guarded by mutex */
    size_t count;    /* guarded by mutex */
    size_t capacity; /* guarded by mutex */
    struct ss_in_child *children; /* guarded by mutex */
} forks = {.once = PTHREAD_ONCE_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER};

static void before_fork(void)
{
    pthread_mutex_lock(&forks.mutex);
    atomic_fetch_add(&forks.made, 1);
}

static void after_fork_in_parent(void) { pthread_mutex_unlock(&forks.mutex); }

/* Close `fd`, and put a socket in its place that nobody is connected to.  It is
 * closed first so that a full table has room; without memory it stays closed. */
static void blank_fd(int fd)
{
    close(fd);
    int blank = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (blank >= 0 && blank != fd) {
        dup3(blank, fd, O_CLOEXEC);
        close(blank);
    }
}

static void after_fork_in_child(void)
{
    int saved = errno;
    for (size_t i = 0; i < forks.count; i++) {
        if (forks.fds[i] >= 0)
            close(forks.fds[i]);
        else
            blank_fd(~forks.fds[i]);
    }
    forks.count = 0;
    for (struct ss_in_child *each = forks.children; each; each = each->next)
        each->run(each);
    atomic_fetch_add(&forks.epoch, 1);
    pthread_mutex_unlock(&forks.mutex);
    errno = saved;
}

/* Python never unloads an extension module, so the handlers stay valid. */
static void register_handlers(void)
{
    forks.setup_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Register `entry`, which is fd or ~fd, in place of any of the same fd.  Return 0 or an errno. */
static int remember_fd(int entry)
{
    int error = 0;
    pthread_mutex_lock(&forks.mutex);
    size_t i = 0;
    while (i < forks.count && forks.fds[i] != entry && forks.fds[i] != ~entry)
        i++;
    if (i == forks.count && forks.count == forks.capacity) {
        size_t capacity = forks.capacity ? 2 * forks.capacity : 64;
        int *fds = capacity <= MAX_CLOSED_ON_FORK ? realloc(forks.fds, capacity * sizeof *fds) : NULL;
        if (fds) {
            forks.fds = fds;
            forks.capacity = capacity;
        }
        else
            error = capacity <= MAX_CLOSED_ON_FORK ? ENOMEM : EMFILE;
    }
    if (!error) {
        forks.count += i == forks.count;
        forks.fds[i] = entry;
    }
    pthread_mutex_unlock(&forks.mutex);
    return error;
}

static void forget_fd(int fd)
{
    pthread_mutex_lock(&forks.mutex);
    for (size_t i = forks.count; i-- > 0;) { /* the newest is the likeliest */
        if (forks.fds[i] == fd || forks.fds[i] == ~fd) {
            forks.fds[i] = forks.fds[--forks.count];
            break;
        }
    }
    pthread_mutex_unlock(&forks.mutex);
}

void ss_in_child(struct ss_in_child *child)
{
    pthread_mutex_lock(&forks.mutex);
    child->next = forks.children;
    child->link = &forks.children;
    if (child->next)
        child->next->link = &child->next;
    forks.children = child;
    pthread_mutex_unlock(&forks.mutex);
}

void ss_not_in_child(struct ss_in_child *child)
{
    pthread_mutex_lock(&forks.mutex);
    *child->link = child->next;
    if (child->next)
        child->next->link = child->link;
    pthread_mutex_unlock(&forks.mutex);
}

int ss_watch_forks(void)
{
    pthread_once(&forks.once, register_handlers);
    return forks.setup_error;
}

/* --- as Python calls it ------------------------------------------------------------ */

PyObject *native_fork_epoch(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&forks.epoch, memory_order_relaxed));
}

PyObject *native_forks_made(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(atomic_load(&forks.made));
}

int ss_fd_from(PyObject *arg)
{
    int overflow;
    long fd = PyLong_AsLongAndOverflow(arg, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    if (overflow || fd < 0 || fd > INT_MAX) {
        PyErr_SetString(PyExc_ValueError, "not a file descriptor");
        return -1;
    }
    return (int)fd;
}

static PyObject *register_fd(PyObject *arg, bool blank)
{
    int fd = ss_fd_from(arg);
    if (fd < 0)
        return NULL;
    int error = fcntl(fd, F_GETFD) < 0 ? errno : remember_fd(blank ? ~fd : fd);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyObject *native_close_on_fork(PyObject *Py_UNUSED(module), PyObject *arg) { return register_fd(arg, false); }

PyObject *native_blank_on_fork(PyObject *Py_UNUSED(module), PyObject *arg) { return register_fd(arg, true); }

PyObject *native_keep_on_fork(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = ss_fd_from(arg);
    if (fd < 0)
        return NULL;
    forget_fd(fd);
    Py_RETURN_NONE;
}
