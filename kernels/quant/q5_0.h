// q5_0.h: x = scale * (level - 16), 5 bits.
//
//   block  32 terms: levels [16][32] pairs of 4 bits, [4][32] fifth bits of 8 terms, scales [32]
//          half

#if FORMAT == 6
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (22 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    __global const uchar *levels = p + BLOCK_AT(i) + OUTPUT_AT(i);
    const WORD(uint, LANES) level = WORD(nibble, LANES)(levels, TERM_AT(i)) |
                                    WORD(fifth, LANES)(levels + 16 * PANEL, TERM_AT(i));
    return WORD(convert_float, LANES)(level) - 16.0f;
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(halves, LANES)(p + BLOCK_AT(i) + 20 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
