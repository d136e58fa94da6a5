/* bell.h - wake those in other processes who wait for a change of a mapped file; see bell.c. */
#ifndef SS_BELL_H
#define SS_BELL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *native_bell_announce(PyObject *module, PyObject *bell);
PyObject *native_bell_sleep(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *native_bell_ring(PyObject *module, PyObject *bell);

#endif
