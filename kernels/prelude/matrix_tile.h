// matrix_tile.h: a tile of a matrix product by a work-group whose teams multiply fragments, see
// matrix.h.
//
// A work-group computes TILE_M rows by TILE_N outputs, a team TEAM_M by TEAM_N of them. K is taken
// TILE_K at a time through local memory, where a row's terms lie side by side, and an output's: the
// weights of four terms of four outputs are transposed on the way. While a tile is multiplied the
// next one is on its way into registers, as it lies in memory.
//
// Nothing in the loop over whole tiles asks where the matrix ends, as in local_tile.h. What is left
// of K is filled up with zeros.

#ifndef TILE_M
#define TILE_M 64       // rows of a work-group
#endif
#ifndef TILE_N
#define TILE_N 128      // outputs of a work-group
#endif
#ifndef TILE_K
#define TILE_K 32       // terms in local memory at a time
#endif
#ifndef TEAM_N
#define TEAM_N 64       // outputs of a team
#endif
#ifndef WG_SIZE
#define WG_SIZE 128     // work-items, in teams of 32 or 64
#endif

#define TEAMS_N (TILE_N / TEAM_N)
#define TEAMS_M (WG_SIZE / TEAM / TEAMS_N)
#define TEAM_M (TILE_M / TEAMS_M)
#define FRAGMENTS_M (TEAM_M / SIDE)
#define FRAGMENTS_N (TEAM_N / SIDE)
#define STRIDE (TILE_K + 8)                         // keeps 16 bytes aligned, spreads the banks
#define X_TILE (TILE_M * STRIDE)
#define W_TILE (TILE_N * STRIDE)
#define EIGHTS_K (TILE_K / 8)
#define QUADS_N (TILE_N / 4)
#define X_LOADS (TILE_M * EIGHTS_K / WG_SIZE)       // eights of terms of a work-item
#define W_LOADS (TILE_K / 4 * QUADS_N / WG_SIZE)    // squares of four terms of four outputs

#if TILE_K % SIDE || TEAM_N % SIDE || TILE_N % TEAM_N || WG_SIZE % (TEAM * TEAMS_N)
#error "matrix_tile.h: teams divide the tile and hold whole fragments"
#endif
#if TILE_M % (TEAMS_M * SIDE)
#error "matrix_tile.h: teams divide the tile's rows and hold whole fragments"
#endif
#if TILE_M * EIGHTS_K % WG_SIZE || TILE_K / 4 * QUADS_N % WG_SIZE || X_LOADS == 0 || W_LOADS == 0
#error "matrix_tile.h: the work-group divides the loads"
#endif

// Where this work-item's eights of x are in a tile: of which row, from which term on.
INLINE uint row_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) / EIGHTS_K; }
INLINE uint term_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) % EIGHTS_K * 8; }

// The same of its squares of the weights: from which term on, from which output on.
INLINE uint depth_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) / QUADS_N * 4; }
INLINE uint output_of(const uint load) { return (get_local_id(0) + load * WG_SIZE) % QUADS_N * 4; }

// The squares of the first terms' weights that this work-item loads, of the outputs from first_output
// on; the first of all weights is the first-th. Panels beyond the last are the last.
INLINE void find_weights(CURSOR *w,
                         __global const WEIGHT *weights,
                         const size_t first,
                         const uint first_output,
                         const uint outputs,
                         const uint inputs)
{
#pragma unroll
    for (uint i = 0; i < W_LOADS; i++) {
        const uint output = first_output + output_of(i);
        const uint panel = min(output, outputs - 1) / PANEL;
        const size_t at = ((size_t)panel * inputs + depth_of(i)) * PANEL + output % PANEL;
        w[i] = CURSOR_AT(weights, first + at);
    }
}

// Weights as the bits of f16: blocks are rounded to it.
#if FORMAT
INLINE ushort4 weight_bits(const PACKED_WEIGHTS4 v)
{
    ushort4 bits;
    vstore_half4_rte(v, 0, (__private half *)&bits);
    return bits;
}
#else
INLINE ushort4 weight_bits(const PACKED_WEIGHTS4 v) { return v; }
#endif

