/* py_entry.c - the verbs on one entry: read, write, increment. */

#include "py_call.h"

#include <string.h>

enum { LOCAL_BYTES = 2048 }; /* payloads up to this size need no allocation to be read */

/* ---- reading ------------------------------------------------------------- */

/* A private copy of one entry. */
struct copy {
    const char *key; /* its UTF-8, as long as the caller's str lives */
    size_t key_length;
    struct ss_entry entry;
    uint8_t *payload;
    uint8_t local[LOCAL_BYTES];
};

static void copy_free(struct copy *copy)
{
    if (copy->payload != copy->local)
        PyMem_Free(copy->payload);
}

/* Make room for what did not fit.  Returns 0, or -1 with an exception set. */
static int copy_grow(struct copy *copy)
{
    copy_free(copy);
    copy->payload = PyMem_Malloc(copy->entry.value.length);
    if (copy->payload)
        return 0;
    copy->payload = copy->local;
    PyErr_NoMemory();
    return -1;
}

/* Read, or with `removes` remove, the entry of `key`.  Returns 1 if there was
 * one, 0 if not, -1 with an exception set.  copy_free() in every case. */
static int copy_entry(struct table *self, PyObject *key, int removes, struct copy *copy)
{
    size_t capacity = LOCAL_BYTES;

    copy->payload = copy->local;
    if (!is_open(self) || core_key(self->state, key, &copy->key, &copy->key_length) < 0)
        return -1;
    for (;;) {
        int status;
        if (removes)
            ATTEMPT(status, self,
                    ss_delete(self->region, copy->key, copy->key_length, SS_ANY, copy->payload, capacity, &copy->entry, wait));
        else
            ATTEMPT(status, self,
                    ss_get(self->region, copy->key, copy->key_length, copy->payload, capacity, &copy->entry, wait));
        if (status == SS_OK)
            return 1;
        if (status == SS_MISSING)
            return 0;
        if (status != SS_TOOSMALL) {
            core_raise(self, status, key);
            return -1;
        }
        if (copy_grow(copy) < 0) /* and again: it may have been replaced meanwhile */
            return -1;
        capacity = copy->entry.value.length;
    }
}

/* copy_entry(), for a verb that only reads; counted. */
static int read_entry(struct table *self, PyObject *key, struct copy *copy)
{
    int found = copy_entry(self, key, 0, copy);
    if (found >= 0)
        ss_tally(self->counts, found ? SS_HIT : SS_MISS, copy->key, copy->key_length);
    return found;
}

/* copy_entry(), for a verb that removes what it reads; counted. */
static int take_entry(struct table *self, PyObject *key, struct copy *copy)
{
    int found = copy_entry(self, key, 1, copy);
    if (found > 0)
        ss_tally(self->counts, SS_WRITE, copy->key, copy->key_length);
    return found;
}

static PyObject *copy_value(struct table *self, struct copy *copy)
{
    return core_object(self->state, &copy->entry.value, copy->payload);
}

VERB(table_get)
{
    static const struct signature signature = {"get", 1, 2, {"key", "default"}};
    PyObject *given[2] = {NULL, Py_None};
    struct copy copy;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    int found = read_entry(self, given[0], &copy);
    PyObject *value = found > 0 ? copy_value(self, &copy) : found == 0 ? Py_NewRef(given[1]) : NULL;
    copy_free(&copy);
    return value;
}

static PyObject *entry_or_none(struct table *self, PyObject *key, int removes)
{
    struct copy copy;
    int found = removes ? take_entry(self, key, &copy) : read_entry(self, key, &copy);
    PyObject *entry = NULL;
    if (found > 0)
        entry = core_entry(self->state, copy_value(self, &copy), &copy.entry);
    else if (found == 0)
        entry = Py_NewRef(Py_None);
    copy_free(&copy);
    return entry;
}

PyObject *table_read(PyObject *self, PyObject *key)
{
    return entry_or_none((struct table *)self, key, 0);
}

