// attention_register.cl: y = softmax(scale * q k^T) v per head, queries as the lanes of vectors.
//
//   q            [samples, queries, q_stride]           REAL
//   k, v         [all samples, keys, k_ or v_stride]    REAL
//   y            [samples, queries, heads, HEAD_WIDTH]  REAL
//   launch       one work-item per (32 queries, head, sample): for CPUs
//
// A head's columns begin at its start, plus head * HEAD_WIDTH, in each row. The samples of q and y
// are those from first_sample on of k and v; their queries are those from first_query on of the
// sequence, which matters to `causal` alone: a query sees no key behind it.
//
// Scores of a tile of keys are made, weighed and spent while they are in a cache: the sum and the
// largest score so far are all that is kept of those before (online softmax). With queries as lanes
// a row of k or v is read as single numbers, which multiply two vectors each, and no sum ever runs
// across lanes.

#ifndef HEAD_WIDTH
#define HEAD_WIDTH 64   // columns of a head, at most 512
#endif
#ifndef KEYS
#define KEYS 64         // keys in a tile; a multiple of 8
#endif
#if KEYS % 8
#error "KEYS must be a multiple of 8"
#endif

#define LANES 16
#define QUERIES (2 * LANES)     // of a work-item
#define STEP 8                  // keys, or columns, whose sums are in registers at once
// HEAD_WIDTH rounded up to whole steps and whole vectors; columns behind it are zero.
#define WIDTH ((HEAD_WIDTH + LANES - 1) / LANES * LANES)
// What no score is below, and what hides a key: its weight is e^-1e30.
#define HIDDEN (-1e30f)

// `rows` rows of HEAD_WIDTH columns into a tile of KEYS rows; zero behind them.
INLINE void load_tile(float *tile, __global const REAL *p, const uint stride, const uint rows)
{
    for (uint row = 0; row < KEYS; row++) {
        float *target = tile + row * WIDTH;
        if (row >= rows) {
            for (uint c = 0; c < WIDTH; c += LANES)
                vstore16((float16)0.0f, 0, target + c);
            continue;
        }
        const size_t source = row * (size_t)stride;
        uint c = 0;
        for (; c + LANES <= HEAD_WIDTH; c += LANES)
            vstore16(load_real16(p, source + c), 0, target + c);
        for (; c < WIDTH; c++)
            target[c] = c < HEAD_WIDTH ? load_real(p, source + c) : 0.0f;
    }
}

// Scores of 8 keys for all queries: `left` and `right` are the halves of the queries.
INLINE void score(const float16 *q, const float *k, float16 *scores)
{
    float16 l0 = 0, l1 = 0, l2 = 0, l3 = 0, l4 = 0, l5 = 0, l6 = 0, l7 = 0;
    float16 r0 = 0, r1 = 0, r2 = 0, r3 = 0, r4 = 0, r5 = 0, r6 = 0, r7 = 0;
    for (uint c = 0; c < HEAD_WIDTH; c++) {
        const float16 left = q[2 * c], right = q[2 * c + 1];
        const float k0 = k[c], k1 = k[WIDTH + c], k2 = k[2 * WIDTH + c], k3 = k[3 * WIDTH + c];
        const float k4 = k[4 * WIDTH + c], k5 = k[5 * WIDTH + c];
        const float k6 = k[6 * WIDTH + c], k7 = k[7 * WIDTH + c];
        l0 = fma(left, k0, l0), r0 = fma(right, k0, r0);
        l1 = fma(left, k1, l1), r1 = fma(right, k1, r1);
        l2 = fma(left, k2, l2), r2 = fma(right, k2, r2);
        l3 = fma(left, k3, l3), r3 = fma(right, k3, r3);
        l4 = fma(left, k4, l4), r4 = fma(right, k4, r4);
        l5 = fma(left, k5, l5), r5 = fma(right, k5, r5);
        l6 = fma(left, k6, l6), r6 = fma(right, k6, r6);
        l7 = fma(left, k7, l7), r7 = fma(right, k7, r7);
    }
    scores[0] = l0, scores[1] = r0, scores[2] = l1, scores[3] = r1;
    scores[4] = l2, scores[5] = r2, scores[6] = l3, scores[7] = r3;
    scores[8] = l4, scores[9] = r4, scores[10] = l5, scores[11] = r5;
    scores[12] = l6, scores[13] = r6, scores[14] = l7, scores[15] = r7;
}

// Adds 8 columns of weights x values of a tile to the sums, which shrink by `fade` first.
INLINE void spend(const float16 *weights, const float *v, const uint keys, float16 *sums,
                  const float16 left_fade, const float16 right_fade)
{
    float16 l0 = sums[0] * left_fade, r0 = sums[1] * right_fade;
    float16 l1 = sums[2] * left_fade, r1 = sums[3] * right_fade;
    float16 l2 = sums[4] * left_fade, r2 = sums[5] * right_fade;
    float16 l3 = sums[6] * left_fade, r3 = sums[7] * right_fade;
    float16 l4 = sums[8] * left_fade, r4 = sums[9] * right_fade;
    float16 l5 = sums[10] * left_fade, r5 = sums[11] * right_fade;
    float16 l6 = sums[12] * left_fade, r6 = sums[13] * right_fade;
    float16 l7 = sums[14] * left_fade, r7 = sums[15] * right_fade;
    for (uint key = 0; key < keys; key++) {
        const float16 left = weights[2 * key], right = weights[2 * key + 1];
        const float *row = v + key * WIDTH;
        l0 = fma(left, row[0], l0), r0 = fma(right, row[0], r0);
        l1 = fma(left, row[1], l1), r1 = fma(right, row[1], r1);
        l2 = fma(left, row[2], l2), r2 = fma(right, row[2], r2);
        l3 = fma(left, row[3], l3), r3 = fma(right, row[3], r3);
        l4 = fma(left, row[4], l4), r4 = fma(right, row[4], r4);
        l5 = fma(left, row[5], l5), r5 = fma(right, row[5], r5);
        l6 = fma(left, row[6], l6), r6 = fma(right, row[6], r6);
        l7 = fma(left, row[7], l7), r7 = fma(right, row[7], r7);
    }
    sums[0] = l0, sums[1] = r0, sums[2] = l1, sums[3] = r1;
    sums[4] = l2, sums[5] = r2, sums[6] = l3, sums[7] = r3;
    sums[8] = l4, sums[9] = r4, sums[10] = l5, sums[11] = r5;
    sums[12] = l6, sums[13] = r6, sums[14] = l7, sums[15] = r7;
}

