/* codec.c - see codec.h for the contract, wire.h for the bytes.
 *
 * Both directions are one recursive function with the frequent types first.
 * The hot path knows no errors in detail: where encoding meets something that
 * the value model refuses, it gives up, and sharedstate.values.refuse() walks
 * the value again, in Python, to say what and where it was.  Decoding notes a
 * reason and a place, since hostile bytes can be long and Python is slow.
 * One file for both, long as it is: each is read against the other.
 */
#include "codec.h"

#include "wire.h"

/* Locks on containers: Python 3.13, and they do something on free-threaded builds only. */
#ifndef Py_BEGIN_CRITICAL_SECTION
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* An element is borrowed from its container.  With a GIL nothing can drop it
 * while a scalar is encoded; without one, another thread can. */
#ifdef Py_GIL_DISABLED
#define HOLD_ELEMENT(op) Py_INCREF(op)
#define DROP_ELEMENT(op) Py_DECREF(op)
#else
#define HOLD_ELEMENT(op) ((void)0)
#define DROP_ELEMENT(op) ((void)0)
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* --- module state ------------------------------------------------------------ */

void ss_codec_init(struct ss_codec *codec) { memset(codec, 0, sizeof *codec); }

int ss_codec_traverse(struct ss_codec *codec, visitproc visit, void *arg)
{
    Py_VISIT(codec->values); /* the cached keys are str: no cycle goes through them */
    return 0;
}

void ss_codec_clear(struct ss_codec *codec)
{
    Py_CLEAR(codec->values);
#ifndef Py_GIL_DISABLED
    for (size_t i = 0; i < SS_KEY_CACHE_SLOTS; i++)
        Py_CLEAR(codec->keys[i]);
#endif
}

/* Return a new reference to an attribute of sharedstate.values.  Imported at
 * the first need and not with the module, which values.py itself imports. */
static PyObject *from_values(struct ss_codec *codec, const char *name)
{
#ifdef Py_GIL_DISABLED
    PyObject *values = PyImport_ImportModule("sharedstate.values"); /* no shared field to race for */
    PyObject *found = values ? PyObject_GetAttrString(values, name) : NULL;
    Py_XDECREF(values);
    return found;
#else
    if (!codec->values) {
        PyObject *values = PyImport_ImportModule("sharedstate.values"); /* may run other threads */
        if (!values)
            return NULL;
        Py_XSETREF(codec->values, values);
    }
    return PyObject_GetAttrString(codec->values, name);
#endif
}

/* --- encoding ---------------------------------------------------------------- */

struct encoder {
    struct ss_codec *codec;
    uint8_t *start, *end; /* of the room; the place to write at is passed along in a register */
    struct ss_buffer *out;
};

/* In the functions below a result of NULL means failure: with an exception set,
 * that one; with none, "outside the value model", to be explained at the end. */

static uint8_t *grow(struct encoder *e, uint8_t *p, size_t n)
{
    struct ss_buffer *out = e->out;
    size_t used = (size_t)(p - e->start);
    if (n > (size_t)PY_SSIZE_T_MAX / 2 - used) {
        PyErr_NoMemory();
        return NULL;
    }
    size_t capacity = used + n > 2 * out->capacity ? used + n : 2 * out->capacity;
    int was_local = out->bytes == out->local;
    uint8_t *bytes = was_local ? PyMem_Malloc(capacity) : PyMem_Realloc(out->bytes, capacity);
    if (!bytes) {
        PyErr_NoMemory();
        return NULL;
    }
    if (was_local)
        memcpy(bytes, out->local, used);
    out->bytes = e->start = bytes;
    out->capacity = capacity;
    e->end = bytes + capacity;
    return bytes + used;
}

#define RESERVE(e, p, n)                                                                                               \
    do {                                                                                                               \
        if (UNLIKELY((size_t)((e)->end - (p)) < (size_t)(n)) && !((p) = grow((e), (p), (size_t)(n))))                  \
            return NULL;                                                                                               \
    } while (0)

