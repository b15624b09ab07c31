// i8.h: x = scale * level, 8 bits; the scale is an output's, and is repeated in each of its blocks.
//
//   block  32 terms: levels [32][32] char, scales [32] float

#if FORMAT == 1003
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (36 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const WORD(uchar, LANES) level =
        WORD(bytes, LANES)(p + BLOCK_AT(i) + TERM_AT(i) * PANEL + OUTPUT_AT(i));
    return WORD(convert_float, LANES)(WORD(as_char, LANES)(level));
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(vload, LANES)(0, (__global const float *)(p + BLOCK_AT(i) + 32 * PANEL) + OUTPUT_AT(i));
}
#endif
