// conv2d_few_inputs.cl: y = activation(conv(x) + bias) + residual, of 3 x 3 windows of few
// channels.
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
// For CPU devices. Gathering windows would take as long as multiplying them. Here a strip's rows of
// x are copied with their padding: neighbouring pixels' windows then lie CHANNELS apart, each three
// runs of 3 * CHANNELS terms, and register_tile.h reads them there.

#ifndef CHANNELS
#define CHANNELS 4      // of x: at most 16
#endif

#define WINDOW 3
#define STRIP (TILES * TILE_M)                      // most pixels of a strip
#define LINE ((STRIP + WINDOW - 1) * CHANNELS)      // a row of x under a strip

// A strip's row of x from column `first` of the padded row on, of `count` pixels; zero outside x.
INLINE void pad(float *line, __global const REAL *x, const size_t row_start, const bool inside,
                const int first, const uint count, const int read_width)
{
    const int begin = clamp(-first, 0, (int)count);
    const int end = inside ? clamp(read_width - first, begin, (int)count) : begin;
    clear(line, begin * CHANNELS);
    unpack(line + begin * CHANNELS, x, row_start + (size_t)(first + begin) * CHANNELS,
           (end - begin) * CHANNELS);
    clear(line + end * CHANNELS, (count - end) * CHANNELS);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void conv2d_few_inputs(__global const REAL *x,
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
    const uint strips = (out_width + STRIP - 1) / STRIP;
    const uint all = samples * out_height * strips;
    const uint end = share(all, get_num_groups(0), get_group_id(0) + 1);
    const uint all_panels = (outputs + PANEL - 1) / PANEL;
    const uint inputs = WINDOW * WINDOW * CHANNELS;
    float lines[WINDOW * LINE];
    float sums[TILE_M * PANEL];
#ifdef DTYPE_F16
    float panel[WINDOW * WINDOW * CHANNELS * PANEL];
#endif

    for (uint strip = share(all, get_num_groups(0), get_group_id(0)); strip < end; strip++) {
        const uint out_row = strip / strips % out_height;
        const uint sample = strip / strips / out_height;
        const uint first = share(out_width, strips, strip % strips);
        const uint pixels = share(out_width, strips, strip % strips + 1) - first;
        const uint tiles = (pixels + TILE_M - 1) / TILE_M;
        for (uint line = 0; line < WINDOW; line++) {
            const int row = (int)(out_row + line) - top;
            const bool inside = row >= 0 && row < (int)read_height;
            const size_t start = ((size_t)sample * height + (inside ? row : 0)) * width * CHANNELS;
            pad(lines + line * LINE, x, start, inside, (int)first - left,
                tiles * TILE_M + WINDOW - 1, read_width);
        }
        const size_t first_pixel = ((size_t)sample * out_height + out_row) * out_width + first;
        for (uint p = 0; p < all_panels; p++) {
#ifdef DTYPE_F16
            unpack(panel, weights, (size_t)p * inputs * PANEL, inputs * PANEL);
#else
            __global const float *panel = weights + (size_t)p * inputs * PANEL;
#endif
            for (uint tile = 0; tile < tiles; tile++) {
                const uint count = min((uint)TILE_M, pixels - tile * TILE_M);
                const size_t first_row = first_pixel + tile * TILE_M;
                // A store to a line that is not there waits for it.
                for (uint m = 0; m < count; m++)
                    for (uint n = 0; n < PANEL; n += 64 / sizeof(REAL))
                        fetch_line((__global const char *)(y + (first_row + m) * outputs +
                                                           p * PANEL + n));
                for (uint column = 0; column < PANEL; column += COLUMNS)
                    multiply_runs(lines + tile * TILE_M * CHANNELS, CHANNELS, WINDOW, LINE,
                                  panel + column, sums + column, WINDOW * CHANNELS, false, false, 0, 0);
                store_rows(sums, count, p * PANEL, outputs, first_row, out_height * out_width, bias,
                           sample_bias, residual, y, activation);
            }
        }
    }
}
