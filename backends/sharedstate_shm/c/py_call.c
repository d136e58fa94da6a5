/* py_call.c - see py_call.h. */

#include "py_call.h"

int parse_slow(const struct signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **given)
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

int core_closed(struct table *self)
{
    core_raise_named(self->state, "ClosedError", Py_BuildValue("{s:O}", "url", self->url));
    return 0;
}