static uint8_t *encode_value(struct encoder *e, uint8_t *p, PyObject *value, int depth);

static inline uint8_t *encode_str(struct encoder *e, uint8_t *p, PyObject *value)
{
    const char *text;
    Py_ssize_t n;
    if (LIKELY(PyUnicode_IS_COMPACT_ASCII(value))) {
        text = (const char *)PyUnicode_1BYTE_DATA(value);
        n = PyUnicode_GET_LENGTH(value);
    }
    else if (!(text = PyUnicode_AsUTF8AndSize(value, &n))) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            PyErr_Clear(); /* a lone surrogate */
        return NULL;
    }
    if (UNLIKELY((uint64_t)n > UINT32_MAX))
        return NULL;
    RESERVE(e, p, (size_t)n + SS_HEAD_MAX);
    p = ss_put_str_head(p, (uint32_t)n);
    memcpy(p, text, (size_t)n);
    return p + n;
}

static inline uint8_t *encode_int(struct encoder *e, uint8_t *p, PyObject *value)
{
    RESERVE(e, p, SS_NUMBER_MAX);
#if PY_VERSION_HEX >= 0x030C0000
    if (LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)value)))
        return ss_put_int(p, PyUnstable_Long_CompactValue((PyLongObject *)value));
#endif
    int overflow;
    long long v = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (LIKELY(!overflow))
        return ss_put_int(p, v);
    if (overflow < 0)
        return NULL;
    unsigned long long u = PyLong_AsUnsignedLongLong(value);
    if (u == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Clear();
        return NULL;
    }
    return ss_put_uint(p, u);
}

static uint8_t *encode_bytes(struct encoder *e, uint8_t *p, PyObject *value)
{
    size_t n = (size_t)PyBytes_GET_SIZE(value);
    if (n > UINT32_MAX)
        return NULL;
    RESERVE(e, p, n + SS_HEAD_MAX);
    p = ss_put_bin_head(p, (uint32_t)n);
    memcpy(p, PyBytes_AS_STRING(value), n);
    return p + n;
}

/* The head says `n`; a container that another thread or a tzinfo changes
 * meanwhile has more or fewer, and then the result is a failure. */
static uint8_t *encode_items(struct encoder *e, uint8_t *p, PyObject *list, int depth)
{
    Py_ssize_t n = PyList_GET_SIZE(list);
    if ((uint64_t)n > UINT32_MAX)
        return NULL;
    RESERVE(e, p, SS_HEAD_MAX);
    p = ss_put_container_head(p, SS_FIXARRAY, SS_ARRAY16, (uint32_t)n);
    for (Py_ssize_t i = 0; p && i < n; i++) {
        if (UNLIKELY(i >= PyList_GET_SIZE(list)))
            return NULL;
        PyObject *item = PyList_GET_ITEM(list, i);
        HOLD_ELEMENT(item);
        p = encode_value(e, p, item, depth);
        DROP_ELEMENT(item);
    }
    return n == PyList_GET_SIZE(list) ? p : NULL;
}

static uint8_t *encode_list(struct encoder *e, uint8_t *p, PyObject *list, int depth)
{
    if (UNLIKELY(depth == SS_MAX_DEPTH))
        return NULL;
    Py_INCREF(list); /* a tzinfo deep inside may drop it from its container */
    Py_BEGIN_CRITICAL_SECTION(list);
    p = encode_items(e, p, list, depth + 1);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(list);
    return p;
}

