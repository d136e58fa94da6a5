/* wire.h - the msgpack wire format: heads, numbers, byte order.
 *
 * Plain C11, no Python, no allocation, no errors: every function here reads or
 * writes at a place that its caller has already bounds-checked.  The writers
 * pick the shortest form, which is what msgpack's reference packers do; the
 * output is byte for byte theirs.  Grammar: the msgpack specification, spec.md.
 */
#ifndef SS_WIRE_H
#define SS_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* First bytes, for the forms that are one byte value each. */
enum {
    SS_NIL = 0xc0, SS_NEVER = 0xc1, SS_FALSE = 0xc2, SS_TRUE = 0xc3,
    SS_BIN8 = 0xc4, SS_BIN16 = 0xc5, SS_BIN32 = 0xc6,
    SS_EXT8 = 0xc7, SS_EXT16 = 0xc8, SS_EXT32 = 0xc9,
    SS_FLOAT32 = 0xca, SS_FLOAT64 = 0xcb,
    SS_UINT8 = 0xcc, SS_UINT16 = 0xcd, SS_UINT32 = 0xce, SS_UINT64 = 0xcf,
    SS_INT8 = 0xd0, SS_INT16 = 0xd1, SS_INT32 = 0xd2, SS_INT64 = 0xd3,
    SS_FIXEXT1 = 0xd4, SS_FIXEXT2 = 0xd5, SS_FIXEXT4 = 0xd6, SS_FIXEXT8 = 0xd7, SS_FIXEXT16 = 0xd8,
    SS_STR8 = 0xd9, SS_STR16 = 0xda, SS_STR32 = 0xdb,
    SS_ARRAY16 = 0xdc, SS_ARRAY32 = 0xdd, SS_MAP16 = 0xde, SS_MAP32 = 0xdf,
};

/* Bases of the forms that carry a small number in the first byte itself. */
enum { SS_FIXMAP = 0x80, SS_FIXARRAY = 0x90, SS_FIXSTR = 0xa0, SS_NEGFIXINT = 0xe0 };

/* Our two extension types (values.py names them for Python). */
enum { SS_EXT_TUPLE = 1, SS_EXT_DATETIME = 2 };

enum {
    SS_HEAD_MAX = 5,       /* longest head of a str, bin, array or map */
    SS_NUMBER_MAX = 9,     /* longest int or float */
    SS_EXT_HEAD_MAX = 6,   /* longest head of an extension */
    SS_DATETIME_BYTES = 16 /* i64 microseconds since 1970 UTC, i64 UTC offset in microseconds */
};

/* --- big-endian loads and stores, at any alignment --------------------------
 * Shifts, not casts: compilers make one bswap of them, and no alignment or
 * aliasing rule is bent. */

static inline uint16_t ss_load16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t ss_load32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t ss_load64(const uint8_t *p) { return (uint64_t)ss_load32(p) << 32 | ss_load32(p + 4); }

static inline uint8_t *ss_store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

static inline uint8_t *ss_store32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
    return p + 4;
}

static inline uint8_t *ss_store64(uint8_t *p, uint64_t v)
{
    return ss_store32(ss_store32(p, (uint32_t)(v >> 32)), (uint32_t)v);
}

/* --- writers: each returns the place after what it wrote -------------------- */

static inline uint8_t *ss_put_uint(uint8_t *p, uint64_t v)
{
    if (v < 0x80) {
        *p++ = (uint8_t)v;
        return p;
    }
    if (v <= UINT8_MAX) {
        *p++ = SS_UINT8;
        *p++ = (uint8_t)v;
        return p;
    }
    if (v <= UINT16_MAX) {
        *p++ = SS_UINT16;
        return ss_store16(p, (uint16_t)v);
    }
    if (v <= UINT32_MAX) {
        *p++ = SS_UINT32;
        return ss_store32(p, (uint32_t)v);
    }
    *p++ = SS_UINT64;
    return ss_store64(p, v);
}

static inline uint8_t *ss_put_int(uint8_t *p, int64_t v)
{
    if (v >= 0)
        return ss_put_uint(p, (uint64_t)v);
    if (v >= -32) {
        *p++ = (uint8_t)v;
        return p;
    }
    if (v >= INT8_MIN) {
        *p++ = SS_INT8;
        *p++ = (uint8_t)v;
        return p;
    }
    if (v >= INT16_MIN) {
        *p++ = SS_INT16;
        return ss_store16(p, (uint16_t)v);
    }
    if (v >= INT32_MIN) {
        *p++ = SS_INT32;
        return ss_store32(p, (uint32_t)v);
    }
    *p++ = SS_INT64;
    return ss_store64(p, (uint64_t)v);
}

