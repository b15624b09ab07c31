// bf16.h: x = level, the upper half of a float.
//
//   block  32 terms: levels [32][32] of 16 bits

#if FORMAT == 30
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (64 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(upper_halves, LANES)(p + BLOCK_AT(i) + 2 * (TERM_AT(i) * PANEL + OUTPUT_AT(i)));
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return (WORD(float, LANES))(1.0f);
}
#endif
