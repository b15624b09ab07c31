// register_tile.h: a block of a matrix product by one work-item, for devices whose work-items run
// on cores with wide vectors. What gemm_register and conv2d_register share.
//
// The result's tiles of TILE_M rows and its panels of weights are shared out evenly over the
// launch, so that no block is nearly empty: a block has at most TILES tiles by PANELS panels. K is
// taken in equal parts of at most TILE_K. The kernel packs that part of the block's rows as float,
// rows apart by A_STRIDE, so that neither powers of two between rows nor their conversion is met
// again in the inner loop. A panel's part is read where it lies if it is float, and else decoded once
// for all tiles; the next panel's part comes to a cache meanwhile. A tile's sums stay in registers
// within a part, and between in private memory.

#ifndef VECTOR
#define VECTOR 16       // lanes of the device's vectors: 4, 8 or 16
#endif
#ifndef TILE_M
#define TILE_M 12       // rows of a register tile, each of two vectors
#endif
#ifndef TILES
#define TILES 8         // most tiles in a block
#endif
#ifndef PANELS
#define PANELS 8        // most panels in a block
#endif
#ifndef TILE_K
#define TILE_K 256      // most terms between two visits of the sums in memory; a multiple of 16
#endif

#ifndef ROWS_STAY
#define ROWS_STAY 0     // 1: rows are read where they lie if they are float, and terms are private
#endif

#define COLUMNS (2 * VECTOR)            // outputs of a register tile
#define STRIPS (PANEL / COLUMNS)        // register tiles across a panel
#define BLOCK_M (TILES * TILE_M)
#define A_STRIDE (TILE_K + 16)

#define floatV WORD(float, VECTOR)
#define vloadV WORD(vload, VECTOR)
#define vstoreV WORD(vstore, VECTOR)
#define load_realV WORD(load_real, VECTOR)
#define store_realV WORD(store_real, VECTOR)

// Where a panel's terms are as float, and the rows that they multiply.
#if ROWS_STAY || FORMAT || defined(DTYPE_F16)
#define TERMS __private
#else
#define TERMS __global
#endif
#if ROWS_STAY && !defined(DTYPE_F16)
#define ROWS __global
#else
#define ROWS __private
#endif

#ifndef UNROLL
#define UNROLL 4        // terms of one turn of the inner loop
#endif

// The bytes of so many weights, whole blocks.
#if FORMAT
#define WEIGHT_BYTES(count) BLOCK_AT(count)
#else
#define WEIGHT_BYTES(count) ((count) * sizeof(REAL))
#endif

// Where the index-th of `parts` even shares of `count` things begins.
INLINE uint share(const uint count, const uint parts, const uint index)
{
    return (uint)((ulong)count * index / parts);
}

// Parts of K, and the terms of each but the last.
INLINE uint part_depth(const uint inputs)
{
    const uint parts = (inputs + TILE_K - 1) / TILE_K;
    return ((inputs + parts - 1) / parts + 15) / 16 * 16;
}

// target[0..count] = source[start..start + count]
INLINE void unpack(float *target, __global const REAL *source, const size_t start, const uint count)
{
    uint i = 0;
    for (; i + 16 <= count; i += 16)
        vstore16(load_real16(source, start + i), 0, target + i);
    for (; i < count; i++)
        target[i] = load_real(source, start + i);
}

INLINE void clear(float *target, const uint count)
{
    for (uint i = 0; i < count; i++)
        target[i] = 0.0f;
}

// sums[TILE_M][PANEL] = [sums +] rows[TILE_M][..] * panel[runs * depth][PANEL], of COLUMNS columns.
// Rows are `stride` apart and may overlap; each is `runs` runs of `depth` terms, run_stride apart.
// If it fetches, lines from `ahead` on come meanwhile, `ahead_step` bytes further with each term: a
// constant, as compilers would gather the loads of all terms of a turn between branches.
INLINE void multiply_runs(ROWS const float *rows, const size_t stride, const uint runs,
                          const size_t run_stride, TERMS const float *panel, float *sums,
                          const uint depth, const bool add, const bool fetches,
                          __global const char *ahead, const uint ahead_step)
{
    floatV sum[TILE_M][2];
#pragma unroll
    for (uint m = 0; m < TILE_M; m++) {
        sum[m][0] = add ? vloadV(0, sums + m * PANEL) : 0.0f;
        sum[m][1] = add ? vloadV(1, sums + m * PANEL) : 0.0f;
    }
    for (uint run = 0; run < runs; run++, rows += run_stride, panel += depth * PANEL) {
        // Every third row has a pointer: the two after it are one and two strides on, which an
        // instruction can add.
        ROWS const float *thirds[(TILE_M + 2) / 3];
#pragma unroll
        for (uint third = 0; third < (TILE_M + 2) / 3; third++)
            thirds[third] = rows + 3 * third * stride;
        // An index of 32 bits would be computed anew for every row. The loop's own instructions take
        // ports that multiply, so several terms share them.
#pragma unroll UNROLL
        for (size_t k = 0; k < depth; k++) {
            const floatV b0 = vloadV(0, panel + k * PANEL);
            const floatV b1 = vloadV(1, panel + k * PANEL);
            if (fetches)
                fetch_line(ahead + k * ahead_step);
#pragma unroll
            for (uint m = 0; m < TILE_M; m++) {
                const floatV a = thirds[m / 3][m % 3 * stride + k];
                sum[m][0] += a * b0;
                sum[m][1] += a * b1;
            }
        }
    }
#pragma unroll
    for (uint m = 0; m < TILE_M; m++) {
        vstoreV(sum[m][0], 0, sums + m * PANEL);
        vstoreV(sum[m][1], 1, sums + m * PANEL);
    }
}

