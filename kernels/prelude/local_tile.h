// local_tile.h: a tile of a matrix product by one work-group that shares it in local memory, for
// GPUs. What gemm_local and conv2d_local share.
//
// A work-group computes TILE_M rows by TILE_N outputs, a work-item ITEM_M by ITEM_N of them. K is
// taken TILE_K at a time through local memory: rows transposed, so that a work-item reads its
// ITEM_M as float4; outputs as the panels have them.

#ifndef TILE_M
#define TILE_M 64       // rows of a work-group
#endif
#ifndef TILE_N
#define TILE_N 64       // outputs of a work-group
#endif
#ifndef TILE_K
#define TILE_K 16       // terms in local memory at a time
#endif
#ifndef ITEM_M
#define ITEM_M 8        // rows of a work-item
#endif
#ifndef ITEM_N
#define ITEM_N 4        // outputs of a work-item
#endif

#define PANEL 32
#define ITEMS_N (TILE_N / ITEM_N)
#define WG_SIZE ((TILE_M / ITEM_M) * ITEMS_N)
#define A_STRIDE (TILE_M + 4)                       // keeps float4 aligned, spreads the banks
#define QUADS_K (TILE_K / 4)
#define A_LOADS (TILE_M * QUADS_K / WG_SIZE)        // float4 of a work-item
#define B_LOADS (TILE_K * TILE_N / 4 / WG_SIZE)

#if ITEM_M % 4 || ITEM_N % 4 || TILE_K % 4 || TILE_M % ITEM_M || TILE_N % ITEM_N
#error "local_tile.h: work-items take float4 and divide the tile"
#endif
#if TILE_M * QUADS_K % WG_SIZE || TILE_K * TILE_N / 4 % WG_SIZE || A_LOADS == 0 || B_LOADS == 0
#error "local_tile.h: the work-group divides the loads"
#endif

// Row m, terms k..k + 4 of the tile's rows.
INLINE void place_row(__local float *a, const uint m, const uint k, const float4 value)
{
    a[(k + 0) * A_STRIDE + m] = value.s0;
    a[(k + 1) * A_STRIDE + m] = value.s1;
    a[(k + 2) * A_STRIDE + m] = value.s2;
    a[(k + 3) * A_STRIDE + m] = value.s3;
}

// Terms first..first + depth of the outputs from first_output on, zero beyond either end.
INLINE void place_weights(__local float *b,
                          __global const REAL *weights,
                          const uint first_output,
                          const uint outputs,
                          const uint inputs,
                          const uint first,
                          const uint depth)
{
    const uint item = get_local_id(0);
#pragma unroll
    for (uint i = 0; i < B_LOADS; i++) {
        const uint index = (item + i * WG_SIZE) * 4;
        const uint k = index / TILE_N;
        const uint output = first_output + index % TILE_N;
        const size_t row = (size_t)(output / PANEL) * inputs + first + k;
        float4 value = 0.0f;
        if (k < depth && output < outputs)
            value = load_real4(weights, row * PANEL + output % PANEL);
        vstore4(value, 0, b + index);
    }
}

// sum[ITEM_M][ITEM_N] += a^T b, of this work-item.
INLINE void multiply_tile(__local const float *a, __local const float *b, float *sum)
{
    const uint first_m = get_local_id(0) / ITEMS_N * ITEM_M;
    const uint first_n = get_local_id(0) % ITEMS_N * ITEM_N;
    for (uint k = 0; k < TILE_K; k++) {
        float row[ITEM_M], column[ITEM_N];
#pragma unroll
        for (uint m = 0; m < ITEM_M; m += 4)
            vstore4(vload4(0, a + k * A_STRIDE + first_m + m), 0, row + m);
#pragma unroll
        for (uint n = 0; n < ITEM_N; n += 4)
            vstore4(vload4(0, b + k * TILE_N + first_n + n), 0, column + n);
#pragma unroll
        for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
            for (uint n = 0; n < ITEM_N; n++)
                sum[m * ITEM_N + n] += row[m] * column[n];
    }
}

// y[row][..] = activation(sum + bias + sample_bias[row / sample_rows][..]) + residual[row][..]
INLINE void store_tile(const float *sum,
                       const uint first_row,
                       const uint rows,
                       const uint sample_rows,
                       const uint first_output,
                       const uint outputs,
                       __global const float *bias,
                       __global const REAL *sample_bias,
                       __global const REAL *residual,
                       __global REAL *y,
                       const uint activation)
{
    const uint item_row = first_row + get_local_id(0) / ITEMS_N * ITEM_M;
    const uint item_output = first_output + get_local_id(0) % ITEMS_N * ITEM_N;
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++) {
        const size_t row = item_row + m;
        if (row >= rows)
            break;
#pragma unroll
        for (uint n = 0; n < ITEM_N; n++) {
            const uint output = item_output + n;
            if (output >= outputs)
                break;
            const size_t at = row * outputs + output;
            float value = sum[m * ITEM_N + n];
            if (bias)
                value += bias[output];
            if (sample_bias)
                value += load_real(sample_bias, row / sample_rows * outputs + output);
            value = activate(value, activation);
            if (residual)
                value += load_real(residual, at);
            store_real(y, at, value);
        }
    }
}
