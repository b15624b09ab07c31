// gemm_register.cl: y = activation(x W^T + bias) + residual, by tiles in registers.
//
//   x         [rows, columns]           REAL, contiguous
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, or in blocks
//   bias      [outputs]                 float, or absent
//   residual  [rows, outputs]           REAL, or absent
//   y         [rows, outputs]           REAL
//   batch     so many products of these sizes: every array but the bias has all of theirs, one
//             after the other
//   launch    one work-item per block of rows and panels, at most BLOCK_M rows and PANELS panels
//             each, and product: see register_tile.h
//
// For CPU devices: local memory and many work-items would be cost without use there.

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm_register(__global const REAL *x,
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
    const size_t product = get_group_id(2);
    x += product * rows * columns;
    x2 += x2 ? product * rows * (inputs - columns) : 0;
    residual += residual ? product * rows * outputs : 0;
    y += product * rows * outputs;
    const uint all_tiles = (rows + TILE_M - 1) / TILE_M;
    const uint first_tile = share(all_tiles, get_num_groups(0), get_group_id(0));
    const uint tiles = share(all_tiles, get_num_groups(0), get_group_id(0) + 1) - first_tile;
    const uint first_row = first_tile * TILE_M;
    const uint block_rows = min(tiles * TILE_M, rows - first_row);
    const uint all_panels = (outputs + PANEL - 1) / PANEL;
    const uint first_panel = share(all_panels, get_num_groups(1), get_group_id(1));
    const uint panels = share(all_panels, get_num_groups(1), get_group_id(1) + 1) - first_panel;
    const uint part = part_depth(inputs);
    float sums[PANELS * BLOCK_M * PANEL];
    float packed[BLOCK_M * A_STRIDE];

    for (uint first = 0; first < inputs; first += part) {
        const uint depth = min(part, inputs - first);
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
        for (uint p = 0; p < panels; p++) {
            float *of_panel = panel_sums(sums, p, part, inputs);
            __global const REAL *results =
                y + (size_t)first_row * outputs + (first_panel + p) * PANEL;
            const uint results_rows = first + depth < inputs ? 0 : block_rows;
            const size_t of_block = product * all_panels + first_panel;
            multiply_panel(packed, tiles, weights, of_block + p, inputs, first, depth,
                           next_part(of_block, p, panels, inputs, first, depth), of_panel, results,
                           results_rows, outputs);
            if (first + depth < inputs)
                continue;
            store_rows(of_panel, block_rows, (first_panel + p) * PANEL, outputs, first_row, rows,
                       bias, 0, residual, y, activation);
        }
    }
}
