/* replay.c - the module sharedstate_file._replay: one frame's operations, applied to the entries.
 *
 * What `index.parse` and `index.apply` do, for the frames that nearly all are:
 * puts of values that are kept in memory, and deletes.  Those two are the
 * reference, and do every other frame: `replay` then returns -1, and what it may
 * have done of it by then is done again (B2 of sharedstate_file.handle).
 *
 * An entry costs 0.15 us here instead of 1.3, which is what opening a store, and
 * following another process's writes, consists of.
 *
 * Thread safety: as `index.apply`; the caller holds the index lock.
 *
 * Invariants:
 *   R1  No byte outside the payload is read, whatever it holds.
 *   R2  What is not the grammar of FORMAT.md, in msgpack's shortest forms, is
 *       left to Python, which names the fault.
 *   R3  State is per module: it loads in any number of interpreters at once.
 */
#include "codec.h"
#include "wire.h"

#define KEPT_BYTES_MAX 16384 /* index.LOCATED_FROM: larger values stay in the log */
#define KEY_BYTES_MAX 512
#define ABSENT 0

enum form { PLAIN = 0, ENCODED = 1 }; /* as in index.py */

/* What is still to be read.  Every `take_` returns 0, or -1 for what it leaves to Python. */
struct rest {
    const uint8_t *at;
    const uint8_t *end;
};

static inline size_t left(const struct rest *rest) { return (size_t)(rest->end - rest->at); }

/* A number of 1, 2, 4 or 8 bytes behind the first byte, at least `least`: the shortest form. */
static int take_big_endian(struct rest *rest, size_t bytes, uint64_t least, uint64_t *number)
{
    if (left(rest) < 1 + bytes)
        return -1;
    const uint8_t *at = rest->at + 1;
    *number = bytes == 1 ? *at : bytes == 2 ? ss_load16(at) : bytes == 4 ? ss_load32(at) : ss_load64(at);
    rest->at += 1 + bytes;
    return *number >= least ? 0 : -1;
}

static int take_uint(struct rest *rest, uint64_t *number)
{
    if (left(rest) == 0)
        return -1;
    switch (*rest->at) {
    case SS_UINT8:
        return take_big_endian(rest, 1, 128, number);
    case SS_UINT16:
        return take_big_endian(rest, 2, 1 << 8, number);
    case SS_UINT32:
        return take_big_endian(rest, 4, 1 << 16, number);
    case SS_UINT64:
        return take_big_endian(rest, 8, UINT64_C(1) << 32, number);
    default:
        *number = *rest->at;
        return *rest->at++ < 128 ? 0 : -1;
    }
}

/* The head of an array, str or bin: `fix`, if not 0, is its one-byte form's base and `fixed` that form's room. */
static int take_head(struct rest *rest, uint8_t fix, size_t fixed, const uint8_t forms[3], uint64_t *count)
{
    if (left(rest) == 0)
        return -1;
    uint8_t first = *rest->at;
    if (fix && first >= fix && first < fix + fixed) {
        *count = first - fix;
        rest->at++;
        return 0;
    }
    if (forms[0] && first == forms[0])
        return take_big_endian(rest, 1, fix ? fixed : 0, count);
    if (first == forms[1])
        return take_big_endian(rest, 2, forms[0] ? 1 << 8 : fixed, count);
    if (first == forms[2])
        return take_big_endian(rest, 4, 1 << 16, count);
    return -1;
}

static int take_array(struct rest *rest, uint64_t *count)
{
    static const uint8_t forms[3] = {0, SS_ARRAY16, SS_ARRAY32};
    return take_head(rest, SS_FIXARRAY, 16, forms, count);
}

/* Bytes of a str or bin, which lie in the payload. */
static int take_bytes(struct rest *rest, int is_str, uint64_t most, const uint8_t **bytes, uint64_t *length)
{
    static const uint8_t str[3] = {SS_STR8, SS_STR16, SS_STR32}, bin[3] = {SS_BIN8, SS_BIN16, SS_BIN32};
    if (take_head(rest, is_str ? SS_FIXSTR : 0, 32, is_str ? str : bin, length) < 0)
        return -1;
    if (*length > most || *length == 0 || *length > left(rest))
        return -1;
    *bytes = rest->at;
    rest->at += *length;
    return 0;
}

/* Returns a new reference to None or a float; or NULL, which may be without an exception. */
static PyObject *take_deadline(struct rest *rest)
{
    if (left(rest) >= 1 && *rest->at == SS_NIL) {
        rest->at++;
        return Py_NewRef(Py_None);
    }
    if (left(rest) < 9 || *rest->at != SS_FLOAT64)
        return NULL;
    uint64_t bits = ss_load64(rest->at + 1);
    double seconds;
    memcpy(&seconds, &bits, sizeof seconds);
    rest->at += 9;
    return PyFloat_FromDouble(seconds);
}

