/* codec.h - Python values to msgpack bytes and back.
 *
 * Compiled into each C module that needs it (sharedstate._native,
 * sharedstate_shm._core); holds no global state.  A module keeps one
 * `struct ss_codec` in its module state and passes it to every call, so each
 * interpreter has its own.
 *
 * Thread safety: with a GIL, every function needs the calling interpreter's.
 * On free-threaded builds any thread may call at any time; the key cache, the
 * one thing that threads would share, is compiled out there.
 *
 * Invariants:
 *   K1  A `struct ss_codec` and what it refers to belong to one interpreter.
 *   K2  Decoding reads no byte outside the given range, and reserves room for
 *       no more elements than bytes are left: hostile input costs at most a
 *       constant factor of its own length.
 *   K3  Neither direction recurses deeper than SS_MAX_DEPTH containers.
 *   K4  `import datetime` never happens here unless a datetime is at hand:
 *       some CPythons crash after it in isolated interpreters.
 */
#ifndef SS_CODEC_H
#define SS_CODEC_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define SS_MAX_DEPTH 64
#define SS_KEY_CACHE_SLOTS 512 /* a power of two */

/* Per-module state; all zero bytes is a valid, empty one. */
struct ss_codec {
    PyObject *values; /* the module sharedstate.values, once something asked for it */
#ifndef Py_GIL_DISABLED
    PyObject *keys[SS_KEY_CACHE_SLOTS]; /* ASCII str seen as dict keys lately, or NULL */
#endif
};

/* Call from the module's exec, traverse and clear (or free) functions. */
void ss_codec_init(struct ss_codec *codec);
int ss_codec_traverse(struct ss_codec *codec, visitproc visit, void *arg);
void ss_codec_clear(struct ss_codec *codec);

/* Where encoded bytes go: a local array until it is full, then the heap.
 *
 *     struct ss_buffer out;
 *     ss_buffer_init(&out);
 *     if (ss_encode(codec, value, &out) == 0)
 *         use(out.bytes, out.length);
 *     ss_buffer_free(&out);               // in every case
 */
struct ss_buffer {
    uint8_t *bytes;
    size_t length;
    size_t capacity;
    uint8_t local[2048];
};

static inline void ss_buffer_init(struct ss_buffer *buffer)
{
    buffer->bytes = buffer->local;
    buffer->length = 0;
    buffer->capacity = sizeof buffer->local;
}

static inline void ss_buffer_free(struct ss_buffer *buffer)
{
    if (buffer->bytes != buffer->local)
        PyMem_Free(buffer->bytes);
}

/* Append `value`, encoded, to `out`.
 *
 * Returns 0; or -1 with an exception set, and then what `out` holds after its
 * former length is unspecified.  Exceptions: ValueTypeError naming the path to
 * the offending element, MemoryError, or what a datetime's tzinfo raises.
 *
 * May run Python code (a datetime's tzinfo; the explanation of a failure), so
 * no lock of ours may be held. */
int ss_encode(struct ss_codec *codec, PyObject *value, struct ss_buffer *out);

/* Return a new reference to the value that `bytes[0..length)` encode.
 *
 * The bytes must not change meanwhile: pass a private copy of shared memory.
 * Returns NULL with CorruptError(url="encoded value") for anything but exactly
 * one well-formed value of the value model, or with MemoryError.
 *
 * May run Python code (building a datetime, an error), so no lock of ours may
 * be held. */
PyObject *ss_decode(struct ss_codec *codec, const uint8_t *bytes, size_t length);

#endif
