/* fuzz_codec.c - decode hostile bytes; what they decode to is encoded and decoded again.
 *
 * The outcome is CorruptError, or a value whose encoding is stable: encoded,
 * decoded and encoded once more, the bytes are the same.  libFuzzer hands over
 * bytes that end where their allocation ends, so a read behind them is seen.
 */
#include "embedded.h"

#include "codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static struct ss_codec codec;
static PyObject *corrupt_error;

static void start(void)
{
    start_python();
    ss_codec_init(&codec);
    PyObject *errors = PyImport_ImportModule("sharedstate.errors");
    if (errors == NULL || (corrupt_error = PyObject_GetAttrString(errors, "CorruptError")) == NULL)
        give_up("sharedstate.errors");
}

static void encode(PyObject *value, struct ss_buffer *out)
{
    ss_buffer_init(out);
    if (ss_encode(&codec, value, out) != 0)
        give_up("a value that was decoded cannot be encoded");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct ss_buffer first, second;

    if (corrupt_error == NULL)
        start();
    PyObject *value = ss_decode(&codec, bytes, length);
    if (value == NULL) {
        if (!take_corrupt_error(corrupt_error))
            give_up("another error than CorruptError");
        return 0;
    }
    encode(value, &first);
    Py_DECREF(value);
    if ((value = ss_decode(&codec, first.bytes, first.length)) == NULL)
        give_up("an encoding that cannot be decoded");
    encode(value, &second);
    Py_DECREF(value);
    if (first.length != second.length || memcmp(first.bytes, second.bytes, first.length) != 0)
        give_up("an encoding that is not stable");
    ss_buffer_free(&first);
    ss_buffer_free(&second);
    return 0;
}
