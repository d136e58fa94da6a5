/* handle.c - the type Handle: the verbs that a program calls a million times.
 *
 * A `Store` has these bound methods in place of its own, so that nothing stands
 * between the caller and the section (entries.h).  What is rare stays Python's:
 * sums that are not of two ints of 64 bits or two floats, refusals, containers.
 *
 * Invariant:
 *   M8  `closed` goes from 0 to 1 once.  A verb that has looked at it before may
 *       still write: that is as if it had come first.
 */

#include "arguments.h"
#include "entries.h"

#include <stdatomic.h>

/* Immutable but for `closed`, and in no cycle: hence no tp_clear. */
struct handle {
    PyObject_HEAD
    struct memory_state *state; /* of the module, which this object's type keeps alive */
    struct entries *entries;
    PyObject *url;
    PyObject *refuse; /* refuse(url, is_removed): raises ClosedError or UnavailableError */
    _Atomic int closed;
};

#define VERB(name) static PyObject *name(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)

/* ---- before the section -------------------------------------------------------- */

static PyObject *refuse(struct handle *self, int is_removed)
{
    PyObject *result = PyObject_CallFunctionObjArgs(self->refuse, self->url, is_removed ? Py_True : Py_False, NULL);
    if (result)
        PyErr_SetString(PyExc_SystemError, "refuse() returned");
    Py_XDECREF(result);
    return NULL;
}

static inline int is_closed(struct handle *self)
{
    return atomic_load_explicit(&self->closed, memory_order_acquire);
}