static uint8_t *encode_pairs(struct encoder *e, uint8_t *p, PyObject *dict, int depth)
{
    Py_ssize_t left = PyDict_GET_SIZE(dict), cursor = 0;
    PyObject *key, *value;
    if ((uint64_t)left > UINT32_MAX)
        return NULL;
    RESERVE(e, p, SS_HEAD_MAX);
    p = ss_put_container_head(p, SS_FIXMAP, SS_MAP16, (uint32_t)left);
    while (p && PyDict_Next(dict, &cursor, &key, &value)) {
        if (UNLIKELY(left-- == 0))
            return NULL;
        HOLD_ELEMENT(key);
        HOLD_ELEMENT(value);
        if (LIKELY(PyUnicode_CheckExact(key)))
            p = encode_str(e, p, key);
        else
            p = PyLong_CheckExact(key) ? encode_int(e, p, key) : NULL;
        if (LIKELY(p))
            p = encode_value(e, p, value, depth);
        DROP_ELEMENT(key);
        DROP_ELEMENT(value);
    }
    return left == 0 ? p : NULL;
}

static uint8_t *encode_dict(struct encoder *e, uint8_t *p, PyObject *dict, int depth)
{
    if (UNLIKELY(depth == SS_MAX_DEPTH))
        return NULL;
    Py_INCREF(dict);
    Py_BEGIN_CRITICAL_SECTION(dict);
    p = encode_pairs(e, p, dict, depth + 1);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(dict);
    return p;
}

/* An extension whose payload is the array.  Its head holds the payload's length,
 * which is known only afterwards: leave room for the commonest head, and move
 * the payload when another one is needed.  (Measuring first would walk twice.) */
static uint8_t *encode_tuple(struct encoder *e, uint8_t *p, PyObject *tuple, int depth)
{
    enum { GUESS = 3 };
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    if (UNLIKELY(depth == SS_MAX_DEPTH) || (uint64_t)n > UINT32_MAX)
        return NULL;
    RESERVE(e, p, GUESS + SS_HEAD_MAX);
    size_t head_at = (size_t)(p - e->start);
    p = ss_put_container_head(p + GUESS, SS_FIXARRAY, SS_ARRAY16, (uint32_t)n);
    Py_INCREF(tuple);
    for (Py_ssize_t i = 0; p && i < n; i++)
        p = encode_value(e, p, PyTuple_GET_ITEM(tuple, i), depth + 1);
    Py_DECREF(tuple);
    if (!p)
        return NULL;

    size_t payload = (size_t)(p - e->start) - head_at - GUESS;
    if (payload > UINT32_MAX)
        return NULL;
    size_t head = ss_ext_head_length(payload);
    RESERVE(e, p, SS_EXT_HEAD_MAX);
    uint8_t *at = e->start + head_at;
    if (head != GUESS)
        memmove(at + head, at + GUESS, payload);
    return ss_put_ext_head(at, SS_EXT_TUPLE, (uint32_t)payload) + payload;
}

/* pack_datetime() returns the 16 bytes, or None for a naive one. */
static uint8_t *encode_datetime(struct encoder *e, uint8_t *p, PyObject *value)
{
    uint8_t *result = NULL;
    Py_INCREF(value);
    PyObject *pack = from_values(e->codec, "pack_datetime");
    PyObject *payload = pack ? PyObject_CallOneArg(pack, value) : NULL;
    Py_XDECREF(pack);
    Py_DECREF(value);
    if (!payload)
        return NULL;
    if (PyBytes_CheckExact(payload) && PyBytes_GET_SIZE(payload) == SS_DATETIME_BYTES) {
        if ((size_t)(e->end - p) >= 2 + SS_DATETIME_BYTES || (p = grow(e, p, 2 + SS_DATETIME_BYTES))) {
            p = ss_put_ext_head(p, SS_EXT_DATETIME, SS_DATETIME_BYTES);
            memcpy(p, PyBytes_AS_STRING(payload), SS_DATETIME_BYTES);
            result = p + SS_DATETIME_BYTES;
        }
    }
    Py_DECREF(payload);
    return result;
}

/* `depth` containers are open around `value`.  Exact types only: a subclass
 * would come back as something else than it was. */
