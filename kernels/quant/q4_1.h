// q4_1.h: x = scale * level + least, 4 bits.
//
//   block  32 terms: levels [16][32] pairs of 4 bits, scales [32] half, least values [32] half

#if FORMAT == 3
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (20 * PANEL)
#define HAS_LEAST 1

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(convert_float, LANES)(WORD(nibble, LANES)(p + BLOCK_AT(i) + OUTPUT_AT(i), TERM_AT(i)));
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(halves, LANES)(p + BLOCK_AT(i) + 16 * PANEL + 2 * OUTPUT_AT(i));
}
INLINE WORD(float, LANES) WORD(least_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(halves, LANES)(p + BLOCK_AT(i) + 18 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
