// attention_matrix.cl: y = softmax(scale * q k^T) v per head, by fragments of f16.
//
//   q            [samples, queries, q_stride]           REAL, which is half
//   k, v         [all samples, keys, k_ or v_stride]    REAL
//   y            [samples, queries, heads, HEAD_WIDTH]  REAL
//   launch       one work-group of 2 QUERIES work-items per (QUERIES queries, head, sample): for
//                matrix units
//
// A head's columns, samples and queries are found as in attention_local.cl.
//
// A team has rows of queries of its own, with all their scores and sums; a work-item has those of
// one query of each 16. Weights of a tile of keys are rounded to f16, to be multiplied with values:
// they are scaled by 2^15, so that what a matrix unit takes for zero is less than 2^-29 of the
// largest, and their sum is scaled likewise.

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64   // columns of a head, at most 160
#endif
#ifndef QUERIES
#define QUERIES 64      // of a work-group: 64, or 32 where heads are wide
#endif
#ifndef KEYS
#define KEYS 64         // keys in a tile: 64, or 32 likewise
#endif

#define WG_SIZE (2 * QUERIES)
#define WIDTH ((HEAD_WIDTH + SIDE - 1) / SIDE * SIDE)
#define TEAM_QUERIES (QUERIES / (WG_SIZE / TEAM))
#define FRAGMENTS_Q (TEAM_QUERIES / SIDE)
#define FRAGMENTS_K (KEYS / SIDE)
#define FRAGMENTS_C (WIDTH / SIDE)
#define SHARERS (TEAM / SIDE)           // work-items that have one query's scores between them
// Rows of 16 bytes, spread over the banks.
#define Q_ROW (WIDTH + 8)
#define KEY_ROW (KEYS + 8)
#define K_TILE (KEYS * Q_ROW)
#define V_TILE (WIDTH * KEY_ROW)
#define TILE (K_TILE > V_TILE ? K_TILE : V_TILE)
// What no score is below, and what hides a key: its weight is e^-1e30.
#define HIDDEN (-1e30f)
#define SCALED_BY 10.397208f            // the logarithm of 2^15

#if QUERIES % 32 || KEYS % 16 || TEAM_QUERIES % SIDE
#error "attention_matrix.cl: teams have whole fragments of queries and keys"
#endif

// Eight columns of a head from `column` on, as bits; zeros beyond it.
INLINE ushort8 load_columns(__global const REAL *row, const uint column)
{
    __global const ushort *p = (__global const ushort *)row + column;
    if (HEAD_WIDTH % 8 == 0 || column + 8 <= HEAD_WIDTH)
        return column < HEAD_WIDTH ? vload8(0, p) : (ushort8)(0);
    return load_bits(p, column < HEAD_WIDTH ? HEAD_WIDTH - column : 0);
}

// tile[rows][WIDTH] = rows from `first` on, of which those before `end` are there.
INLINE void place_rows(__local ushort *tile,
                       const uint rows,
                       __global const REAL *source,
                       const uint stride,
                       const uint first,
                       const uint end)
{
    const uint loads = rows * (WIDTH / 8);
#pragma unroll
    for (uint load = 0; load < loads; load += WG_SIZE) {
        const uint i = load + get_local_id(0);
        if (loads % WG_SIZE && i >= loads)
            break;
        const uint row = i / (WIDTH / 8), column = i % (WIDTH / 8) * 8;
        ushort8 bits = 0;
        if (first + row < end)
            bits = load_columns(source + (size_t)(first + row) * stride, column);
        *(__local ushort8 *)(tile + row * Q_ROW + column) = bits;
    }
}

// Four columns of a row from `column` on, of `width` there are.
INLINE ushort4 load_four(__global const REAL *row, const uint column)
{
    __global const ushort *p = (__global const ushort *)row + column;
    if (HEAD_WIDTH % 4 == 0)
        return column < HEAD_WIDTH ? vload4(0, p) : (ushort4)(0);
    return load_bits(p, column < HEAD_WIDTH ? min(HEAD_WIDTH - column, 4u) : 0).lo;
}