INLINE void place_rows(__local ushort *x_tile, const uint load, const ushort8 bits)
{
    *(__local ushort8 *)(x_tile + row_of(load) * STRIDE + term_of(load)) = bits;
}

// square[k] are the weights of four outputs: they are placed as four terms of each.
INLINE void place_weights(__local ushort *w_tile, const uint load, const PACKED_WEIGHTS4 *square)
{
    const ushort4 a = weight_bits(square[0]), b = weight_bits(square[1]);
    const ushort4 c = weight_bits(square[2]), d = weight_bits(square[3]);
    __local ushort *target = w_tile + output_of(load) * STRIDE + depth_of(load);
    *(__local ushort4 *)(target + 0 * STRIDE) = (ushort4)(a.s0, b.s0, c.s0, d.s0);
    *(__local ushort4 *)(target + 1 * STRIDE) = (ushort4)(a.s1, b.s1, c.s1, d.s1);
    *(__local ushort4 *)(target + 2 * STRIDE) = (ushort4)(a.s2, b.s2, c.s2, d.s2);
    *(__local ushort4 *)(target + 3 * STRIDE) = (ushort4)(a.s3, b.s3, c.s3, d.s3);
}

INLINE void place_tile(__local ushort *x_tile,
                       __local ushort *w_tile,
                       const ushort8 *x,
                       const PACKED_WEIGHTS4 *w)
{
#pragma unroll
    for (uint i = 0; i < X_LOADS; i++)
        place_rows(x_tile, i, x[i]);
#pragma unroll
    for (uint i = 0; i < W_LOADS; i++)
        place_weights(w_tile, i, w + 4 * i);
}

// sum[FRAGMENTS_M][FRAGMENTS_N] += SIDE terms of this team's rows and outputs.
INLINE void multiply_side(__local const ushort *x_team,
                          __local const ushort *w_team,
                          const uint lane,
                          SUMS *sum)
{
    FRAGMENT w[FRAGMENTS_N];
#pragma unroll
    for (uint n = 0; n < FRAGMENTS_N; n++)
        w[n] = weights_fragment(w_team + n * SIDE * STRIDE, STRIDE, lane);
#pragma unroll
    for (uint m = 0; m < FRAGMENTS_M; m++) {
        const FRAGMENT x = rows_fragment(x_team + m * SIDE * STRIDE, STRIDE, lane);
#pragma unroll
        for (uint n = 0; n < FRAGMENTS_N; n++)
            sum[m * FRAGMENTS_N + n] = multiply_fragments(w[n], x, STRIDE, sum[m * FRAGMENTS_N + n]);
    }
}

