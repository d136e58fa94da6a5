/* module.c - the extension module sharedstate_shm._core.
 *
 * The files named py_* and this one know Python; the others are plain C11 and
 * are tested alone.  Multi-phase initialisation, heap types, all state in the
 * module: it loads in every interpreter, with its own GIL, a shared one or none.
 */

#include "py_convert.h"
#include "py_table.h"

#include <errno.h>
#include <string.h>

static int exec_module(PyObject *module)
{
    struct core_state *state = PyModule_GetState(module);
    PyObject *values = NULL, *backend = NULL, *model = NULL;
    int status = -1;

    ss_codec_init(&state->codec);
    state->errors = PyImport_ImportModule("sharedstate.errors");
    values = PyImport_ImportModule("sharedstate.values");
    backend = PyImport_ImportModule("sharedstate.backend");
    model = PyImport_ImportModule("sharedstate.model");
    if (!state->errors || !values || !backend || !model)
        goto done;
    state->check_key = PyObject_GetAttrString(values, "check_key");
    state->check_ttl = PyObject_GetAttrString(backend, "check_ttl");
    state->add_numbers = PyObject_GetAttrString(backend, "add_numbers");
    state->entry_type = (PyTypeObject *)PyObject_GetAttrString(model, "Entry");
    state->put_type = (PyTypeObject *)PyObject_GetAttrString(model, "Put");
    state->delete_mark = PyObject_GetAttrString(model, "DELETE");
    state->keep_mark = PyObject_GetAttrString(model, "KEEP");
    state->counts_type = PyObject_GetAttrString(backend, "Counts");
    if (!state->check_key || !state->check_ttl || !state->add_numbers || !state->entry_type || !state->put_type ||
        !state->delete_mark || !state->keep_mark || !state->counts_type)
        goto done;
    if (!PyType_Check(state->entry_type) || !PyType_IsSubtype(state->entry_type, &PyTuple_Type) ||
        !PyType_Check(state->put_type) || !PyType_IsSubtype(state->put_type, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "sharedstate.model.Entry and .Put must be tuples");
        goto done;
    }
    state->table_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_table_spec, NULL);
    if (!state->table_type || PyModule_AddType(module, state->table_type) < 0)
        goto done;
    PyObject *failures = Py_BuildValue("{s:i,s:i,s:i,s:i}", "OWNER", SS_OWNER, "VERSION", SS_VERSION, "LAYOUT", SS_LAYOUT,
                                       "NOSPC", SS_NOSPC);
    if (!failures)
        goto done;
    status = PyModule_AddObjectRef(module, "FAILURES", failures);
    Py_DECREF(failures);
    if (status == 0)
        status = PyModule_AddIntConstant(module, "MIN_SIZE", SS_SIZE_MIN);
    if (status == 0)
        status = PyModule_AddIntConstant(module, "MAX_TRANSACTION_KEYS", SS_TXN_MAX);
done:
    Py_XDECREF(values);
    Py_XDECREF(backend);
    Py_XDECREF(model);
    return status;
}

static int traverse_module(PyObject *module, visitproc visit, void *arg)
{
    struct core_state *state = PyModule_GetState(module);
    if (!state)
        return 0;
    Py_VISIT(state->table_type);
    Py_VISIT(state->errors);
    Py_VISIT(state->check_key);
    Py_VISIT(state->check_ttl);
    Py_VISIT(state->add_numbers);
    Py_VISIT(state->entry_type);
    Py_VISIT(state->put_type);
    Py_VISIT(state->delete_mark);
    Py_VISIT(state->keep_mark);
    Py_VISIT(state->counts_type);
    return ss_codec_traverse(&state->codec, visit, arg);
}

static int clear_module(PyObject *module)
{
    struct core_state *state = PyModule_GetState(module);
    if (!state)
        return 0;
    Py_CLEAR(state->table_type);
    Py_CLEAR(state->errors);
    Py_CLEAR(state->check_key);
    Py_CLEAR(state->check_ttl);
    Py_CLEAR(state->add_numbers);
    Py_CLEAR(state->entry_type);
    Py_CLEAR(state->put_type);
    Py_CLEAR(state->delete_mark);
    Py_CLEAR(state->keep_mark);
    Py_CLEAR(state->counts_type);
    ss_codec_clear(&state->codec);
    return 0;
}

static void free_module(void *module)
{
    clear_module(module);
}

static PyObject *unlink_region(PyObject *module, PyObject *args)
{
    (void)module;
    int directory, any_owner;
    const char *name;
    if (!PyArg_ParseTuple(args, "isp:unlink_region", &directory, &name, &any_owner))
        return NULL;
    struct ss_options options = {.flags = any_owner ? SS_ANY_OWNER : 0};
    struct ss_region *region;
    int status = ss_open(directory, name, &options, &region);
    if (status == SS_OK) {
        status = ss_unlink(region, directory, name);
        int kept = errno;
        ss_close(region);
        errno = kept;
    }
    if (status == SS_OK || status == SS_MISSING)
        Py_RETURN_NONE;
    return core_open_failed(status, directory, name);
}

static PyMethodDef methods[] = {
    {"open_region", core_open, METH_VARARGS, PyDoc_STR("open_region(directory_fd, name, url, size, mode, evict, any_owner, timeout_s)")},
    {"unlink_region", unlink_region, METH_VARARGS, PyDoc_STR("unlink_region(directory_fd, name, any_owner)")},
    {NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sharedstate_shm._core",
    .m_doc = PyDoc_STR("The shared-memory table, as Python sees it.  See _core.pyi."),
    .m_size = sizeof(struct core_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
