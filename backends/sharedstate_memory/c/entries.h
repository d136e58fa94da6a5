/* entries.h - the entries of one store in C, and the rules that keep them whole.
 *
 *     Handle ----+                    one per open store: url, is it closed?
 *     Handle ----+---> Entries        one per store name and interpreter
 *                        dict         str -> item: value, generation, deadline
 *                        last         the newest generation, also of deletes
 *                        waiters      whom the next change wakes
 *
 * A verb converts its arguments, which may run Python; then, in one *section*,
 * looks and changes, which never does; then builds its result and wakes waiters.
 *
 * Invariants.  entries.py, the reference and the fallback, cites the same ones.
 *   M1  Every stored generation is at most `last`.
 *   M2  `last` only grows, so a deleted key never reuses a generation.
 *   M3  What one call changes appears at once: all its changes, and the looks
 *       that they rest on, are in one section, and what may fail in it, for want
 *       of memory, comes before the first change that can be seen.
 *   M4  No section runs Python code, gives up the GIL, or allocates an object
 *       that the garbage collector tracks (3.11 collects on allocation, and runs
 *       finalizers).  So neither another thread, nor a signal handler, nor a
 *       finalizer comes in between; and none finds a lock held, for there is none.
 *       One exception, without a GIL only: where PyDict_SetItem lets the dict grow,
 *       CPython may free what others left, and run their finalizers.  So there
 *       each item is whole before it is put in, and a commit's placeholders, at
 *       generation 0, read as absent; what comes in between may be seen as if it
 *       came within, but meets no half-made item.
 *   M5  A value is an exact None, bool, int, float, str or bytes (the last may be
 *       an encoded container), and a key an exact str: to hash, compare or drop
 *       one runs no Python code, and an item can be part of no cycle.  Hence the
 *       collector knows neither the items nor, up to Python 3.13, the dict.
 *   M6  Whoever is enlisted is woken by the first change, removal or close after
 *       that: enlist() looks at `last` in the section in which it takes its place,
 *       and each change takes the waiters away in its own.
 *   M7  A removed store stays empty: each section that writes looks at
 *       `is_removed`.
 *   M9  An item refers to no type, as no object of a heap type else does: Entries
 *       refers to it for all of its items, none of which outlives Entries.  The
 *       collector sees that one reference.  Theirs, which it cannot see, would
 *       keep type, module and all that these refer to from the one collection
 *       at the end of an interpreter whose at-fork hooks still hold its tables.
 *
 * Thread safety: any thread.  With a GIL, M4 makes a section atomic.  Without
 * one it is a critical section of the Entries object; the dict's own, within,
 * is free always, since the dict never leaves this file, so nothing waits there
 * and the outer one is not suspended.  Reads take it too: an item is changed in
 * place, which costs a write neither an allocation nor a second look-up.
 *
 * Fork: with a GIL, the thread that forks holds it, and no other is inside a
 * section; without, fork stops all others where they may be stopped, which is in
 * none.  But one that waits for a section may have been handed it just then, and
 * is not in the child: after_fork_in_child() frees it.
 */
#ifndef SS_MEMORY_ENTRIES_H
#define SS_MEMORY_ENTRIES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <time.h>

/* What one interpreter's copy of the module refers to. */
struct memory_state {
    PyTypeObject *item_type, *entries_type, *handle_type;
    PyObject *check_key;      /* sharedstate.values.check_key: raises KeyFormatError */
    PyObject *encode;         /* sharedstate.values.encode: raises ValueTypeError */
    PyObject *decode;         /* sharedstate.values.decode */
    PyObject *check_ttl;      /* sharedstate.backend.check_ttl: raises ValueTypeError */
    PyObject *add_numbers;    /* sharedstate.backend.add_numbers: raises what an increment should */
    PyObject *conflict_error; /* sharedstate.errors.ConflictError */
};