PyObject *table_generation(PyObject *object, PyObject *key)
{
    struct table *self = (struct table *)object;
    struct ss_entry entry = {0};
    const char *bytes;
    size_t length;
    int status;
    if (!is_open(self) || core_key(self->state, key, &bytes, &length) < 0)
        return NULL;
    ATTEMPT(status, self, ss_get(self->region, bytes, length, NULL, 0, &entry, wait));
    int found = status == SS_OK || status == SS_TOOSMALL; /* TOOSMALL fills the entry, and no payload was asked for */
    if (!found && status != SS_MISSING)
        return core_raise(self, status, key);
    ss_tally(self->counts, found ? SS_HIT : SS_MISS, bytes, length);
    return found ? PyLong_FromUnsignedLongLong(entry.generation) : PyLong_FromLong(0);
}

PyObject *table_take(PyObject *self, PyObject *key)
{
    return entry_or_none((struct table *)self, key, 1);
}

PyObject *table_get_many(PyObject *object, PyObject *keys)
{
    struct table *self = (struct table *)object;
    PyObject *iterator = PyObject_GetIter(keys);
    PyObject *found = iterator ? PyDict_New() : NULL;
    PyObject *key;
    struct copy copy;
    while (found && (key = PyIter_Next(iterator))) {
        int status = read_entry(self, key, &copy);
        PyObject *value = status > 0 ? copy_value(self, &copy) : NULL;
        copy_free(&copy);
        if (value ? PyDict_SetItem(found, key, value) < 0 : status != 0)
            Py_CLEAR(found);
        Py_XDECREF(value);
        Py_DECREF(key);
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred())
        Py_CLEAR(found);
    return found;
}

/* ---- writing one entry --------------------------------------------------- */

/* Put `value`; returns the table's status, or INT_MIN with an exception set. */
static int put(struct table *self, PyObject *key, PyObject *value, PyObject *ttl_s, uint64_t expected, uint64_t *generation)
{
    const char *bytes;
    size_t length;
    struct ss_value described;
    struct ss_buffer buffer;
    uint64_t expires_ns;
    int status = INT_MIN;

    if (!is_open(self) || core_key(self->state, key, &bytes, &length) < 0)
        return status;
    ss_buffer_init(&buffer);
    if (core_value(self->state, value, &buffer, &described) == 0 && core_deadline_or_keep(self->state, ttl_s, expected, &expires_ns) == 0) {
        core_settle(&described, &buffer);
        ATTEMPT(status, self, ss_put(self->region, bytes, length, &described, expires_ns, expected, generation, wait));
        if (status == SS_OK)
            ss_tally(self->counts, SS_WRITE, bytes, length);
    }
    ss_buffer_free(&buffer);
    return status;
}

static PyObject *put_failed(struct table *self, int status, PyObject *key)
{
    return status == INT_MIN ? NULL : core_raise(self, status, key);
}

VERB(table_set)
{
    static const struct signature signature = {"set", 2, 3, {"key", "value", "ttl_s"}};
    PyObject *given[3] = {NULL, NULL, Py_None};
    uint64_t generation;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    int status = put(self, given[0], given[1], given[2], SS_ANY, &generation);
    if (status == SS_OK)
        Py_RETURN_NONE;
    return put_failed(self, status, given[0]);
}

VERB(table_add)
{
    static const struct signature signature = {"add", 2, 3, {"key", "value", "ttl_s"}};
    PyObject *given[3] = {NULL, NULL, Py_None};
    uint64_t generation;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    int status = put(self, given[0], given[1], given[2], SS_ABSENT, &generation);
    if (status == SS_OK)
        Py_RETURN_TRUE;
    if (status == SS_MISMATCH)
        Py_RETURN_FALSE;
    return put_failed(self, status, given[0]);
}

