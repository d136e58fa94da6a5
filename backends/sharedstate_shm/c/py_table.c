/* py_table.c - see py_table.h.  Each verb: arguments, one call of the table, result.
 *
 * Order within every verb: convert all arguments first, which may run Python;
 * then call the table, which never does; then build the result from private
 * copies.  So no Python code runs while a stripe is locked, and the GIL and the
 * stripes' mutexes cannot wait for each other.
 *
 * Thread safety: any thread, also on free-threaded builds.  A Table does not
 * change after open but for `closed`, which only ever goes from 0 to 1.  The
 * region is unmapped when the last reference goes, not by close(): another
 * thread may be inside a verb, and a robust mutex whose mapping is gone is lost.
 */

#include "py_table.h"

#include "py_convert.h"

#include <errno.h>
#include <string.h>

enum {
    LOCAL_BYTES = 2048,         /* payloads up to this size need no allocation to be read */
    SLICE_NS = 50 * 1000 * 1000 /* how often a waiter looks after signals */
};

/* ---- waiting, with the GIL given up ------------------------------------- */

static uint64_t end_of_patience(uint64_t timeout_ns)
{
    uint64_t now = ss_monotonic_ns();
    return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

static uint64_t next_slice(uint64_t end)
{
    uint64_t slice = ss_monotonic_ns() + SLICE_NS;
    return slice < end ? slice : end;
}

static int may_go_on(uint64_t end)
{
    return PyErr_CheckSignals() == 0 && ss_monotonic_ns() < end;
}

/* Do CALL, an expression that uses `wait`: first without waiting and with the
 * GIL, which costs nothing; only if a stripe is busy without the GIL, in slices. */
#define ATTEMPT(status, self, CALL)                                         \
    do {                                                                    \
        uint64_t wait = SS_TRY;                                             \
        (status) = (CALL);                                                  \
        if ((status) == SS_WOULDBLOCK) {                                    \
            uint64_t end = end_of_patience((self)->timeout_ns);             \
            do {                                                            \
                wait = next_slice(end);                                     \
                Py_BEGIN_ALLOW_THREADS (status) = (CALL);                   \
                Py_END_ALLOW_THREADS                                        \
            } while ((status) == SS_TIMEOUT && may_go_on(end));             \
        }                                                                   \
    } while (0)

/* ---- arguments ----------------------------------------------------------- */

struct signature {
    const char *verb;
    int required, most;
    const char *names[4];
};

/* Put the arguments into `given`, which holds the defaults.  Returns 0 or -1. */
static int parse_slow(const struct signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **given)
{
    if (nargs > signature->most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)", signature->verb, signature->most, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        given[i] = args[i];
    Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int place = 0;
        while (place < signature->most && PyUnicode_CompareWithASCIIString(name, signature->names[place]) != 0)
            place++;
        if (place == signature->most || place < nargs) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument %R", signature->verb, name);
            return -1;
        }
        given[place] = args[nargs + i];
    }
    for (int i = 0; i < signature->required; i++)
        if (!given[i]) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", signature->verb, signature->names[i]);
            return -1;
        }
    return 0;
}

static inline int parse(const struct signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **given)
{
    if (kwnames || nargs < signature->required || nargs > signature->most)
        return parse_slow(signature, args, nargs, kwnames, given);
    for (Py_ssize_t i = 0; i < nargs; i++)
        given[i] = args[i];
    return 0;
}

static int is_open(struct table *self)
{
    if (!self->closed)
        return 1;
    core_raise_named(self->state, "ClosedError", Py_BuildValue("{s:O}", "url", self->url));
    return 0;
}

#define VERB(name) static PyObject *name(struct table *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)

/* ---- reading ------------------------------------------------------------- */

/* A private copy of one entry. */
struct copy {
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
    const char *bytes;
    size_t length, capacity = LOCAL_BYTES;

