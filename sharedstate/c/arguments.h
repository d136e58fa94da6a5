/* arguments.h - how a verb in C, called by METH_FASTCALL | METH_KEYWORDS, gets its arguments.
 *
 * A call without keywords and with a fitting number of arguments is a loop of
 * copies; everything else, which may also be wrong, is parse_slow()'s.
 *
 * Thread safety: touches nothing but its arguments.
 */
#ifndef SS_ARGUMENTS_H
#define SS_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct signature {
    const char *verb;
    int required, most;
    const char *names[4];
};

__attribute__((noinline, unused)) static int parse_slow(const struct signature *signature, PyObject *const *args,
                                                        Py_ssize_t nargs, PyObject *kwnames, PyObject **given)
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

/* Put the arguments into `given`, which holds the defaults.  Returns 0, or -1 with TypeError set. */
static inline int parse(const struct signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **given)
{
    if (kwnames || nargs < signature->required || nargs > signature->most)
        return parse_slow(signature, args, nargs, kwnames, given);
    for (Py_ssize_t i = 0; i < nargs; i++)
        given[i] = args[i];
    return 0;
}

#endif
