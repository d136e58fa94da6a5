/* guard.h - a callable that goes along when what it calls has moved; see guard.c. */
#ifndef SS_GUARD_H
#define SS_GUARD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Add the type Guard to the module.  Returns 0, or -1 with an exception set. */
int ss_add_guard(PyObject *module);

#endif