    copy->payload = copy->local;
    if (!is_open(self) || core_key(self->state, key, &bytes, &length) < 0)
        return -1;
    for (;;) {
        int status;
        if (removes)
            ATTEMPT(status, self,
                    ss_delete(self->region, bytes, length, SS_ANY, copy->payload, capacity, &copy->entry, wait));
        else
            ATTEMPT(status, self, ss_get(self->region, bytes, length, copy->payload, capacity, &copy->entry, wait));
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
    int found = copy_entry(self, given[0], 0, &copy);
    PyObject *value = found > 0 ? copy_value(self, &copy) : found == 0 ? Py_NewRef(given[1]) : NULL;
    copy_free(&copy);
    return value;
}

static PyObject *entry_or_none(struct table *self, PyObject *key, int removes)
{
    struct copy copy;
    int found = copy_entry(self, key, removes, &copy);
    PyObject *entry = NULL;
    if (found > 0)
        entry = core_entry(self->state, copy_value(self, &copy), &copy.entry);
    else if (found == 0)
        entry = Py_NewRef(Py_None);
    copy_free(&copy);
    return entry;
}

static PyObject *table_read(PyObject *self, PyObject *key)
{
    return entry_or_none((struct table *)self, key, 0);
}

static PyObject *table_take(PyObject *self, PyObject *key)
{
    return entry_or_none((struct table *)self, key, 1);
}

static PyObject *table_get_many(PyObject *object, PyObject *keys)
{
    struct table *self = (struct table *)object;
    PyObject *iterator = PyObject_GetIter(keys);
    PyObject *found = iterator ? PyDict_New() : NULL;
    PyObject *key;
    struct copy copy;
    while (found && (key = PyIter_Next(iterator))) {
        int status = copy_entry(self, key, 0, &copy);
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
    if (core_value(self->state, value, &buffer, &described) == 0 && core_deadline(self->state, ttl_s, &expires_ns) == 0) {
        core_settle(&described, &buffer);
        ATTEMPT(status, self, ss_put(self->region, bytes, length, &described, expires_ns, expected, generation, wait));
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

static PyObject *raise_conflict(struct table *self, PyObject *key, PyObject *expected, uint64_t found)
{
    return core_raise_named(self->state, "ConflictError",
                            Py_BuildValue("{s:O,s:O,s:K}", "key", key, "expected", expected, "found", (unsigned long long)found));
}

/* A generation as the table wants it.  What no key can be at matches nothing. */
static int expected_generation(PyObject *number, uint64_t *expected)
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
    if (parse(&signature, args, nargs, kwnames, given) < 0 || expected_generation(given[2], &expected) < 0)
        return NULL;
    int status = put(self, given[0], given[1], given[3], expected, &generation);
    if (status == SS_OK)
        return PyLong_FromUnsignedLongLong(generation);
    if (status == SS_MISMATCH)
        return raise_conflict(self, given[0], given[2], generation);
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
    if (status == SS_OK || status == SS_MISSING)
        return status == SS_OK;
    core_raise(self, status, key);
    return -1;
}

static PyObject *table_delete(PyObject *self, PyObject *key)
{
    int deleted = delete_one((struct table *)self, key);
    return deleted < 0 ? NULL : PyBool_FromLong(deleted);
}

static PyObject *table_delete_many(PyObject *self, PyObject *keys)
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
        if (status == SS_OK)
            return core_object(self->state, &entry.value, NULL);
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

/* ---- several entries ----------------------------------------------------- */

/* A commit under construction.  `keys[i]` is borrowed from the dicts' items. */
struct commit {
    struct ss_op *ops;
    PyObject **keys;
    size_t count;
    struct ss_buffer buffer;
};

static int commit_put(struct table *self, struct commit *commit, struct ss_op *op, PyObject *write)
{
    if (write == self->state->delete_mark) {
        op->kind = SS_OP_DELETE;
        return 0;
    }
    if (!PyObject_TypeCheck(write, self->state->put_type) || PyTuple_GET_SIZE(write) != 2) {
        PyErr_Format(PyExc_TypeError, "a write is a Put or DELETE, not %.100s", Py_TYPE(write)->tp_name);
        return -1;
    }
    op->kind = SS_OP_PUT;
    if (core_value(self->state, PyTuple_GET_ITEM(write, 0), &commit->buffer, &op->value) < 0)
        return -1;
    return core_deadline(self->state, PyTuple_GET_ITEM(write, 1), &op->expires_ns);
}

/* Append an operation on `key`; `write` NULL: a check.  Returns 0 or -1. */
static int commit_append(struct table *self, struct commit *commit, PyObject *key, PyObject *write, PyObject *expected)
{
    struct ss_op *op = &commit->ops[commit->count];
    const char *bytes;
    size_t length;
    memset(op, 0, sizeof *op);
    if (core_key(self->state, key, &bytes, &length) < 0)
        return -1;
    op->key = bytes;
    op->key_length = (uint32_t)length;
    op->kind = SS_OP_CHECK;
    op->expected = SS_ANY;
    if (expected && expected_generation(expected, &op->expected) < 0)
        return -1;
    if (write && commit_put(self, commit, op, write) < 0)
        return -1;
    commit->keys[commit->count++] = key;
    return 0;
}

static int commit_gather(struct table *self, struct commit *commit, PyObject *writes, PyObject *write_items, PyObject *expected,
                         PyObject *expected_items)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(write_items); i++) {
        PyObject *key, *write;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(write_items, i), "OO", &key, &write))
            return -1;
        PyObject *generation = PyDict_GetItemWithError(expected, key);
        if ((!generation && PyErr_Occurred()) || commit_append(self, commit, key, write, generation) < 0)
            return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(expected_items); i++) {
        PyObject *key, *generation;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(expected_items, i), "OO", &key, &generation))
            return -1;
        int is_written = PyDict_Contains(writes, key);
        if (is_written < 0 || (!is_written && commit_append(self, commit, key, NULL, generation) < 0))
            return -1;
    }
    for (size_t i = 0; i < commit->count; i++)
        core_settle(&commit->ops[i].value, &commit->buffer);
    return 0;
}

