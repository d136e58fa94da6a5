/* entries.c - see entries.h.  The types item and Entries: what all handles of one store share. */

#include "entries.h"

enum { PURGE_AFTER = 1000 };

/* ---- items ------------------------------------------------------------------- */

struct item *new_item(struct entries *self)
{
    struct item *item = PyObject_New(struct item, self->item_type);
    if (item) {
        Py_DECREF(self->item_type); /* M9 */
        item->value = Py_NewRef(Py_None);
        item->generation = 0;
        item->expires_at = -INFINITY;
        item->is_encoded = 0;
    }
    return item;
}

static void item_dealloc(PyObject *object)
{
    Py_DECREF(((struct item *)object)->value);
    PyObject_Free(object); /* and not its type: M9 */
}

static PyType_Slot item_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One key's entry; never seen from Python.")},
    {Py_tp_dealloc, item_dealloc},
    {0, NULL},
};

/* Not Py_TPFLAGS_HAVE_GC, by M5: that is what spares each collection the whole store. */
PyType_Spec memory_item_spec = {
    .name = "sharedstate_memory._entries.item",
    .basicsize = sizeof(struct item),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = item_slots,
};

int put_locked(struct entries *self, PyObject *key, struct item *found, PyObject *value, int is_encoded, double expires_at)
{
    struct item *item = found;
    int is_new_deadline = expires_at != INFINITY && !(found && found->expires_at == expires_at);
    if (item)
        fill_locked(self, item, value, is_encoded, expires_at);
    else {
        item = new_item(self);
        if (!item)
            return -1;
        Py_SETREF(item->value, Py_NewRef(value));
        item->is_encoded = is_encoded;
        item->expires_at = expires_at;
        item->generation = self->last + 1;
        int status = PyDict_SetItem(self->dict, key, (PyObject *)item); /* whole: M4's exception */
        if (status == 0)
            item->generation = ++self->last;
        Py_DECREF(item);
        if (status < 0)
            return -1;
    }
    if (is_new_deadline)
        expiring_locked(self);
    return 0;
}

void expiring_locked(struct entries *self)
{
    Py_ssize_t size = PyDict_Size(self->dict), at = 0, count = 0;
    if (++self->expiring < PURGE_AFTER || self->expiring < size / 2)
        return;
    PyObject **past = PyMem_New(PyObject *, (size_t)size);
    if (!past)
        return; /* and again at the next one */
    self->expiring = 0;
    double now = boot_clock_s();
    PyObject *key, *item;
    while (PyDict_Next(self->dict, &at, &key, &item))
        if (((struct item *)item)->expires_at <= now && ((struct item *)item)->generation) /* a placeholder stays */
            past[count++] = Py_NewRef(key);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyDict_DelItem(self->dict, past[i]) < 0)
            PyErr_Clear(); /* it stays, expired */
        Py_DECREF(past[i]);
    }
    PyMem_Free(past);
}

void wake_slow(struct woken woken)
{
    for (Py_ssize_t i = 0; i < woken.count; i++) {
        PyObject *result = PyObject_CallNoArgs(woken.waiters[i]); /* a lock's release: C, which no signal interrupts */
        if (!result)
            PyErr_WriteUnraisable(woken.waiters[i]);
        Py_XDECREF(result);
        Py_DECREF(woken.waiters[i]);
    }
    PyMem_Free(woken.waiters);
}

/* ---- reading ------------------------------------------------------------------ */

static PyObject *deadline_object(double expires_at)
{
    return expires_at == INFINITY ? Py_NewRef(Py_None) : PyFloat_FromDouble(expires_at);
}

/* Fill the last four places of `tuple`.  Ints and floats are no containers, so M4 allows them. */
static int describe_locked(struct item *item, PyObject *tuple)
{
    Py_ssize_t first = PyTuple_GET_SIZE(tuple) - 4;
    PyObject *generation = PyLong_FromUnsignedLongLong(item->generation);
    PyObject *expires_at = deadline_object(item->expires_at);
    if (!generation || !expires_at) {
        Py_XDECREF(generation);
        Py_XDECREF(expires_at);
        return -1;
    }
    PyTuple_SET_ITEM(tuple, first, Py_NewRef(item->value));
    PyTuple_SET_ITEM(tuple, first + 1, Py_NewRef(item->is_encoded ? Py_True : Py_False));
    PyTuple_SET_ITEM(tuple, first + 2, generation);
    PyTuple_SET_ITEM(tuple, first + 3, expires_at);
    return 0;
}