PyObject *core_conflict(struct table *self, PyObject *key, PyObject *expected, uint64_t found)
{
    return core_raise_named(self->state, "ConflictError",
                            Py_BuildValue("{s:O,s:O,s:K}", "key", key, "expected", expected, "found", (unsigned long long)found));
}

int core_expected(PyObject *number, uint64_t *expected)
{
    *expected = PyLong_AsUnsignedLongLong(number);
    if (*expected == UINT64_MAX && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
    }
    if (*expected == SS_ANY)
        *expected = SS_ANY - 1;
    return 0;
}

VERB(table_compare_and_set)
{
    static const struct signature signature = {"compare_and_set", 3, 4, {"key", "value", "expected", "ttl_s"}};
    PyObject *given[4] = {NULL, NULL, NULL, Py_None};
    uint64_t expected, generation;
    if (parse(&signature, args, nargs, kwnames, given) < 0 || core_expected(given[2], &expected) < 0)
        return NULL;
    int status = put(self, given[0], given[1], given[3], expected, &generation);
    if (status == SS_OK)
        return PyLong_FromUnsignedLongLong(generation);
    if (status == SS_MISMATCH)
        return core_conflict(self, given[0], given[2], generation);
    return put_failed(self, status, given[0]);
}

VERB(table_set_many)
{
    static const struct signature signature = {"set_many", 1, 2, {"values", "ttl_s"}};
    PyObject *given[2] = {NULL, Py_None};
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    PyObject *items = PyMapping_Items(given[0]);
    if (!items)
        return NULL;
    uint64_t generation;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *key, *value;
        int status = INT_MIN;
        if (PyArg_ParseTuple(PyList_GET_ITEM(items, i), "OO", &key, &value)) {
            status = put(self, key, value, given[1], SS_ANY, &generation);
            if (status != SS_OK)
                put_failed(self, status, key);
        }
        if (status != SS_OK) {
            Py_DECREF(items);
            return NULL;
        }
    }
    Py_DECREF(items);
    Py_RETURN_NONE;
}

/* Remove `key`.  Returns 1 if it was there, 0 if not, -1 with an exception set. */
static int delete_one(struct table *self, PyObject *key)
{
    const char *bytes;
    size_t length;
    int status;
    if (!is_open(self) || core_key(self->state, key, &bytes, &length) < 0)
        return -1;
    ATTEMPT(status, self, ss_delete(self->region, bytes, length, SS_ANY, NULL, 0, NULL, wait));
    if (status == SS_OK)
        ss_tally(self->counts, SS_WRITE, bytes, length);
    if (status == SS_OK || status == SS_MISSING)
        return status == SS_OK;
    core_raise(self, status, key);
    return -1;
}

PyObject *table_delete(PyObject *self, PyObject *key)
{
    int deleted = delete_one((struct table *)self, key);
    return deleted < 0 ? NULL : PyBool_FromLong(deleted);
}

PyObject *table_delete_many(PyObject *self, PyObject *keys)
{
    PyObject *iterator = PyObject_GetIter(keys);
    PyObject *key;
    Py_ssize_t count = 0;
    while (iterator && (key = PyIter_Next(iterator))) {
        int deleted = delete_one((struct table *)self, key);
        Py_DECREF(key);
        if (deleted < 0)
            break;
        count += deleted;
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(count);
}

VERB(table_touch)
{
    static const struct signature signature = {"touch", 2, 2, {"key", "ttl_s"}};
    PyObject *given[2] = {NULL, NULL};
    const char *bytes;
    size_t length;
    uint64_t expires_ns;
    int status;
    if (parse(&signature, args, nargs, kwnames, given) < 0 || !is_open(self) ||
        core_key(self->state, given[0], &bytes, &length) < 0 || core_deadline(self->state, given[1], &expires_ns) < 0)
        return NULL;
    ATTEMPT(status, self, ss_touch(self->region, bytes, length, expires_ns, wait));
    if (status == SS_OK)
        ss_tally(self->counts, SS_WRITE, bytes, length);
    if (status == SS_OK || status == SS_MISSING)
        return PyBool_FromLong(status == SS_OK);
    return core_raise(self, status, given[0]);
}

/* ---- increment ----------------------------------------------------------- */

/* Describe a number.  Returns 1; 0 if it is none that the table can add; -1 with an exception. */
static int describe_number(struct core_state *state, PyObject *number, struct ss_value *out)
{
    if (PyFloat_CheckExact(number))
        return core_value(state, number, NULL, out) == 0 ? 1 : -1;
    if (!PyLong_CheckExact(number))
        return 0;
    int overflow;
    PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow) {
        if (overflow < 0 || (PyLong_AsUnsignedLongLong(number) == (unsigned long long)-1 && PyErr_Occurred())) {
            PyErr_Clear();
            return 0;
        }
    }
    return core_value(state, number, NULL, out) == 0 ? 1 : -1;
}

