// attention_local.cl: y = softmax(scale * q k^T) v per head, tiles in local memory.
//
//   q            [samples, queries, q_stride]           REAL
//   k, v         [all samples, keys, k_ or v_stride]    REAL
//   y            [samples, queries, heads, HEAD_WIDTH]  REAL
//   launch       one work-group of 256 per (QUERIES queries, head, sample): for GPUs
//
// A head's columns begin at its start, plus head * HEAD_WIDTH, in each row. The samples of q and y
// are those from first_sample on of k and v; their queries are those from first_query on of the
// sequence, which matters to `causal` alone: a query sees no key behind it.
//
// Scores of a tile of keys are made, weighed and spent in local memory: the sum and the largest
// score so far are all that is kept of those before (online softmax). Work-items form 16 rows, of
// queries, by 16 columns, of keys and then of values; four neighbours weigh one query's scores.

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64   // columns of a head, at most 512
#endif
#ifndef QUERIES
#define QUERIES 64      // of a work-group: 64, or 32 where wide heads need the registers
#endif

#define WG_SIZE 256
#define SIDE 16                         // work-items in a row, and rows of them
#define KEYS 32                         // keys in a tile
#define DEPTH 16                        // columns of q and k in local memory at once
#define ITEM_QUERIES (QUERIES / SIDE)
#define ITEM_KEYS (KEYS / SIDE)
// Values are taken in parts of at most 80 columns, as even as may be.
#define COLUMNS ((HEAD_WIDTH + SIDE - 1) / SIDE)
#define PARTS ((COLUMNS + 4) / 5)
#define ITEM_COLUMNS ((COLUMNS + PARTS - 1) / PARTS)
#define PART_WIDTH (ITEM_COLUMNS * SIDE)
// Work-items that weigh one query's scores, and the scores of each.
#define WEIGHERS (WG_SIZE / QUERIES)
#define WEIGHED (KEYS / WEIGHERS)
// What no score is below, and what hides a key: its weight is e^-1e30.
#define HIDDEN (-1e30f)

#if QUERIES % SIDE || WG_SIZE % QUERIES || KEYS % (WG_SIZE / QUERIES)
#error "QUERIES must be 16, 32, 64 or 128"
#endif