static uint8_t *encode_value(struct encoder *e, uint8_t *p, PyObject *value, int depth)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type)
        return encode_str(e, p, value);
    if (type == &PyLong_Type)
        return encode_int(e, p, value);
    if (type == &PyDict_Type)
        return encode_dict(e, p, value, depth);
    if (type == &PyList_Type)
        return encode_list(e, p, value, depth);
    if (type == &PyTuple_Type)
        return encode_tuple(e, p, value, depth);
    if (type == &PyBytes_Type)
        return encode_bytes(e, p, value);

    RESERVE(e, p, SS_NUMBER_MAX);
    if (type == &PyFloat_Type)
        return ss_put_double(p, PyFloat_AS_DOUBLE(value));
    if (value == Py_None) {
        *p = SS_NIL;
        return p + 1;
    }
    if (type == &PyBool_Type) {
        *p = value == Py_True ? SS_TRUE : SS_FALSE;
        return p + 1;
    }
    /* K4: found by name, since importing datetime to compare types is what we
     * must not do.  Only a C type's name carries its module. */
    if (strcmp(type->tp_name, "datetime.datetime") == 0)
        return encode_datetime(e, p, value);
    return NULL;
}

/* Have Python find the element at fault, and raise. */
static void explain(struct ss_codec *codec, PyObject *value)
{
    PyObject *refuse_value = from_values(codec, "refuse");
    PyObject *none = refuse_value ? PyObject_CallOneArg(refuse_value, value) : NULL;
    Py_XDECREF(refuse_value);
    Py_XDECREF(none); /* never one: it always raises */
}

int ss_encode(struct ss_codec *codec, PyObject *value, struct ss_buffer *out)
{
    struct encoder e = {codec, out->bytes, out->bytes + out->capacity, out};
    uint8_t *p = encode_value(&e, out->bytes + out->length, value, 0);
    if (UNLIKELY(!p)) {
        if (!PyErr_Occurred())
            explain(codec, value);
        return -1;
    }
    out->length = (size_t)(p - e.start);
    return 0;
}

/* --- decoding ---------------------------------------------------------------- */

struct decoder {
    struct ss_codec *codec;
    const uint8_t *start, *p, *end;
    size_t due;         /* elements that open containers still expect, each at least one byte (K2) */
    const char *reason; /* why the bytes are refused, or NULL */
    const uint8_t *at;  /* the first byte of the element at fault */
};

static void *refuse(struct decoder *d, const uint8_t *at, const char *reason)
{
    d->reason = reason;
    d->at = at;
    return NULL;
}

/* Shared with the Python reader in _fallback.py, word for word. */
static const char TRUNCATED[] = "truncated";
static const char TRAILING[] = "bytes follow the value";
static const char TOO_DEEP[] = "nested deeper than 64 containers";
static const char NEVER_USED[] = "0xc1 is no type";
static const char UNKNOWN_EXT[] = "unknown extension type";
static const char NOT_UTF8[] = "a str that is not UTF-8";
static const char BAD_KEY[] = "a dict key that is neither str nor int";
static const char TWICE[] = "a dict with one key twice";
static const char BAD_TUPLE[] = "a tuple that is not exactly one array";
static const char BAD_DATETIME[] = "a datetime out of range";

static PyObject *decode_value(struct decoder *d, int depth);

static inline size_t left(const struct decoder *d) { return (size_t)(d->end - d->p); }

static PyObject *make_str(struct decoder *d, const uint8_t *head, const uint8_t *text, size_t n)
{
    if (LIKELY(n > 1 && ss_is_ascii(text, n))) {
        PyObject *str = PyUnicode_New((Py_ssize_t)n, 127);
        if (LIKELY(str != NULL))
            memcpy(PyUnicode_1BYTE_DATA(str), text, n);
        return str;
    }
    PyObject *str = PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)n, NULL);
    if (!str && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return refuse(d, head, NOT_UTF8);
    }
    return str;
}

