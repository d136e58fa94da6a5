/* native.c - the module sharedstate._native: the codec, what only C can know
 * about fork, and what costs too much in Python on the way to a verb.  The stub beside the package, _native.pyi, is its reference.
 *
 * State.  Everything that holds Python objects is in the module state, so any
 * number of interpreters, each with its own GIL, use this file at once.
 *
 * One thing is process-wide on purpose: `forks`, below.  A fork happens to the
 * process and not to an interpreter, and so do file descriptors; the handlers
 * of pthread_atfork() take no argument and run with no interpreter at all.
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
 *   F2  The mutex is taken around every fork, so the child finds the table whole
 *       and its handler needs no allocation, no wait and no atomics.
 *   F3  Nobody waits for a GIL, or runs Python, while holding the mutex.
 */
#include "bell.h"
#include "codec.h"
#include "guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* --- process-wide: forks and the descriptors they must not carry over --------- */

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

/* --- the module ----------------------------------------------------------------- */

struct module_state {
    struct ss_codec codec;
};

static inline struct module_state *state_of(PyObject *module) { return PyModule_GetState(module); }

static PyObject *native_encode(PyObject *module, PyObject *value)
{
    struct ss_buffer out;
    ss_buffer_init(&out);
    PyObject *bytes = NULL;
    if (ss_encode(&state_of(module)->codec, value, &out) == 0)
        bytes = PyBytes_FromStringAndSize((const char *)out.bytes, (Py_ssize_t)out.length);
    ss_buffer_free(&out);
    return bytes;
}

static PyObject *native_decode(PyObject *module, PyObject *encoded)
{
    struct ss_codec *codec = &state_of(module)->codec;
    if (PyBytes_CheckExact(encoded))
        return ss_decode(codec, (const uint8_t *)PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded));

    /* Whatever else it is may be shared with somebody who writes: decode a copy. */
    Py_buffer view;
    if (PyObject_GetBuffer(encoded, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *copy = PyBytes_FromStringAndSize(view.buf, view.len);
    PyBuffer_Release(&view);
    PyObject *value = copy ? native_decode(module, copy) : NULL;
    Py_XDECREF(copy);
    return value;
}

static PyObject *native_fork_epoch(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&forks.epoch, memory_order_relaxed));
}

static PyObject *native_forks_made(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(atomic_load(&forks.made));
}

/* Return the descriptor, or -1 with an exception set. */
static int fd_from(PyObject *arg)
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
    int fd = fd_from(arg);
    if (fd < 0)
        return NULL;
    int error = fcntl(fd, F_GETFD) < 0 ? errno : remember_fd(blank ? ~fd : fd);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *native_close_on_fork(PyObject *Py_UNUSED(module), PyObject *arg) { return register_fd(arg, false); }

static PyObject *native_blank_on_fork(PyObject *Py_UNUSED(module), PyObject *arg) { return register_fd(arg, true); }

static PyObject *native_keep_on_fork(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = fd_from(arg);
    if (fd < 0)
        return NULL;
    forget_fd(fd);
    Py_RETURN_NONE;
}

static PyObject *native_boot_ns(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct timespec now;
    if (clock_gettime(CLOCK_BOOTTIME, &now) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLongLong((long long)now.tv_sec * 1000000000 + now.tv_nsec);
}

/* os.fstat() makes an object of 20 numbers to tell this one: 1.1 us of a write to a file of 6. */
static PyObject *native_has_name(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct stat found;
    int fd = fd_from(arg);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &found) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBool_FromLong(found.st_nlink > 0);
}