/* One key's entry; Python never sees it. */
struct item {
    PyObject_HEAD
    PyObject *value;     /* M5; never NULL */
    uint64_t generation; /* 0: a commit's placeholder, which is absent */
    double expires_at;   /* seconds on the boot clock, INFINITY for never */
    int is_encoded;
};

struct entries {
    PyObject_HEAD
    struct memory_state *state; /* of the module, which this object's type keeps alive */
    PyTypeObject *item_type;    /* M9 */
    PyObject *dict;             /* str to struct item; everything here is for sections only */
    uint64_t last, hits, misses; /* each question for one entry is one of the latter two */
    Py_ssize_t expiring; /* entries with a deadline written since the last purge */
    int is_removed;
    PyObject **waiters; /* callables that wake one waiter each */
    Py_ssize_t waiting, room;
};

extern PyType_Spec memory_item_spec, memory_entries_spec, memory_handle_spec;

/* ---- sections -------------------------------------------------------------- */

#ifdef Py_GIL_DISABLED
#define BEGIN_SECTION(entries) Py_BEGIN_CRITICAL_SECTION(entries);
#define END_SECTION() Py_END_CRITICAL_SECTION();
#else
#define BEGIN_SECTION(entries) {
#define END_SECTION() }
#endif

/* Names that end in _locked are for sections, and keep M4. */

static inline double boot_clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline int is_past(double expires_at)
{
    return expires_at != INFINITY && expires_at <= boot_clock_s();
}

/* Return the item of `key`, an exact str, expired or not; borrowed; NULL without an exception if there is none. */
static inline struct item *find_locked(struct entries *self, PyObject *key)
{
    return (struct item *)PyDict_GetItemWithError(self->dict, key);
}

static inline struct item *find_present_locked(struct entries *self, PyObject *key)
{
    struct item *item = find_locked(self, key);
    return item && !is_past(item->expires_at) ? item : NULL;
}

/* Make `item` that of `value` (borrowed), at the next generation. */
static inline void fill_locked(struct entries *self, struct item *item, PyObject *value, int is_encoded, double expires_at)
{
    PyObject *dropped = item->value;
    item->value = Py_NewRef(value);
    item->is_encoded = is_encoded;
    item->expires_at = expires_at;
    item->generation = ++self->last;
    Py_DECREF(dropped); /* runs no Python code: M5 */
}

/* Store `value` (borrowed) at the next generation.  `found` is find_locked()'s answer.
 * Returns 0, or -1 with MemoryError set and nothing changed. */
int put_locked(struct entries *self, PyObject *key, struct item *found, PyObject *value, int is_encoded, double expires_at);

/* Account for a new deadline, and drop expired entries once enough were written to pay for the walk. */
void expiring_locked(struct entries *self);

/* ---- waking ------------------------------------------------------------------ */

struct woken {
    PyObject **waiters;
    Py_ssize_t count;
};

/* Take the waiters away (M6); wake() calls them, outside of the section. */
static inline struct woken take_waiters_locked(struct entries *self)
{
    struct woken woken = {self->waiters, self->waiting};
    if (woken.count) {
        self->waiters = NULL;
        self->waiting = self->room = 0;
        return woken;
    }
    return (struct woken){NULL, 0};
}

void wake_slow(struct woken woken);

static inline void wake(struct woken woken)
{
    if (woken.count)
        wake_slow(woken);
}

/* ---- what is made and judged outside --------------------------------------------- */

/* Return a new item that reads as absent, or NULL with MemoryError set. */
struct item *new_item(struct entries *self);

/* Return whether `key` is an exact str (M5); if not, TypeError is set. */
int is_key(PyObject *key);

/* Return whether `value` may be kept as it is (M5). */
static inline int is_scalar(PyObject *value)
{
    return PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value) ||
        PyBytes_CheckExact(value) || value == Py_None || PyBool_Check(value);
}

PyObject *entries_commit(PyObject *self, PyObject *args); /* commit.c */

#endif
