/* py_call.h - how a verb of Table gets its arguments, waits, and is declared.
 *
 * Order within every verb: convert all arguments first, which may run Python;
 * then call the table, which never does; then build the result from private
 * copies.  So no Python code runs while a stripe is locked, and the GIL and the
 * stripes' mutexes cannot wait for each other.
 *
 * Thread safety: any thread, also on free-threaded builds.  A Table does not
 * change after open but for `closed`, which only ever goes from 0 to 1.  The
 * region is unmapped when the last reference goes, not by close(): another
 * thread may be inside a verb, and a robust mutex whose mapping is gone is lost.
 */
#ifndef SS_PY_CALL_H
#define SS_PY_CALL_H

#include "arguments.h"
#include "py_convert.h"

enum { SLICE_NS = 50 * 1000 * 1000 }; /* how often a waiter looks after signals */

/* ---- waiting, with the GIL given up ------------------------------------- */

static inline uint64_t end_of_patience(uint64_t timeout_ns)
{
    uint64_t now = ss_monotonic_ns();
    return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

static inline uint64_t next_slice(uint64_t end)
{
    uint64_t slice = ss_monotonic_ns() + SLICE_NS;
    return slice < end ? slice : end;
}

static inline int may_go_on(uint64_t end)
{
    return PyErr_CheckSignals() == 0 && ss_monotonic_ns() < end;
}

/* Do CALL, an expression that uses `wait`: first without waiting and with the
 * GIL, which costs nothing; only if a stripe is busy without the GIL, in slices. */
#define ATTEMPT(status, self, CALL)                                         \
    do {                                                                    \
        uint64_t wait = SS_TRY;                                             \
        (status) = (CALL);                                                  \
        if ((status) == SS_WOULDBLOCK) {                                    \
            uint64_t end = end_of_patience((self)->timeout_ns);             \
            do {                                                            \
                wait = next_slice(end);                                     \
                Py_BEGIN_ALLOW_THREADS (status) = (CALL);                   \
                Py_END_ALLOW_THREADS                                        \
            } while ((status) == SS_TIMEOUT && may_go_on(end));             \
        }                                                                   \
    } while (0)

/* ---- is it open? -------------------------------------------------------- */

/* Return whether the handle is open; if not, ClosedError is set. */
int core_closed(struct table *self);

static inline int is_open(struct table *self)
{
    return !self->closed || core_closed(self);
}

#define VERB(name) PyObject *name(struct table *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)

/* ---- generations --------------------------------------------------------- */

/* A generation as the table wants it; what no key can be at matches nothing.
 * Returns 0, or -1 with an exception set. */
int core_expected(PyObject *number, uint64_t *expected);

/* Set ConflictError.  Returns NULL. */
PyObject *core_conflict(struct table *self, PyObject *key, PyObject *expected, uint64_t found);

/* ---- the verbs, by file -------------------------------------------------- */

/* py_entry.c */
VERB(table_get);
PyObject *table_read(PyObject *self, PyObject *key);
PyObject *table_generation(PyObject *self, PyObject *key);
PyObject *table_take(PyObject *self, PyObject *key);
PyObject *table_get_many(PyObject *self, PyObject *keys);
VERB(table_set);
VERB(table_add);
VERB(table_compare_and_set);
VERB(table_set_many);
PyObject *table_delete(PyObject *self, PyObject *key);
PyObject *table_delete_many(PyObject *self, PyObject *keys);
VERB(table_touch);
VERB(table_increment);

/* py_many.c */
VERB(table_commit);
VERB(table_keys);
PyObject *table_salvage(PyObject *object, PyObject *ignored);
PyObject *table_raise_generations(PyObject *object, PyObject *floor);
PyObject *table_count(PyObject *self, PyObject *ignored);
VERB(table_clear);

#endif