#ifdef Py_GIL_DISABLED
static inline PyObject *make_key(struct decoder *d, const uint8_t *head, const uint8_t *text, size_t n)
{
    return make_str(d, head, text, n);
}
#else
/* Records repeat their keys: one str per key and not per record saves making
 * it, hashing it, and most of the dict's comparing. */
static inline size_t key_slot(const uint8_t *text, size_t n)
{
    uint64_t a = 0, b = 0;
    if (n >= 8) {
        memcpy(&a, text, 8);
        memcpy(&b, text + n - 8, 8);
    }
    else if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, text, 4);
        memcpy(&high, text + n - 4, 4);
        a = low;
        b = high;
    }
    else {
        a = text[0];
        b = (uint64_t)text[n / 2] << 8 | text[n - 1];
    }
    uint64_t mixed = (a ^ (b << 29 | b >> 35) ^ n) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 48) & (SS_KEY_CACHE_SLOTS - 1);
}

static inline PyObject *make_key(struct decoder *d, const uint8_t *head, const uint8_t *text, size_t n)
{
    if (n - 1 >= 32) /* empty, or long: not worth a slot */
        return make_str(d, head, text, n);
    PyObject **slot = &d->codec->keys[key_slot(text, n)];
    PyObject *key = *slot;
    if (LIKELY(key && (size_t)PyUnicode_GET_LENGTH(key) == n && memcmp(PyUnicode_1BYTE_DATA(key), text, n) == 0))
        return Py_NewRef(key);
    key = make_str(d, head, text, n);
    if (key && PyUnicode_IS_COMPACT_ASCII(key))
        Py_XSETREF(*slot, Py_NewRef(key));
    return key;
}
#endif

static inline PyObject *decode_str(struct decoder *d, const uint8_t *head, size_t n, int as_key)
{
    if (UNLIKELY(n > left(d)))
        return refuse(d, head, TRUNCATED);
    const uint8_t *text = d->p;
    d->p += n;
    return as_key ? make_key(d, head, text, n) : make_str(d, head, text, n);
}

static PyObject *decode_bytes(struct decoder *d, const uint8_t *head, size_t n)
{
    if (n > left(d))
        return refuse(d, head, TRUNCATED);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)d->p, (Py_ssize_t)n);
    d->p += n;
    return bytes;
}

/* Open a container of `n` elements, or refuse it (K2, K3). */
static inline int enter(struct decoder *d, const uint8_t *head, size_t n, int depth)
{
    if (UNLIKELY(depth == SS_MAX_DEPTH)) {
        refuse(d, head, TOO_DEEP);
        return 0;
    }
    if (UNLIKELY(left(d) < d->due || n > left(d) - d->due)) {
        refuse(d, head, TRUNCATED);
        return 0;
    }
    d->due += n;
    return 1;
}

static PyObject *decode_list(struct decoder *d, const uint8_t *head, size_t n, int depth)
{
    if (!enter(d, head, n, depth))
        return NULL;
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        d->due--;
        PyObject *item = decode_value(d, depth + 1);
        if (UNLIKELY(!item))
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    return list;
}

static PyObject *decode_array_as_tuple(struct decoder *d, const uint8_t *head, size_t n, int depth)
{
    if (!enter(d, head, n, depth))
        return NULL;
    PyObject *tuple = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; tuple && i < n; i++) {
        d->due--;
        PyObject *item = decode_value(d, depth + 1);
        if (UNLIKELY(!item))
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
    }
    return tuple;
}

static inline PyObject *decode_key(struct decoder *d)
{
    const uint8_t *head = d->p;
    if (UNLIKELY(head == d->end))
        return refuse(d, head, TRUNCATED);
    uint8_t first = *head;
    if (LIKELY((first & 0xe0) == SS_FIXSTR)) {
        d->p++;
        return decode_str(d, head, first & 31, 1);
    }
    int is_int = first < SS_FIXMAP || first >= SS_NEGFIXINT || (first >= SS_UINT8 && first <= SS_INT64);
    int is_str = first >= SS_STR8 && first <= SS_STR32;
    return is_int || is_str ? decode_value(d, 0) : refuse(d, head, BAD_KEY);
}

