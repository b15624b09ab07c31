// q4_0.h: x = scale * (level - 8), 4 bits.
//
//   block  32 terms: levels [16][32] pairs of 4 bits, scales [32] half

#if FORMAT == 2
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (18 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(convert_float, LANES)(WORD(nibble, LANES)(p + BLOCK_AT(i) + OUTPUT_AT(i), TERM_AT(i))) - 8.0f;
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(halves, LANES)(p + BLOCK_AT(i) + 16 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
