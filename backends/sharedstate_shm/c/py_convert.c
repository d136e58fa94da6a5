/* py_convert.c - see py_convert.h. */

#include "py_convert.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------ */

PyObject *core_raise_named(struct core_state *state, const char *name, PyObject *facts)
{
    if (!facts)
        return NULL;
    PyObject *kind = PyObject_GetAttrString(state->errors, name);
    PyObject *nothing = PyTuple_New(0);
    PyObject *error = kind && nothing ? PyObject_Call(kind, nothing, facts) : NULL;
    if (error)
        PyErr_SetObject(kind, error);
    Py_XDECREF(error);
    Py_XDECREF(nothing);
    Py_XDECREF(kind);
    Py_DECREF(facts);
    return NULL;
}

static PyObject *raise_reason(struct table *self, const char *name, const char *reason, const char *advice)
{
    PyObject *facts = Py_BuildValue("{s:O,s:s,s:s}", "url", self->url, "reason", reason, "advice", advice);
    return core_raise_named(self->state, name, facts);
}

PyObject *core_raise(struct table *self, int status, PyObject *key)
{
    if (PyErr_Occurred()) /* a signal's handler raised while we waited */
        return NULL;
    switch (status) {
    case SS_NOSPC:
        return raise_reason(self, "CapacityError", "the region, or the file system under it, is full",
                            "Delete entries, or make a larger one: remove it, then open it with ?size=.");
    case SS_TOOBIG:
        return raise_reason(self, "CapacityError", "the value, or the transaction, is larger than the region can ever hold",
                            "Split it, or make a larger region with ?size=.");
    case SS_UNLINKED:
        return raise_reason(self, "UnavailableError", "the store was removed",
                            "Close this handle and open the store again, which makes a new one.");
    case SS_TIMEOUT:
    case SS_WOULDBLOCK:
        return core_raise_named(self->state, "LockTimeoutError",
                                Py_BuildValue("{s:O,s:s,s:d}", "url", self->url, "what", "a stripe of the region", "timeout_s",
                                              (double)self->timeout_ns / 1e9));
    case SS_CORRUPT: {
        PyObject *reason = key ? PyUnicode_FromFormat("looking up %R met bytes that break the region's format", key)
                               : PyUnicode_FromString("the region holds bytes that break its format");
        if (!reason)
            return NULL;
        PyObject *facts = Py_BuildValue("{s:O,s:N}", "url", self->url, "reason", reason);
        return core_raise_named(self->state, "CorruptError", facts);
    }
    case SS_INVALID:
        PyErr_SetString(PyExc_SystemError, "sharedstate_shm passed the region an argument that breaks its rules");
        return NULL;
    default:
        return raise_reason(self, "UnavailableError", status == SS_SYS ? strerror(errno) : ss_strerror(status),
                            "Run `sharedstate check` on it.");
    }
}

/* ---- keys -------------------------------------------------------------- */

int core_key(struct core_state *state, PyObject *key, const char **bytes, size_t *length)
{
    if (PyUnicode_CheckExact(key)) {
        Py_ssize_t size;
        if (PyUnicode_IS_COMPACT_ASCII(key)) {
            *bytes = (const char *)PyUnicode_1BYTE_DATA(key);
            size = PyUnicode_GET_LENGTH(key);
        } else {
            *bytes = PyUnicode_AsUTF8AndSize(key, &size);
            if (!*bytes) {
                if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                    return -1;
                PyErr_Clear(); /* a lone surrogate: check_key says so */
                size = 0;
            }
        }
        if (size >= 1 && size <= SS_KEY_MAX) {
            *length = (size_t)size;
            return 0;
        }
    }
    PyObject *result = PyObject_CallOneArg(state->check_key, key);
    if (result) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "values.check_key accepts a key that the region refuses");
    }
    return -1;
}

/* ---- values ------------------------------------------------------------ */

static int describe_int(PyObject *value, struct ss_value *out)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (!overflow) {
        out->type = SS_INT;
        out->number.i = number;
        return 1;
    }
    if (overflow < 0)
        return 0;
    unsigned long long big = PyLong_AsUnsignedLongLong(value);
    if (big == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    out->type = SS_UINT;
    out->number.u = big;
    return 1;
}

