/* bell.c - wake those in other processes who wait for a change of a mapped file.
 *
 * A bell is eight bytes of the file, zero at first: whether somebody waits, and
 * how often it was rung, on which the waiters sleep in the kernel.
 *
 *   waiter:  seen = rung;  waiters = 1;  barrier;  is it so?  sleep while rung == seen
 *   ringer:  make it so;   barrier;  waiters?  waiters = 0;  rung += 1;  wake all
 *
 * With a full barrier on either side one of the two sees the other.  Whoever
 * waits looks again by itself after some milliseconds, so nothing rests on a
 * ring: the ringer may die before it, or have no C module.
 *
 * Thread safety: any thread of any interpreter; nothing is held while one sleeps
 * but the buffer, so the mapping stays.
 * Crash: a waiter that dies leaves waiters = 1, which costs the next ring one
 * idle wake-up.
 */
#define _GNU_SOURCE
#include "bell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct bell {
    _Atomic uint32_t waiters;
    _Atomic uint32_t rung; /* futex */
};

static const double sleep_max_s = 3600;

/* The bell in a writable buffer of eight bytes or more; NULL with an exception set, or else `view` is to be released. */
static struct bell *bell_in(PyObject *object, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE) < 0)
        return NULL;
    if (view->len < (Py_ssize_t)sizeof(struct bell) || (uintptr_t)view->buf % sizeof(struct bell) != 0) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "a bell is eight aligned bytes");
        return NULL;
    }
    return view->buf;
}

PyObject *native_bell_announce(PyObject *Py_UNUSED(module), PyObject *object)
{
    Py_buffer view;
    struct bell *bell = bell_in(object, &view);
    if (!bell)
        return NULL;
    uint32_t rung = atomic_load(&bell->rung);
    atomic_store(&bell->waiters, 1);
    atomic_thread_fence(memory_order_seq_cst);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(rung);
}

PyObject *native_bell_sleep(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "bell_sleep() takes a bell, a number and seconds");
        return NULL;
    }
    unsigned long rung = PyLong_AsUnsignedLongMask(args[1]);
    double timeout_s = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (!(timeout_s > 0))
        Py_RETURN_NONE;
    if (timeout_s > sleep_max_s)
        timeout_s = sleep_max_s;
    struct timespec timeout = {.tv_sec = (time_t)timeout_s};
    timeout.tv_nsec = (long)((timeout_s - (double)timeout.tv_sec) * 1e9);

    Py_buffer view;
    struct bell *bell = bell_in(args[0], &view);
    if (!bell)
        return NULL;
    long status;
    int error;
    Py_BEGIN_ALLOW_THREADS
    status = syscall(SYS_futex, &bell->rung, FUTEX_WAIT, (uint32_t)rung, &timeout, NULL, 0);
    error = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    if (status != 0 && error == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    if (status != 0 && error != EINTR && error != EAGAIN && error != ETIMEDOUT) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyObject *native_bell_ring(PyObject *Py_UNUSED(module), PyObject *object)
{
    Py_buffer view;
    struct bell *bell = bell_in(object, &view);
    if (!bell)
        return NULL;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&bell->waiters) != 0) {
        atomic_store(&bell->waiters, 0);
        atomic_fetch_add(&bell->rung, 1);
        syscall(SYS_futex, &bell->rung, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}
