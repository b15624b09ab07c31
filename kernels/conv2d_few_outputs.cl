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
//   read_height, read_width  where x ends as it is read: whatever is asked beyond is zero;
//                read_width is at least TILE_M
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
#define PASSES (TAP_PANELS * STRIPS)            // over a tile's pixels
#define STRIP (TILES * TILE_M)                  // most pixels of x under a strip
#define LINE (TILE_M + STRIP)                   // products of a row, after room for a tile
#define RING (TAP_PANELS * LINE * PANEL)        // the products of a row
#if OUTPUTS <= 4
#define LANES 4                                 // of a vector that holds a pixel's outputs
#else
#define LANES 8
#endif
#define floatL WORD(float, LANES)
#define vloadL WORD(vload, LANES)
#define vstoreL WORD(vstore, LANES)

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

// products[TAP_PANELS][LINE][PANEL], from the TILE_M-th of a line on, of a row's pixels `first` to
// `first + tiles * TILE_M`; those outside x are zero. Tiles lie in x as a whole, so that they may
// begin before a line or end after it: there is room. The next tile's pixels are fetched meanwhile,
// as memory takes about as long as the products.
INLINE void multiply_row(__global const REAL *x, const size_t row_start, const uint width,
                         const int first, const uint tiles, const int read_width,
                         const float *taps, float *products)
{
#ifdef DTYPE_F16
    float rows[TILE_M * CHANNELS];
#endif
    const int begin = max(first, 0);
    const int end = first + (int)(tiles * TILE_M);
    const int inside = min(end, read_width);
    for (int pixel = first; pixel < end; pixel++)
        for (uint p = 0; (pixel < begin || pixel >= inside) && p < TAP_PANELS; p++)
            clear(products + (p * LINE + TILE_M + pixel - first) * PANEL, PANEL);
    for (int pixel = begin; pixel < inside; pixel += TILE_M) {
        const int of_tile = min(pixel, read_width - TILE_M);
        const size_t start = row_start + (size_t)of_tile * CHANNELS;
#ifdef DTYPE_F16
        unpack(rows, x, start, TILE_M * CHANNELS);
#else
        __global const float *rows = x + start;
#endif
        const size_t next = pixel + TILE_M < inside ? pixel + TILE_M : begin + width;
        __global const char *ahead = (__global const char *)(x + row_start + next * CHANNELS);
        const uint step = (TILE_M * sizeof(REAL) + PASSES - 1) / PASSES;
        for (uint pass = 0; pass < PASSES; pass++) {
            const uint p = pass / STRIPS;
            const uint column = pass % STRIPS * COLUMNS;
            multiply_runs(rows, CHANNELS, 1, 0, taps + p * CHANNELS * PANEL + column,
                          products + (p * LINE + TILE_M + of_tile - first) * PANEL + column,
                          CHANNELS, false, true, ahead + pass * CHANNELS * step, step);
        }
    }
}

// sums[pixels][OUTPUTS] of a row of y, from the products of the three rows under it. A vector may
// reach beyond a pixel's outputs: the next pixel's then overwrite what it left.
INLINE void gather(const float *ring, const uint out_row, const uint pixels, float *sums)
{
    const float *rows[WINDOW];
    for (uint row = 0; row < WINDOW; row++)
        rows[row] = ring + (out_row + row) % WINDOW * RING + TILE_M * PANEL;
    for (uint pixel = 0; pixel < pixels; pixel++) {
        floatL sum = 0.0f;
#pragma unroll
        for (uint tap = 0; tap < TAPS; tap++)
            sum += vloadL(0, rows[tap / WINDOW] + tap % TAPS_OF_PANEL * OUTPUTS +
                          (tap / TAPS_OF_PANEL * LINE + pixel + tap % WINDOW) * PANEL);
        vstoreL(sum, 0, sums + pixel * OUTPUTS);
    }
}

// offsets[STRIP][OUTPUTS]: what is added before the activation, for every pixel again.
INLINE void repeat_offsets(float *offsets, __global const float *bias,
                           __global const REAL *sample_bias, const uint sample)
{
    for (uint n = 0; n < STRIP * OUTPUTS; n++) {
        const uint output = n % OUTPUTS;
        offsets[n] = bias ? bias[output] : 0.0f;
        if (sample_bias)
            offsets[n] += load_real(sample_bias, (size_t)sample * OUTPUTS + output);
    }
}

// y[start..start + count] = activation(sums + offsets) + residual, of pixels that lie together.
INLINE void store_line(const float *sums, const float *offsets, const uint count,
                       __global const REAL *residual, __global REAL *y, const size_t start,
                       const uint activation)
{
    uint n = 0;
    for (; n + VECTOR <= count; n += VECTOR) {
        floatV value = activate_vector(vloadV(0, sums + n) + vloadV(0, offsets + n), activation);
        if (residual)
            value += load_realV(residual, start + n);
        store_realV(y, start + n, value);
    }
    for (; n < count; n++) {
        float value = activate(sums[n] + offsets[n], activation);
        if (residual)
            value += load_real(residual, start + n);
        store_real(y, start + n, value);
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
    const uint all_tiles = (out_width + strips * (WINDOW - 1) + TILE_M - 1) / TILE_M;
    const uint all = samples * strips * out_height;
    const uint end = share(all, get_num_groups(0), get_group_id(0) + 1);
    float taps[TAP_PANELS * CHANNELS * PANEL];
    float ring[WINDOW * RING + TILE_M * PANEL];
    float sums[STRIP * OUTPUTS + LANES];
    float offsets[STRIP * OUTPUTS];
    uint offsets_of = samples;
    bool follows = false;

    unpack_taps(taps, weights);
    for (uint i = share(all, get_num_groups(0), get_group_id(0)); i < end; i++) {
        const uint out_row = i % out_height;
        const uint strip = i / out_height % strips;
        const uint sample = i / out_height / strips;
        const uint first_tile = share(all_tiles, strips, strip);
        const uint tiles = share(all_tiles, strips, strip + 1) - first_tile;
        const uint first = first_tile * TILE_M - strip * (WINDOW - 1);
        const uint pixels = min(tiles * TILE_M - (WINDOW - 1), out_width - first);
        // The row of y before has left its other rows in the ring.
        for (uint line = follows && out_row > 0 ? WINDOW - 1 : 0; line < WINDOW; line++) {
            float *products = ring + (out_row + line) % WINDOW * RING;
            const int row = (int)(out_row + line) - top;
            if (row >= 0 && row < (int)read_height)
                multiply_row(x, ((size_t)sample * height + row) * width * CHANNELS, width,
                             (int)first - left, tiles, read_width, taps, products);
            else
                clear(products, RING);
        }
        follows = true;
        gather(ring, out_row, pixels, sums);
        if (sample != offsets_of) {
            repeat_offsets(offsets, bias, sample_bias, sample);
            offsets_of = sample;
        }
        const size_t first_pixel = ((size_t)sample * out_height + out_row) * out_width + first;
        store_line(sums, offsets, pixels * OUTPUTS, residual, y, first_pixel * OUTPUTS, activation);
    }
}