// tile[WIDTH][KEYS] = the values of keys from `first` on, four keys of four columns at a time.
INLINE void place_values(__local ushort *tile,
                         __global const REAL *source,
                         const uint stride,
                         const uint first,
                         const uint end)
{
    const uint loads = KEYS / 4 * (WIDTH / 4);
#pragma unroll
    for (uint load = 0; load < loads; load += WG_SIZE) {
        const uint i = load + get_local_id(0);
        if (loads % WG_SIZE && i >= loads)
            break;
        const uint key = i / (WIDTH / 4) * 4, column = i % (WIDTH / 4) * 4;
        ushort4 row[4];
#pragma unroll
        for (uint j = 0; j < 4; j++) {
            row[j] = 0;
            if (first + key + j < end)
                row[j] = load_four(source + (size_t)(first + key + j) * stride, column);
        }
        __local ushort *target = tile + column * KEY_ROW + key;
        *(__local ushort4 *)(target + 0 * KEY_ROW) = (ushort4)(row[0].s0, row[1].s0, row[2].s0, row[3].s0);
        *(__local ushort4 *)(target + 1 * KEY_ROW) = (ushort4)(row[0].s1, row[1].s1, row[2].s1, row[3].s1);
        *(__local ushort4 *)(target + 2 * KEY_ROW) = (ushort4)(row[0].s2, row[1].s2, row[2].s2, row[3].s2);
        *(__local ushort4 *)(target + 3 * KEY_ROW) = (ushort4)(row[0].s3, row[1].s3, row[2].s3, row[3].s3);
    }
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void attention_matrix(__global const REAL *q,
                      __global const REAL *k,
                      __global const REAL *v,
                      __global REAL *y,
                      const uint queries,
                      const uint keys,
                      const uint heads,
                      const uint q_stride,
                      const uint q_start,
                      const uint k_stride,
                      const uint k_start,
                      const uint v_stride,
                      const uint v_start,
                      const uint first_sample,
                      const uint samples,
                      const uint first_query,
                      const uint causal,
                      const float scale)
{
    __local ushort q_tile[QUERIES * Q_ROW] __attribute__((aligned(16)));
    __local ushort tile[TILE] __attribute__((aligned(16)));    // of keys, then of values
    __local ushort weights[QUERIES * KEY_ROW] __attribute__((aligned(16)));
    __local float parts[FRAGMENTS_Q * WG_SIZE];     // of a query's maximum, at last of its sum

    const uint item = get_local_id(0);
    const uint team = item / TEAM, lane = item % TEAM;
    const uint lane_query = lane % SIDE, lane_first = lane / SIDE * TEAM_SUMS;
    const uint sharers = team * TEAM + lane_query;  // the first of those that share this one's query
    const uint first = get_group_id(0) * QUERIES;
    const uint head = get_group_id(1);
    const uint sample = get_group_id(2);
    const size_t context = (size_t)(first_sample + sample) * keys;
    q += (size_t)sample * queries * q_stride + q_start + head * HEAD_WIDTH;
    k += context * k_stride + k_start + head * HEAD_WIDTH;
    v += context * v_stride + v_start + head * HEAD_WIDTH;
    __local const ushort *q_team = q_tile + team * TEAM_QUERIES * Q_ROW;
    __local ushort *weights_team = weights + team * TEAM_QUERIES * KEY_ROW;

    SUMS sums[FRAGMENTS_Q][FRAGMENTS_C];
    float most[FRAGMENTS_Q], total[FRAGMENTS_Q];    // total: of this work-item's share of the keys
#pragma unroll
    for (uint m = 0; m < FRAGMENTS_Q; m++) {
        most[m] = HIDDEN;
        total[m] = 0.0f;
#pragma unroll
        for (uint c = 0; c < FRAGMENTS_C; c++)
            sums[m][c] = 0.0f;
    }
    place_rows(q_tile, QUERIES, q, q_stride, first, queries);

    const uint last_query = first_query + min(first + QUERIES, queries);
    const uint seen = causal ? min(keys, last_query) : keys;
#pragma unroll 1
    for (uint start = 0; start < seen; start += KEYS) {
        barrier(CLK_LOCAL_MEM_FENCE);
        place_rows(tile, KEYS, k, k_stride, start, keys);
        barrier(CLK_LOCAL_MEM_FENCE);
        float scores[FRAGMENTS_Q][FRAGMENTS_K][TEAM_SUMS];
        {
            SUMS products[FRAGMENTS_Q][FRAGMENTS_K];
#pragma unroll
            for (uint m = 0; m < FRAGMENTS_Q; m++)
#pragma unroll
                for (uint n = 0; n < FRAGMENTS_K; n++)
                    products[m][n] = 0.0f;
#pragma unroll
            for (uint c = 0; c < WIDTH; c += SIDE) {
                FRAGMENT rows[FRAGMENTS_Q];
#pragma unroll
                for (uint m = 0; m < FRAGMENTS_Q; m++)
                    rows[m] = rows_fragment(q_team + m * SIDE * Q_ROW + c, Q_ROW, lane);
#pragma unroll
                for (uint n = 0; n < FRAGMENTS_K; n++) {
                    const FRAGMENT w = weights_fragment(tile + n * SIDE * Q_ROW + c, Q_ROW, lane);
#pragma unroll
                    for (uint m = 0; m < FRAGMENTS_Q; m++)
                        products[m][n] = multiply_fragments(w, rows[m], Q_ROW, products[m][n]);
                }
            }
#pragma unroll
            for (uint m = 0; m < FRAGMENTS_Q; m++)
#pragma unroll
                for (uint n = 0; n < FRAGMENTS_K; n++)
                    WORD(vstore, TEAM_SUMS)(products[m][n] * scale, 0, scores[m][n]);
        }

        float largest[FRAGMENTS_Q];
#pragma unroll
        for (uint m = 0; m < FRAGMENTS_Q; m++) {
            const uint query = first_query + first + team * TEAM_QUERIES + m * SIDE + lane_query;
            // A query sees none of the keys from here on.
            const uint end = causal ? min(keys, query + 1) : keys;
            largest[m] = most[m];
#pragma unroll
            for (uint n = 0; n < FRAGMENTS_K; n++)
#pragma unroll
                for (uint i = 0; i < TEAM_SUMS; i++) {
                    if (start + n * SIDE + lane_first + i >= end)
                        scores[m][n][i] = HIDDEN;
                    largest[m] = fmax(largest[m], scores[m][n][i]);
                }
            parts[m * WG_SIZE + item] = largest[m];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint m = 0; m < FRAGMENTS_Q; m++) {
#pragma unroll
            for (uint i = 0; i < SHARERS; i++)
                largest[m] = fmax(largest[m], parts[m * WG_SIZE + sharers + i * SIDE]);
            const float fade = exp(most[m] - largest[m]);
            most[m] = largest[m];
            float weighed = 0.0f;
            __local ushort *own = weights_team + (m * SIDE + lane_query) * KEY_ROW + lane_first;
#pragma unroll
            for (uint n = 0; n < FRAGMENTS_K; n++)
#pragma unroll
                for (uint i = 0; i < TEAM_SUMS; i += 4) {
                    float4 weight = vload4(0, scores[m][n] + i);
                    weight = exp(weight - largest[m] + SCALED_BY);
                    weighed += weight.s0 + weight.s1 + weight.s2 + weight.s3;
                    ushort4 bits;
                    vstore_half4_rte(weight, 0, (__private half *)&bits);
                    *(__local ushort4 *)(own + n * SIDE + i) = bits;
                }
            total[m] = total[m] * fade + weighed;
#pragma unroll
            for (uint c = 0; c < FRAGMENTS_C; c++)
                sums[m][c] *= fade;
        }
        // All teams are done with the keys.
        place_values(tile, v, v_stride, start, keys);
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint n = 0; n < KEYS; n += SIDE) {
            FRAGMENT rows[FRAGMENTS_Q];
#pragma unroll
            for (uint m = 0; m < FRAGMENTS_Q; m++)
                rows[m] = rows_fragment(weights_team + m * SIDE * KEY_ROW + n, KEY_ROW, lane);
#pragma unroll
            for (uint c = 0; c < FRAGMENTS_C; c++) {
                const FRAGMENT w = weights_fragment(tile + c * SIDE * KEY_ROW + n, KEY_ROW, lane);
#pragma unroll
                for (uint m = 0; m < FRAGMENTS_Q; m++)
                    sums[m][c] = multiply_fragments(w, rows[m], KEY_ROW, sums[m][c]);
            }
        }
    }

    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < FRAGMENTS_Q; m++)
        parts[m * WG_SIZE + item] = total[m];
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint m = 0; m < FRAGMENTS_Q; m++) {
        float all = 0.0f;
#pragma unroll
        for (uint i = 0; i < SHARERS; i++)
            all += parts[m * WG_SIZE + sharers + i * SIDE];
        const uint query = first + team * TEAM_QUERIES + m * SIDE + lane_query;
        if (query >= queries)
            continue;
        const size_t target = (((size_t)sample * queries + query) * heads + head) * HEAD_WIDTH;
#pragma unroll
        for (uint c = 0; c < FRAGMENTS_C; c++) {
            float columns[TEAM_SUMS];
            WORD(vstore, TEAM_SUMS)(sums[m][c] / all, 0, columns);
#pragma unroll
            for (uint i = 0; i < TEAM_SUMS; i += 4) {
                const uint column = c * SIDE + lane_first + i;
                const uint count = column < HEAD_WIDTH ? min(HEAD_WIDTH - column, 4u) : 0;
                store_quad(y, target + column, count, vload4(0, columns + i));
            }
        }
    }
}