static PyObject *commit_result(struct commit *commit)
{
    PyObject *generations = PyDict_New();
    for (size_t i = 0; generations && i < commit->count; i++) {
        if (commit->ops[i].kind == SS_OP_CHECK)
            continue;
        uint64_t generation = commit->ops[i].kind == SS_OP_PUT ? commit->ops[i].generation : SS_ABSENT;
        PyObject *number = PyLong_FromUnsignedLongLong(generation);
        if (!number || PyDict_SetItem(generations, commit->keys[i], number) < 0)
            Py_CLEAR(generations);
        Py_XDECREF(number);
    }
    return generations;
}

static PyObject *commit_run(struct table *self, struct commit *commit)
{
    size_t culprit = 0;
    int status;
    if (commit->count == 0)
        return PyDict_New();
    ATTEMPT(status, self, ss_commit(self->region, commit->ops, commit->count, &culprit, wait));
    if (status == SS_OK)
        return commit_result(commit);
    if (status != SS_MISMATCH)
        return core_raise(self, status, NULL);
    PyObject *expected = PyLong_FromUnsignedLongLong(commit->ops[culprit].expected);
    if (expected)
        raise_conflict(self, commit->keys[culprit], expected, commit->ops[culprit].generation);
    Py_XDECREF(expected);
    return NULL;
}

/* Both arguments as dicts, since lookups are needed; a copy where they are another mapping. */
static PyObject *as_dict(PyObject *mapping)
{
    if (PyDict_CheckExact(mapping))
        return Py_NewRef(mapping);
    PyObject *copy = PyDict_New();
    if (copy && mapping != Py_None && PyDict_Update(copy, mapping) < 0)
        Py_CLEAR(copy);
    return copy;
}

static PyObject *commit_dicts(struct table *self, PyObject *writes, PyObject *expected)
{
    struct commit commit = {0};
    PyObject *result = NULL;
    /* Copies of the items: encoding a value may run Python, which may change the dicts. */
    PyObject *write_items = PyDict_Items(writes);
    PyObject *expected_items = PyDict_Items(expected);
    ss_buffer_init(&commit.buffer);
    if (write_items && expected_items) {
        size_t most = (size_t)(PyList_GET_SIZE(write_items) + PyList_GET_SIZE(expected_items));
        if (most > SS_TXN_MAX) {
            core_raise(self, SS_TOOBIG, NULL);
        } else {
            commit.ops = PyMem_New(struct ss_op, most ? most : 1);
            commit.keys = PyMem_New(PyObject *, most ? most : 1);
            if (!commit.ops || !commit.keys)
                PyErr_NoMemory();
            else if (commit_gather(self, &commit, writes, write_items, expected, expected_items) == 0)
                result = commit_run(self, &commit);
        }
    }
    ss_buffer_free(&commit.buffer);
    PyMem_Free(commit.ops);
    PyMem_Free(commit.keys);
    Py_XDECREF(write_items);
    Py_XDECREF(expected_items);
    return result;
}