static PyObject *decode_dict(struct decoder *d, const uint8_t *head, size_t n, int depth)
{
    if (!enter(d, head, 2 * n, depth))
        return NULL;
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < n; i++) {
        d->due--;
        PyObject *key = decode_key(d);
        d->due--;
        PyObject *value = LIKELY(key != NULL) ? decode_value(d, depth + 1) : NULL;
        if (UNLIKELY(!value || PyDict_SetItem(dict, key, value) < 0))
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    if (dict && UNLIKELY((size_t)PyDict_GET_SIZE(dict) != n)) {
        Py_DECREF(dict);
        return refuse(d, head, TWICE);
    }
    return dict;
}

/* The payload is a world of its own: its end is the end, nothing is due. */
static PyObject *decode_tuple(struct decoder *d, const uint8_t *head, size_t payload, int depth)
{
    const uint8_t *outer_end = d->end, *array = d->p;
    size_t outer_due = d->due;
    size_t operand = payload ? ss_operand_bytes(*array) : 0;
    int is_fix = payload && (*array & 0xf0) == SS_FIXARRAY;
    if (!is_fix && !(payload > operand && (*array == SS_ARRAY16 || *array == SS_ARRAY32)))
        return refuse(d, head, BAD_TUPLE);

    d->end = array + payload;
    d->due = 0;
    d->p = array + 1 + operand;
    size_t n = is_fix ? *array & 15 : operand == 2 ? ss_load16(array + 1) : ss_load32(array + 1);
    PyObject *tuple = decode_array_as_tuple(d, head, n, depth);
    if (tuple && d->p != d->end) {
        Py_CLEAR(tuple);
        refuse(d, head, BAD_TUPLE);
    }
    d->end = outer_end;
    d->due = outer_due;
    return tuple;
}

/* unpack_datetime() returns None where Python's datetime cannot hold it. */
static PyObject *decode_datetime(struct decoder *d, const uint8_t *head, size_t payload)
{
    if (payload != SS_DATETIME_BYTES)
        return refuse(d, head, BAD_DATETIME);
    long long instant = (long long)ss_load64(d->p), offset = (long long)ss_load64(d->p + 8);
    d->p += SS_DATETIME_BYTES;
    PyObject *unpack = from_values(d->codec, "unpack_datetime");
    PyObject *value = unpack ? PyObject_CallFunction(unpack, "LL", instant, offset) : NULL;
    Py_XDECREF(unpack);
    if (value == Py_None) {
        Py_DECREF(value);
        return refuse(d, head, BAD_DATETIME);
    }
    return value;
}

static PyObject *decode_ext(struct decoder *d, const uint8_t *head, size_t payload, int depth)
{
    if (left(d) < 1 || payload > left(d) - 1)
        return refuse(d, head, TRUNCATED);
    switch (*d->p++) {
    case SS_EXT_TUPLE: return decode_tuple(d, head, payload, depth);
    case SS_EXT_DATETIME: return decode_datetime(d, head, payload);
    default: return refuse(d, head, UNKNOWN_EXT);
    }
}

