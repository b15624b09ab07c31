// attention.h: what kernels of attention for CPUs share: rows of a head, blocks of queries as the lanes
// of two vectors, and their softmax, tile of keys by tile.

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64   // columns of a head, at most 512
#endif
#ifndef VECTOR
#define VECTOR 16       // lanes of the device's vectors: 4, 8 or 16
#endif

#define CHUNK 16                        // columns of a key that lie side by side in a tile
#define CHUNKS ((HEAD_WIDTH + CHUNK - 1) / CHUNK)
#define WIDTH (CHUNKS * CHUNK)
#define REST (HEAD_WIDTH % CHUNK)       // columns behind the last whole chunk
#define QUERIES (2 * VECTOR)            // of a block
#define LINE 64                         // bytes of a cache line
#define ROW_LINES (HEAD_WIDTH * sizeof(REAL) / LINE + 2)
// What no score is below, and what hides a key: its weight is 2^-117 of the largest or less.
#define HIDDEN (-1e30f)
// By how much a largest score may grow, as a power of two, before sums are made to shrink.
#define HEADROOM 8.0f
#define LOG2_E 1.44269504f

#define floatV WORD(float, VECTOR)
#define intV WORD(int, VECTOR)
#define as_intV WORD(as_int, VECTOR)
#define as_floatV WORD(as_float, VECTOR)
#define convert_intV WORD(convert_int, VECTOR)
#define convert_floatV WORD(convert_float, VECTOR)

// A block's largest scores so far and the sums of its weights.
typedef struct {
    floatV most[2];
    floatV total[2];
} Running;

// A vector of an array that is aligned to whole ones. vloadn and vstoren assume no alignment, for
// which some compilers take a vector to pieces.
#define ALIGNED __attribute__((aligned(64)))
INLINE floatV get(const float *p) { return *(const floatV *)p; }
INLINE void put(const floatV value, float *p) { *(floatV *)p = value; }

// What is behind the last whole chunk of columns, which begins at `start`; zeros behind.
INLINE float16 load_rest(__global const REAL *source, const size_t start)
{
    // Of a loop over all of it, compilers would make vectors with masks, which are slower.
    float16 rest = 0.0f;
    if (REST >= 8)
        rest.lo = load_real8(source, start);
    if (REST % 8 >= 4)
        *((float4 *)&rest + REST / 8 * 2) = load_real4(source, start + REST / 8 * 8);
    for (uint c = REST / 4 * 4; c < REST; c++)
        ((float *)&rest)[c] = load_real(source, start + c);
    return rest;
}

// target[0..WIDTH] = source[start..start + HEAD_WIDTH] * factor, zero behind.
INLINE void load_row(float *target, __global const REAL *source, size_t start, const float factor)
{
    for (uint chunk = 0; chunk < HEAD_WIDTH / CHUNK; chunk++, target += CHUNK, start += CHUNK)
        *(float16 *)target = load_real16(source, start) * factor;
    if (REST > 0)
        *(float16 *)target = load_rest(source, start) * factor;
}

// target[start..start + HEAD_WIDTH] = source[0..HEAD_WIDTH] * factor.
INLINE void store_row(__global REAL *target, size_t start, const float *source, const float factor)
{
    for (uint chunk = 0; chunk < HEAD_WIDTH / CHUNK; chunk++, source += CHUNK, start += CHUNK)
        store_real16(target, start, *(const float16 *)source * factor);
    if (REST >= 8)
        store_real8(target, start, *(const float8 *)source * factor);
    for (uint c = REST / 8 * 8; c < REST; c++)
        store_real(target, start + c, source[c] * factor);
}

// Two vectors put together like the teeth of a zip: the lower halves, the higher halves.
#if VECTOR == 16
#define ZIP_LOW(a, b)                                                                        \
    (floatV)(a.s0, b.s0, a.s1, b.s1, a.s2, b.s2, a.s3, b.s3, a.s4, b.s4, a.s5, b.s5, a.s6, b.s6, \
             a.s7, b.s7)
#define ZIP_HIGH(a, b)                                                                       \
    (floatV)(a.s8, b.s8, a.s9, b.s9, a.sa, b.sa, a.sb, b.sb, a.sc, b.sc, a.sd, b.sd, a.se, b.se, \
             a.sf, b.sf)
#elif VECTOR == 8
#define ZIP_LOW(a, b) (floatV)(a.s0, b.s0, a.s1, b.s1, a.s2, b.s2, a.s3, b.s3)
#define ZIP_HIGH(a, b) (floatV)(a.s4, b.s4, a.s5, b.s5, a.s6, b.s6, a.s7, b.s7)
#else
#define ZIP_LOW(a, b) (floatV)(a.s0, b.s0, a.s1, b.s1)
#define ZIP_HIGH(a, b) (floatV)(a.s2, b.s2, a.s3, b.s3)
#endif

