/* py_convert.h - between Python's objects and the table's structs, both ways,
 * and from the table's statuses to the library's exceptions.
 *
 * Thread safety: everything here runs with the interpreter's GIL (or, on
 * free-threaded builds, touches only its arguments and immutable state), and
 * without any lock of the region.
 */
#ifndef SS_PY_CONVERT_H
#define SS_PY_CONVERT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "codec.h"
#include "counts.h"
#include "ss_shm.h"

/* What one interpreter's copy of the module refers to. */
struct core_state {
    struct ss_codec codec;
    PyTypeObject *table_type;
    PyObject *errors;     /* sharedstate.errors */
    PyObject *check_key;  /* sharedstate.values.check_key: raises KeyFormatError */
    PyObject *check_ttl;  /* sharedstate.backend.check_ttl: raises ValueTypeError */
    PyObject *add_numbers; /* sharedstate.backend.add_numbers: raises what an increment should */
    PyTypeObject *entry_type; /* sharedstate.model.Entry, a tuple of three */
    PyTypeObject *put_type;   /* sharedstate.model.Put, a tuple of two */
    PyObject *delete_mark;    /* sharedstate.model.DELETE */
    PyObject *keep_mark;      /* sharedstate.model.KEEP */
    PyObject *counts_type;    /* sharedstate.backend.Counts */
};

/* A Table: one handle on one region.  Immutable after open, but for `closed`. */
struct table {
    PyObject_HEAD
    struct ss_region *region; /* mapped until dealloc: a method may be inside it */
    struct core_state *state; /* of the module that made this object, kept alive by its type */
    PyObject *url;
    uint64_t timeout_ns; /* how long a verb waits for a stripe */
    struct ss_counts *counts;
    PyObject *counts_owner; /* whose those are: a sharedstate.backend.Counts */
    int closed;
};

/* Set the exception that tells what `status` means; `key` may be NULL.  Returns NULL. */
PyObject *core_raise(struct table *self, int status, PyObject *key);

/* Set `errors.<name>(**facts)`, stealing `facts`.  Returns NULL. */
PyObject *core_raise_named(struct core_state *state, const char *name, PyObject *facts);

/* Point `bytes` and `length` at the key's UTF-8, which lives as long as `key`.
 * Returns 0, or -1 with KeyFormatError set. */
int core_key(struct core_state *state, PyObject *key, const char **bytes, size_t *length);

/* Describe `value` in `out`; a container's bytes are appended to `buffer`, and
 * then out->payload is their *offset* there plus one (the buffer may move):
 * core_settle() makes it a pointer.  Returns 0, or -1 with ValueTypeError set, or
 * CapacityError for an encoding beyond 4 GiB. */
int core_value(struct core_state *state, PyObject *value, struct ss_buffer *buffer, struct ss_value *out);

static inline void core_settle(struct ss_value *value, const struct ss_buffer *buffer)
{
    if (value->type == SS_MSGPACK)
        value->payload = buffer->bytes + ((uintptr_t)value->payload - 1);
}

/* Return a new object for a value whose payload lies at `payload`. */
PyObject *core_object(struct core_state *state, const struct ss_value *value, const uint8_t *payload);

/* Return a new model.Entry; steals `value`, which may be NULL with an exception set. */
PyObject *core_entry(struct core_state *state, PyObject *value, const struct ss_entry *entry);

/* Turn seconds to live (None, or above 0) into a deadline on the boot clock, 0
 * for never.  Returns 0, or -1 with ValueTypeError set. */
int core_deadline(struct core_state *state, PyObject *ttl_s, uint64_t *expires_ns);

/* The same, of a write that may also be told to KEEP what is there: SS_KEEP, if it expects a generation. */
int core_deadline_or_keep(struct core_state *state, PyObject *ttl_s, uint64_t expected, uint64_t *expires_ns);

/* Turn None (UINT64_MAX: for ever) or seconds into nanoseconds.  Returns 0 or -1. */
int core_timeout(PyObject *timeout_s, uint64_t *timeout_ns);

#endif
