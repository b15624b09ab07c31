// conv2d_register.cl: y = activation(conv(x) + bias) + residual, by tiles in registers.
//
//   x            [samples, height, width, channels]  REAL, contiguous
//   weights      panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, or in blocks,
//                inputs being kernel_height * kernel_width * channels in this order
//   bias         [outputs]           float, or absent
//   sample_bias  [samples, outputs]  REAL, or absent
//   residual, y  [samples, out_height, out_width, outputs]  REAL; residual may be absent
//   top, left    padding before x
//   read_height, read_width  where x ends as it is read: whatever is asked beyond is zero
//   enlarge      1: x is read twice as large, pixel (r, c) being x[r / 2][c / 2]
//   launch       one work-item per block of pixels of y and panels, at most BLOCK_M pixels and
//                PANELS panels each: see register_tile.h
//
// A product whose rows are windows of x, gathered as a block needs them: runs of contiguous
// channels. `top` is -1 where x begins with a row of which only the second half is read.

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void conv2d_register(__global const REAL *x,
                     __global const WEIGHT *weights,
                     __global const float *bias,
                     __global const REAL *sample_bias,
                     __global const REAL *residual,
                     __global REAL *y,
                     const uint samples,
                     const uint height,
                     const uint width,
                     const uint channels,
                     const uint out_height,
                     const uint out_width,
                     const uint outputs,
                     const uint kernel_height,
                     const uint kernel_width,
                     const uint stride,
                     const int top,
                     const int left,
                     const uint read_height,
                     const uint read_width,
                     const uint enlarge,
                     const uint activation)
{
    const uint rows = samples * out_height * out_width;
    const uint inputs = kernel_height * kernel_width * channels;
    const uint all_tiles = (rows + TILE_M - 1) / TILE_M;
    const uint first_tile = share(all_tiles, get_num_groups(0), get_group_id(0));
    const uint tiles = share(all_tiles, get_num_groups(0), get_group_id(0) + 1) - first_tile;
    const uint first_row = first_tile * TILE_M;
    const uint block_rows = min(tiles * TILE_M, rows - first_row);
    const uint all_panels = (outputs + PANEL - 1) / PANEL;
    const uint first_panel = share(all_panels, get_num_groups(1), get_group_id(1));
    const uint panels = share(all_panels, get_num_groups(1), get_group_id(1) + 1) - first_panel;
    const uint part = part_depth(inputs);
    float packed[BLOCK_M * A_STRIDE];
    float sums[PANELS * BLOCK_M * PANEL];

    for (uint first = 0; first < inputs; first += part) {
        const uint depth = min(part, inputs - first);
        for (uint m = 0; m < tiles * TILE_M; m++) {
            const uint pixel = min(first_row + m, rows - 1);
            const uint out_column = pixel % out_width;
            const uint out_row = pixel / out_width % out_height;
            const uint sample = pixel / out_width / out_height;
            uint tap = first / channels;
            uint channel = first % channels;
            for (uint k = 0; k < depth;) {
                const uint run = min(channels - channel, depth - k);
                const int r = (int)(out_row * stride + tap / kernel_width) - top;
                const int c = (int)(out_column * stride + tap % kernel_width) - left;
                float *target = packed + m * A_STRIDE + k;
                if (r >= 0 && c >= 0 && r < (int)read_height && c < (int)read_width) {
                    const size_t row = (size_t)sample * height + (r >> enlarge);
                    unpack(target, x, (row * width + (c >> enlarge)) * channels + channel, run);
                } else {
                    clear(target, run);
                }
                k += run;
                channel = 0;
                tap++;
            }
        }
        for (uint p = 0; p < panels; p++) {
            float *of_panel = panel_sums(sums, p, part, inputs);
            __global const REAL *results =
                y + (size_t)first_row * outputs + (first_panel + p) * PANEL;
            const uint results_rows = first + depth < inputs ? 0 : block_rows;
            multiply_panel(packed, tiles, weights, first_panel + p, inputs, first, depth,
                           next_part(first_panel, p, panels, inputs, first, depth), of_panel,
                           results, results_rows, outputs);
            if (first + depth < inputs)
                continue;
            store_rows(of_panel, block_rows, (first_panel + p) * PANEL, outputs, first_row,
                       out_height * out_width, bias, sample_bias, residual, y, activation);
        }
    }
}