/* The bits travel, not the number: a NaN keeps its payload and -0.0 its sign. */
static inline uint8_t *ss_put_double(uint8_t *p, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    *p++ = SS_FLOAT64;
    return ss_store64(p, bits);
}

static inline uint8_t *ss_put_str_head(uint8_t *p, uint32_t n)
{
    if (n < 32) {
        *p++ = (uint8_t)(SS_FIXSTR | n);
        return p;
    }
    if (n <= UINT8_MAX) {
        *p++ = SS_STR8;
        *p++ = (uint8_t)n;
        return p;
    }
    if (n <= UINT16_MAX) {
        *p++ = SS_STR16;
        return ss_store16(p, (uint16_t)n);
    }
    *p++ = SS_STR32;
    return ss_store32(p, n);
}

static inline uint8_t *ss_put_bin_head(uint8_t *p, uint32_t n)
{
    if (n <= UINT8_MAX) {
        *p++ = SS_BIN8;
        *p++ = (uint8_t)n;
        return p;
    }
    if (n <= UINT16_MAX) {
        *p++ = SS_BIN16;
        return ss_store16(p, (uint16_t)n);
    }
    *p++ = SS_BIN32;
    return ss_store32(p, n);
}

/* `fix` and `wide` choose between array (FIXARRAY, ARRAY16) and map (FIXMAP, MAP16). */
static inline uint8_t *ss_put_container_head(uint8_t *p, uint8_t fix, uint8_t wide, uint32_t n)
{
    if (n < 16) {
        *p++ = (uint8_t)(fix | n);
        return p;
    }
    if (n <= UINT16_MAX) {
        *p++ = wide;
        return ss_store16(p, (uint16_t)n);
    }
    *p++ = (uint8_t)(wide + 1);
    return ss_store32(p, n);
}

static inline size_t ss_ext_head_length(size_t payload)
{
    if (payload == 1 || payload == 2 || payload == 4 || payload == 8 || payload == 16)
        return 2;
    return payload <= UINT8_MAX ? 3 : payload <= UINT16_MAX ? 4 : 6;
}

static inline uint8_t *ss_put_ext_head(uint8_t *p, uint8_t type, uint32_t payload)
{
    switch (payload) {
    case 1: *p++ = SS_FIXEXT1; break;
    case 2: *p++ = SS_FIXEXT2; break;
    case 4: *p++ = SS_FIXEXT4; break;
    case 8: *p++ = SS_FIXEXT8; break;
    case 16: *p++ = SS_FIXEXT16; break;
    default:
        if (payload <= UINT8_MAX) {
            *p++ = SS_EXT8;
            *p++ = (uint8_t)payload;
        }
        else if (payload <= UINT16_MAX) {
            *p++ = SS_EXT16;
            p = ss_store16(p, (uint16_t)payload);
        }
        else {
            *p++ = SS_EXT32;
            p = ss_store32(p, payload);
        }
    }
    *p++ = type;
    return p;
}

/* --- readers ----------------------------------------------------------------- */

/* How many bytes the number after a first byte takes: the length of a str, bin
 * or ext, the count of an array or map, or a scalar's own bytes; 0 where the
 * first byte says it all. */
static inline size_t ss_operand_bytes(uint8_t first)
{
    switch (first) {
    case SS_BIN8: case SS_EXT8: case SS_STR8: case SS_UINT8: case SS_INT8: return 1;
    case SS_BIN16: case SS_EXT16: case SS_STR16: case SS_UINT16: case SS_INT16:
    case SS_ARRAY16: case SS_MAP16: return 2;
    case SS_BIN32: case SS_EXT32: case SS_STR32: case SS_UINT32: case SS_INT32: case SS_FLOAT32:
    case SS_ARRAY32: case SS_MAP32: return 4;
    case SS_UINT64: case SS_INT64: case SS_FLOAT64: return 8;
    default: return 0;
    }
}

static inline double ss_load_double(const uint8_t *p)
{
    uint64_t bits = ss_load64(p);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline double ss_load_float(const uint8_t *p)
{
    uint32_t bits = ss_load32(p);
    float v;
    memcpy(&v, &bits, sizeof v);
    return (double)v;
}

static inline int ss_is_ascii(const uint8_t *p, size_t n)
{
    uint64_t seen = 0, word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        seen |= word;
    }
    uint8_t rest = 0;
    while (n--)
        rest |= *p++;
    return !((seen & UINT64_C(0x8080808080808080)) | (rest & 0x80));
}

#endif
