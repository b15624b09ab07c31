// register_tile.h: a block of a matrix product by one work-item, for devices whose work-items run
// on cores with wide vectors. What gemm_register and conv2d_register share.
//
// A block has TILES tiles of TILE_M rows, by PANELS panels of weights. K is taken TILE_K at a
// time: the kernel packs that part of the block's rows as float, rows apart by A_STRIDE, so that
// neither powers of two between rows nor their conversion is met again in the inner loop; each
// panel's part is decoded once for all tiles. A tile's sums stay in registers within TILE_K, and
// between in private memory.

#ifndef VECTOR
#define VECTOR 16       // lanes of the device's vectors: 4, 8 or 16
#endif
#ifndef TILE_M
#define TILE_M 12       // rows of a register tile, each of two vectors
#endif
#ifndef TILES
#define TILES 8         // tiles in a block
#endif
#ifndef PANELS
#define PANELS 8        // panels in a block
#endif
#ifndef TILE_K
#define TILE_K 256      // terms between two visits of the sums in memory; a multiple of 16
#endif

#define PANEL 32
#define COLUMNS (2 * VECTOR)            // outputs of a register tile
#define STRIPS (PANEL / COLUMNS)        // register tiles across a panel
#define BLOCK_M (TILES * TILE_M)
#define BLOCK_N (PANELS * PANEL)
#define A_STRIDE (TILE_K + 16)

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define floatV JOIN(float, VECTOR)
#define vloadV JOIN(vload, VECTOR)
#define vstoreV JOIN(vstore, VECTOR)
#define load_realV JOIN(load_real, VECTOR)
#define store_realV JOIN(store_real, VECTOR)

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

// sums[TILE_M][PANEL] += rows[TILE_M][A_STRIDE] * panel[depth][PANEL], of COLUMNS columns.
INLINE void multiply_tile(const float *rows, const float *panel, float *sums, const uint depth)
{
    floatV sum[TILE_M][2];
#pragma unroll
    for (uint m = 0; m < TILE_M; m++) {
        sum[m][0] = vloadV(0, sums + m * PANEL);
        sum[m][1] = vloadV(1, sums + m * PANEL);
    }
    for (uint k = 0; k < depth; k++) {
        const floatV b0 = vloadV(0, panel + k * PANEL);
        const floatV b1 = vloadV(1, panel + k * PANEL);
#pragma unroll
        for (uint m = 0; m < TILE_M; m++) {
            const floatV a = rows[m * A_STRIDE + k];
            sum[m][0] += a * b0;
            sum[m][1] += a * b1;
        }
    }
#pragma unroll
    for (uint m = 0; m < TILE_M; m++) {
        vstoreV(sum[m][0], 0, sums + m * PANEL);
        vstoreV(sum[m][1], 1, sums + m * PANEL);
    }
}

// sums[PANELS][BLOCK_M][PANEL] += rows[BLOCK_M][A_STRIDE] * the terms first..first + depth of the
// panels from first_panel on.
INLINE void multiply_block(const float *rows,
                           const uint tiles,
                           __global const REAL *weights,
                           const uint first_panel,
                           const uint panels,
                           const uint inputs,
                           const uint first,
                           const uint depth,
                           float *sums)
{
    float panel[TILE_K * PANEL];
    for (uint p = 0; p < panels; p++) {
        const size_t start = ((size_t)(first_panel + p) * inputs + first) * PANEL;
        unpack(panel, weights, start, depth * PANEL);
        for (uint strip = 0; strip < STRIPS; strip++)
            for (uint tile = 0; tile < tiles; tile++)
                multiply_tile(rows + tile * TILE_M * A_STRIDE, panel + strip * COLUMNS,
                              sums + (p * BLOCK_M + tile * TILE_M) * PANEL + strip * COLUMNS,
                              depth);
    }
}

// y[row][..] = activation(sums + bias + sample_bias[sample][..]) + residual[row][..], of a panel.
INLINE void store_row(float *sums,
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
    const uint count = min((uint)PANEL, outputs - first_output);
    if (bias)
        for (uint n = 0; n < count; n++)
            sums[n] += bias[first_output + n];
    if (sample_bias)
        for (uint n = 0; n < count; n++)
            sums[n] += load_real(sample_bias, sample * outputs + first_output + n);
    if (activation != ACTIVATION_NONE)
        for (uint n = 0; n < count; n++)
            sums[n] = activate(sums[n], activation);
    uint n = 0;
    for (; n + VECTOR <= count; n += VECTOR) {
        floatV value = vloadV(0, sums + n);
        if (residual)
            value += load_realV(residual, start + n);
        store_realV(y, start + n, value);
    }
    for (; n < count; n++)
        store_real(y, start + n, sums[n] + (residual ? load_real(residual, start + n) : 0.0f));
}