#if !ROWS_STAY
// sums[BLOCK_M][PANEL] = [sums +] packed[BLOCK_M][A_STRIDE] * the terms first..first + depth of a
// panel; added to what is there unless these are the first. Fetched meanwhile are the weights from
// `next` on, as many, and the `y_rows` rows of y, y_stride apart, to which the sums go next: a store
// to a line that is not there waits for it.
INLINE void multiply_panel(const float *packed,
                           const uint tiles,
                           __global const WEIGHT *weights,
                           const size_t panel,
                           const uint inputs,
                           const uint first,
                           const uint depth,
                           const size_t next,
                           float *sums,
                           __global const REAL *y,
                           const uint y_rows,
                           const size_t y_stride)
{
    const size_t start = (panel * inputs + first) * PANEL;
#if FORMAT
    float terms[TILE_K * PANEL];
    for (uint k = 0; k < depth; k += 16)
        unpack_terms(terms + k * PANEL, weights, start + k * PANEL);
#elif defined(DTYPE_F16)
    float terms[TILE_K * PANEL];
    unpack(terms, weights, start, depth * PANEL);
#else
    __global const float *terms = weights + start;
#endif
    const uint bytes = WEIGHT_BYTES(depth * PANEL);
    const uint turns = STRIPS * tiles * depth;
    const uint ahead_step = (bytes + turns - 1) / turns;
    for (uint strip = 0; strip < STRIPS; strip++)
        for (uint tile = 0; tile < tiles; tile++) {
            __global const char *ahead = (__global const char *)weights + WEIGHT_BYTES(next) +
                                         (strip * tiles + tile) * depth * ahead_step;
            const uint last = min((tile + 1) * TILE_M, y_rows);
            for (uint m = tile * TILE_M; strip == 0 && m < last; m++)
                for (uint n = 0; n < PANEL; n += 64 / sizeof(REAL))
                    fetch_line((__global const char *)(y + m * y_stride + n));
            multiply_runs(packed + tile * TILE_M * A_STRIDE, A_STRIDE, 1, 0,
                          terms + strip * COLUMNS, sums + tile * TILE_M * PANEL + strip * COLUMNS,
                          depth, first > 0, true, ahead, ahead_step);
        }
}
#endif

// Where the weights begin that a block multiplies after the part from `first` on of its p-th panel:
// at its end those of the next block, which has the same panels.
INLINE size_t next_part(const size_t first_panel, const uint p, const uint panels,
                        const uint inputs, const uint first, const uint depth)
{
    if (p + 1 < panels)
        return ((first_panel + p + 1) * inputs + first) * PANEL;
    return (first_panel * inputs + (first + depth < inputs ? first + depth : 0)) * PANEL;
}

// Where a block's sums of its p-th panel are: one place for all if they are used up at once.
INLINE float *panel_sums(float *sums, const uint p, const uint part, const uint inputs)
{
    return sums + (part < inputs ? p : 0) * BLOCK_M * PANEL;
}

// Of activation.h, which follows.
INLINE floatV activate_vector(const floatV x, const uint activation);

// y[row][..] = activation(sums + bias + sample_bias[sample][..]) + residual[row][..], of a panel.
INLINE void store_row(const float *sums,
                      const uint first_output,
                      const uint outputs,
                      const size_t row,
                      const size_t sample,
                      __global const float *bias,
                      __global const REAL *sample_bias,
                      __global const REAL *residual,
                      __global REAL *y,
                      const uint activation)
{
    const size_t start = row * outputs + first_output;
    const size_t of_sample = sample * outputs + first_output;
    const uint count = min((uint)PANEL, outputs - first_output);
    uint n = 0;
    for (; n + VECTOR <= count; n += VECTOR) {
        floatV value = vloadV(0, sums + n);
        if (bias)
            value += vloadV(0, bias + first_output + n);
        if (sample_bias)
            value += load_realV(sample_bias, of_sample + n);
        value = activate_vector(value, activation);
        if (residual)
            value += load_realV(residual, start + n);
        store_realV(y, start + n, value);
    }
    for (; n < count; n++) {
        float value = sums[n];
        if (bias)
            value += bias[first_output + n];
        if (sample_bias)
            value += load_real(sample_bias, of_sample + n);
        value = activate(value, activation);
        if (residual)
            value += load_real(residual, start + n);
        store_real(y, start + n, value);
    }
}

// As store_row, of `count` rows from `row` on; sample_rows are one sample's.
INLINE void store_rows(const float *sums,
                       const uint count,
                       const uint first_output,
                       const uint outputs,
                       const size_t row,
                       const uint sample_rows,
                       __global const float *bias,
                       __global const REAL *sample_bias,
                       __global const REAL *residual,
                       __global REAL *y,
                       const uint activation)
{
    // What nearly all products ask for, without a question at every vector.
    if (first_output + PANEL <= outputs && !sample_bias && activation == ACTIVATION_NONE) {
        floatV offsets[PANEL / VECTOR];
#pragma unroll
        for (uint n = 0; n < PANEL / VECTOR; n++)
            offsets[n] = bias ? vloadV(n, bias + first_output) : 0.0f;
        for (uint m = 0; m < count; m++) {
            const size_t start = (row + m) * outputs + first_output;
#pragma unroll
            for (uint n = 0; n < PANEL / VECTOR; n++) {
                floatV value = vloadV(n, sums + m * PANEL) + offsets[n];
                if (residual)
                    value += load_realV(residual, start + n * VECTOR);
                store_realV(y, start + n * VECTOR, value);
            }
        }
        return;
    }
    for (uint m = 0; m < count; m++)
        store_row(sums + m * PANEL, first_output, outputs, row + m,
                  sample_bias ? (row + m) / sample_rows : 0, bias, sample_bias, residual, y,
                  activation);
}
