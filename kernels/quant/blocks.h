// blocks.h: weights in blocks of few bits. What the formats of this folder share.
//
// FORMAT says how weights are stored: 0 as REAL, else a format, by the number that ggml has for it,
// or one over a thousand where ggml has none. In place of the values' panels, [panels][inputs][32],
// there are blocks of BLOCK_TERMS terms of a panel each, BLOCK_BYTES long, in the same order;
// `inputs` is a whole number of blocks, of a convolution's tap too. A weight is still known by its
// index among the values.
//
// Within a block levels come first, then what is left of them if they have more than 4 bits, then
// scales: each for the panel's 32 outputs side by side, so that whatever is loaded lies together
// and is aligned to its size. ggml keeps a row's block together, in 18 or 34 bytes.
//
// A format's header stands in a program twice, for LANES outputs at a time being 4 and 16, and
// defines three words for them, of the weight at index i:
//
//   level_of(p, i)   as float
//   scale_of(p, i)   by which it is multiplied
//   least_of(p, i)   what is added then, if HAS_LEAST
//
// The last two are the same for GROUP_TERMS terms, of which a block is a whole number.

#ifndef FORMAT
#define FORMAT 0        // how weights are stored
#endif

#define PANEL 32

#if FORMAT
// Where the block of a weight begins, and its term and output there.
#define BLOCK_AT(i) ((i) / (BLOCK_TERMS * PANEL) * BLOCK_BYTES)
#define TERM_AT(i) ((uint)((i) / PANEL) % BLOCK_TERMS)
#define OUTPUT_AT(i) ((uint)(i) % PANEL)

// Bytes and halves for so many outputs. What is read as words may be loaded at once, for words are
// aligned; bytes need not be.
INLINE uchar4 bytes4(__global const uchar *p) { return as_uchar4(*(__global const uint *)p); }
INLINE uchar16 bytes16(__global const uchar *p)
{
    return as_uchar16(vload4(0, (__global const uint *)p));
}
INLINE float4 halves4(__global const uchar *p)
{
    const uint2 bits = vload2(0, (__global const uint *)p);
    return vload_half4(0, (const __private half *)&bits);
}
INLINE float16 halves16(__global const uchar *p)
{
    const uint8 bits = vload8(0, (__global const uint *)p);
    return vload_half16(0, (const __private half *)&bits);
}

// What bits of halves stand for.
INLINE float4 as_halves4(const ushort4 bits)
{
    return vload_half4(0, (const __private half *)&bits);
}
INLINE float16 as_halves16(const ushort16 bits)
{
    return vload_half16(0, (const __private half *)&bits);
}

// The upper halves of floats.
INLINE float4 upper_halves4(__global const uchar *p)
{
    const ushort4 bits = as_ushort4(vload2(0, (__global const uint *)p));
    return as_float4(convert_uint4(bits) << 16u);
}
INLINE float16 upper_halves16(__global const uchar *p)
{
    const ushort16 bits = as_ushort16(vload8(0, (__global const uint *)p));
    return as_float16(convert_uint16(bits) << 16u);
}

// 4 bits of the term-th of 32 terms: of terms 0..16 the low ones, of the others the high ones.
INLINE uint4 nibble4(__global const uchar *p, const uint term)
{
    const uchar4 pair = bytes4(p + term % 16 * PANEL);
    return convert_uint4(pair >> (uchar)(term / 16 * 4)) & 15u;
}
INLINE uint16 nibble16(__global const uchar *p, const uint term)
{
    const uchar16 pair = bytes16(p + term % 16 * PANEL);
    return convert_uint16(pair >> (uchar)(term / 16 * 4)) & 15u;
}

// The fifth bit of the term-th of 32 terms, where it belongs: eight terms in a byte.
INLINE uint4 fifth4(__global const uchar *p, const uint term)
{
    const uchar4 eight = bytes4(p + term / 8 * PANEL);
    return (convert_uint4(eight >> (uchar)(term % 8)) & 1u) << 4u;
}
INLINE uint16 fifth16(__global const uchar *p, const uint term)
{
    const uchar16 eight = bytes16(p + term / 8 * PANEL);
    return (convert_uint16(eight >> (uchar)(term % 8)) & 1u) << 4u;
}
#endif