// Odd rows, so that a column of one does not lie in one bank.
#define Q_ROW (DEPTH + 1)
#define SCORE_ROW (KEYS + 1)
#define SCORE_TILE ((QUERIES + KEYS) * Q_ROW)
#define VALUE_TILE (KEYS * PART_WIDTH)
#define TILE (SCORE_TILE > VALUE_TILE ? SCORE_TILE : VALUE_TILE)

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void attention_local(__global const REAL *q,
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
    __local float tile[TILE];                   // of q and k, then of v
    __local float scores[QUERIES * SCORE_ROW];  // then weights
    __local float parts[WG_SIZE];               // of a row's maximum, then of its sum
    __local float fades[QUERIES];               // what earlier sums shrink by; at last 1 / sum

    const uint item = get_local_id(0);
    const uint row = item / SIDE, column = item % SIDE;
    const uint weighed_query = item / WEIGHERS, weigher = item % WEIGHERS;
    const uint first = get_group_id(0) * QUERIES;
    const uint head = get_group_id(1);
    const uint sample = get_group_id(2);
    const size_t context = (size_t)(first_sample + sample) * keys;
    const size_t q_row = ((size_t)sample * queries + first) * q_stride + q_start + head * HEAD_WIDTH;
    const size_t k_row = context * k_stride + k_start + head * HEAD_WIDTH;
    const size_t v_row = context * v_stride + v_start + head * HEAD_WIDTH;
    __local float *q_tile = tile, *k_tile = tile + QUERIES * Q_ROW;

    float sums[PARTS][ITEM_QUERIES][ITEM_COLUMNS];
    for (uint part = 0; part < PARTS; part++)
        for (uint i = 0; i < ITEM_QUERIES; i++)
            for (uint j = 0; j < ITEM_COLUMNS; j++)
                sums[part][i][j] = 0.0f;
    float most = HIDDEN, total = 0.0f;          // of weighed_query

    const uint last_query = first_query + min(first + QUERIES, queries);
    const uint seen = causal ? min(keys, last_query) : keys;
    for (uint start = 0; start < seen; start += KEYS) {
        float sum[ITEM_QUERIES][ITEM_KEYS];
        for (uint i = 0; i < ITEM_QUERIES; i++)
            for (uint j = 0; j < ITEM_KEYS; j++)
                sum[i][j] = 0.0f;
        for (uint depth = 0; depth < HEAD_WIDTH; depth += DEPTH) {
            barrier(CLK_LOCAL_MEM_FENCE);
            for (uint i = item; i < QUERIES * DEPTH; i += WG_SIZE) {
                const uint r = i / DEPTH, c = depth + i % DEPTH;
                const bool inside = first + r < queries && c < HEAD_WIDTH;
                q_tile[r * Q_ROW + i % DEPTH] =
                    inside ? load_real(q, q_row + r * (size_t)q_stride + c) : 0.0f;
            }
            for (uint i = item; i < KEYS * DEPTH; i += WG_SIZE) {
                const uint r = i / DEPTH, c = depth + i % DEPTH;
                const bool inside = start + r < keys && c < HEAD_WIDTH;
                k_tile[r * Q_ROW + i % DEPTH] =
                    inside ? load_real(k, k_row + (start + r) * (size_t)k_stride + c) : 0.0f;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            for (uint c = 0; c < DEPTH; c++) {
                float key[ITEM_KEYS];
                for (uint j = 0; j < ITEM_KEYS; j++)
                    key[j] = k_tile[(column + j * SIDE) * Q_ROW + c];
                for (uint i = 0; i < ITEM_QUERIES; i++) {
                    const float query = q_tile[(row * ITEM_QUERIES + i) * Q_ROW + c];
                    for (uint j = 0; j < ITEM_KEYS; j++)
                        sum[i][j] = fma(query, key[j], sum[i][j]);
                }
            }
        }
        for (uint i = 0; i < ITEM_QUERIES; i++) {
            const uint query = row * ITEM_QUERIES + i;
            for (uint j = 0; j < ITEM_KEYS; j++) {
                const uint key = start + column + j * SIDE;
                const bool hidden = key >= keys || (causal && key > first_query + first + query);
                scores[query * SCORE_ROW + column + j * SIDE] = hidden ? HIDDEN : scale * sum[i][j];
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);

        __local float *mine = scores + weighed_query * SCORE_ROW + weigher * WEIGHED;
        float largest = most;
        for (uint j = 0; j < WEIGHED; j++)
            largest = fmax(largest, mine[j]);
        parts[item] = largest;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = 0; i < WEIGHERS; i++)
            largest = fmax(largest, parts[weighed_query * WEIGHERS + i]);
        const float fade = exp(most - largest);
        most = largest;
        float weights = 0.0f;
        for (uint j = 0; j < WEIGHED; j++) {
            const float weight = exp(mine[j] - largest);
            mine[j] = weight;
            weights += weight;
        }
        total = total * fade + weights;         // of this work-item's share of the keys
        if (weigher == 0)
            fades[weighed_query] = fade;

        // Or the sums are in memory. Of two parts each compiler does so, and better by itself.
#if PARTS > 2
#pragma unroll
#endif
        for (uint part = 0; part < PARTS; part++) {
            barrier(CLK_LOCAL_MEM_FENCE);
            for (uint i = item; i < KEYS * PART_WIDTH; i += WG_SIZE) {
                const uint r = i / PART_WIDTH, c = part * PART_WIDTH + i % PART_WIDTH;
                const bool inside = start + r < keys && c < HEAD_WIDTH;
                tile[i] = inside ? load_real(v, v_row + (start + r) * (size_t)v_stride + c) : 0.0f;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            for (uint i = 0; i < ITEM_QUERIES; i++)
                for (uint j = 0; j < ITEM_COLUMNS; j++)
                    sums[part][i][j] *= fades[row * ITEM_QUERIES + i];
            for (uint key = 0; key < KEYS; key++) {
                float value[ITEM_COLUMNS];
                for (uint j = 0; j < ITEM_COLUMNS; j++)
                    value[j] = tile[key * PART_WIDTH + column + j * SIDE];
                for (uint i = 0; i < ITEM_QUERIES; i++) {
                    const float weight = scores[(row * ITEM_QUERIES + i) * SCORE_ROW + key];
                    for (uint j = 0; j < ITEM_COLUMNS; j++)
                        sums[part][i][j] = fma(weight, value[j], sums[part][i][j]);
                }
            }
        }
    }

    barrier(CLK_LOCAL_MEM_FENCE);
    parts[item] = total;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (weigher == 0) {
        float all = 0.0f;
        for (uint i = 0; i < WEIGHERS; i++)
            all += parts[item + i];
        fades[weighed_query] = 1.0f / all;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint part = 0; part < PARTS; part++) {
        for (uint i = 0; i < ITEM_QUERIES; i++) {
            const uint query = row * ITEM_QUERIES + i;
            const size_t target =
                (((size_t)sample * queries + first + query) * heads + head) * HEAD_WIDTH;
            for (uint j = 0; j < ITEM_COLUMNS; j++) {
                const uint c = part * PART_WIDTH + column + j * SIDE;
                if (first + query < queries && c < HEAD_WIDTH)
                    store_real(y, target + c, sums[part][i][j] * fades[query]);
            }
        }
    }
}