VERB(table_commit)
{
    static const struct signature signature = {"commit", 1, 2, {"writes", "expected"}};
    PyObject *given[2] = {NULL, Py_None};
    if (parse(&signature, args, nargs, kwnames, given) < 0 || !is_open(self))
        return NULL;
    PyObject *writes = as_dict(given[0]);
    PyObject *expected = writes ? as_dict(given[1]) : NULL;
    PyObject *result = expected ? commit_dicts(self, writes, expected) : NULL;
    Py_XDECREF(writes);
    Py_XDECREF(expected);
    return result;
}

/* ---- the keyspace -------------------------------------------------------- */

/* Point at a prefix's UTF-8.  Returns 0, or -1 with an exception set. */
static int prefix_of(struct table *self, PyObject *prefix, const char **bytes, size_t *length)
{
    Py_ssize_t size = 0;
    if (!is_open(self))
        return -1;
    if (PyUnicode_Check(prefix) && PyUnicode_GET_LENGTH(prefix) == 0) {
        *bytes = "";
        *length = 0;
        return 0;
    }
    if (PyUnicode_Check(prefix) && (*bytes = PyUnicode_AsUTF8AndSize(prefix, &size)) != NULL) {
        *length = (size_t)size;
        return 0;
    }
    PyErr_Clear();
    return core_key(self->state, prefix, bytes, length);
}

/* Append the keys in `used` bytes of records to `list`. */
static int append_keys(PyObject *list, const uint8_t *records, size_t used)
{
    for (size_t at = 0; at + sizeof(uint16_t) <= used;) {
        uint16_t length;
        memcpy(&length, records + at, sizeof length);
        at += sizeof length;
        PyObject *key = PyUnicode_DecodeUTF8((const char *)records + at, length, NULL);
        at += length;
        if (!key || PyList_Append(list, key) < 0) {
            Py_XDECREF(key);
            return -1;
        }
        Py_DECREF(key);
    }
    return 0;
}

VERB(table_keys)
{
    static const struct signature signature = {"keys", 0, 1, {"prefix"}};
    PyObject *given[1] = {NULL};
    const char *prefix = "";
    size_t length = 0, capacity = 4096, used;
    uint64_t count;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    if (given[0] ? prefix_of(self, given[0], &prefix, &length) < 0 : !is_open(self))
        return NULL;
    struct ss_info info;
    ss_get_info(self->region, &info);
    PyObject *keys = PyList_New(0);
    uint8_t *records = PyMem_Malloc(capacity);
    int status = records ? SS_OK : SS_NOSPC;
    for (uint32_t stripe = 0; keys && records && status == SS_OK && stripe < info.nstripes; stripe++) {
        for (;;) {
            ATTEMPT(status, self, ss_keys(self->region, stripe, prefix, length, records, capacity, &used, &count, wait));
            if (status != SS_TOOSMALL)
                break;
            PyMem_Free(records);
            capacity = used * 2; /* it may grow before the next try */
            records = PyMem_Malloc(capacity);
            if (!records)
                break;
        }
        if (records && status == SS_OK && append_keys(keys, records, used) < 0)
            Py_CLEAR(keys);
    }
    if (keys && (!records || status != SS_OK)) {
        Py_CLEAR(keys);
        if (!records)
            PyErr_NoMemory();
        else
            core_raise(self, status, NULL);
    }
    PyMem_Free(records);
    return keys;
}

static PyObject *table_count(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    uint64_t count;
    int status;
    if (!is_open(self))
        return NULL;
    ATTEMPT(status, self, ss_count(self->region, &count, wait));
    return status == SS_OK ? PyLong_FromUnsignedLongLong(count) : core_raise(self, status, NULL);
}

