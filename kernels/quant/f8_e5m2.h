// f8_e5m2.h: x = level: a sign, 5 bits of exponent, 2 of fraction, the upper half of a half.
//
//   block  32 terms: levels [32][32] of 8 bits

#if FORMAT == 1002
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (32 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const WORD(uchar, LANES) byte =
        WORD(bytes, LANES)(p + BLOCK_AT(i) + TERM_AT(i) * PANEL + OUTPUT_AT(i));
    return WORD(as_halves, LANES)(WORD(convert_ushort, LANES)(byte) << (ushort)8);
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return (WORD(float, LANES))(1.0f);
}
#endif