/* The table refused to add: have the contract's own add_numbers raise why.
 * Returns 0 if it does not, since the entry has changed meanwhile; else -1. */
static int explain_increment(struct table *self, PyObject *key, PyObject *by, PyObject *initial)
{
    struct copy copy;
    int found = copy_entry(self, key, 0, &copy);
    PyObject *number = found > 0 ? copy_value(self, &copy) : found == 0 ? Py_NewRef(initial) : NULL;
    copy_free(&copy);
    PyObject *sum = number ? PyObject_CallFunctionObjArgs(self->state->add_numbers, key, number, by, NULL) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(sum);
    return sum ? 0 : -1;
}

VERB(table_increment)
{
    static const struct signature signature = {"increment", 1, 4, {"key", "by", "initial", "ttl_s"}};
    PyObject *given[4] = {NULL, NULL, NULL, Py_None};
    struct ss_value by = {.type = SS_INT, .number.i = 1}, initial = {.type = SS_INT, .number.i = 0};
    struct ss_entry entry;
    const char *bytes;
    size_t length;
    uint64_t expires_ns;

    if (parse(&signature, args, nargs, kwnames, given) < 0 || !is_open(self) ||
        core_key(self->state, given[0], &bytes, &length) < 0 || core_deadline(self->state, given[3], &expires_ns) < 0)
        return NULL;
    int by_fits = given[1] ? describe_number(self->state, given[1], &by) : 1;
    int initial_fits = given[2] ? describe_number(self->state, given[2], &initial) : 1;
    if (by_fits < 0 || initial_fits < 0)
        return NULL;
    if (!by_fits || !initial_fits) {
        PyObject *zero = PyLong_FromLong(0);
        PyObject *sum = zero ? PyObject_CallFunctionObjArgs(self->state->add_numbers, given[0], given[2] ? given[2] : zero,
                                                            given[1] ? given[1] : zero, NULL)
                             : NULL;
        if (sum)
            PyErr_SetString(PyExc_SystemError, "add_numbers accepts a number that the region refuses");
        Py_XDECREF(sum);
        Py_XDECREF(zero);
        return NULL;
    }
    for (;;) {
        int status;
        ATTEMPT(status, self, ss_increment(self->region, bytes, length, &by, &initial, expires_ns, &entry, wait));
        if (status == SS_OK) {
            ss_tally(self->counts, SS_WRITE, bytes, length);
            return core_object(self->state, &entry.value, NULL);
        }
        if (status != SS_TYPE && status != SS_OVERFLOW)
            return core_raise(self, status, given[0]);
        PyObject *by_object = given[1] ? Py_NewRef(given[1]) : PyLong_FromLong(1);
        PyObject *initial_object = given[2] ? Py_NewRef(given[2]) : PyLong_FromLong(0);
        int explained = by_object && initial_object ? explain_increment(self, given[0], by_object, initial_object) : -1;
        Py_XDECREF(by_object);
        Py_XDECREF(initial_object);
        if (explained < 0)
            return NULL;
    }
}
