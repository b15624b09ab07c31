// winograd_local.cl: y = activation(conv(x) + bias) + residual for windows of 3 by 3, by Winograd's
// F(2,3) in one pass: nothing but x, the transformed weights and y is in global memory.
//
//   x            [samples, height, width, channels]  REAL, contiguous; channels a multiple of
//                CHANNELS
//   transformed  [16][panels][channels][32]  float, as winograd_weights makes them of two outputs
//                a side, of `panels` panels from first_panel on
//   bias         [outputs]           float, or absent
//   sample_bias  [samples, outputs]  REAL, or absent
//   residual, y  [samples, out_height, out_width, outputs]  REAL; residual may be absent
//   top, left    padding before x
//   read_height, read_width  where x ends as it is read: whatever is asked beyond is zero
//   enlarge      1: x is read twice as large, pixel (r, c) being x[r / 2][c / 2]
//   launch       one work-group of 256 per TILES tiles of two by two pixels of y, and panel
//
// With Y two by two pixels of y, X the window of four by four that they see, U the transformed
// weights: Y = A^T [sum over channels of U * (B^T X B)] A, * being place by place (Lavin and Gray,
// arXiv 1509.09308, 2015). Sixteen work-items share each of the sixteen places, each of them with
// a tile of sums in registers, as in local_tile.h: a work-item that held all places of its pixels
// would read a value of local memory for every product. The places meet in local memory at the
// end. A column of a transformed window takes two columns of the window; a work-item makes one.

#ifndef TILES
#define TILES 16        // tiles of a work-group: 16 or 32
#endif
#ifndef CHANNELS
#define CHANNELS 8      // in local memory at a time: 4 or 8
#endif

#define PANEL 32
#define WG_SIZE 256
#define PLACES 16
#define SIDE 4                                      // of a window; work-items of a place, each way
#define ITEM_M (TILES / SIDE)                       // tiles of a work-item
#define ITEM_N (PANEL / SIDE)                       // outputs of a work-item: two quads
#define V_STRIDE (CHANNELS * TILES + 16)            // two neighbouring places share no bank
#define U_STRIDE (CHANNELS * PANEL + 16)
#define V_LOADS (TILES * CHANNELS * SIDE / WG_SIZE) // columns of a work-item
#define U_LOADS (PLACES * CHANNELS * PANEL / 4 / WG_SIZE)
#define PRODUCTS (PLACES * SIDE * PANEL)            // that meet at a time

#if V_LOADS == 0 || U_LOADS == 0 || TILES % 16 || PRODUCTS > PLACES * (V_STRIDE + U_STRIDE)
#error "winograd_local.cl: TILES must be 16 or 32, CHANNELS 4 or 8"
#endif

INLINE uint channel_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) % CHANNELS; }
INLINE uint column_of(const uint load)
{
    return (get_local_id(0) + load * WG_SIZE) / CHANNELS % SIDE;
}
INLINE uint tile_of(const uint load)
{
    return (get_local_id(0) + load * WG_SIZE) / CHANNELS / SIDE;
}

// A column of a transformed window into the places below each other.
INLINE void place_window(__local float *v, const uint load, const float *column)
{
    __local float *target =
        v + column_of(load) * V_STRIDE + channel_of(load) * TILES + tile_of(load);
    target[0 * SIDE * V_STRIDE] = column[0] - column[2];
    target[1 * SIDE * V_STRIDE] = column[1] + column[2];
    target[2 * SIDE * V_STRIDE] = column[2] - column[1];
    target[3 * SIDE * V_STRIDE] = column[1] - column[3];
}

// The pixels and weights of the channels that are `step` behind the present ones.
INLINE void load_step(__global const REAL *pixel[V_LOADS][SIDE],
                      const int *apart,
                      __global const float **weights,
                      const size_t places_apart,
                      const uint step,
                      float next[V_LOADS][SIDE][2],
                      float4 *u_next)
{
#pragma unroll
    for (uint i = 0; i < V_LOADS; i++)
#pragma unroll
        for (uint r = 0; r < SIDE; r++) {
            pixel[i][r] += step;
            next[i][r][0] = load_real(pixel[i][r], 0);
            next[i][r][1] = load_real(pixel[i][r] + apart[i], 0);
        }
    *weights += step * PANEL;
#pragma unroll
    for (uint i = 0; i < U_LOADS; i++)
        u_next[i] = vload4(0, *weights + i * places_apart);
}

