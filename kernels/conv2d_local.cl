// conv2d_local.cl: y = activation(conv(x) + bias) + residual, by tiles in local memory.
//
//   x            [samples, height, width, channels]  REAL, contiguous
//   weights      panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, inputs being
//                kernel_height * kernel_width * channels in this order
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
                  __global const REAL *weights,
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
    __local float a[TILE_K * A_STRIDE] __attribute__((aligned(16)));
    __local float b[TILE_K * TILE_N] __attribute__((aligned(16)));
    const uint item = get_local_id(0);
    const uint rows = samples * out_height * out_width;
    const uint taps = kernel_height * kernel_width;
    const uint inputs = taps * channels;
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;

    // The pixels whose windows this work-item loads: the first row of x, and the window's corner.
    size_t base[A_LOADS];
    int corner_row[A_LOADS], corner_column[A_LOADS];
#pragma unroll
    for (uint i = 0; i < A_LOADS; i++) {
        const uint pixel = first_row + (item + i * WG_SIZE) / QUADS_K;
        const uint out_row = pixel / out_width % out_height;
        base[i] = (size_t)(pixel / out_width / out_height) * height;
        // Beyond the last pixel nothing of the window is inside x.
        corner_row[i] = pixel < rows ? (int)(out_row * stride) - top : -0x40000000;
        corner_column[i] = (int)(pixel % out_width * stride) - left;
    }
    float sum[ITEM_M * ITEM_N];
#pragma unroll
    for (uint i = 0; i < ITEM_M * ITEM_N; i++)
        sum[i] = 0.0f;

    for (uint tap = 0; tap < taps; tap++) {
        // Where the pixel under this tap begins in x.
        size_t start[A_LOADS];
        bool inside[A_LOADS];
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++) {
            const int r = corner_row[i] + (int)(tap / kernel_width);
            const int c = corner_column[i] + (int)(tap % kernel_width);
            inside[i] = r >= 0 && c >= 0 && r < (int)read_height && c < (int)read_width;
            start[i] = ((base[i] + (r >> enlarge)) * width + (c >> enlarge)) * channels;
        }
        for (uint first = 0; first < channels; first += TILE_K) {
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
            for (uint i = 0; i < A_LOADS; i++) {
                const uint index = item + i * WG_SIZE;
                const uint k = index % QUADS_K * 4;
                const uint channel = first + k;
                float4 value = 0.0f;
                if (inside[i] && channel + 4 <= channels) {
                    value = load_real4(x, start[i] + channel);
                } else if (inside[i] && channel < channels) {
                    value.s0 = load_real(x, start[i] + channel);
                    if (channel + 1 < channels)
                        value.s1 = load_real(x, start[i] + channel + 1);
                    if (channel + 2 < channels)
                        value.s2 = load_real(x, start[i] + channel + 2);
                }
                place_row(a, index / QUADS_K, k, value);
            }
            place_weights(b, weights, first_output, outputs, inputs, tap * channels + first,
                          channels - first);
            barrier(CLK_LOCAL_MEM_FENCE);
            multiply_tile(a, b, sum);
        }
    }
    store_tile(sum, first_row, rows, out_height * out_width, first_output, outputs, bias,
               sample_bias, residual, y, activation);
}
