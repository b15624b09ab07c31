// amx.h: products of bf16 with sums in f32, 32 by 32 of them at a time, by the tile registers of
// AMX. Any other compiler has a body for them that computes the same.
//
// A number is PARTS bf16 whose sum it is: of what was f16 two are all of it, of what was f32 three.
// Products of parts are exact in f32. Of three, those are left out that come to 2^-24 of the whole or
// less.

#ifdef DTYPE_F16
#define PARTS 2
#else
#define PARTS 3
#endif

#define SIDE 16                     // rows, or columns, of a tile
#define TERMS 32                    // of a tile
#define TILE (SIDE * TERMS)
#define STEP (PARTS * 2 * TILE)     // what 32 rows, or columns, take with each step of 32 terms

// The next part of two vectors, a pair to a word; what is left of them stays.
INLINE uint16 next_parts(float16 *first, float16 *second)
{
    const uint16 low = (as_uint16(*first) + 0x8000u) & 0xffff0000u;
    const uint16 high = (as_uint16(*second) + 0x8000u) & 0xffff0000u;
    *first -= as_float16(low);
    *second -= as_float16(high);
    return low >> 16 | high;
}

// multiply_tiles() adds rows times columns to sums[32][32], or stores them there; of f16 it leaves the
// product of the second parts out, 2^-18 of the whole, unless it is to be exact:
//   rows     [steps][PARTS][2][16 rows][16 pairs of terms]
//   columns  [steps][PARTS][2][16 pairs of terms][16 columns]
// A pair is a word, its first term in the lower half. Tiles are used between begin_tiles() and
// end_tiles() alone: a thread whose tile registers are in use takes longer to switch to.
#ifdef HAS_AMX
INLINE void begin_tiles(void)
{
    // Palette 1; each of eight tiles has 64 bytes in each of 16 rows.
    __attribute__((aligned(64))) uint words[16] = {1};
    for (uint i = 0; i < 4; i++)
        words[4 + i] = 64 | 64 << 16;
    for (uint i = 0; i < 2; i++)
        words[12 + i] = SIDE * 0x01010101u;
    __asm__ volatile("ldtilecfg (%0)" :: "r"(words) : "memory");
}

INLINE void end_tiles(void) { __asm__ volatile("tilerelease"); }

// Tiles 0 to 3 are sums, 4 and 5 a part of rows, 6 and 7 one of columns.
#define LOAD(base, part, first, second)                                     \
    "tileloadd 2048*" #part "(" base ",%2,1), %%tmm" #first "\n"            \
    "tileloadd 2048*" #part "+1024(" base ",%2,1), %%tmm" #second "\n"
#define ROWS(part) LOAD("%0", part, 4, 5)
#define COLUMNS(part) LOAD("%1", part, 6, 7)
#define MULTIPLY                            \
    "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n"    \
    "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"    \
    "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n"    \
    "tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n"
// In an order that loads little; small products come first.
#if PARTS == 2
#define PRODUCTS                            \
    ROWS(1) COLUMNS(0) MULTIPLY             \
    ROWS(0) MULTIPLY                        \
    COLUMNS(1) MULTIPLY
#define EXACT_PRODUCTS                      \
    ROWS(1) COLUMNS(1) MULTIPLY             \
    COLUMNS(0) MULTIPLY                     \
    ROWS(0) MULTIPLY                        \
    COLUMNS(1) MULTIPLY
#else
#define PRODUCTS                            \
    ROWS(2) COLUMNS(0) MULTIPLY             \
    ROWS(1) MULTIPLY                        \
    COLUMNS(1) MULTIPLY                     \
    ROWS(0) MULTIPLY                        \
    COLUMNS(2) MULTIPLY                     \
    COLUMNS(0) MULTIPLY
#define EXACT_PRODUCTS PRODUCTS
#endif

INLINE void multiply_tiles(float *sums, const uint *rows, const uint *columns, const uint steps,
                           const bool add, const bool exact)
{
    const long stride = 2 * SIDE * sizeof(float);
    if (add)
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm0\n"
                         "tileloadd 64(%0,%1,1), %%tmm1\n"
                         "tileloadd 2048(%0,%1,1), %%tmm2\n"
                         "tileloadd 2112(%0,%1,1), %%tmm3\n" :: "r"(sums), "r"(stride) : "memory");
    else
        __asm__ volatile("tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3\n");
    for (uint step = 0; step < steps; step++, rows += STEP / 2, columns += STEP / 2)
        if (exact)
            __asm__ volatile(EXACT_PRODUCTS :: "r"(rows), "r"(columns), "r"(64L) : "memory");
        else
            __asm__ volatile(PRODUCTS :: "r"(rows), "r"(columns), "r"(64L) : "memory");
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n"
                     "tilestored %%tmm1, 64(%0,%1,1)\n"
                     "tilestored %%tmm2, 2048(%0,%1,1)\n"
                     "tilestored %%tmm3, 2112(%0,%1,1)\n" :: "r"(sums), "r"(stride) : "memory");
}
#undef LOAD
#undef ROWS
#undef COLUMNS
#undef MULTIPLY
#undef PRODUCTS
#undef EXACT_PRODUCTS
#else
INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

INLINE void multiply_tiles(float *sums, const uint *rows, const uint *columns, const uint steps,
                           const bool add, const bool exact)
{
    for (uint i = 0; i < 2 * SIDE; i++)
        for (uint half_row = 0; half_row < 2; half_row++) {
            float16 *target = (float16 *)(sums + (2 * i + half_row) * SIDE);
            float16 sum = add ? *target : 0.0f;
            for (uint step = 0; step < steps; step++)
                for (uint k = 0; k < PARTS * PARTS * SIDE; k++) {
                    const uint row_part = k / SIDE / PARTS, column_part = k / SIDE % PARTS;
                    if (row_part + column_part >= (PARTS == 2 && exact ? 3 : PARTS))
                        continue;
                    const uint a = rows[(step * STEP + (row_part * 2 + i / SIDE) * TILE) / 2 +
                                        i % SIDE * SIDE + k % SIDE];
                    const uint16 b = *(const uint16 *)(columns + (step * STEP +
                        (column_part * 2 + half_row) * TILE) / 2 + k % SIDE * SIDE);
                    sum += as_float(a << 16) * as_float16(b << 16);
                    sum += as_float(a & 0xffff0000u) * as_float16(b & 0xffff0000u);
                }
            *target = sum;
        }
}
#endif
