// q8_0.h: x = scale * level, 8 bits.
//
//   block  32 terms: levels [32][32] char, scales [32] half

#if FORMAT == 8
#define BLOCK_TERMS 32
#define GROUP_TERMS 32
#define BLOCK_BYTES (34 * PANEL)

INLINE WORD(float, LANES) WORD(level_of, LANES)(__global const uchar *p, const size_t i)
{
    const WORD(uchar, LANES) level =
        WORD(bytes, LANES)(p + BLOCK_AT(i) + TERM_AT(i) * PANEL + OUTPUT_AT(i));
    return WORD(convert_float, LANES)(WORD(as_char, LANES)(level));
}
INLINE WORD(float, LANES) WORD(scale_of, LANES)(__global const uchar *p, const size_t i)
{
    return WORD(halves, LANES)(p + BLOCK_AT(i) + 32 * PANEL + 2 * OUTPUT_AT(i));
}
#endif
