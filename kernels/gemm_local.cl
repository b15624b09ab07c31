// gemm_local.cl: y = activation(x W^T + bias) + residual, by tiles in local memory.
//
//   x         [rows, columns]           REAL, contiguous
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL
//   bias      [outputs]                 float, or absent
//   residual  [rows, outputs]           REAL, or absent
//   y         [rows, outputs]           REAL
//   batch     so many products of these sizes: every array but the bias has all of theirs, one
//             after the other
//   launch    one work-group per TILE_M rows, TILE_N outputs and product, see local_tile.h

// Terms k..k + 4 of a row of x ++ x2, zero beyond the end.
INLINE float4 load_terms(__global const REAL *x,
                         __global const REAL *x2,
                         const size_t row,
                         const uint k,
                         const uint inputs,
                         const uint columns)
{
    const size_t start = row * columns;
    if (k + 4 <= columns)
        return load_real4(x, start + k);
    const size_t start2 = row * (inputs - columns);
    if (k >= columns && k + 4 <= inputs)
        return load_real4(x2, start2 + k - columns);
    float value[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint i = 0; i < 4 && k + i < inputs; i++)
        value[i] = k + i < columns ? load_real(x, start + k + i)
                                   : load_real(x2, start2 + k + i - columns);
    return vload4(0, value);
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gemm_local(__global const REAL *x,
                __global const REAL *x2,
                __global const REAL *weights,
                __global const float *bias,
                __global const REAL *residual,
                __global REAL *y,
                const uint rows,
                const uint outputs,
                const uint inputs,
                const uint columns,
                const uint batch,
                const uint activation)
{
    const size_t product = get_group_id(2);
    x += product * rows * columns;
    x2 += x2 ? product * rows * (inputs - columns) : 0;
    weights += product * ((outputs + PANEL - 1) / PANEL) * inputs * PANEL;
    residual += residual ? product * rows * outputs : 0;
    y += product * rows * outputs;
    __local float a[TILE_K * A_STRIDE] __attribute__((aligned(16)));
    __local float b[TILE_K * TILE_N] __attribute__((aligned(16)));
    const uint item = get_local_id(0);
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;
    float sum[ITEM_M * ITEM_N];
#pragma unroll
    for (uint i = 0; i < ITEM_M * ITEM_N; i++)
        sum[i] = 0.0f;

    for (uint first = 0; first < inputs; first += TILE_K) {
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++) {
            const uint index = item + i * WG_SIZE;
            const uint m = index / QUADS_K;
            const uint k = index % QUADS_K * 4;
            float4 value = 0.0f;
            if (first_row + m < rows)
                value = load_terms(x, x2, first_row + m, first + k, inputs, columns);
            place_row(a, m, k, value);
        }
        place_weights(b, weights, first_output, outputs, inputs, first, inputs - first);
        barrier(CLK_LOCAL_MEM_FENCE);
        multiply_tile(a, b, sum);
    }
    store_tile(sum, first_row, rows, rows, first_output, outputs, bias, 0, residual, y, activation);
}