// e^x for x <= 0, 0 below -87, within 2 ulp: a polynomial that stays in vectors, where some
// drivers call exp() once a lane.
INLINE float16 exp_of_negative(const float16 x)
{
    const float16 bounded = fmax(x, -87.3f);
    const float16 turns = rint(bounded * 1.44269504f);
    float16 r = fma(turns, -0.693359375f, bounded);
    r = fma(turns, 2.12194440e-4f, r);
    float16 tail = fma(r, 1.9789261e-4f, 1.3945752e-3f);
    tail = fma(tail, r, 8.333504e-3f);
    tail = fma(tail, r, 4.166628e-2f);
    tail = fma(tail, r, 1.6666666e-1f);
    tail = fma(tail, r, 0.5f);
    const float16 value = fma(tail, r * r, r) + 1.0f;
    const float16 result = value * as_float16((convert_int16(turns) + 127) << 23);
    return x < -87.3f ? (float16)0.0f : result;
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_register(__global const REAL *q,
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
    const uint first = get_group_id(0) * QUERIES;
    const uint head = get_group_id(1);
    const uint sample = get_group_id(2);
    const uint count = min((uint)QUERIES, queries - first);
    const size_t context = (size_t)(first_sample + sample) * keys;

    float16 query[2 * WIDTH];
    float16 sums[2 * WIDTH];
    float16 scores[2 * KEYS];
    float tile[KEYS * WIDTH];

    // Columns become rows of two vectors; queries behind the last one are zero.
    float *lanes = (float *)query;
    for (uint c = 0; c < 2 * WIDTH; c++) {
        query[c] = 0.0f;
        sums[c] = 0.0f;
    }
    for (uint row = 0; row < count; row++) {
        const size_t source = ((size_t)sample * queries + first + row) * q_stride + q_start
                            + head * HEAD_WIDTH;
        for (uint c = 0; c < HEAD_WIDTH; c++)
            lanes[c * QUERIES + row] = scale * load_real(q, source + c);
    }

    const int16 lane = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int16 left_position = lane + (int)(first_query + first);
    const int16 right_position = left_position + LANES;
    const uint seen = causal ? min(keys, first_query + first + count) : keys;
    float16 left_most = HIDDEN, right_most = HIDDEN;
    float16 left_total = 0.0f, right_total = 0.0f;
    for (uint start = 0; start < seen; start += KEYS) {
        const uint tile_keys = min((uint)KEYS, seen - start);
        load_tile(tile, k + (context + start) * k_stride + k_start + head * HEAD_WIDTH, k_stride,
                  tile_keys);
        for (uint key = 0; key < tile_keys; key += STEP)
            score(query, tile + key * WIDTH, scores + 2 * key);
        if (causal) {
            for (uint key = 0; key < tile_keys; key++) {
                const int16 position = (int)(start + key);
                scores[2 * key] = position <= left_position ? scores[2 * key] : (float16)HIDDEN;
                scores[2 * key + 1] =
                    position <= right_position ? scores[2 * key + 1] : (float16)HIDDEN;
            }
        }

        float16 left_new = left_most, right_new = right_most;
        for (uint key = 0; key < tile_keys; key++) {
            left_new = fmax(left_new, scores[2 * key]);
            right_new = fmax(right_new, scores[2 * key + 1]);
        }
        const float16 left_fade = exp_of_negative(left_most - left_new);
        const float16 right_fade = exp_of_negative(right_most - right_new);
        left_most = left_new;
        right_most = right_new;
        left_total *= left_fade;
        right_total *= right_fade;
        for (uint key = 0; key < tile_keys; key++) {
            scores[2 * key] = exp_of_negative(scores[2 * key] - left_most);
            scores[2 * key + 1] = exp_of_negative(scores[2 * key + 1] - right_most);
            left_total += scores[2 * key];
            right_total += scores[2 * key + 1];
        }

        load_tile(tile, v + (context + start) * v_stride + v_start + head * HEAD_WIDTH, v_stride,
                  tile_keys);
        for (uint c = 0; c < HEAD_WIDTH; c += STEP)
            spend(scores, tile + c, tile_keys, sums + 2 * c, left_fade, right_fade);
    }

    const float16 left_part = 1.0f / left_total, right_part = 1.0f / right_total;
    for (uint c = 0; c < HEAD_WIDTH; c++) {
        sums[2 * c] *= left_part;
        sums[2 * c + 1] *= right_part;
    }
    lanes = (float *)sums;
    for (uint row = 0; row < count; row++) {
        const size_t target =
            (((size_t)sample * queries + first + row) * heads + head) * HEAD_WIDTH;
        for (uint c = 0; c < HEAD_WIDTH; c++)
            store_real(y, target + c, lanes[c * QUERIES + row]);
    }
}
