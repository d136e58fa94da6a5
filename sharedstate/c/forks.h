/* forks.h - what a process must know about its forks, and what they must not carry over; see forks.c. */
#ifndef SS_FORKS_H
#define SS_FORKS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Begin to watch.  Returns 0 or an errno. */
int ss_watch_forks(void);

/* What is to be done in each child of a fork, before anything else runs there: no
 * Python, no allocation, no wait.  The caller's memory, until ss_not_in_child(). */
struct ss_in_child {
    void (*run)(struct ss_in_child *child);
    struct ss_in_child *next, **link; /* guarded by the mutex of forks.c */
};

void ss_in_child(struct ss_in_child *child);
void ss_not_in_child(struct ss_in_child *child);

/* Return the descriptor that a number means, or -1 with an exception set. */
int ss_fd_from(PyObject *number);

PyObject *native_fork_epoch(PyObject *module, PyObject *none);
PyObject *native_forks_made(PyObject *module, PyObject *none);
PyObject *native_close_on_fork(PyObject *module, PyObject *fd);
PyObject *native_blank_on_fork(PyObject *module, PyObject *fd);
PyObject *native_keep_on_fork(PyObject *module, PyObject *fd);

#endif