/* `depth` containers are open around the value at d->p. */
static PyObject *decode_value(struct decoder *d, int depth)
{
    const uint8_t *head = d->p;
    if (UNLIKELY(head == d->end))
        return refuse(d, head, TRUNCATED);
    uint8_t first = *head;
    d->p++;
    if (first < SS_FIXMAP)
        return PyLong_FromLong(first);
    if (first >= SS_NEGFIXINT)
        return PyLong_FromLong((int8_t)first);
    if (first >= SS_FIXSTR && first < SS_NIL)
        return decode_str(d, head, first & 31, 0);
    if (first < SS_FIXARRAY)
        return decode_dict(d, head, first & 15, depth);
    if (first < SS_FIXSTR)
        return decode_list(d, head, first & 15, depth);

    size_t operand = ss_operand_bytes(first);
    if (UNLIKELY(operand > left(d)))
        return refuse(d, head, TRUNCATED);
    const uint8_t *p = d->p;
    d->p += operand;
    switch (first) {
    case SS_NIL: return Py_NewRef(Py_None);
    case SS_FALSE: return Py_NewRef(Py_False);
    case SS_TRUE: return Py_NewRef(Py_True);
    case SS_FLOAT32: return PyFloat_FromDouble(ss_load_float(p));
    case SS_FLOAT64: return PyFloat_FromDouble(ss_load_double(p));
    case SS_UINT8: return PyLong_FromLong(p[0]);
    case SS_UINT16: return PyLong_FromLong(ss_load16(p));
    case SS_UINT32: return PyLong_FromUnsignedLong(ss_load32(p));
    case SS_UINT64: return PyLong_FromUnsignedLongLong(ss_load64(p));
    case SS_INT8: return PyLong_FromLong((int8_t)p[0]);
    case SS_INT16: return PyLong_FromLong((int16_t)ss_load16(p));
    case SS_INT32: return PyLong_FromLong((int32_t)ss_load32(p));
    case SS_INT64: return PyLong_FromLongLong((int64_t)ss_load64(p));
    case SS_STR8: return decode_str(d, head, p[0], 0);
    case SS_STR16: return decode_str(d, head, ss_load16(p), 0);
    case SS_STR32: return decode_str(d, head, ss_load32(p), 0);
    case SS_BIN8: return decode_bytes(d, head, p[0]);
    case SS_BIN16: return decode_bytes(d, head, ss_load16(p));
    case SS_BIN32: return decode_bytes(d, head, ss_load32(p));
    case SS_ARRAY16: return decode_list(d, head, ss_load16(p), depth);
    case SS_ARRAY32: return decode_list(d, head, ss_load32(p), depth);
    case SS_MAP16: return decode_dict(d, head, ss_load16(p), depth);
    case SS_MAP32: return decode_dict(d, head, ss_load32(p), depth);
    case SS_FIXEXT1: return decode_ext(d, head, 1, depth);
    case SS_FIXEXT2: return decode_ext(d, head, 2, depth);
    case SS_FIXEXT4: return decode_ext(d, head, 4, depth);
    case SS_FIXEXT8: return decode_ext(d, head, 8, depth);
    case SS_FIXEXT16: return decode_ext(d, head, 16, depth);
    case SS_EXT8: return decode_ext(d, head, p[0], depth);
    case SS_EXT16: return decode_ext(d, head, ss_load16(p), depth);
    case SS_EXT32: return decode_ext(d, head, ss_load32(p), depth);
    default: return refuse(d, head, NEVER_USED);
    }
}

static void raise_corrupt(struct decoder *d)
{
    PyObject *raise = from_values(d->codec, "raise_corrupt");
    PyObject *none = raise ? PyObject_CallFunction(raise, "ns", (Py_ssize_t)(d->at - d->start), d->reason) : NULL;
    Py_XDECREF(raise);
    Py_XDECREF(none);
}

PyObject *ss_decode(struct ss_codec *codec, const uint8_t *bytes, size_t length)
{
    struct decoder d = {.codec = codec, .start = bytes, .p = bytes, .end = bytes + length};
    PyObject *value = decode_value(&d, 0);
    if (value && UNLIKELY(d.p != d.end)) {
        Py_CLEAR(value);
        refuse(&d, d.p, TRAILING);
    }
    if (UNLIKELY(!value) && !PyErr_Occurred())
        raise_corrupt(&d);
    return value;
}
