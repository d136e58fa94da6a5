/* embedded.h - an interpreter inside a fuzz target, for the sources that make Python objects.
 *
 * Objects are allocated by malloc(), so that the address sanitizer knows where
 * each of them ends.  FUZZ_PYTHON names the interpreter whose library is linked,
 * which is that of a virtual environment; its prefix is the one that the modules come from.
 */
#ifndef EMBEDDED_H
#define EMBEDDED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

__attribute__((noreturn)) static void give_up(const char *what)
{
    fprintf(stderr, "%s\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    abort();
}

static inline void start_python(void)
{
    PyPreConfig early;
    PyConfig config;

    PyPreConfig_InitPythonConfig(&early);
    early.allocator = PYMEM_ALLOCATOR_MALLOC;
    if (PyStatus_Exception(Py_PreInitialize(&early)))
        give_up("Py_PreInitialize");
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, FUZZ_PYTHON)) ||
        PyStatus_Exception(Py_InitializeFromConfig(&config)))
        give_up("Py_Initialize");
    PyConfig_Clear(&config);
}

/* Whether the exception at hand is the one error that hostile bytes may end in; it is cleared. */
static inline int take_corrupt_error(PyObject *corrupt_error)
{
    int is_it = PyErr_ExceptionMatches(corrupt_error);
    if (is_it)
        PyErr_Clear();
    return is_it;
}

#endif
