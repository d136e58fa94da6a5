/* commit.c - Entries.commit(): several writes, if several keys are where the caller saw them.
 *
 * All that may fail comes first, outside of the section: the arguments are read,
 * and an item is made for each key that may be new.  In the section the looks
 * come first, then room for the new keys, which alone may fail there and is undone
 * then (M3), and at last the changes.
 */

#include "entries.h"

/* One write of a commit. */
struct change {
    PyObject *key;      /* borrowed from the caller's dict, which nobody else has */
    PyObject *value;    /* likewise; NULL: the key is to go */
    struct item *fresh; /* ours; for a key that is not there, or NULL */
    double expires_at;
    int is_encoded, keeps_deadline;
};

struct expectation {
    PyObject *key; /* borrowed, as above */
    uint64_t generation;
};

/* Read `changes` and `expected`.  Returns 0, or -1 with an exception set. */
static int read_changes(struct entries *self, PyObject *changes, struct change *change)
{
    PyObject *key, *what;
    for (Py_ssize_t at = 0; PyDict_Next(changes, &at, &key, &what); change++) {
        change->key = key;
        if (!is_key(key))
            return -1;
        if (what == Py_None)
            continue;
        if (!PyTuple_CheckExact(what) || PyTuple_GET_SIZE(what) != 3 || !is_scalar(PyTuple_GET_ITEM(what, 0))) {
            PyErr_SetString(PyExc_TypeError, "a change is None, or a scalar, is it encoded, and its deadline or True to keep it");
            return -1;
        }
        change->value = PyTuple_GET_ITEM(what, 0);
        change->is_encoded = PyTuple_GET_ITEM(what, 1) == Py_True;
        change->keeps_deadline = PyTuple_GET_ITEM(what, 2) == Py_True;
        change->expires_at = PyTuple_GET_ITEM(what, 2) == Py_None ? INFINITY : PyFloat_AsDouble(PyTuple_GET_ITEM(what, 2));
        if (change->expires_at == -1.0 && PyErr_Occurred())
            return -1;
        change->fresh = new_item(self);
        if (!change->fresh)
            return -1;
    }
    return 0;
}

static int read_expected(PyObject *expected, struct expectation *expectation)
{
    PyObject *key, *generation;
    for (Py_ssize_t at = 0; PyDict_Next(expected, &at, &key, &generation); expectation++) {
        expectation->key = key;
        if (!is_key(key))
            return -1;
        if (!PyLong_Check(generation)) {
            PyErr_Format(PyExc_TypeError, "a generation is an int, not %R", (PyObject *)Py_TYPE(generation));
            return -1;
        }
        expectation->generation = PyLong_AsUnsignedLongLong(generation);
        if (expectation->generation == UINT64_MAX && PyErr_Occurred())
            PyErr_Clear(); /* negative, or beyond 64 bits: no entry ever is there */
    }
    return 0;
}

static inline uint64_t generation_locked(struct entries *self, PyObject *key)
{
    struct item *item = find_present_locked(self, key);
    return item ? item->generation : 0;
}

/* Make room for every key to come, with items that read as absent.  Returns 0, or -1 and all is as it was. */
static int make_room_locked(struct entries *self, struct change *changes, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!changes[i].value || find_locked(self, changes[i].key))
            continue;
        if (PyDict_SetItem(self->dict, changes[i].key, (PyObject *)changes[i].fresh) == 0)
            continue;
        PyErr_Clear();
        while (i-- > 0)
            if (changes[i].fresh && find_locked(self, changes[i].key) == changes[i].fresh &&
                PyDict_DelItem(self->dict, changes[i].key) < 0)
                PyErr_Clear();
        return -1;
    }
    return 0;
}

static void apply_locked(struct entries *self, struct change *changes, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        struct item *item = find_locked(self, changes[i].key);
        if (changes[i].keeps_deadline) /* a placeholder has none */
            changes[i].expires_at = item && item->generation ? item->expires_at : INFINITY;
        if (changes[i].value && item)
            fill_locked(self, item, changes[i].value, changes[i].is_encoded, changes[i].expires_at);
        else { /* a delete; or a write that lost its place meanwhile (M4's exception), as if that came after it */
            self->last++;
            if (item && PyDict_DelItem(self->dict, changes[i].key) < 0)
                PyErr_Clear(); /* it cannot: the key is there, and to remove one allocates nothing */
        }
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (changes[i].value && changes[i].expires_at != INFINITY)
            expiring_locked(self);
}

static PyObject *raise_conflict(struct entries *self, PyObject *key, PyObject *expected, uint64_t found)
{
    PyObject *nothing = PyTuple_New(0);
    PyObject *facts = Py_BuildValue("{s:O,s:O,s:K}", "key", key, "expected", PyDict_GetItemWithError(expected, key), "found",
                                    (unsigned long long)found);
    PyObject *error = nothing && facts ? PyObject_Call(self->state->conflict_error, nothing, facts) : NULL;
    if (error)
        PyErr_SetObject(self->state->conflict_error, error);
    Py_XDECREF(error);
    Py_XDECREF(facts);
    Py_XDECREF(nothing);
    return NULL;
}

PyObject *entries_commit(PyObject *object, PyObject *args)
{
    struct entries *self = (struct entries *)object;
    PyObject *writes, *expected;
    if (!PyArg_ParseTuple(args, "O!O!:commit", &PyDict_Type, &writes, &PyDict_Type, &expected))
        return NULL;
    Py_ssize_t count = PyDict_Size(writes), conditions = PyDict_Size(expected), checked = 0;
    struct change *changes = PyMem_Calloc((size_t)count + 1, sizeof *changes);
    struct expectation *expectations = PyMem_Calloc((size_t)conditions + 1, sizeof *expectations);
    PyObject *result = NULL;
    struct woken woken = {NULL, 0};
    enum { FAILED, REMOVED, CONFLICT, NO_ROOM, DONE } outcome = FAILED;
    uint64_t first = 0, found = 0;

    if (!changes || !expectations)
        PyErr_NoMemory();
    else if (read_changes(self, writes, changes) == 0 && read_expected(expected, expectations) == 0) {
        BEGIN_SECTION(self)
        while (checked < conditions &&
               (found = generation_locked(self, expectations[checked].key)) == expectations[checked].generation)
            checked++;
        outcome = self->is_removed ? REMOVED : checked < conditions ? CONFLICT : DONE;
        if (outcome == DONE && make_room_locked(self, changes, count) < 0)
            outcome = NO_ROOM;
        if (outcome == DONE) {
            first = self->last + 1;
            apply_locked(self, changes, count);
            woken = take_waiters_locked(self);
        }
        END_SECTION()
    }
    wake(woken);
    if (outcome == DONE)
        result = PyLong_FromUnsignedLongLong(first);
    else if (outcome == REMOVED)
        result = Py_NewRef(Py_None);
    else if (outcome == CONFLICT)
        raise_conflict(self, expectations[checked].key, expected, found);
    else if (outcome == NO_ROOM)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; changes && i < count; i++)
        Py_XDECREF(changes[i].fresh);
    PyMem_Free(changes);
    PyMem_Free(expectations);
    return result;
}