INLINE void place_transformed(__local float *u, const uint load, const float4 value)
{
    const uint quad = get_local_id(0) + load * WG_SIZE;
    const uint place = quad / (CHANNELS * PANEL / 4), within = quad % (CHANNELS * PANEL / 4);
    *(__local float4 *)(u + place * U_STRIDE + within * 4) = value;
}

INLINE void place_step(__local float *v,
                       __local float *u,
                       float next[V_LOADS][SIDE][2],
                       float sign[V_LOADS][2],
                       bool inside[V_LOADS][SIDE],
                       const float4 *u_next)
{
#pragma unroll
    for (uint i = 0; i < V_LOADS; i++) {
        float column[SIDE];
#pragma unroll
        for (uint r = 0; r < SIDE; r++) {
            const float sum = sign[i][0] * next[i][r][0] + sign[i][1] * next[i][r][1];
            column[r] = inside[i][r] ? sum : 0.0f;
        }
        place_window(v, i, column);
    }
#pragma unroll
    for (uint i = 0; i < U_LOADS; i++)
        place_transformed(u, i, u_next[i]);
}

// sum[ITEM_M][ITEM_N] += one channel of this work-item's tiles and outputs, at its place.
INLINE void multiply_term(__local const float *v, __local const float *u, float *sum)
{
    float row[ITEM_M], column[ITEM_N];
#pragma unroll
    for (uint m = 0; m < ITEM_M; m += 4)
        vstore4(*(__local const float4 *)(v + m), 0, row + m);
#pragma unroll
    for (uint n = 0; n < ITEM_N; n += 4)
        vstore4(*(__local const float4 *)(u + n * SIDE), 0, column + n);
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
        for (uint n = 0; n < ITEM_N; n++)
            sum[m * ITEM_N + n] += row[m] * column[n];
}