/* Returns 0, or -1 with an exception set. */
static int succeed(PyObject *result)
{
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static inline int check_key(struct memory_state *state, PyObject *key)
{
    /* 512 is values.MAX_KEY_BYTES; what is not plainly fine is values.check_key's to judge. */
    if (PyUnicode_CheckExact(key) && PyUnicode_IS_COMPACT_ASCII(key) && PyUnicode_GET_LENGTH(key) > 0 &&
        PyUnicode_GET_LENGTH(key) <= 512)
        return 0;
    return succeed(PyObject_CallOneArg(state->check_key, key));
}

/* Return whether `number` is an int that fits; `out` is then its value. */
static inline int is_int64(PyObject *number, long long *out)
{
    int overflow;
    if (!PyLong_CheckExact(number))
        return 0;
    *out = PyLong_AsLongLongAndOverflow(number, &overflow);
    return !overflow;
}

/* Return whether `value` is plainly within the value model, and a scalar. */
static inline int is_plain(PyObject *value)
{
    long long ignored;
    if (PyLong_CheckExact(value))
        return is_int64(value, &ignored);
    if (PyUnicode_CheckExact(value))
        return PyUnicode_IS_COMPACT_ASCII(value) && PyUnicode_GET_LENGTH(value) <= (Py_ssize_t)UINT32_MAX;
    if (PyBytes_CheckExact(value))
        return PyBytes_GET_SIZE(value) <= (Py_ssize_t)UINT32_MAX;
    return PyFloat_CheckExact(value) || value == Py_None || PyBool_Check(value);
}

/* Return what to keep of `value`, a new reference; or NULL with ValueTypeError set. */
static inline PyObject *pack(struct memory_state *state, PyObject *value, int *is_encoded)
{
    *is_encoded = 0;
    if (is_plain(value))
        return Py_NewRef(value);
    PyObject *encoded = PyObject_CallOneArg(state->encode, value);
    if (!encoded)
        return NULL;
    if (is_scalar(value)) { /* the codec has nothing against it */
        Py_DECREF(encoded);
        return Py_NewRef(value);
    }
    *is_encoded = 1;
    return encoded;
}

/* Returns 0, or -1 with ValueTypeError set. */
static inline int read_ttl(struct memory_state *state, PyObject *ttl_s, double *expires_at)
{
    *expires_at = INFINITY;
    if (ttl_s == Py_None)
        return 0;
    if (succeed(PyObject_CallOneArg(state->check_ttl, ttl_s)) < 0)
        return -1;
    double seconds = PyFloat_AsDouble(ttl_s);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    *expires_at = boot_clock_s() + seconds;
    return 0;
}

/* ---- the verbs ----------------------------------------------------------------- */

VERB(handle_get)
{
    static const struct signature signature = {"get", 1, 2, {"key", "default"}};
    struct handle *self = (struct handle *)object;
    struct entries *entries = self->entries;
    PyObject *given[2] = {NULL, Py_None}, *value = NULL;
    int is_encoded = 0;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    if (is_closed(self))
        return refuse(self, 0);
    if (PyUnicode_CheckExact(given[0])) {
        BEGIN_SECTION(entries)
        struct item *item = find_present_locked(entries, given[0]);
        if (item) {
            value = Py_NewRef(item->value);
            is_encoded = item->is_encoded;
        }
        *(item ? &entries->hits : &entries->misses) += 1;
        END_SECTION()
    }
    if (!value)
        return check_key(self->state, given[0]) < 0 ? NULL : Py_NewRef(given[1]);
    if (!is_encoded)
        return value;
    PyObject *decoded = PyObject_CallOneArg(self->state->decode, value);
    Py_DECREF(value);
    return decoded;
}

VERB(handle_set)
{
    static const struct signature signature = {"set", 2, 3, {"key", "value", "ttl_s"}};
    struct handle *self = (struct handle *)object;
    struct entries *entries = self->entries;
    PyObject *given[3] = {NULL, NULL, Py_None};
    struct woken woken = {NULL, 0};
    double expires_at;
    int is_encoded, is_removed, status = 0;
    if (parse(&signature, args, nargs, kwnames, given) < 0 || check_key(self->state, given[0]) < 0)
        return NULL;
    if (is_closed(self))
        return refuse(self, 0);
    PyObject *kept = pack(self->state, given[1], &is_encoded);
    if (!kept)
        return NULL;
    if (read_ttl(self->state, given[2], &expires_at) < 0) {
        Py_DECREF(kept);
        return NULL;
    }
    BEGIN_SECTION(entries)
    is_removed = entries->is_removed;
    if (!is_removed) {
        status = put_locked(entries, given[0], find_locked(entries, given[0]), kept, is_encoded, expires_at);
        if (status == 0)
            woken = take_waiters_locked(entries);
    }
    END_SECTION()
    Py_DECREF(kept);
    wake(woken);
    if (is_removed)
        return refuse(self, 1);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Return the sum of two ints of 64 bits, or two floats, as a new reference; NULL if
 * it is for add_numbers() to say, or there is no memory (and an exception). */
static inline PyObject *add_plainly(PyObject *number, PyObject *by)
{
    long long left, right, sum;
    if (is_int64(number, &left) && is_int64(by, &right))
        return __builtin_add_overflow(left, right, &sum) ? NULL : PyLong_FromLongLong(sum);
    if (PyFloat_CheckExact(number) && PyFloat_CheckExact(by))
        return PyFloat_FromDouble(PyFloat_AS_DOUBLE(number) + PyFloat_AS_DOUBLE(by));
    return NULL;
}

/* One look at a counter, and one attempt to write it. */
struct attempt {
    PyObject *number; /* what was found, if the sum is not plain; else NULL */
    int is_encoded;
    int was_present;
    uint64_t last; /* at the look */
    enum { WRITTEN, NOT_PLAIN, MOVED, REMOVED, FAILED } outcome;
    struct woken woken;
};

static void write_locked(struct entries *self, PyObject *key, PyObject *total, double created_until, struct attempt *attempt)
{
    struct item *item = find_locked(self, key);
    double expires_at = attempt->was_present ? item->expires_at : created_until;
    attempt->outcome = put_locked(self, key, item, total, 0, expires_at) < 0 ? FAILED : WRITTEN;
    if (attempt->outcome == WRITTEN)
        attempt->woken = take_waiters_locked(self);
}

/* Look, and write at once if the sum is plain.  Returns the sum, a new reference, or NULL. */
static PyObject *add_in_place(struct entries *self, PyObject *key, PyObject *by, PyObject *initial, double created_until,
                              struct attempt *attempt)
{
    PyObject *total = NULL;
    *attempt = (struct attempt){.outcome = REMOVED};
    BEGIN_SECTION(self)
    if (!self->is_removed) {
        struct item *item = find_present_locked(self, key);
        PyObject *number = item ? item->value : initial;
        attempt->was_present = item != NULL;
        attempt->is_encoded = item && item->is_encoded;
        attempt->last = self->last;
        if (!attempt->is_encoded)
            total = add_plainly(number, by);
        if (total)
            write_locked(self, key, total, created_until, attempt);
        else if (PyErr_Occurred())
            attempt->outcome = FAILED;
        else {
            attempt->outcome = NOT_PLAIN;
            attempt->number = Py_NewRef(number);
        }
    }
    END_SECTION()
    return total;
}

/* Write a sum that Python made, unless anything has changed since the look. */
static void write_if_unmoved(struct entries *self, PyObject *key, PyObject *total, double created_until, struct attempt *attempt)
{
    BEGIN_SECTION(self)
    if (self->is_removed)
        attempt->outcome = REMOVED;
    else if (self->last != attempt->last || (find_present_locked(self, key) != NULL) != attempt->was_present)
        attempt->outcome = MOVED;
    else
        write_locked(self, key, total, created_until, attempt);
    END_SECTION()
}

/* Return the sum that add_numbers() makes of what was found, or NULL with the exception that it raises. */
static PyObject *add_in_python(struct memory_state *state, PyObject *key, PyObject *by, struct attempt *attempt)
{
    PyObject *number = attempt->is_encoded ? PyObject_CallOneArg(state->decode, attempt->number) : Py_NewRef(attempt->number);
    Py_CLEAR(attempt->number);
    PyObject *total = number ? PyObject_CallFunctionObjArgs(state->add_numbers, key, number, by, NULL) : NULL;
    Py_XDECREF(number);
    return total;
}

VERB(handle_increment)
{
    static const struct signature signature = {"increment", 1, 4, {"key", "by", "initial", "ttl_s"}};
    struct handle *self = (struct handle *)object;
    PyObject *given[4] = {NULL, NULL, NULL, Py_None}, *total = NULL;
    struct attempt attempt;
    double created_until;
    if (parse(&signature, args, nargs, kwnames, given) < 0 || check_key(self->state, given[0]) < 0)
        return NULL;
    if (is_closed(self))
        return refuse(self, 0);
    if (read_ttl(self->state, given[3], &created_until) < 0)
        return NULL;
    PyObject *by = given[1] ? Py_NewRef(given[1]) : PyLong_FromLong(1);
    PyObject *initial = given[2] ? Py_NewRef(given[2]) : PyLong_FromLong(0);
    attempt.outcome = by && initial ? MOVED : FAILED;
    while (attempt.outcome == MOVED) {
        Py_CLEAR(total);
        total = add_in_place(self->entries, given[0], by, initial, created_until, &attempt);
        if (attempt.outcome == NOT_PLAIN) {
            total = add_in_python(self->state, given[0], by, &attempt);
            if (!total)
                attempt.outcome = FAILED;
            else
                write_if_unmoved(self->entries, given[0], total, created_until, &attempt);
        }
    }
    Py_XDECREF(by);
    Py_XDECREF(initial);
    if (attempt.outcome == WRITTEN) {
        wake(attempt.woken);
        return total;
    }
    Py_XDECREF(total);
    return attempt.outcome == REMOVED ? refuse(self, 1) : NULL;
}

static PyObject *handle_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    atomic_store_explicit(&((struct handle *)self)->closed, 1, memory_order_release);
    Py_RETURN_NONE;
}

/* ---- the type -------------------------------------------------------------------- */

static PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct memory_state *state = PyType_GetModuleState(type);
    PyObject *entries, *url, *refuse;
    if (!state || !PyArg_ParseTuple(args, "O!UO:Handle", state->entries_type, &entries, &url, &refuse))
        return NULL;
    if (kwargs && PyDict_Size(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Handle() takes no keywords");
        return NULL;
    }
    struct handle *self = (struct handle *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->state = state;
    self->entries = (struct entries *)Py_NewRef(entries);
    self->url = Py_NewRef(url);
    self->refuse = Py_NewRef(refuse);
    return (PyObject *)self;
}

static int handle_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct handle *self = (struct handle *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->entries);
    Py_VISIT(self->url);
    Py_VISIT(self->refuse);
    return 0;
}

static void handle_dealloc(PyObject *object)
{
    struct handle *self = (struct handle *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->entries);
    Py_XDECREF(self->url);
    Py_XDECREF(self->refuse);
    type->tp_free(object);
    Py_DECREF(type);
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))handle_##name, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(doc)}

static PyMethodDef handle_methods[] = {
    FAST(get, "get(key, default=None)\n\nReturn the value of `key`, or `default`."),
    FAST(set, "set(key, value, ttl_s=None)\n\nStore `value`, whatever was there."),
    FAST(increment, "increment(key, by=1, initial=0, ttl_s=None)\n\nAdd `by` to the number at `key`; return the sum."),
    {"close", handle_close, METH_NOARGS, PyDoc_STR("close()\n\nRefuse every further verb.")},
    {NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The hot verbs of one handle; see sharedstate_memory.entries.")},
    {Py_tp_new, handle_new},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, handle_methods},
    {0, NULL},
};

PyType_Spec memory_handle_spec = {
    .name = "sharedstate_memory._entries.Handle",
    .basicsize = sizeof(struct handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = handle_slots,
};
