/* guard.c - a callable that goes along when what it calls has moved.
 *
 * A verb of a store that may move is called as if it stood there alone: arguments
 * and result pass through untouched.  Only where it raises the one exception that
 * says "moved, nothing was done" is another verb asked for, and called in its
 * place with the same arguments, now and from then on.  In Python that would be a
 * frame for each call, 60 ns and more of a get of 2 us; here it is a jump.
 *
 * Thread safety: any thread, also without the GIL.  A target that was replaced is
 * kept until the guard goes, since another thread may be in a call of it, which
 * holds a reference to the guard and none to the target.
 *
 * Invariants:
 *   G1  `target` is NULL only once the garbage collector has taken the guard apart.
 *   G2  `former` holds every target that was replaced.
 */
#include "guard.h"

#include <stdatomic.h>
#include <stddef.h>
#include <structmember.h>

struct guard {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *_Atomic target;
    PyObject *follow; /* gets the exception, returns the next target */
    PyObject *moved;  /* the exception's type */
    PyObject *former; /* a list */
};

/* The exception that is set, which is then no more. */
static PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
#endif
}

/* Put what `follow` names in the place of the target.  Returns 0, or -1 with an exception set. */
static int go_along(struct guard *guard)
{
    PyObject *moved = take_exception();
    PyObject *target = moved ? PyObject_CallOneArg(guard->follow, moved) : NULL;
    Py_XDECREF(moved);
    if (!target)
        return -1;
    PyObject *former = atomic_exchange(&guard->target, target);
    /* On failure it is never freed, which is better than too early. */
    if (PyList_Append(guard->former, former) < 0)
        return -1;
    Py_DECREF(former);
    return 0;
}

static PyObject *guard_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    struct guard *guard = (struct guard *)self;
    for (;;) {
        PyObject *target = atomic_load_explicit(&guard->target, memory_order_acquire);
        if (!target) {
            PyErr_SetString(PyExc_ReferenceError, "the store's handle is being destroyed");
            return NULL;
        }
        PyObject *result = PyObject_Vectorcall(target, args, nargsf, names);
        if (result || !PyErr_ExceptionMatches(guard->moved) || go_along(guard) < 0)
            return result;
    }
}

static PyObject *guard_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *target, *follow, *moved;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Guard() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO:Guard", &target, &follow, &moved))
        return NULL;
    PyObject *former = PyList_New(0);
    struct guard *guard = former ? (struct guard *)type->tp_alloc(type, 0) : NULL;
    if (!guard) {
        Py_XDECREF(former);
        return NULL;
    }
    guard->vectorcall = guard_call;
    guard->target = Py_NewRef(target);
    guard->follow = Py_NewRef(follow);
    guard->moved = Py_NewRef(moved);
    guard->former = former;
    return (PyObject *)guard;
}

static int guard_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct guard *guard = (struct guard *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(guard->target);
    Py_VISIT(guard->follow);
    Py_VISIT(guard->moved);
    Py_VISIT(guard->former);
    return 0;
}

static int guard_clear(PyObject *self)
{
    struct guard *guard = (struct guard *)self;
    Py_XDECREF(atomic_exchange(&guard->target, NULL));
    Py_CLEAR(guard->follow);
    Py_CLEAR(guard->moved);
    Py_CLEAR(guard->former);
    return 0;
}

static void guard_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    guard_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef guard_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(struct guard, vectorcall), READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(struct guard, target), READONLY, PyDoc_STR("What is called now.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(guard_doc, "Guard(target, follow, moved, /)\n--\n\nCall `target`; where it raises `moved`, what `follow` names.");

static PyType_Slot guard_slots[] = {
    {Py_tp_doc, (void *)guard_doc},
    {Py_tp_new, guard_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_clear, guard_clear},
    {Py_tp_dealloc, guard_dealloc},
    {Py_tp_members, guard_members},
    {0, NULL},
};

static PyType_Spec guard_spec = {
    .name = "sharedstate._native.Guard",
    .basicsize = sizeof(struct guard),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = guard_slots,
};

int ss_add_guard(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &guard_spec, NULL);
    if (!type)
        return -1;
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
