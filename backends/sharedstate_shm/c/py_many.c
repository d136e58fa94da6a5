/* py_many.c - the verbs on several entries: commit, and the keyspace. */

#include "py_call.h"

#include <string.h>

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
    return core_deadline_or_keep(self->state, PyTuple_GET_ITEM(write, 1), op->expected, &op->expires_ns);
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
    if (expected && core_expected(expected, &op->expected) < 0)
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
    if (status == SS_OK) {
        for (size_t i = 0; i < commit->count; i++)
            if (commit->ops[i].kind != SS_OP_CHECK)
                ss_tally(self->counts, SS_WRITE, commit->ops[i].key, commit->ops[i].key_length);
        return commit_result(commit);
    }
    if (status != SS_MISMATCH)
        return core_raise(self, status, NULL);
    PyObject *expected = PyLong_FromUnsignedLongLong(commit->ops[culprit].expected);
    if (expected)
        core_conflict(self, commit->keys[culprit], expected, commit->ops[culprit].generation);
    Py_XDECREF(expected);
    return NULL;
}

/* Both arguments as dicts, since lookups are needed; copies, since encoding a
 * value may run Python and, without a GIL, another thread may change the caller's. */
static PyObject *as_dict(PyObject *mapping)
{
    if (PyDict_CheckExact(mapping))
        return PyDict_Copy(mapping);
    PyObject *copy = PyDict_New();
    if (copy && mapping != Py_None && PyDict_Update(copy, mapping) < 0)
        Py_CLEAR(copy);
    return copy;
}

static PyObject *commit_dicts(struct table *self, PyObject *writes, PyObject *expected)
{
    struct commit commit = {0};
    PyObject *result = NULL;
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

/* Append the keys in `used` bytes of records to `list`.  One that is no UTF-8 is counted in `others`, or where that is
 * NULL an error. */
static int append_keys(struct table *self, PyObject *list, const uint8_t *records, size_t used, unsigned long long *others)
{
    for (size_t at = 0; at + sizeof(uint16_t) <= used;) {
        uint16_t length;
        memcpy(&length, records + at, sizeof length);
        at += sizeof length;
        PyObject *key = PyUnicode_DecodeUTF8((const char *)records + at, length, NULL);
        at += length;
        if (!key && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            if (others) {
                ++*others;
                continue;
            }
            core_raise(self, SS_CORRUPT, NULL);
        }
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
        if (records && status == SS_OK && append_keys(self, keys, records, used, NULL) < 0)
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

PyObject *table_count(PyObject *object, PyObject *Py_UNUSED(ignored))
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
        ss_tally_many(self->counts, count);
        total += count;
    }
    return PyLong_FromUnsignedLongLong(total);
}

/* ---- repair --------------------------------------------------------------- */

PyObject *table_salvage(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    unsigned long long broken = 0, lost_stripes = 0, generation = 0;
    struct ss_info info;
    if (!is_open(self))
        return NULL;
    ss_get_info(self->region, &info);
    PyObject *keys = PyList_New(0);
    for (uint32_t stripe = 0; keys && stripe < info.nstripes; stripe++) {
        struct ss_salvaged found;
        size_t used = 0;
        uint8_t *records = NULL;
        int status = ss_salvage(self->region, stripe, NULL, 0, &used, &found);
        if (status == SS_TOOSMALL) {
            size_t capacity = used;
            records = PyMem_Malloc(capacity);
            if (!records) {
                PyErr_NoMemory();
                Py_CLEAR(keys);
                break;
            }
            status = ss_salvage(self->region, stripe, records, capacity, &used, &found);
        }
        if (status == SS_OK && records && append_keys(self, keys, records, used, &broken) < 0)
            Py_CLEAR(keys);
        PyMem_Free(records);
        lost_stripes += status != SS_OK;
        broken += found.broken;
        if (found.generation > generation && found.generation < UINT64_C(1) << 60) /* beyond it is damage */
            generation = found.generation;
    }
    return keys ? Py_BuildValue("(NKKK)", keys, broken, lost_stripes, generation) : NULL;
}

PyObject *table_raise_generations(PyObject *object, PyObject *floor)
{
    struct table *self = (struct table *)object;
    int status;
    unsigned long long wanted = PyLong_AsUnsignedLongLong(floor);
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    ATTEMPT(status, self, ss_raise_generations(self->region, wanted, wait));
    if (status != SS_OK)
        return core_raise(self, status, NULL);
    Py_RETURN_NONE;
}