static int is_composite(uint8_t first) /* index._COMPOSITE: containers and extensions */
{
    return (first >= SS_FIXMAP && first < SS_FIXSTR) || (first >= SS_EXT8 && first <= SS_EXT32) ||
           (first >= SS_FIXEXT1 && first <= SS_FIXEXT16) || (first >= SS_ARRAY16 && first <= SS_MAP32);
}

/* Returns a new entry (index.Stored), or NULL. */
static PyObject *make_entry(struct ss_codec *codec, const uint8_t *encoded, uint64_t length, uint64_t own, PyObject *deadline)
{
    enum form form = is_composite(*encoded) ? ENCODED : PLAIN;
    PyObject *items[5] = {
        form == PLAIN ? ss_decode(codec, encoded, length) : PyBytes_FromStringAndSize((const char *)encoded, (Py_ssize_t)length),
        PyLong_FromLong(form),
        PyLong_FromUnsignedLongLong(own),
        Py_XNewRef(deadline),
        PyLong_FromUnsignedLongLong(length),
    };
    PyObject *entry = PyTuple_New(5);
    int is_whole = entry != NULL;
    for (int i = 0; i < 5; i++) {
        is_whole &= items[i] != NULL;
        if (entry)
            PyTuple_SET_ITEM(entry, i, items[i]);
        else
            Py_XDECREF(items[i]);
    }
    if (!is_whole)
        Py_CLEAR(entry);
    return entry;
}

/* Returns 0; or -1, with or without an exception, for what is left to Python. */
static int replay_one(struct ss_codec *codec, PyObject *entries, struct rest *rest, uint64_t *generation)
{
    uint64_t count, length, own = *generation + 1;
    const uint8_t *bytes;
    if (take_array(rest, &count) < 0 || (count != 1 && count != 3 && count != 4))
        return -1;
    if (take_bytes(rest, 1, KEY_BYTES_MAX, &bytes, &length) < 0)
        return -1;
    PyObject *key = PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)length, NULL);
    if (!key)
        return -1;

    int status = -1;
    PyObject *deadline = NULL, *entry = NULL;
    if (count == 1) {
        int found = PyDict_Contains(entries, key);
        status = found <= 0 ? found : PyDict_DelItem(entries, key);
    }
    else if ((deadline = take_deadline(rest)) && (count == 3 || take_uint(rest, &own) == 0) &&
             take_bytes(rest, 0, KEPT_BYTES_MAX, &bytes, &length) == 0 && own > ABSENT &&
             own <= *generation + (count == 3) && (entry = make_entry(codec, bytes, length, own, deadline)))
        status = PyDict_SetItem(entries, key, entry);
    if (count != 4)
        ++*generation;
    Py_XDECREF(deadline);
    Py_XDECREF(entry);
    Py_DECREF(key);
    return status;
}

static PyObject *replay(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyDict_Check(args[0]) || !PyBytes_CheckExact(args[1]) || !PyLong_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "replay() takes a dict, bytes and an int");
        return NULL;
    }
    uint64_t generation = PyLong_AsUnsignedLongLong(args[2]), first, count;
    if (generation == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    const uint8_t *payload = (const uint8_t *)PyBytes_AS_STRING(args[1]);
    struct rest rest = {payload, payload + PyBytes_GET_SIZE(args[1])};

    int status = take_array(&rest, &count) < 0 || count == 0 || take_uint(&rest, &first) < 0 || first != generation ||
                         generation > INT64_MAX - count
                     ? -1
                     : 0;
    while (status == 0 && --count > 0)
        status = replay_one(PyModule_GetState(module), args[0], &rest, &generation);
    if (status < 0 || left(&rest) != 0) {
        PyErr_Clear(); /* Python comes to the same one, and says where */
        return PyLong_FromLong(-1);
    }
    return PyLong_FromUnsignedLongLong(generation);
}

/* --- the module ----------------------------------------------------------------- */

PyDoc_STRVAR(replay_doc, "replay($module, entries, payload, generation, /)\n--\n\n"
                         "Apply a frame; return the generation after it, or -1 where Python must.");

static PyMethodDef methods[] = {
    {"replay", (PyCFunction)(void (*)(void))replay, METH_FASTCALL, replay_doc},
    {NULL, NULL, 0, NULL},
};

static int exec_module(PyObject *module)
{
    ss_codec_init(PyModule_GetState(module));
    return 0;
}

static int traverse_module(PyObject *module, visitproc visit, void *arg)
{
    return ss_codec_traverse(PyModule_GetState(module), visit, arg);
}

static int clear_module(PyObject *module)
{
    ss_codec_clear(PyModule_GetState(module));
    return 0;
}

static void free_module(void *module) { clear_module(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
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
    .m_name = "sharedstate_file._replay",
    .m_doc = PyDoc_STR("A frame's operations, applied in C."),
    .m_size = sizeof(struct ss_codec),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC PyInit__replay(void) { return PyModuleDef_Init(&definition); }