int is_key(PyObject *key)
{
    if (PyUnicode_CheckExact(key))
        return 1;
    PyErr_Format(PyExc_TypeError, "a key is a str, not %R", (PyObject *)Py_TYPE(key));
    return 0;
}

/* Describe, and with `removes` remove, the entry of `key`. */
static PyObject *look(PyObject *object, PyObject *key, int removes)
{
    struct entries *self = (struct entries *)object;
    struct woken woken = {NULL, 0};
    PyObject *described = is_key(key) ? PyTuple_New(4) : NULL; /* before the section: M4 */
    if (!described)
        return NULL;
    int found = 0;
    BEGIN_SECTION(self)
    struct item *item = find_present_locked(self, key);
    if (item) {
        found = describe_locked(item, described) < 0 ? -1 : 1;
        if (found > 0 && removes) {
            found = PyDict_DelItem(self->dict, key) < 0 ? -1 : 1;
            if (found > 0) {
                self->last++;
                woken = take_waiters_locked(self);
            }
        }
    }
    if (!removes && found >= 0)
        *(found ? &self->hits : &self->misses) += 1;
    END_SECTION()
    wake(woken);
    if (found > 0)
        return described;
    Py_DECREF(described);
    return found < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *entries_look(PyObject *self, PyObject *key)
{
    return look(self, key, 0);
}

static PyObject *entries_take(PyObject *self, PyObject *key)
{
    return look(self, key, 1);
}

static PyObject *entries_keys(PyObject *object, PyObject *prefix)
{
    struct entries *self = (struct entries *)object;
    PyObject **keys = NULL, *key, *item;
    Py_ssize_t at = 0, count = 0;
    if (!PyUnicode_Check(prefix)) {
        PyErr_Format(PyExc_TypeError, "a prefix is a str, not %R", (PyObject *)Py_TYPE(prefix));
        return NULL;
    }
    BEGIN_SECTION(self)
    keys = PyMem_New(PyObject *, (size_t)PyDict_Size(self->dict) + 1);
    double now = boot_clock_s();
    while (keys && PyDict_Next(self->dict, &at, &key, &item))
        if (((struct item *)item)->expires_at > now && PyUnicode_Tailmatch(key, prefix, 0, PY_SSIZE_T_MAX, -1) > 0)
            keys[count++] = Py_NewRef(key);
    END_SECTION()
    if (!keys)
        return PyErr_NoMemory();
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (list)
            PyList_SET_ITEM(list, i, keys[i]);
        else
            Py_DECREF(keys[i]);
    }
    PyMem_Free(keys);
    return list;
}

struct copied {
    PyObject *key, *value;
    uint64_t generation;
    double expires_at;
    int is_encoded;
};

static PyObject *entries_snapshot(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct entries *self = (struct entries *)object;
    struct copied *copies = NULL;
    PyObject *key, *value;
    Py_ssize_t at = 0, count = 0;
    BEGIN_SECTION(self)
    copies = PyMem_New(struct copied, (size_t)PyDict_Size(self->dict) + 1);
    while (copies && PyDict_Next(self->dict, &at, &key, &value)) {
        struct item *item = (struct item *)value;
        if (!item->generation)
            continue; /* a placeholder: M4's exception */
        copies[count++] = (struct copied){Py_NewRef(key), Py_NewRef(item->value), item->generation, item->expires_at, item->is_encoded};
    }
    END_SECTION()
    if (!copies)
        return PyErr_NoMemory();
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        struct copied *copy = &copies[i];
        PyObject *row = list ? Py_BuildValue("(OOOKN)", copy->key, copy->value, copy->is_encoded ? Py_True : Py_False,
                                             (unsigned long long)copy->generation, deadline_object(copy->expires_at))
                             : NULL;
        if (row)
            PyList_SET_ITEM(list, i, row);
        else
            Py_CLEAR(list);
        Py_DECREF(copy->key);
        Py_DECREF(copy->value);
    }
    PyMem_Free(copies);
    return list;
}

/* ---- writing: the rest is in commit.c ------------------------------------------- */

