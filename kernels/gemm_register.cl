// gemm_register.cl: y = activation(x W^T + bias) + residual, by tiles in registers.
//
//   x         [rows, columns]           REAL, contiguous
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL
//   bias      [outputs]                 float, or absent
//   residual  [rows, outputs]           REAL, or absent
//   y         [rows, outputs]           REAL
//   batch     so many products of these sizes: every array but the bias has all of theirs, one
//             after the other
//   launch    one work-item per BLOCK_M rows, BLOCK_N outputs and product, see register_tile.h
//
// For CPU devices: local memory and many work-items would be cost without use there.

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm_register(__global const REAL *x,
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
    const uint first_row = get_group_id(0) * BLOCK_M;
    const uint block_rows = min((uint)BLOCK_M, rows - first_row);
    const uint tiles = (block_rows + TILE_M - 1) / TILE_M;
    const uint first_panel = get_group_id(1) * PANELS;
    const uint panels = min((uint)PANELS, (outputs + PANEL - 1) / PANEL - first_panel);
    float packed[BLOCK_M * A_STRIDE];
    float sums[PANELS * BLOCK_M * PANEL];

    clear(sums, PANELS * BLOCK_M * PANEL);
    for (uint first = 0; first < inputs; first += TILE_K) {
        const uint depth = min((uint)TILE_K, inputs - first);
        const uint depth1 = first < columns ? min(depth, columns - first) : 0;
        for (uint m = 0; m < tiles * TILE_M; m++) {
            const size_t row = first_row + m;
            if (m >= block_rows) {
                clear(packed + m * A_STRIDE, depth);
                continue;
            }
            unpack(packed + m * A_STRIDE, x, row * columns + first, depth1);
            if (depth1 < depth)
                unpack(packed + m * A_STRIDE + depth1, x2,
                       row * (inputs - columns) + first + depth1 - columns, depth - depth1);
        }
        multiply_block(packed, tiles, weights, first_panel, panels, inputs, first, depth, sums);
    }

    for (uint p = 0; p < panels; p++)
        for (uint m = 0; m < block_rows; m++)
            store_row(sums + (p * BLOCK_M + m) * PANEL, (first_panel + p) * PANEL, outputs,
                      first_row + m, 0, bias, 0, residual, y, activation);
}