INLINE void store_pixel(const float sum,
                        const size_t at,
                        __global const REAL *residual,
                        __global REAL *y,
                        const uint activation)
{
    float value = activate(sum, activation);
    if (residual)
        value += load_real(residual, at);
    store_real(y, at, value);
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void winograd_local(__global const REAL *x,
                    __global const float *transformed,
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
                    const uint first_panel,
                    const uint panels,
                    const int top,
                    const int left,
                    const uint read_height,
                    const uint read_width,
                    const uint enlarge,
                    const uint activation)
{
    __local float memory[PLACES * (V_STRIDE + U_STRIDE)] __attribute__((aligned(16)));
    __local float *v = memory, *u = memory + PLACES * V_STRIDE;
    const uint item = get_local_id(0);
    const uint tile_columns = (out_width + 1) / 2, tile_rows = (out_height + 1) / 2;
    const uint tiles = samples * tile_rows * tile_columns;
    const uint first_tile = get_group_id(0) * TILES;
    const uint panel = get_group_id(1);

    // Where this work-item's columns are, and which of their pixels count.
    __global const REAL *pixel[V_LOADS][SIDE];  // of the first column
    int apart[V_LOADS];                         // from the first column to the second
    float sign[V_LOADS][2];
    bool inside[V_LOADS][SIDE];
#pragma unroll
    for (uint i = 0; i < V_LOADS; i++) {
        // Tiles beyond the last are the last.
        const uint tile = min(first_tile + tile_of(i), tiles - 1);
        const uint sample = tile / tile_columns / tile_rows;
        const int first_row = (int)(tile / tile_columns % tile_rows * 2) - top;
        const int first_column = (int)(tile % tile_columns * 2) - left;
        // Columns 0 - 2, 1 + 2, 2 - 1 and 1 - 3 of the window.
        const uint j = column_of(i);
        const int columns[2] = {first_column + (j == 0 ? 0 : j == 2 ? 2 : 1),
                                first_column + (j == 2 ? 1 : j == 3 ? 3 : 2)};
        // A pixel outside is read from where there is one, and counts as nothing.
        uint c[2];
#pragma unroll
        for (uint side = 0; side < 2; side++) {
            const bool there = columns[side] >= 0 && columns[side] < (int)read_width;
            c[side] = there ? (uint)columns[side] >> enlarge : 0;
            sign[i][side] = !there ? 0.0f : side == 1 && j != 1 ? -1.0f : 1.0f;
        }
        apart[i] = ((int)c[1] - (int)c[0]) * (int)channels;
#pragma unroll
        for (uint r = 0; r < SIDE; r++) {
            const int row = first_row + (int)r;
            inside[i][r] = row >= 0 && row < (int)read_height;
            const size_t line = (size_t)sample * height + (inside[i][r] ? (uint)row >> enlarge : 0);
            pixel[i][r] = x + (line * width + c[0]) * channels + channel_of(i);
        }
    }
    // Quads of the weights are as many places apart as a work-group has room for.
    const uint within = item % (CHANNELS * PANEL / 4);
    const size_t places_apart = (size_t)(WG_SIZE / (CHANNELS * PANEL / 4)) * panels * channels * PANEL;
    __global const float *weights =
        transformed + within * 4 +
        ((size_t)(item / (CHANNELS * PANEL / 4)) * panels + panel) * channels * PANEL;

    float sum[ITEM_M * ITEM_N];
#pragma unroll
    for (uint i = 0; i < ITEM_M * ITEM_N; i++)
        sum[i] = 0.0f;
    const uint place = item / PLACES, place_m = item % PLACES / SIDE, place_n = item % SIDE;
    __local const float *v_item = v + place * V_STRIDE + place_m * ITEM_M;
    __local const float *u_item = u + place * U_STRIDE + place_n * 4;

    float next[V_LOADS][SIDE][2];
    float4 u_next[U_LOADS];
    load_step(pixel, apart, &weights, places_apart, 0, next, u_next);
    place_step(v, u, next, sign, inside, u_next);
#pragma unroll 1
    for (uint first = CHANNELS; first <= channels; first += CHANNELS) {
        // After the last channels there are none: they are loaded once more, and not read.
        const uint left = first < channels ? CHANNELS : 0;
        load_step(pixel, apart, &weights, places_apart, left, next, u_next);
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint k = 0; k < CHANNELS; k++)
            multiply_term(v_item + k * TILES, u_item + k * PANEL, sum);
        barrier(CLK_LOCAL_MEM_FENCE);
        place_step(v, u, next, sign, inside, u_next);
    }

    // Of each place_m a tile at a time; a work-item takes two pixels of one output.
    const uint half_row = item / (SIDE * PANEL), mine = item % (SIDE * PANEL);
    const uint output = (first_panel + panel) * PANEL + mine % PANEL;
    const float own_bias = bias && output < outputs ? bias[output] : 0.0f;
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++) {
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint n = 0; n < ITEM_N; n += 4)
            *(__local float4 *)(memory + (place * SIDE + place_m) * PANEL + place_n * 4 + n * SIDE) =
                vload4(0, sum + m * ITEM_N + n);
        barrier(CLK_LOCAL_MEM_FENCE);
        float row[SIDE];
#pragma unroll
        for (uint c = 0; c < SIDE; c++) {
            __local const float *column = memory + c * SIDE * PANEL + mine;
            const uint below = SIDE * SIDE * PANEL;
            row[c] = half_row == 0 ? column[0] + column[below] + column[2 * below]
                                   : column[below] - column[2 * below] - column[3 * below];
        }
        const float pixels[2] = {row[0] + row[1] + row[2], row[1] - row[2] - row[3]};
        const uint tile = first_tile + mine / PANEL * ITEM_M + m;
        const uint sample = tile / tile_columns / tile_rows;
        const uint out_row = tile / tile_columns % tile_rows * 2 + half_row;
        const uint out_column = tile % tile_columns * 2;
        if (tile < tiles && out_row < out_height && output < outputs) {
            const size_t row_at = ((size_t)sample * out_height + out_row) * out_width + out_column;
            const float add = sample_bias
                ? load_real(sample_bias, (size_t)sample * outputs + output) : own_bias;
            store_pixel(pixels[0] + add, row_at * outputs + output, residual, y, activation);
            if (out_column + 1 < out_width)
                store_pixel(pixels[1] + add, (row_at + 1) * outputs + output, residual, y,
                            activation);
        }
    }
}
