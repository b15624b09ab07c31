// q4_k.h: x = scale * level - least, 4 bits, with a scale of scales.
//
//   block  256 terms, a group for each 32: levels [8][16][32] pairs of 4 bits, scales of groups
//          [8][32] uchar, least values of groups [8][32] uchar, what scales are multiplied by [32]
//          half, what least values are multiplied by [32] half

#if FORMAT == 12
#define BLOCK_TERMS 256
#define GROUP_TERMS 32
#define BLOCK_BYTES (148 * PANEL)
#define HAS_LEAST 1

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const uint term = TERM_AT(i);
    __global const uchar *levels = p + BLOCK_AT(i) + term / 32 * 16 * PANEL + OUTPUT_AT(i);
    return WORD(convert_float, LANES)(WORD(nibble, LANES)(levels, term % 32));
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    __global const uchar *block = p + BLOCK_AT(i);
    const WORD(uchar, LANES) scale =
        WORD(bytes, LANES)(block + (128 + TERM_AT(i) / 32) * PANEL + OUTPUT_AT(i));
    return WORD(convert_float, LANES)(scale) *
           WORD(halves, LANES)(block + 144 * PANEL + 2 * OUTPUT_AT(i));
}
INLINE WORD(float, LANES) WORD(least_of, LANES)(__global const uchar *p, const size_t i)
{
    __global const uchar *block = p + BLOCK_AT(i);
    const WORD(uchar, LANES) least =
        WORD(bytes, LANES)(block + (136 + TERM_AT(i) / 32) * PANEL + OUTPUT_AT(i));
    return -WORD(convert_float, LANES)(least) *
           WORD(halves, LANES)(block + 146 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