VERB(table_clear)
{
    static const struct signature signature = {"clear", 0, 1, {"prefix"}};
    PyObject *given[1] = {NULL};
    const char *prefix = "";
    size_t length = 0;
    uint64_t total = 0;
    if (parse(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    if (given[0] ? prefix_of(self, given[0], &prefix, &length) < 0 : !is_open(self))
        return NULL;
    struct ss_info info;
    ss_get_info(self->region, &info);
    for (uint32_t stripe = 0; stripe < info.nstripes; stripe++) {
        uint64_t count = 0;
        int status;
        ATTEMPT(status, self, ss_clear(self->region, stripe, prefix, length, &count, wait));
        if (status != SS_OK)
            return core_raise(self, status, NULL);
        total += count;
    }
    return PyLong_FromUnsignedLongLong(total);
}

/* ---- waiting, looking, closing -------------------------------------------- */

static PyObject *table_change_token(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    return is_open(self) ? PyLong_FromUnsignedLongLong(ss_change_token(self->region)) : NULL;
}

VERB(table_wait)
{
    static const struct signature signature = {"wait", 1, 2, {"token", "timeout_s"}};
    PyObject *given[2] = {NULL, Py_None};
    uint64_t timeout_ns;
    if (parse(&signature, args, nargs, kwnames, given) < 0 || !is_open(self) || core_timeout(given[1], &timeout_ns) < 0)
        return NULL;
    uint64_t token = PyLong_AsUnsignedLongLong(given[0]);
    if (token == UINT64_MAX && PyErr_Occurred())
        return NULL;
    uint64_t end = end_of_patience(timeout_ns);
    int status;
    do {
        uint64_t now = ss_monotonic_ns();
        uint64_t left = now < end ? end - now : 0;
        Py_BEGIN_ALLOW_THREADS status = ss_wait(self->region, token, left);
        Py_END_ALLOW_THREADS
    } while (status == SS_TIMEOUT && may_go_on(end) && is_open(self));
    if (PyErr_Occurred())
        return NULL;
    if (status == SS_OK || status == SS_TIMEOUT)
        return PyBool_FromLong(status == SS_OK);
    return core_raise(self, status, NULL);
}

static PyObject *table_stats(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    struct ss_stats stats;
    struct ss_info info;
    int status;
    if (!is_open(self))
        return NULL;
    ATTEMPT(status, self, ss_stats(self->region, &stats, wait));
    if (status != SS_OK)
        return core_raise(self, status, NULL);
    ss_get_info(self->region, &info);
#define U(number) ((unsigned long long)(number))
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "stored_entries", U(stats.entries), "expiring",
                         U(stats.expiring), "bytes", U(stats.used_bytes), "capacity_bytes", U(stats.size), "committed_bytes",
                         U(stats.committed_bytes), "evictions", U(stats.evictions), "purged", U(stats.purged), "recoveries",
                         U(stats.recoveries), "sweeps", U(stats.sweeps), "slots", U(stats.slots), "stripes", U(info.nstripes));
#undef U
}

static PyObject *table_check(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    struct ss_report report = {0};
    int status;
    if (!is_open(self))
        return NULL;
    ATTEMPT(status, self, ss_check(self->region, &report, wait));
    if (status == SS_OK)
        Py_RETURN_NONE;
    if (status == SS_CORRUPT)
        return core_raise_named(self->state, "CorruptError",
                                Py_BuildValue("{s:O,s:s}", "url", self->url, "reason", report.message));
    return core_raise(self, status, NULL);
}

static PyObject *table_info(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    struct ss_info info;
    if (!is_open(self))
        return NULL;
    ss_get_info(self->region, &info);
    return Py_BuildValue("{s:K,s:K,s:O,s:O}", "size", (unsigned long long)info.size, "max_value_bytes",
                         (unsigned long long)info.max_value, "evicts", info.flags & SS_EVICT ? Py_True : Py_False, "created",
                         info.created ? Py_True : Py_False);
}

static PyObject *table_close(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    ((struct table *)object)->closed = 1;
    Py_RETURN_NONE;
}

/* ---- the type ------------------------------------------------------------ */

PyObject *core_open_failed(int status, const char *name)
{
    if (status == SS_SYS)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    PyObject *facts = Py_BuildValue("(is)", status, ss_strerror(status));
    if (facts) {
        PyErr_SetObject(PyExc_ValueError, facts);
        Py_DECREF(facts);
    }
    return NULL;
}

PyObject *core_open(PyObject *module, PyObject *args)
{
    struct core_state *state = PyModule_GetState(module);
    int directory, evict, any_owner;
    unsigned int mode;
    unsigned long long size;
    const char *name;
    PyObject *url, *timeout_s;
    uint64_t timeout_ns;
    if (!PyArg_ParseTuple(args, "isUKIppO:open_region", &directory, &name, &url, &size, &mode, &evict, &any_owner, &timeout_s) ||
        core_timeout(timeout_s, &timeout_ns) < 0)
        return NULL;
    struct ss_options options = {
        .size = size,
        .mode = mode,
        .flags = SS_CREATE | (evict ? SS_EVICT : 0) | (any_owner ? SS_ANY_OWNER : 0),
    };
    struct ss_region *region;
    int status;
    Py_BEGIN_ALLOW_THREADS status = ss_open(directory, name, &options, &region);
    Py_END_ALLOW_THREADS
    if (status != SS_OK)
        return core_open_failed(status, name);
    struct table *self = (struct table *)state->table_type->tp_alloc(state->table_type, 0);
    if (!self) {
        ss_close(region);
        return NULL;
    }
    self->region = region;
    self->state = state;
    self->url = Py_NewRef(url);
    self->timeout_ns = timeout_ns;
    return (PyObject *)self;
}

static int table_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct table *)object)->url);
    return 0;
}

