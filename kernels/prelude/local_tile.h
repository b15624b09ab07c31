// local_tile.h: a tile of a matrix product by one work-group that shares it in local memory, for
// GPUs. What gemm_local, gemm_split and conv2d_local share.
//
// A work-group computes TILE_M rows by TILE_N outputs, a work-item ITEM_M by ITEM_N of them. K is
// taken TILE_K at a time through local memory: rows transposed, so that a work-item reads its
// ITEM_M as float4; outputs as the panels have them. While a tile is multiplied the next one is on
// its way into registers, as it lies in memory. With two BUFFERS of local memory a tile costs one
// barrier instead of two.
//
// Nothing in the loop over whole tiles asks where the matrix ends: rows and panels beyond it are
// read from the last that is there, and their products are never stored. What is left of K goes
// through a loop of its own.

#ifndef TILE_M
#define TILE_M 64       // rows of a work-group
#endif
#ifndef TILE_N
#define TILE_N 64       // outputs of a work-group
#endif
#ifndef TILE_K
#define TILE_K 8        // terms in local memory at a time
#endif
#ifndef ITEM_M
#define ITEM_M 8        // rows of a work-item
#endif
#ifndef ITEM_N
#define ITEM_N 4        // outputs of a work-item
#endif
#ifndef BUFFERS
#define BUFFERS 1       // tiles in local memory: the one that is read, and one that is written
#endif

#define ITEMS_N (TILE_N / ITEM_N)
#define WG_SIZE ((TILE_M / ITEM_M) * ITEMS_N)
#define A_STRIDE (TILE_M + 4)                       // keeps float4 aligned, spreads the banks
#define A_TILE (TILE_K * A_STRIDE)
#define B_TILE (TILE_K * TILE_N)
#define QUADS_K (TILE_K / 4)
#define QUADS_N (TILE_N / 4)
#define A_LOADS (TILE_M * QUADS_K / WG_SIZE)        // quads of a work-item
#define B_LOADS (TILE_K * QUADS_N / WG_SIZE)

#if ITEM_M % 4 || ITEM_N % 4 || TILE_K % 4 || TILE_M % ITEM_M || TILE_N % ITEM_N
#error "local_tile.h: work-items take float4 and divide the tile"
#endif
#if TILE_M * QUADS_K % WG_SIZE || TILE_K * QUADS_N % WG_SIZE || A_LOADS == 0 || B_LOADS == 0
#error "local_tile.h: the work-group divides the loads"
#endif

// Where this work-item's quads of a tile are: of which row, from which term on.
INLINE uint row_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) / QUADS_K; }
INLINE uint term_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) % QUADS_K * 4; }

// The same of the weights: of which term, from which output on.
INLINE uint depth_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) / QUADS_N; }
INLINE uint output_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) % QUADS_N * 4; }

// The quads of the first terms' weights that this work-item loads, of the outputs from first_output
// on; the first of all weights is the first-th. Panels beyond the last are the last.
INLINE void find_weights(CURSOR *w,
                         __global const WEIGHT *weights,
                         const size_t first,
                         const uint first_output,
                         const uint outputs,
                         const uint inputs)
{
#pragma unroll
    for (uint i = 0; i < B_LOADS; i++) {
        const uint output = first_output + output_of(i);
        const uint panel = min(output, outputs - 1) / PANEL;
        const size_t at = ((size_t)panel * inputs + depth_of(i)) * PANEL + output % PANEL;
        w[i] = CURSOR_AT(weights, first + at);
    }
}

INLINE void place_row(__local float *a, const uint load, const float4 value)
{
    __local float *target = a + term_of(load) * A_STRIDE + row_of(load);
    target[0 * A_STRIDE] = value.s0;
    target[1 * A_STRIDE] = value.s1;
    target[2 * A_STRIDE] = value.s2;
    target[3 * A_STRIDE] = value.s3;
}

INLINE void place_weights(__local float *b, const uint load, const float4 value)
{
    *(__local float4 *)(b + (get_local_id(0) + load * WG_SIZE) * 4) = value;
}

// sum[ITEM_M][ITEM_N] += one term of this work-item's rows and outputs. Its outputs are quads that
// lie ITEMS_N quads apart, so that neighbours read neighbouring banks.
INLINE void multiply_term(__local const float *a, __local const float *b, float *sum)
{
    float row[ITEM_M], column[ITEM_N];
#pragma unroll
    for (uint m = 0; m < ITEM_M; m += 4)
        vstore4(*(__local const float4 *)(a + m), 0, row + m);
#pragma unroll
    for (uint n = 0; n < ITEM_N; n += 4)
        vstore4(*(__local const float4 *)(b + n * ITEMS_N), 0, column + n);
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
        for (uint n = 0; n < ITEM_N; n++)
            sum[m * ITEM_N + n] += row[m] * column[n];
}