static PyObject *entries_touch(PyObject *object, PyObject *args)
{
    struct entries *self = (struct entries *)object;
    struct woken woken = {NULL, 0};
    PyObject *key, *deadline;
    int found;
    if (!PyArg_ParseTuple(args, "UO:touch", &key, &deadline) || !is_key(key))
        return NULL;
    double expires_at = deadline == Py_None ? INFINITY : PyFloat_AsDouble(deadline);
    if (expires_at == -1.0 && PyErr_Occurred())
        return NULL;
    BEGIN_SECTION(self)
    struct item *item = find_present_locked(self, key);
    found = item != NULL;
    if (found) {
        item->expires_at = expires_at;
        self->last++; /* who waits for its expiry must look again */
        if (expires_at != INFINITY)
            expiring_locked(self);
        woken = take_waiters_locked(self);
    }
    END_SECTION()
    wake(woken);
    return PyBool_FromLong(found);
}

/* ---- waiting, removing ------------------------------------------------------------ */

static PyObject *entries_enlist(PyObject *object, PyObject *args)
{
    struct entries *self = (struct entries *)object;
    PyObject *token_object, *waiter;
    if (!PyArg_ParseTuple(args, "O!O:enlist", &PyLong_Type, &token_object, &waiter))
        return NULL;
    uint64_t token = PyLong_AsUnsignedLongLong(token_object);
    if (token == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear(); /* no token of ours: it has moved */
        Py_RETURN_FALSE;
    }
    int is_enlisted = 0, failed = 0;
    BEGIN_SECTION(self)
    if (self->last == token && !self->is_removed) {
        if (self->waiting == self->room) {
            Py_ssize_t room = self->room ? 2 * self->room : 8;
            PyObject **waiters = PyMem_Realloc(self->waiters, (size_t)room * sizeof *waiters);
            failed = !waiters;
            if (!failed) {
                self->waiters = waiters;
                self->room = room;
            }
        }
        if (!failed) {
            self->waiters[self->waiting++] = Py_NewRef(waiter);
            is_enlisted = 1;
        }
    }
    END_SECTION()
    return failed ? PyErr_NoMemory() : PyBool_FromLong(is_enlisted);
}

static PyObject *entries_leave(PyObject *object, PyObject *waiter)
{
    struct entries *self = (struct entries *)object;
    int found = 0;
    BEGIN_SECTION(self)
    for (Py_ssize_t i = 0; i < self->waiting && !found; i++)
        if (self->waiters[i] == waiter) {
            self->waiters[i] = self->waiters[--self->waiting];
            found = 1;
        }
    END_SECTION()
    if (found)
        Py_DECREF(waiter);
    Py_RETURN_NONE;
}

static PyObject *entries_wake(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct entries *self = (struct entries *)object;
    struct woken woken;
    BEGIN_SECTION(self)
    woken = take_waiters_locked(self);
    END_SECTION()
    wake(woken);
    Py_RETURN_NONE;
}

static int forget_waiters(PyObject *object)
{
    struct entries *self = (struct entries *)object;
    struct woken woken;
    BEGIN_SECTION(self)
    woken = take_waiters_locked(self);
    END_SECTION()
    for (Py_ssize_t i = 0; i < woken.count; i++)
        Py_DECREF(woken.waiters[i]);
    PyMem_Free(woken.waiters);
    return 0;
}

static PyObject *entries_after_fork_in_child(PyObject *object, PyObject *Py_UNUSED(ignored))
{
#ifdef Py_GIL_DISABLED
    object->ob_mutex = (PyMutex){0}; /* the critical section's */
#endif
    forget_waiters(object);
    Py_RETURN_NONE;
}

static PyObject *entries_remove(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct entries *self = (struct entries *)object;
    struct woken woken;
    BEGIN_SECTION(self)
    self->is_removed = 1;
    PyDict_Clear(self->dict);
    woken = take_waiters_locked(self);
    END_SECTION()
    wake(woken);
    Py_RETURN_NONE;
}

