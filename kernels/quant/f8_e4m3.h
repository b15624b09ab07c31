// f8_e4m3.h: x = 256 * level: a sign, 4 bits of exponent, 3 of fraction.
//
//   block  32 terms: levels [32][32] of 8 bits
//
// As the bits of a half, whose exponent has one bit more and is biased by 8 more, a level is a 256th
// of what it stands for, its smallest ones too; which is exact. 0x7f, no number, is 480.

#if FORMAT == 1001
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (32 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const WORD(uchar, LANES) byte =
        WORD(bytes, LANES)(p + BLOCK_AT(i) + TERM_AT(i) * PANEL + OUTPUT_AT(i));
    const WORD(ushort, LANES) bits = WORD(convert_ushort, LANES)(byte);
    const WORD(ushort, LANES) sign = (bits & (ushort)128) << (ushort)8;
    return WORD(as_halves, LANES)(sign | (bits & (ushort)127) << (ushort)7);
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return (WORD(float, LANES))(256.0f);
}
#endif