// sum += the product of `terms` terms: x[i] points at the first eight that this work-item loads of
// row row_of(i); w[i] at the first square of the weights. x is spent, w is left at the terms that
// follow.
INLINE void multiply_terms(__local ushort *x_tile,
                           __local ushort *w_tile,
                           __global const ushort **x,
                           __global const WEIGHT *weights,
                           CURSOR *w,
                           const uint terms,
                           SUMS *sum)
{
    const uint team = get_local_id(0) / TEAM, lane = get_local_id(0) % TEAM;
    __local const ushort *x_team = x_tile + team / TEAMS_N * TEAM_M * STRIDE;
    __local const ushort *w_team = w_tile + team % TEAMS_N * TEAM_N * STRIDE;
    const uint tiles = terms / TILE_K;
    if (tiles > 0) {
        ushort8 x_next[X_LOADS];
        PACKED_WEIGHTS4 w_next[4 * W_LOADS];
#pragma unroll
        for (uint i = 0; i < X_LOADS; i++)
            x_next[i] = vload8(0, x[i]);
#pragma unroll
        for (uint i = 0; i < W_LOADS; i++)
#pragma unroll
            for (uint k = 0; k < 4; k++)
                w_next[4 * i + k] = load_packed_weights(weights, w[i] + k * PANEL);
        barrier(CLK_LOCAL_MEM_FENCE);
        place_tile(x_tile, w_tile, x_next, w_next);
#pragma unroll 1
        for (uint tile = 1; tile <= tiles; tile++) {
            // After the last tile there is none: it is loaded once more, and not read.
            const uint step = min(tiles - tile, 1u) * TILE_K;
            barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
            for (uint i = 0; i < X_LOADS; i++) {
                x[i] += step;
                x_next[i] = vload8(0, x[i]);
            }
#pragma unroll
            for (uint i = 0; i < W_LOADS; i++) {
                w[i] += step * PANEL;
#pragma unroll
                for (uint k = 0; k < 4; k++)
                    w_next[4 * i + k] = load_packed_weights(weights, w[i] + k * PANEL);
            }
#pragma unroll
            for (uint k = 0; k < TILE_K; k += SIDE)
                multiply_side(x_team + k, w_team + k, lane, sum);
            barrier(CLK_LOCAL_MEM_FENCE);
            place_tile(x_tile, w_tile, x_next, w_next);
        }
    }
    // x and w are at the last whole tile.
    const uint done = tiles > 0 ? TILE_K : 0;
    const uint left = terms % TILE_K;
#pragma unroll
    for (uint i = 0; i < W_LOADS; i++)
        w[i] += done * PANEL;
    if (left == 0)
        return;
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint i = 0; i < X_LOADS; i++) {
        const uint k = term_of(i);
        place_rows(x_tile, i, load_bits(x[i] + done, k < left ? left - k : 0));
    }
#pragma unroll
    for (uint i = 0; i < W_LOADS; i++) {
        PACKED_WEIGHTS4 square[4];
        for (uint k = 0; k < 4; k++) {
            square[k] = 0;
            if (depth_of(i) + k < left)
                square[k] = load_packed_weights(weights, w[i] + k * PANEL);
        }
        place_weights(w_tile, i, square);
        w[i] += left * PANEL;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 1
    for (uint k = 0; k < left; k += SIDE)
        multiply_side(x_team + k, w_team + k, lane, sum);
}

// y[row][..] = activation(sum + bias) + residual[row][..], quad by quad: few values are in flight at
// once.
INLINE void store_tile(const SUMS *sum,
                       const uint first_row,
                       const uint rows,
                       const uint first_output,
                       const uint outputs,
                       __global const float *bias,
                       __global const REAL *residual,
                       __global REAL *y,
                       const uint activation)
{
    const uint team = get_local_id(0) / TEAM, lane = get_local_id(0) % TEAM;
    const uint team_row = first_row + team / TEAMS_N * TEAM_M + lane % SIDE;
    const uint team_output = first_output + team % TEAMS_N * TEAM_N + lane / SIDE * TEAM_SUMS;
#pragma unroll
    for (uint n = 0; n < FRAGMENTS_N; n++) {
#pragma unroll
        for (uint i = 0; i < TEAM_SUMS; i += 4) {
            const uint output = team_output + n * SIDE + i;
            const uint count = output < outputs ? min(outputs - output, 4u) : 0;
            float4 add = 0.0f;
            if (bias) {
                // Panels end where quads do, biases do not.
                const uint last = outputs - 1;
                add.s0 = bias[min(output, last)];
                add.s1 = bias[min(output + 1, last)];
                add.s2 = bias[min(output + 2, last)];
                add.s3 = bias[min(output + 3, last)];
            }
#pragma unroll
            for (uint m = 0; m < FRAGMENTS_M; m++) {
                const size_t row = team_row + m * SIDE;
                if (row >= rows)
                    break;
                const size_t at = row * outputs + output;
                float sums[TEAM_SUMS];
                WORD(vstore, TEAM_SUMS)(sum[m * FRAGMENTS_N + n], 0, sums);
                float4 value = activate4(vload4(0, sums + i) + add, activation);
                if (residual)
                    value += load_quad(residual, at, count);
                store_quad(y, at, count, value);
            }
        }
    }
}