// Turns VECTOR rows of VECTOR floats into columns. Each round zips two rows, half the rows apart;
// a whole turn of an element's place exchanges row and column.
INLINE void transpose(const float *from, const uint from_stride, float *to, const uint to_stride)
{
    floatV rows[VECTOR], zipped[VECTOR];
#pragma unroll
    for (uint i = 0; i < VECTOR; i++)
        rows[i] = get(from + i * from_stride);
#pragma unroll
    for (uint round = 1; round < VECTOR; round *= 2) {
#pragma unroll
        for (uint i = 0; i < VECTOR / 2; i++) {
            zipped[2 * i] = ZIP_LOW(rows[i], rows[i + VECTOR / 2]);
            zipped[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + VECTOR / 2]);
        }
#pragma unroll
        for (uint i = 0; i < VECTOR; i++)
            rows[i] = zipped[i];
    }
#pragma unroll
    for (uint i = 0; i < VECTOR; i++)
        put(rows[i], to + i * to_stride);
}

// The larger, where fmax() of some drivers minds NaN with three instructions more.
INLINE floatV larger(const floatV a, const floatV b) { return a > b ? a : b; }

// 2^x for x <= 0, 2^-125 below that; within 2e-7 of itself. A minimax fit of 2^r on |r| <= 1/2
// that is 1 at 0, as a polynomial that stays in vectors, where some drivers call exp2() once a lane.
INLINE floatV exp2_of_negative(const floatV x)
{
    const floatV bounded = larger(x, -125.0f);
    const intV turns = convert_intV(bounded - 0.5f);    // rounded to the nearest: it is negative
    const floatV r = bounded - convert_floatV(turns);
    floatV value = fma((floatV)1.3264727e-3f, r, 9.671513e-3f);
    value = fma(value, r, 5.5507336e-2f);
    value = fma(value, r, 2.4022242e-1f);
    value = fma(value, r, 6.93147e-1f);
    value = fma(value, r, 1.0f);
    return as_floatV(as_intV(value) + (turns << 23));
}

// Hides the keys behind each query of a block, and finds the largest of the scores that are left:
// the first key's place is `start`, the first query's `position`.
INLINE void hide(float *scores, const uint keys, const uint start, const uint position,
                 floatV *most)
{
    for (uint key = 0; key < keys; key++, scores += QUERIES) {
        for (uint lane = 0; lane < QUERIES && position + lane < start + key; lane++)
            scores[lane] = HIDDEN;
        most[0] = larger(get(scores), most[0]);
        most[1] = larger(get(scores + VECTOR), most[1]);
    }
}

// Takes new largest scores, before which earlier sums are to shrink. What counts as the largest is
// HEADROOM more, so that most of those that grow a little do not ask for this again.
INLINE void fade(Running *running, const floatV *most, float *sums)
{
    const intV left_grows = most[0] > running->most[0], right_grows = most[1] > running->most[1];
    if (!any(left_grows | right_grows))
        return;
    const floatV left_most = left_grows ? most[0] + HEADROOM : running->most[0];
    const floatV right_most = right_grows ? most[1] + HEADROOM : running->most[1];
    const floatV left = exp2_of_negative(running->most[0] - left_most);
    const floatV right = exp2_of_negative(running->most[1] - right_most);
    running->most[0] = left_most;
    running->most[1] = right_most;
    running->total[0] *= left;
    running->total[1] *= right;
    for (uint column = 0; column < HEAD_WIDTH; column++, sums += QUERIES) {
        put(get(sums) * left, sums);
        put(get(sums + VECTOR) * right, sums + VECTOR);
    }
}

// Stores a block's sums, [columns][2][VECTOR], each divided by the sum of its weights, as `count` rows
// of y. `rows` has room for the block.
INLINE void store_block(__global REAL *y, const size_t y_stride, const float *sums, float *rows,
                        const Running *running, const uint count)
{
    for (uint lane = 0; lane < QUERIES; lane += VECTOR)
        for (uint c = 0; c < WIDTH; c += VECTOR)
            transpose(sums + c * QUERIES + lane, QUERIES, rows + lane * WIDTH + c, WIDTH);
    ALIGNED float factors[QUERIES];
    put(1.0f / running->total[0], factors);
    put(1.0f / running->total[1], factors + VECTOR);
    for (uint i = 0; i < count; i++)
        store_row(y, i * y_stride, rows + i * WIDTH, factors[i]);
}

// Adds the cache lines of a row to those that are wanted soon.
INLINE uint note_lines(__global const char **lines, uint count, __global const REAL *row)
{
    __global const char *start = (__global const char *)row;
    const uint before = (size_t)start % LINE;
    const uint end = before + HEAD_WIDTH * sizeof(REAL);
    for (uint offset = 0; offset < end; offset += LINE)
        lines[count++] = start - before + offset;
    return count;
}

// The first row of part `index` of `parts` even parts.
INLINE uint part(const uint rows, const uint parts, const uint index)
{
    return rows * index / parts;
}
