// q6_k.h: x = scale * (level - 32), 6 bits, with a scale of scales.
//
//   block  256 terms, a group for each 16: levels [8][16][32] pairs of 4 bits, [8][8][32] upper two
//          bits of terms 8 apart, scales of groups [16][32] char, what they are multiplied by [32]
//          half

#if FORMAT == 14
#define BLOCK_TERMS 256
#define GROUP_TERMS 16
#define BLOCK_BYTES (210 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const uint term = TERM_AT(i);
    __global const uchar *block = p + BLOCK_AT(i) + OUTPUT_AT(i);
    const WORD(uchar, LANES) four =
        WORD(bytes, LANES)(block + (128 + term / 32 * 8 + term % 8) * PANEL);
    const WORD(uint, LANES) upper =
        WORD(convert_uint, LANES)(four >> (uchar)(term % 32 / 8 * 2)) & 3u;
    const WORD(uint, LANES) lower =
        WORD(nibble, LANES)(block + term / 32 * 16 * PANEL, term % 32);
    return WORD(convert_float, LANES)(lower | upper << 4u) - 32.0f;
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    __global const uchar *block = p + BLOCK_AT(i);
    const WORD(uchar, LANES) scale =
        WORD(bytes, LANES)(block + (192 + TERM_AT(i) / 16) * PANEL + OUTPUT_AT(i));
    return WORD(convert_float, LANES)(WORD(as_char, LANES)(scale)) *
           WORD(halves, LANES)(block + 208 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
