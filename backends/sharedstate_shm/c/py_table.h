/* py_table.h - the Python type Table: the contract's verbs on one region. */
#ifndef SS_PY_TABLE_H
#define SS_PY_TABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyType_Spec core_table_spec; /* immutable: the type itself is made per module */

/* The module function open(): return a Table, or raise RegionError's facts as
 * ValueError(status name, detail) or OSError, which backend.py translates. */
PyObject *core_open(PyObject *module, PyObject *args);

/* Set the exception for an ss_open() or ss_unlink() that failed.  Returns NULL. */
PyObject *core_open_failed(int status, int directory, const char *name);

#endif