// sum += the product of `terms` terms: x[i] points at the first quad that this work-item loads of
// row row_of(i), which counts as zeros where it is not `inside`; w[i] at that of the weights. x is
// spent, w is left at the terms that follow.
INLINE void multiply_terms(__local float *a,
                           __local float *b,
                           __global const REAL **x,
                           const bool *inside,
                           __global const WEIGHT *weights,
                           CURSOR *w,
                           const uint terms,
                           float *sum)
{
    __local const float *a_item = a + get_local_id(0) / ITEMS_N * ITEM_M;
    __local const float *b_item = b + get_local_id(0) % ITEMS_N * 4;
    const uint tiles = terms / TILE_K;
    if (tiles > 0) {
        PACKED4 a_next[A_LOADS];
        PACKED_WEIGHTS4 b_next[B_LOADS];
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++)
            a_next[i] = load_packed4(x[i]);
#pragma unroll
        for (uint i = 0; i < B_LOADS; i++)
            b_next[i] = load_packed_weights(weights, w[i]);
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++)
            place_row(a, i, inside[i] ? unpack4(a_next[i]) : 0.0f);
#pragma unroll
        for (uint i = 0; i < B_LOADS; i++)
            place_weights(b, i, unpack_weights(b_next[i]));
        uint read = 0;
#pragma unroll 1
        for (uint tile = 1; tile <= tiles; tile++) {
            const uint write = BUFFERS - 1 - read;
            // After the last tile there is none: it is loaded once more, and not read.
            const uint step = min(tiles - tile, 1u) * TILE_K;
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
            for (uint i = 0; i < A_LOADS; i++) {
                x[i] += step;
                a_next[i] = load_packed4(x[i]);
            }
#pragma unroll
            for (uint i = 0; i < B_LOADS; i++) {
                w[i] += step * PANEL;
                b_next[i] = load_packed_weights(weights, w[i]);
            }
#pragma unroll
            for (uint k = 0; k < TILE_K; k++)
                multiply_term(a_item + read * A_TILE + k * A_STRIDE,
                              b_item + read * B_TILE + k * TILE_N, sum);
            if (BUFFERS == 1)
                barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
            for (uint i = 0; i < A_LOADS; i++)
                place_row(a + write * A_TILE, i, inside[i] ? unpack4(a_next[i]) : 0.0f);
#pragma unroll
            for (uint i = 0; i < B_LOADS; i++)
                place_weights(b + write * B_TILE, i, unpack_weights(b_next[i]));
            read = write;
        }
    }
    // x and w are at the last whole tile.
    const uint done = tiles > 0 ? TILE_K : 0;
    const uint left = terms % TILE_K;
#pragma unroll
    for (uint i = 0; i < B_LOADS; i++)
        w[i] += done * PANEL;
    if (left == 0)
        return;
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint i = 0; i < A_LOADS; i++) {
        const uint k = term_of(i);
        const uint count = inside[i] && k < left ? min(left - k, 4u) : 0;
        place_row(a, i, load_quad(x[i] + done, 0, count));
    }
#pragma unroll
    for (uint i = 0; i < B_LOADS; i++) {
        const bool there = depth_of(i) < left;
        place_weights(b, i, there ? unpack_weights(load_packed_weights(weights, w[i])) : 0.0f);
        w[i] += left * PANEL;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 1
    for (uint k = 0; k < left; k++)
        multiply_term(a_item + k * A_STRIDE, b_item + k * TILE_N, sum);
}

// y[row][..] = activation(sum + bias + sample_bias[row / sample_rows][..]) + residual[row][..]
//
// Row by row and quad by quad: few values are in flight at once.
INLINE void store_tile(const float *sum,
                       const uint first_row,
                       const uint rows,
                       const uint sample_rows,
                       const uint first_output,
                       const uint outputs,
                       __global const float *bias,
                       __global const REAL *sample_bias,
                       __global const REAL *residual,
                       __global REAL *y,
                       const uint activation)
{
    const uint item_row = first_row + get_local_id(0) / ITEMS_N * ITEM_M;
    const uint item_output = first_output + get_local_id(0) % ITEMS_N * 4;
    float4 add[ITEM_N / 4];
#pragma unroll
    for (uint n = 0; n < ITEM_N; n += 4) {
        const uint output = item_output + n * ITEMS_N;
        add[n / 4] = 0.0f;
        if (bias) {
            // Panels end where quads do, biases do not.
            const uint last = outputs - 1;
            add[n / 4].s0 = bias[min(output, last)];
            add[n / 4].s1 = bias[min(output + 1, last)];
            add[n / 4].s2 = bias[min(output + 2, last)];
            add[n / 4].s3 = bias[min(output + 3, last)];
        }
    }
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++) {
        const size_t row = item_row + m;
        if (row >= rows)
            break;
#pragma unroll
        for (uint n = 0; n < ITEM_N; n += 4) {
            const uint output = item_output + n * ITEMS_N;
            const uint count = output < outputs ? min(outputs - output, 4u) : 0;
            const size_t at = row * outputs + output;
            float4 value = vload4(0, sum + m * ITEM_N + n) + add[n / 4];
            if (sample_bias)
                value += load_quad(sample_bias, row / sample_rows * outputs + output, count);
            value = activate4(value, activation);
            if (residual)
                value += load_quad(residual, at, count);
            store_quad(y, at, count, value);
        }
    }
}
