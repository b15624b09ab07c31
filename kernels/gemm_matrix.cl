// gemm_matrix.cl: y = activation(x W^T + bias) + residual, by fragments of f16.
//
//   x         [rows, columns]           REAL, which is half; contiguous
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, or in blocks
//   bias      [outputs]                 float, or absent
//   residual  [rows, outputs]           REAL, or absent
//   y         [rows, outputs]           REAL
//   batch     so many products of these sizes: every array but the bias has all of theirs, one
//             after the other
//   launch    one work-group per TILE_M rows, TILE_N outputs and product, see matrix_tile.h
//
// x and weights are f16 as they are stored, so nothing is lost by multiplying them as that: products
// are exact in f32, where they are summed. Weights in blocks are rounded to f16 once. A matrix unit
// may take subnormals, below 6.1e-5, for zeros.
//
// x and x2 are multiplied one after the other, so that no tile straddles both.

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gemm_matrix(__global const REAL *x,
                 __global const REAL *x2,
                 __global const WEIGHT *weights,
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
    __local ushort x_tile[X_TILE] __attribute__((aligned(16)));
    __local ushort w_tile[W_TILE] __attribute__((aligned(16)));
    const size_t product = get_group_id(2);
    x += product * rows * columns;
    x2 += x2 ? product * rows * (inputs - columns) : 0;
    const size_t first = product * ((outputs + PANEL - 1) / PANEL) * inputs * PANEL;
    residual += residual ? product * rows * outputs : 0;
    y += product * rows * outputs;
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;
    CURSOR w[W_LOADS];
    find_weights(w, weights, first, first_output, outputs, inputs);
    SUMS sum[FRAGMENTS_M * FRAGMENTS_N];
#pragma unroll
    for (uint i = 0; i < FRAGMENTS_M * FRAGMENTS_N; i++)
        sum[i] = 0.0f;

#pragma unroll 1
    for (uint part = 0; part < 2; part++) {
        const uint terms = part == 0 ? columns : inputs - columns;
        __global const ushort *source[X_LOADS];
#pragma unroll
        for (uint i = 0; i < X_LOADS; i++) {
            const size_t row = min(first_row + row_of(i), rows - 1);
            source[i] = (__global const ushort *)(part == 0 ? x : x2) + row * terms + term_of(i);
        }
        multiply_terms(x_tile, w_tile, source, weights, w, terms, sum);
    }
    store_tile(sum, first_row, rows, first_output, outputs, bias, residual, y, activation);
}
