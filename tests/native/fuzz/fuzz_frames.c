/* fuzz_frames.c - replay hostile frames of the file backend's log.
 *
 * An input is the payload of a frame.  The outcome is -1, which leaves it to
 * Python, or a generation that is no less than the one before, and then each
 * entry is a tuple of five whose generation is not ahead.  No other error, no
 * exception left behind, no byte read outside the payload: this is a bytes
 * object of its own, which ends where its allocation ends.
 */
#include "embedded.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);
PyMODINIT_FUNC PyInit__replay(void);

enum { GENERATION = 7 };

static PyObject *replay;

static void start(void)
{
    PyImport_AppendInittab("_replay", PyInit__replay);
    start_python();
    PyObject *module = PyImport_ImportModule("_replay");
    if (module == NULL || (replay = PyObject_GetAttrString(module, "replay")) == NULL)
        give_up("_replay");
}

static PyObject *some_entries(void)
{
    PyObject *entries = Py_BuildValue("{s(iiiOi)s(y#iidi)}", "a", 1, 0, 1, Py_None, 1, "b", "\x90", (Py_ssize_t)1, 1, 2, 5.0, 1);
    if (entries == NULL)
        give_up("entries");
    return entries;
}

static void check(PyObject *entries, long long after)
{
    PyObject *key, *entry;
    Py_ssize_t cursor = 0;

    if (after < GENERATION)
        give_up("the generation went back");
    while (PyDict_Next(entries, &cursor, &key, &entry))
        if (!PyUnicode_CheckExact(key) || !PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 5 ||
            PyLong_AsLongLong(PyTuple_GET_ITEM(entry, 2)) > after)
            give_up("what was stored is no entry");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (replay == NULL)
        start();
    PyObject *entries = some_entries();
    PyObject *payload = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)length);
    PyObject *result = payload ? PyObject_CallFunction(replay, "OOi", entries, payload, GENERATION) : NULL;
    if (result == NULL || PyErr_Occurred())
        give_up("replay() raised");
    long long after = PyLong_AsLongLong(result);
    if (after != -1)
        check(entries, after);
    Py_DECREF(result);
    Py_DECREF(payload);
    Py_DECREF(entries);
    return 0;
}
