// winograd_input.cl: windows = B^T X B, X being the window of x under each tile of the output.
//
//   x        [samples, height, width, channels]  REAL, contiguous; channels a multiple of VECTOR
//   windows  [WINDOW * WINDOW][tiles][channels]  float: matrices for a batch of products
//   first_tile, tiles  which of the tiles, counted over samples, tile_rows and tile_columns
//   top, left    padding before x
//   read_height, read_width  where x ends as it is read: whatever is asked beyond is zero
//   enlarge  1: x is read twice as large, pixel (r, c) being x[r / 2][c / 2]
//   launch   one work-group per tile; work-items take VECTOR channels at a time
//
// float whatever REAL is: B^T adds values up to a hundred times as large as those of x, and what
// that rounds comes back in the result.

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void winograd_input(__global const REAL *x,
                    __global float *windows,
                    const uint height,
                    const uint width,
                    const uint channels,
                    const uint first_tile,
                    const uint tiles,
                    const uint tile_rows,
                    const uint tile_columns,
                    const int top,
                    const int left,
                    const uint read_height,
                    const uint read_width,
                    const uint enlarge)
{
    const uint index = get_group_id(0);
    const uint tile = first_tile + index;
    const int first_row = (int)(tile / tile_columns % tile_rows * TILE) - top;
    const int first_column = (int)(tile % tile_columns * TILE) - left;
    const size_t sample = tile / tile_columns / tile_rows;
    // Where the rows and columns of the window are in x.
    size_t rows[MOST], columns[MOST];
    bool row_inside[MOST], column_inside[MOST];
#pragma unroll
    for (int i = 0; i < WINDOW; i++) {
        const int r = first_row + i;
        const int c = first_column + i;
        row_inside[i] = r >= 0 && r < (int)read_height;
        column_inside[i] = c >= 0 && c < (int)read_width;
        rows[i] = (sample * height + (row_inside[i] ? r >> enlarge : 0)) * width * channels;
        columns[i] = (size_t)(column_inside[i] ? c >> enlarge : 0) * channels;
    }
    const size_t stride = (size_t)tiles * channels;
    for (uint channel = get_local_id(0) * VECTOR; channel < channels; channel += WG_SIZE * VECTOR) {
        // By columns, then by rows.
        floatV half_done[MOST][MOST];
#pragma unroll
        for (uint c = 0; c < WINDOW; c++) {
            floatV column[MOST];
#pragma unroll
            for (uint r = 0; r < WINDOW; r++) {
                column[r] = 0.0f;
                if (row_inside[r] && column_inside[c])
                    column[r] = load_realV(x, rows[r] + columns[c] + channel);
            }
            transform_window(column, half_done[c]);
        }
        __global float *target = windows + (size_t)index * channels + channel;
#pragma unroll
        for (uint r = 0; r < WINDOW; r++) {
            floatV row[MOST], done[MOST];
#pragma unroll
            for (uint c = 0; c < WINDOW; c++)
                row[c] = half_done[c][r];
            transform_window(row, done);
#pragma unroll
            for (uint c = 0; c < WINDOW; c++)
                store_floatV(target, (r * WINDOW + c) * stride, done[c]);
        }
    }
}