static PyObject *entries_nothing(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static PyObject *entries_last(PyObject *object, void *Py_UNUSED(closure))
{
    struct entries *self = (struct entries *)object;
    uint64_t last;
    BEGIN_SECTION(self)
    last = self->last;
    END_SECTION()
    return PyLong_FromUnsignedLongLong(last);
}

static PyObject *entries_asked(PyObject *object, void *Py_UNUSED(closure))
{
    struct entries *self = (struct entries *)object;
    uint64_t hits, misses;
    BEGIN_SECTION(self)
    hits = self->hits;
    misses = self->misses;
    END_SECTION()
    return Py_BuildValue("(KK)", (unsigned long long)hits, (unsigned long long)misses);
}

static PyObject *entries_is_removed(PyObject *object, void *Py_UNUSED(closure))
{
    struct entries *self = (struct entries *)object;
    int is_removed;
    BEGIN_SECTION(self)
    is_removed = self->is_removed;
    END_SECTION()
    return PyBool_FromLong(is_removed);
}

/* ---- the type ----------------------------------------------------------------------- */

static PyObject *entries_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_Size(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Entries() takes no arguments");
        return NULL;
    }
    struct memory_state *state = PyType_GetModuleState(type);
    struct entries *self = state ? (struct entries *)type->tp_alloc(type, 0) : NULL;
    if (!self)
        return NULL;
    self->state = state;
    self->item_type = (PyTypeObject *)Py_NewRef(state->item_type);
    self->dict = PyDict_New();
    if (!self->dict)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* The dict is not visited: nobody else refers to it, and it is in no cycle (M5). */
static int entries_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct entries *self = (struct entries *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->item_type);
    for (Py_ssize_t i = 0; i < self->waiting; i++)
        Py_VISIT(self->waiters[i]);
    return 0;
}

static void entries_dealloc(PyObject *object)
{
    struct entries *self = (struct entries *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    forget_waiters(object);
    Py_XDECREF(self->dict);
    Py_XDECREF(self->item_type); /* after the last item */
    type->tp_free(object);
    Py_DECREF(type);
}

#define ONE(name, doc) {#name, entries_##name, METH_O, PyDoc_STR(doc)}
#define NONE(name, doc) {#name, entries_##name, METH_NOARGS, PyDoc_STR(doc)}
#define SEVERAL(name, doc) {#name, entries_##name, METH_VARARGS, PyDoc_STR(doc)}

static PyMethodDef entries_methods[] = {
    ONE(look, "look(key)\n\nReturn value, is it encoded, generation and deadline of `key`, or None."),
    ONE(take, "take(key)\n\nRemove `key` and return what look() would have."),
    ONE(keys, "keys(prefix)\n\nReturn the keys that start with `prefix`."),
    NONE(snapshot, "snapshot()\n\nReturn a row for each entry, expired ones too: the key, and what look() returns."),
    SEVERAL(commit, "commit(changes, expected)\n\nApply all changes; return the first one's generation, None if removed."),
    SEVERAL(touch, "touch(key, expires_at)\n\nLet `key` expire at another time; return whether it is there."),
    SEVERAL(enlist, "enlist(token, wake)\n\nHave the next change call `wake`, unless there was one since `token`."),
    ONE(leave, "leave(wake)\n\nDo not call `wake` any more."),
    NONE(wake, "wake()\n\nCall, and forget, whoever is enlisted."),
    NONE(after_fork_in_child, "after_fork_in_child()\n\nForget whoever is enlisted."),
    NONE(remove, "remove()\n\nDrop everything, for good."),
    {"hold", entries_nothing, METH_NOARGS, PyDoc_STR("hold()\n\nDo nothing: no call of another thread is ever half done.")},
    {"let_go", entries_nothing, METH_NOARGS, PyDoc_STR("let_go()\n\nDo nothing.")},
    {NULL},
};

static PyGetSetDef entries_getters[] = {
    {"last", entries_last, NULL, PyDoc_STR("The newest generation, also of deletes and of new deadlines."), NULL},
    {"asked", entries_asked, NULL, PyDoc_STR("How many questions for an entry found it, and how many did not."), NULL},
    {"is_removed", entries_is_removed, NULL, PyDoc_STR("Whether remove() was called."), NULL},
    {NULL},
};

static PyType_Slot entries_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The entries of one store; see sharedstate_memory.entries.")},
    {Py_tp_new, entries_new},
    {Py_tp_traverse, entries_traverse},
    {Py_tp_clear, forget_waiters},
    {Py_tp_dealloc, entries_dealloc},
    {Py_tp_methods, entries_methods},
    {Py_tp_getset, entries_getters},
    {0, NULL},
};

PyType_Spec memory_entries_spec = {
    .name = "sharedstate_memory._entries.Entries",
    .basicsize = sizeof(struct entries),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = entries_slots,
};