int core_value(struct core_state *state, PyObject *value, struct ss_buffer *buffer, struct ss_value *out)
{
    PyTypeObject *kind = Py_TYPE(value);

    memset(out, 0, sizeof *out);
    if (kind == &PyLong_Type) {
        if (describe_int(value, out))
            return 0;
    } else if (kind == &PyUnicode_Type) {
        Py_ssize_t size;
        const char *utf8 = PyUnicode_AsUTF8AndSize(value, &size);
        if (utf8 && size <= (Py_ssize_t)UINT32_MAX) {
            out->type = SS_STR;
            out->payload = utf8;
            out->length = (uint32_t)size;
            return 0;
        }
        PyErr_Clear();
    } else if (kind == &PyFloat_Type) {
        out->type = SS_FLOAT;
        out->number.f = PyFloat_AS_DOUBLE(value);
        return 0;
    } else if (kind == &PyBytes_Type) {
        if (PyBytes_GET_SIZE(value) <= (Py_ssize_t)UINT32_MAX) {
            out->type = SS_BYTES;
            out->payload = PyBytes_AS_STRING(value);
            out->length = (uint32_t)PyBytes_GET_SIZE(value);
            return 0;
        }
    } else if (value == Py_None || value == Py_True || value == Py_False) {
        out->type = value == Py_None ? SS_NONE : value == Py_True ? SS_TRUE : SS_FALSE;
        return 0;
    }
    /* A container; or a value that the model refuses, and the codec says why. */
    size_t start = buffer->length;
    if (ss_encode(&state->codec, value, buffer) < 0)
        return -1;
    if (buffer->length - start > UINT32_MAX) { /* a length of 32 bits would keep its start only */
        core_raise_named(state, "CapacityError",
                         Py_BuildValue("{s:s,s:s,s:s}", "url", "shm:", "reason",
                                       "the value takes more than 4 GiB, the most that an entry can hold", "advice", "Split it."));
        return -1;
    }
    out->type = SS_MSGPACK;
    out->payload = (const void *)(uintptr_t)(start + 1);
    out->length = (uint32_t)(buffer->length - start);
    return 0;
}

PyObject *core_object(struct core_state *state, const struct ss_value *value, const uint8_t *payload)
{
    switch (value->type) {
    case SS_INT:
        return PyLong_FromLongLong(value->number.i);
    case SS_UINT:
        return PyLong_FromUnsignedLongLong(value->number.u);
    case SS_FLOAT:
        return PyFloat_FromDouble(value->number.f);
    case SS_NONE:
        Py_RETURN_NONE;
    case SS_TRUE:
        Py_RETURN_TRUE;
    case SS_FALSE:
        Py_RETURN_FALSE;
    case SS_STR: {
        PyObject *text = PyUnicode_DecodeUTF8((const char *)payload, value->length, NULL);
        if (!text && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            return core_raise_named(state, "CorruptError", Py_BuildValue("{s:s,s:s}", "url", "shm:", "reason", "a str is no UTF-8"));
        }
        return text;
    }
    case SS_BYTES:
        return PyBytes_FromStringAndSize((const char *)payload, value->length);
    case SS_MSGPACK:
        return ss_decode(&state->codec, payload, value->length);
    default:
        return core_raise_named(state, "CorruptError", Py_BuildValue("{s:s,s:s}", "url", "shm:", "reason", "unknown value type"));
    }
}

PyObject *core_entry(struct core_state *state, PyObject *value, const struct ss_entry *entry)
{
    PyObject *generation = value ? PyLong_FromUnsignedLongLong(entry->generation) : NULL;
    PyObject *expires_at = NULL;
    if (generation)
        expires_at = entry->expires_ns ? PyFloat_FromDouble((double)entry->expires_ns / 1e9) : Py_NewRef(Py_None);
    /* As tuple.__new__(Entry, ...) does; Entry's own __new__ is Python and costs 300 ns. */
    PyObject *made = expires_at ? state->entry_type->tp_alloc(state->entry_type, 3) : NULL;
    if (!made) {
        Py_XDECREF(value);
        Py_XDECREF(generation);
        Py_XDECREF(expires_at);
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, value);
    PyTuple_SET_ITEM(made, 1, generation);
    PyTuple_SET_ITEM(made, 2, expires_at);
    return made;
}

/* ---- times ------------------------------------------------------------- */

int core_deadline(struct core_state *state, PyObject *ttl_s, uint64_t *expires_ns)
{
    *expires_ns = 0;
    if (ttl_s == Py_None)
        return 0;
    PyObject *checked = PyObject_CallOneArg(state->check_ttl, ttl_s);
    if (!checked)
        return -1;
    Py_DECREF(checked);
    double seconds = PyFloat_AsDouble(ttl_s);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    *expires_ns = ss_boottime_ns() + (uint64_t)ceil(seconds * 1e9);
    return 0;
}

int core_deadline_or_keep(struct core_state *state, PyObject *ttl_s, uint64_t expected, uint64_t *expires_ns)
{
    if (ttl_s != state->keep_mark || expected == SS_ANY || expected == SS_ABSENT)
        return core_deadline(state, ttl_s, expires_ns);
    *expires_ns = SS_KEEP;
    return 0;
}

int core_timeout(PyObject *timeout_s, uint64_t *timeout_ns)
{
    *timeout_ns = UINT64_MAX;
    if (timeout_s == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(timeout_s);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds > 0))
        *timeout_ns = 0;
    else if (seconds < 1e9)
        *timeout_ns = (uint64_t)(seconds * 1e9);
    return 0;
}
