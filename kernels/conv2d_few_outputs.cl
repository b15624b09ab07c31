// conv2d_few_outputs.cl: y = activation(conv(x) + bias) + residual, of 3 x 3 windows to few
// outputs.
//
//   x            [samples, height, width, channels]  REAL, contiguous
//   weights      panels of 32 outputs, [ceil(outputs / 32)][9 * channels][32]  REAL, over
//                (row, column, channel) of the window
//   bias         [outputs]           float, or absent
//   sample_bias  [samples, outputs]  REAL, or absent
//   residual, y  [samples, out_height, out_width, outputs]  REAL; residual may be absent
//   top, left    padding before x
//   read_height, read_width  where x ends as it is read: whatever is asked beyond is zero
//   launch       work-items that share out the rows of y, each cut into strips of pixels
//
// For CPU devices. A panel would be nearly empty, and each pixel of x read nine times. Here the
// nine taps lie side by side in panels, each pixel of x is multiplied once by all of them, and a
// pixel of y gathers its window from the products of three rows, which stay in a ring.

#ifndef CHANNELS
#define CHANNELS 128    // of x
#endif
#ifndef OUTPUTS
#define OUTPUTS 3       // at most 8
#endif

#define WINDOW 3
#define TAPS (WINDOW * WINDOW)
#define TAPS_OF_PANEL (PANEL / OUTPUTS)
#define TAP_PANELS ((TAPS + TAPS_OF_PANEL - 1) / TAPS_OF_PANEL)
#define STRIP (TILES * TILE_M)                  // most pixels of x under a strip
#define STRIDE (CHANNELS + 16)                  // between packed pixels: no power of two
#define RING (TAP_PANELS * STRIP * PANEL)       // the products of a row

// taps[TAP_PANELS][CHANNELS][PANEL]: each tap's outputs together in one panel.
INLINE void unpack_taps(float *taps, __global const REAL *weights)
{
    clear(taps, TAP_PANELS * CHANNELS * PANEL);
    for (uint tap = 0; tap < TAPS; tap++) {
        const uint place = tap / TAPS_OF_PANEL * CHANNELS * PANEL + tap % TAPS_OF_PANEL * OUTPUTS;
        for (uint channel = 0; channel < CHANNELS; channel++)
            for (uint output = 0; output < OUTPUTS; output++)
                taps[place + channel * PANEL + output] =
                    load_real(weights, ((size_t)tap * CHANNELS + channel) * PANEL + output);
    }
}

// products[TAP_PANELS][STRIP][PANEL] of a row's pixels `first` to `first + tiles * TILE_M`; those
// outside x are zero.
INLINE void multiply_row(__global const REAL *x, const size_t row_start, const int first,
                         const uint tiles, const int read_width, const float *taps, float *packed,
                         float *products)
{
    for (uint tile = 0; tile < tiles; tile++) {
        for (uint m = 0; m < TILE_M; m++) {
            const int column = first + (int)(tile * TILE_M + m);
            if (column >= 0 && column < read_width)
                unpack(packed + m * STRIDE, x, row_start + (size_t)column * CHANNELS, CHANNELS);
            else
                clear(packed + m * STRIDE, CHANNELS);
        }
        for (uint p = 0; p < TAP_PANELS; p++)
            for (uint column = 0; column < PANEL; column += COLUMNS)
                multiply_tile(packed, STRIDE, taps + p * CHANNELS * PANEL + column,
                              products + (p * STRIP + tile * TILE_M) * PANEL + column, CHANNELS,
                              false);
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void conv2d_few_outputs(__global const REAL *x,
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
    const uint most = STRIP - WINDOW + 1;
    const uint strips = (out_width + most - 1) / most;
    const uint all = samples * strips * out_height;
    const uint end = share(all, get_num_groups(0), get_group_id(0) + 1);
    float taps[TAP_PANELS * CHANNELS * PANEL];
    float packed[TILE_M * STRIDE];
    float ring[WINDOW * RING];
    bool follows = false;

    unpack_taps(taps, weights);
    for (uint i = share(all, get_num_groups(0), get_group_id(0)); i < end; i++) {
        const uint out_row = i % out_height;
        const uint strip = i / out_height % strips;
        const uint sample = i / out_height / strips;
        const uint first = share(out_width, strips, strip);
        const uint pixels = share(out_width, strips, strip + 1) - first;
        const uint tiles = (pixels + WINDOW - 1 + TILE_M - 1) / TILE_M;
        // The row of y before has left its other rows in the ring.
        for (uint line = follows && out_row > 0 ? WINDOW - 1 : 0; line < WINDOW; line++) {
            float *products = ring + (out_row + line) % WINDOW * RING;
            const int row = (int)(out_row + line) - top;
            if (row >= 0 && row < (int)read_height)
                multiply_row(x, ((size_t)sample * height + row) * width * CHANNELS,
                             (int)first - left, tiles, read_width, taps, packed, products);
            else
                clear(products, RING);
        }
        follows = true;
        const size_t first_pixel = ((size_t)sample * out_height + out_row) * out_width + first;
        for (uint pixel = 0; pixel < pixels; pixel++) {
            float sums[PANEL];
            for (uint output = 0; output < OUTPUTS; output++)
                sums[output] = 0.0f;
            for (uint tap = 0; tap < TAPS; tap++) {
                const float *products = ring + (out_row + tap / WINDOW) % WINDOW * RING +
                    (tap / TAPS_OF_PANEL * STRIP + pixel + tap % WINDOW) * PANEL +
                    tap % TAPS_OF_PANEL * OUTPUTS;
                for (uint output = 0; output < OUTPUTS; output++)
                    sums[output] += products[output];
            }
            store_row(sums, 0, OUTPUTS, first_pixel + pixel, sample, bias, sample_bias, residual, y,
                      activation);
        }
    }
}
