/* counts.c - the type Counts: see counts.h.
 *
 * The counters lie in memory of malloc() and not in the object: a child of a fork
 * goes through those of every interpreter, also of one that has ended and left an
 * object behind.
 */
#define _GNU_SOURCE
#include "counts.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096 }; /* of the format, whatever the machine's are */

struct mapping {
    void *base;
    size_t length;
    struct mapping *next;
};

struct counts_object {
    PyObject_HEAD
    struct ss_counts *counts;
    struct mapping *mappings; /* all that there ever were: C1 */
};

static inline struct ss_counts *counts_of(PyObject *self) { return ((struct counts_object *)self)->counts; }

/* C2.  Another thread of the parent may have been amid a sample. */
static void in_child(struct ss_in_child *child)
{
    struct ss_counts *counts = (struct ss_counts *)((char *)child - offsetof(struct ss_counts, in_child));
    for (int i = 0; i < SS_COUNTERS; i++)
        atomic_store_explicit(&counts->own[i], 0, memory_order_relaxed);
    atomic_store_explicit(&counts->at, counts->own, memory_order_relaxed);
    atomic_flag_clear(&counts->is_sampling);
}

/* ---- counting ------------------------------------------------------------------ */

/* What a verb has done is done: that there is no memory for a sample of it is not told. */
static PyObject *count(PyObject *self, enum ss_tallied kind, PyObject *key)
{
    struct ss_counts *counts = counts_of(self);
    if (ss_tally_one(counts, kind)) {
        Py_ssize_t length;
        const char *bytes = PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;
        if (bytes)
            ss_sample(counts, kind, bytes, (size_t)length);
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

static PyObject *counts_hit(PyObject *self, PyObject *key) { return count(self, SS_HIT, key); }

static PyObject *counts_miss(PyObject *self, PyObject *key) { return count(self, SS_MISS, key); }

static PyObject *counts_wrote(PyObject *self, PyObject *key) { return count(self, SS_WRITE, key); }

static PyObject *counts_wrote_many(PyObject *self, PyObject *number)
{
    uint64_t by = PyLong_AsUnsignedLongLong(number);
    if (by == UINT64_MAX && PyErr_Occurred())
        return NULL;
    ss_tally_many(counts_of(self), by);
    Py_RETURN_NONE;
}

static PyObject *counts_own(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct ss_counts *counts = counts_of(self);
    return Py_BuildValue("(KKK)", (unsigned long long)counts->own[SS_HIT], (unsigned long long)counts->own[SS_MISS],
                         (unsigned long long)counts->own[SS_WRITE]);
}

/* ---- where ------------------------------------------------------------------------ */

static PyObject *counts_attach(PyObject *object, PyObject *args)
{
    struct counts_object *self = (struct counts_object *)object;
    struct ss_counts *counts = self->counts;
    PyObject *number;
    unsigned long long offset;
    if (!PyArg_ParseTuple(args, "OK:attach", &number, &offset))
        return NULL;
    int fd = ss_fd_from(number);
    if (fd < 0)
        return NULL;
    struct mapping *mapping = malloc(sizeof *mapping);
    if (!mapping)
        return PyErr_NoMemory();
    unsigned long long skipped = offset % (unsigned long long)sysconf(_SC_PAGESIZE);
    mapping->length = skipped + PAGE_BYTES;
    mapping->base = mmap(NULL, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - skipped));
    if (mapping->base == MAP_FAILED) {
        free(mapping);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    mapping->next = self->mappings;
    self->mappings = mapping;
    _Atomic uint64_t *page = (_Atomic uint64_t *)((char *)mapping->base + skipped);
    atomic_store_explicit(&counts->at, page, memory_order_release);
    for (int i = 0; i < SS_COUNTERS; i++) /* C3 */
        ss_add(&page[i], atomic_exchange_explicit(&counts->own[i], 0, memory_order_relaxed));
    Py_RETURN_NONE;
}

static PyObject *counts_detach(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct ss_counts *counts = counts_of(self);
    atomic_store_explicit(&counts->at, counts->own, memory_order_relaxed);
    Py_RETURN_NONE;
}

static PyObject *counts_is_attached(PyObject *self, void *Py_UNUSED(closure))
{
    struct ss_counts *counts = counts_of(self);
    return PyBool_FromLong(atomic_load_explicit(&counts->at, memory_order_relaxed) != counts->own);
}

static PyObject *counts_capsule(PyObject *self, void *Py_UNUSED(closure))
{
    return PyCapsule_New(counts_of(self), SS_COUNTS_CAPSULE, NULL);
}

/* ---- the type ---------------------------------------------------------------------- */

static PyObject *counts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Counts() takes no arguments");
        return NULL;
    }
    struct counts_object *self = (struct counts_object *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    struct ss_counts *counts = self->counts = aligned_alloc(64, (sizeof *counts + 63) / 64 * 64);
    if (!counts) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (int i = 0; i < SS_COUNTERS; i++)
        atomic_init(&counts->own[i], 0);
    atomic_init(&counts->at, counts->own);
    atomic_init(&counts->until_sample, 1);
    counts->random = (uint32_t)((uintptr_t)counts >> 4) ^ (uint32_t)getpid();
    atomic_flag_clear(&counts->is_sampling);
    counts->in_child.run = in_child;
    ss_in_child(&counts->in_child);
    return (PyObject *)self;
}

static int counts_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void counts_dealloc(PyObject *object)
{
    struct counts_object *self = (struct counts_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->counts) {
        ss_not_in_child(&self->counts->in_child);
        free(self->counts);
    }
    while (self->mappings) {
        struct mapping *mapping = self->mappings;
        self->mappings = mapping->next;
        munmap(mapping->base, mapping->length);
        free(mapping);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef counts_methods[] = {
    {"hit", counts_hit, METH_O, PyDoc_STR("hit($self, key, /)\n--\n\nCount a question for an entry that was there.")},
    {"miss", counts_miss, METH_O, PyDoc_STR("miss($self, key, /)\n--\n\nCount a question for an entry that was not there.")},
    {"wrote", counts_wrote, METH_O, PyDoc_STR("wrote($self, key, /)\n--\n\nCount a change of an entry.")},
    {"wrote_many", counts_wrote_many, METH_O, PyDoc_STR("wrote_many($self, number, /)\n--\n\nCount changes of entries.")},
    {"own", counts_own, METH_NOARGS, PyDoc_STR("own($self, /)\n--\n\nReturn hits, misses, and writes that no page has.")},
    {"attach", counts_attach, METH_VARARGS, PyDoc_STR("attach($self, fd, offset, /)\n--\n\nCount in that page of a file.")},
    {"detach", counts_detach, METH_NOARGS, PyDoc_STR("detach($self, /)\n--\n\nCount in memory of its own.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef counts_attributes[] = {
    {"is_attached", counts_is_attached, NULL, PyDoc_STR("Whether it counts in a page."), NULL},
    {"capsule", counts_capsule, NULL, PyDoc_STR("What modules in C count by; good as long as this object lives."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(counts_doc, "Counts()\n--\n\nHow often a handle was asked.");

static PyType_Slot counts_slots[] = {
    {Py_tp_doc, (void *)counts_doc},
    {Py_tp_new, counts_new},
    {Py_tp_traverse, counts_traverse},
    {Py_tp_dealloc, counts_dealloc},
    {Py_tp_methods, counts_methods},
    {Py_tp_getset, counts_attributes},
    {0, NULL},
};

static PyType_Spec counts_spec = {
    .name = "sharedstate._native.Counts",
    .basicsize = sizeof(struct counts_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = counts_slots,
};

int ss_add_counts(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &counts_spec, NULL);
    if (!type)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
