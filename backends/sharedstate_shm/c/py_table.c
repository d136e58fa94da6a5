/* py_table.c - see py_table.h.  The type, and the verbs on the region as a whole. */

#include "py_table.h"

#include "py_call.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* ---- waiting, looking, closing -------------------------------------------- */

static PyObject *table_change_token(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct table *self = (struct table *)object;
    return is_open(self) ? PyLong_FromUnsignedLongLong(ss_change_token(self->region)) : NULL;
}

static VERB(table_wait)
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

PyObject *core_open_failed(int status, int directory, const char *name)
{
    if (status == SS_SYS)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    PyObject *reason = status == SS_VERSION
        ? PyUnicode_FromFormat("the region has format version %u, this library reads version %d",
                               (unsigned)ss_version_of(directory, name), SS_FORMAT)
        : PyUnicode_FromString(ss_strerror(status));
    PyObject *facts = reason ? Py_BuildValue("(iN)", status, reason) : NULL;
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
        return core_open_failed(status, directory, name);
    struct table *self = (struct table *)state->table_type->tp_alloc(state->table_type, 0);
    if (!self) {
        ss_close(region);
        return NULL;
    }
    self->region = region;
    self->state = state;
    self->url = Py_NewRef(url);
    self->timeout_ns = timeout_ns;
    self->counts_owner = PyObject_CallNoArgs(state->counts_type);
    PyObject *capsule = self->counts_owner ? PyObject_GetAttrString(self->counts_owner, "capsule") : NULL;
    self->counts = capsule ? PyCapsule_GetPointer(capsule, SS_COUNTS_CAPSULE) : NULL;
    Py_XDECREF(capsule);
    if (!self->counts)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int table_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((struct table *)object)->url);
    Py_VISIT(((struct table *)object)->counts_owner);
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
    Py_XDECREF(self->counts_owner);
    type->tp_free(object);
    Py_DECREF(type);
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))table_##name, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR(doc)}
#define ONE(name, doc) {#name, table_##name, METH_O, PyDoc_STR(doc)}
#define NONE(name, doc) {#name, table_##name, METH_NOARGS, PyDoc_STR(doc)}

static PyMethodDef table_methods[] = {
    FAST(get, "get(key, default=None)\n\nReturn the value of `key`, or `default`."),
    ONE(read, "read(key)\n\nReturn the Entry of `key`, or None."),
    ONE(generation, "generation(key)\n\nReturn the generation of `key`, 0 if it is absent."),
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
    NONE(salvage, "salvage()\n\nReturn the keys of sound entries, the number of others, of lost stripes, the last generation."),
    ONE(raise_generations, "raise_generations(floor)\n\nGive out no generation up to `floor` from now on."),
    NONE(info, "info()\n\nReturn size, max_value_bytes, evicts, created."),
    NONE(close, "close()\n\nRefuse every further verb."),
    {NULL},
};

static PyMemberDef table_members[] = {
    {"counts", T_OBJECT_EX, offsetof(struct table, counts_owner), READONLY, PyDoc_STR("Where the verbs count.")},
    {NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One handle on one region; see sharedstate_shm.backend.")},
    {Py_tp_traverse, table_traverse},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {Py_tp_members, table_members},
    {0, NULL},
};

PyType_Spec core_table_spec = {
    .name = "sharedstate_shm._core.Table",
    .basicsize = sizeof(struct table),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = table_slots,
};