PyDoc_STRVAR(encode_doc, "encode($module, value, /)\n--\n\nReturn `value` as msgpack bytes; see sharedstate.values.");
PyDoc_STRVAR(decode_doc, "decode($module, encoded, /)\n--\n\nReturn the value that `encode` made these bytes of.");
PyDoc_STRVAR(fork_epoch_doc, "fork_epoch($module, /)\n--\n\nReturn how many forks lie between the first process and this one.");
PyDoc_STRVAR(forks_made_doc, "forks_made($module, /)\n--\n\nReturn a number that grows when this process begins to fork.");
PyDoc_STRVAR(close_on_fork_doc, "close_on_fork($module, fd, /)\n--\n\nHave every child of a fork close `fd` before it runs.");
PyDoc_STRVAR(blank_on_fork_doc, "blank_on_fork($module, fd, /)\n--\n\nHave every child of a fork find nothing behind `fd`.");
PyDoc_STRVAR(keep_on_fork_doc, "keep_on_fork($module, fd, /)\n--\n\nUndo close_on_fork(fd) or blank_on_fork(fd); call it just before closing `fd`.");
PyDoc_STRVAR(has_name_doc, "has_name($module, fd, /)\n--\n\nReturn whether the file that `fd` is open on still has a name.");
PyDoc_STRVAR(bell_announce_doc, "bell_announce($module, bell, /)\n--\n\nSay that somebody waits; return how often it was rung.");
PyDoc_STRVAR(bell_sleep_doc, "bell_sleep($module, bell, rung, timeout_s, /)\n--\n\nSleep until it is rung once more than `rung`.");
PyDoc_STRVAR(bell_ring_doc, "bell_ring($module, bell, /)\n--\n\nWake all who sleep on it.");
PyDoc_STRVAR(boot_ns_doc, "boot_ns($module, /)\n--\n\nReturn nanoseconds since the host booted, suspension included.");

PyDoc_STRVAR(check_key_doc, "check_key(key, /)\n--\n\nReturn if `key` can name an entry: a str of 1 to 512 bytes of UTF-8.");

static PyObject *native_check_key(PyObject *module, PyObject *key)
{
    (void)module;
    if (PyUnicode_CheckExact(key)) {
        Py_ssize_t size = 0;
        if (PyUnicode_IS_COMPACT_ASCII(key))
            size = PyUnicode_GET_LENGTH(key);
        else if (!PyUnicode_AsUTF8AndSize(key, &size))
            PyErr_Clear(); /* a lone surrogate, or no memory: the reference decides */
        if (size >= 1 && size <= 512)
            Py_RETURN_NONE;
    }
    PyObject *values = PyImport_ImportModule("sharedstate.values");
    PyObject *result = values ? PyObject_CallMethod(values, "check_key_slowly", "(O)", key) : NULL;
    Py_XDECREF(values);
    return result;
}

static PyMethodDef methods[] = {
    {"check_key", native_check_key, METH_O, check_key_doc},
    {"encode", native_encode, METH_O, encode_doc},
    {"decode", native_decode, METH_O, decode_doc},
    {"fork_epoch", native_fork_epoch, METH_NOARGS, fork_epoch_doc},
    {"forks_made", native_forks_made, METH_NOARGS, forks_made_doc},
    {"close_on_fork", native_close_on_fork, METH_O, close_on_fork_doc},
    {"blank_on_fork", native_blank_on_fork, METH_O, blank_on_fork_doc},
    {"keep_on_fork", native_keep_on_fork, METH_O, keep_on_fork_doc},
    {"has_name", native_has_name, METH_O, has_name_doc},
    {"bell_announce", native_bell_announce, METH_O, bell_announce_doc},
    {"bell_sleep", (PyCFunction)(void (*)(void))native_bell_sleep, METH_FASTCALL, bell_sleep_doc},
    {"bell_ring", native_bell_ring, METH_O, bell_ring_doc},
    {"boot_ns", native_boot_ns, METH_NOARGS, boot_ns_doc},
    {NULL, NULL, 0, NULL},
};

static int native_exec(PyObject *module)
{
    pthread_once(&forks.once, register_handlers);
    if (forks.setup_error) {
        errno = forks.setup_error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    ss_codec_init(&state_of(module)->codec);
    return ss_add_guard(module);
}

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
    return ss_codec_traverse(&state_of(module)->codec, visit, arg);
}

static int native_clear(PyObject *module)
{
    ss_codec_clear(&state_of(module)->codec);
    return 0;
}

static void native_free(void *module) { native_clear(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, native_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sharedstate._native",
    .m_doc = PyDoc_STR("The codec, and what only C can know about fork."),
    .m_size = sizeof(struct module_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = native_traverse,
    .m_clear = native_clear,
    .m_free = native_free,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
