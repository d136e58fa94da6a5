/* native.c - the module sharedstate._native: the codec, what only C can know
 * about fork, and what costs too much in Python on the way to a verb.  The stub
 * beside the package, _native.pyi, is its reference.
 *
 * State.  Everything that holds Python objects is in the module state, so any
 * number of interpreters, each with its own GIL, use this file at once.
 *
 * Process-wide is only what a fork happens to: forks.c.
 *
 * Thread safety: every function may be called by any thread of any interpreter.
 */
#include "bell.h"
#include "codec.h"
#include "counts.h"
#include "forks.h"
#include "guard.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>

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
    int fd = ss_fd_from(arg);
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
    errno = ss_watch_forks();
    if (errno) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    ss_codec_init(&state_of(module)->codec);
    return ss_add_guard(module) < 0 || ss_add_counts(module) < 0 ? -1 : 0;
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
