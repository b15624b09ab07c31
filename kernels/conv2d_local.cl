// conv2d_local.cl: y = activation(conv(x) + bias) + residual, by tiles in local memory.
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
//   launch       one work-group per TILE_M pixels of y and TILE_N outputs, see local_tile.h
//
// A product whose rows are windows of x. The loop goes through the window and then through the
// channels, so that a pixel is found once for all its channels and no TILE_K straddles two.

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void conv2d_local(__global const REAL *x,
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
    __local float a[BUFFERS * A_TILE] __attribute__((aligned(16)));
    __local float b[BUFFERS * B_TILE] __attribute__((aligned(16)));
    const uint rows = samples * out_height * out_width;
    const uint taps = kernel_height * kernel_width;
    const uint inputs = taps * channels;
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;

    // Of each pixel, the first row of x and its window's corner: in local memory, since registers are
    // what there is too little of, and a tap reads them but once.
    __local uint bases[TILE_M];
    __local int corner_rows[TILE_M], corner_columns[TILE_M];
    for (uint i = get_local_id(0); i < TILE_M; i += WG_SIZE) {
        // Pixels beyond the last are the last.
        const uint pixel = min(first_row + i, rows - 1);
        bases[i] = pixel / out_width / out_height * height;
        corner_rows[i] = (int)(pixel / out_width % out_height * stride) - top;
        corner_columns[i] = (int)(pixel % out_width * stride) - left;
    }
    CURSOR w[B_LOADS];
    find_weights(w, weights, 0, first_output, outputs, inputs);
    float sum[ITEM_M * ITEM_N];
#pragma unroll
    for (uint i = 0; i < ITEM_M * ITEM_N; i++)
        sum[i] = 0.0f;

#pragma unroll 1
    for (uint tap = 0; tap < taps; tap++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        // Where the pixel under this tap begins in x.
        __global const REAL *start[A_LOADS];
        bool inside[A_LOADS];
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++) {
            const int r = corner_rows[row_of(i)] + (int)(tap / kernel_width);
            const int c = corner_columns[row_of(i)] + (int)(tap % kernel_width);
            inside[i] = r >= 0 && c >= 0 && r < (int)read_height && c < (int)read_width;
            // What lies outside is read from x's first pixel and counts as zeros.
            const size_t row = bases[row_of(i)] + ((uint)r >> enlarge);
            const size_t pixel = row * width + ((uint)c >> enlarge);
            start[i] = x + (inside[i] ? pixel * channels : 0) + term_of(i);
        }
        multiply_terms(a, b, start, inside, weights, w, channels, sum);
    }
    store_tile(sum, first_row, rows, out_height * out_width, first_output, outputs, bias,
               sample_bias, residual, y, activation);
}
