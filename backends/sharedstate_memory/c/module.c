/* module.c - the extension module sharedstate_memory._entries.
 *
 * Multi-phase initialisation, heap types, all state in the module: it loads in
 * every interpreter, with its own GIL, a shared one or none.
 */

#include "entries.h"

/* Return a new reference to `module.name`, or NULL with an exception set. */
static PyObject *import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return found;
}

static int exec_module(PyObject *module)
{
    struct memory_state *state = PyModule_GetState(module);
    if (!(state->check_key = import_from("sharedstate.values", "check_key")) ||
        !(state->encode = import_from("sharedstate.values", "encode")) ||
        !(state->decode = import_from("sharedstate.values", "decode")) ||
        !(state->check_ttl = import_from("sharedstate.backend", "check_ttl")) ||
        !(state->add_numbers = import_from("sharedstate.backend", "add_numbers")) ||
        !(state->conflict_error = import_from("sharedstate.errors", "ConflictError")))
        return -1;
    state->item_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &memory_item_spec, NULL);
    state->entries_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &memory_entries_spec, NULL);
    state->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &memory_handle_spec, NULL);
    if (!state->item_type || !state->entries_type || !state->handle_type)
        return -1;
    return PyModule_AddType(module, state->entries_type) < 0 || PyModule_AddType(module, state->handle_type) < 0 ? -1 : 0;
}

static int traverse_module(PyObject *module, visitproc visit, void *arg)
{
    struct memory_state *state = PyModule_GetState(module);
    if (!state)
        return 0;
    Py_VISIT(state->item_type);
    Py_VISIT(state->entries_type);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->check_key);
    Py_VISIT(state->encode);
    Py_VISIT(state->decode);
    Py_VISIT(state->check_ttl);
    Py_VISIT(state->add_numbers);
    Py_VISIT(state->conflict_error);
    return 0;
}

static int clear_module(PyObject *module)
{
    struct memory_state *state = PyModule_GetState(module);
    if (!state)
        return 0;
    Py_CLEAR(state->item_type);
    Py_CLEAR(state->entries_type);
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->check_key);
    Py_CLEAR(state->encode);
    Py_CLEAR(state->decode);
    Py_CLEAR(state->check_ttl);
    Py_CLEAR(state->add_numbers);
    Py_CLEAR(state->conflict_error);
    return 0;
}

static void free_module(void *module)
{
    clear_module(module);
}

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
    .m_name = "sharedstate_memory._entries",
    .m_doc = PyDoc_STR("The entries of a store in C.  See _entries.pyi."),
    .m_size = sizeof(struct memory_state),
    .m_slots = slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC PyInit__entries(void)
{
    return PyModuleDef_Init(&definition);
}
