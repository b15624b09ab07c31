// winograd_output.cl: y = activation(A^T M A + bias) + residual, M being a tile's products.
//
//   products     [WINDOW * WINDOW][tiles][block_outputs]  float
//   bias         [outputs]           float, or absent
//   sample_bias  [samples, outputs]  REAL, or absent
//   residual, y  [samples, out_height, out_width, outputs]  REAL; residual may be absent
//   first_output, block_outputs  which of the outputs; multiples of VECTOR, as outputs is
//   first_tile, tiles  which of the tiles, counted over samples, tile_rows and tile_columns
//   launch       one work-group per tile; work-items take VECTOR outputs at a time
//
// Of tiles that stick out of y, only what lies inside is written.

union Lanes {
    floatV vector;
    float lanes[VECTOR];
};

INLINE floatV activate_lanes(const floatV x, const uint activation)
{
    if (activation == ACTIVATION_NONE)
        return x;
    union Lanes value;
    value.vector = x;
    for (uint lane = 0; lane < VECTOR; lane++)
        value.lanes[lane] = activate(value.lanes[lane], activation);
    return value.vector;
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void winograd_output(__global const float *products,
                     __global const float *bias,
                     __global const REAL *sample_bias,
                     __global const REAL *residual,
                     __global REAL *y,
                     const uint out_height,
                     const uint out_width,
                     const uint outputs,
                     const uint first_output,
                     const uint block_outputs,
                     const uint first_tile,
                     const uint tiles,
                     const uint tile_rows,
                     const uint tile_columns,
                     const uint activation)
{
    const uint index = get_group_id(0);
    const uint tile = first_tile + index;
    const uint first_row = tile / tile_columns % tile_rows * TILE;
    const uint first_column = tile % tile_columns * TILE;
    const size_t sample = tile / tile_columns / tile_rows;
    const size_t first_pixel = (sample * out_height + first_row) * out_width + first_column;
    const size_t stride = (size_t)tiles * block_outputs;
    for (uint n = get_local_id(0) * VECTOR; n < block_outputs; n += WG_SIZE * VECTOR) {
        __global const float *source = products + (size_t)index * block_outputs + n;
        // By columns, then by rows.
        floatV half_done[MOST][MOST];
#pragma unroll
        for (uint c = 0; c < WINDOW; c++) {
            floatV column[MOST];
#pragma unroll
            for (uint r = 0; r < WINDOW; r++)
                column[r] = load_floatV(source, (r * WINDOW + c) * stride);
            transform_products(column, half_done[c]);
        }
        const uint output = first_output + n;
        floatV shift = 0.0f;
        if (bias)
            shift += load_floatV(bias, output);
        if (sample_bias)
            shift += load_realV(sample_bias, sample * outputs + output);
#pragma unroll
        for (uint r = 0; r < TILE; r++) {
            floatV row[MOST], done[MOST];
#pragma unroll
            for (uint c = 0; c < WINDOW; c++)
                row[c] = half_done[c][r];
            transform_products(row, done);
#pragma unroll
            for (uint c = 0; c < TILE; c++) {
                if (first_row + r < out_height && first_column + c < out_width) {
                    const size_t pixel = first_pixel + (size_t)r * out_width + c;
                    const size_t at = pixel * outputs + output;
                    // A store to a line that is not there waits for it: the next tile's come now.
                    fetch_line((__global const char *)(y + at + TILE * outputs));
                    floatV value = activate_lanes(done[c] + shift, activation);
                    if (residual)
                        value += load_realV(residual, at);
                    store_realV(y, at, value);
                }
            }
        }
    }
}