static void table_dealloc(PyObject *object)
{
    struct table *self = (struct table *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->region)
        ss_close(self->region);
    Py_XDECREF(self->url);
    type->tp_free(object);
    Py_DECREF(type);
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))table_##name, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(doc)}
#define ONE(name, doc) {#name, table_##name, METH_O, PyDoc_STR(doc)}
#define NONE(name, doc) {#name, table_##name, METH_NOARGS, PyDoc_STR(doc)}

static PyMethodDef table_methods[] = {
    FAST(get, "get(key, default=None)\n\nReturn the value of `key`, or `default`."),
    ONE(read, "read(key)\n\nReturn the Entry of `key`, or None."),
    ONE(take, "take(key)\n\nRemove `key` and return its Entry, or None."),
    ONE(get_many, "get_many(keys)\n\nReturn the values of those of `keys` that are there."),
    FAST(set, "set(key, value, ttl_s=None)\n\nStore `value`, whatever was there."),
    FAST(add, "add(key, value, ttl_s=None)\n\nStore `value` if `key` is absent; return whether it was."),
    FAST(compare_and_set, "compare_and_set(key, value, expected, ttl_s=None)\n\nStore `value` if `key` is at `expected`."),
    FAST(set_many, "set_many(values, ttl_s=None)\n\nStore all of `values`, each atomically."),
    ONE(delete, "delete(key)\n\nRemove `key`; return whether it was there."),
    ONE(delete_many, "delete_many(keys)\n\nRemove `keys`, each atomically; return how many were there."),
    FAST(touch, "touch(key, ttl_s)\n\nLet `key` expire at another time."),
    FAST(increment, "increment(key, by=1, initial=0, ttl_s=None)\n\nAdd `by` to the number at `key`; return the sum."),
    FAST(commit, "commit(writes, expected=None)\n\nApply all of `writes` if every key of `expected` is at that generation."),
    FAST(keys, "keys(prefix='')\n\nReturn the keys that start with `prefix`."),
    NONE(count, "count()\n\nReturn how many entries there are."),
    FAST(clear, "clear(prefix='')\n\nRemove the entries that start with `prefix`; return how many."),
    NONE(change_token, "change_token()\n\nReturn a number that differs after any change."),
    FAST(wait, "wait(token, timeout_s=None)\n\nWait until change_token() differs from `token`."),
    NONE(stats, "stats()\n\nReturn figures of the region."),
    NONE(check, "check()\n\nVerify every invariant of the region."),
    NONE(info, "info()\n\nReturn size, max_value_bytes, evicts, created."),
    NONE(close, "close()\n\nRefuse every further verb."),
    {NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One handle on one region; see sharedstate_shm.backend.")},
    {Py_tp_traverse, table_traverse},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

PyType_Spec core_table_spec = {
    .name = "sharedstate_shm._core.Table",
    .basicsize = sizeof(struct table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = table_slots,
};
