// attention_amx.cl: y = softmax(scale * q k^T) v per head, by the tile registers of AMX.
//
//   q            [samples, queries, q_stride]           REAL
//   k, v         [all samples, keys, k_ or v_stride]    REAL
//   y            [samples, queries, heads, HEAD_WIDTH]  REAL
//   launch       one work-item per (BLOCKS * 32 queries, head, sample): for CPUs
//
// Arguments are those of attention_register, and so is the order of the work: a tile of keys and
// values is read once for all blocks of queries, and each block's scores of it are made, weighed and
// spent while they are in a cache. Queries are columns of products here, keys and then columns of
// values their rows: scores[key][query], sums[column][query]. So the softmax never runs across lanes,
// and two rows of weights make pairs of terms as they are.
//
// Which of a key's columns make a pair is free, if queries have the same: a word is of columns that
// are 16 apart, which takes two vectors together without moving a lane.
//
// Products of what was f16 are exact in scores. Of weights, which are rounded to their two parts, the
// products of second parts are left out: both are some 2^-18 of a term.

#ifndef KEYS
#define KEYS 64         // keys in a tile; a multiple of 32
#endif
#ifndef BLOCKS
#define BLOCKS 8        // blocks of queries of a work-item
#endif

#define STEPS ((HEAD_WIDTH + TERMS - 1) / TERMS)    // of a head's columns
#define KEY_STEPS (KEYS / TERMS)
// Steps of a block's queries that stay in the first cache while all keys of a tile meet them.
#define DEPTH 4
#define WORDS (STEP / 2)                            // of a step
// Cache lines that a block of queries and its share of a tile's keys can lie in.
#define LINES ((2 * KEYS + 2 * QUERIES) * ROW_LINES)

// Cache lines that are wanted soon.
typedef struct {
    __global const char *at[LINES];
    uint count;
    uint fetched;
} Lines;

// Has a cache fetch some of the lines.
INLINE void fetch_some(Lines *lines, const uint count)
{
    const uint end = min(lines->fetched + count, lines->count);
    for (; lines->fetched < end; lines->fetched++)
        fetch_line(lines->at[lines->fetched]);
}

// Columns 16 * chunk to 16 * chunk + 16 of a row; zeros where there is no row or no column.
INLINE float16 load_chunk(__global const REAL *row, const uint chunk, const bool exists)
{
    if (!exists || chunk >= CHUNKS)
        return 0.0f;
    return chunk < HEAD_WIDTH / CHUNK ? load_real16(row, chunk * CHUNK)
                                      : load_rest(row, HEAD_WIDTH / CHUNK * CHUNK);
}

// The parts of 32 columns of a row, a vector each.
INLINE void load_pairs(uint16 *parts, __global const REAL *row, const uint step, const bool exists)
{
    float16 low = load_chunk(row, 2 * step, exists), high = load_chunk(row, 2 * step + 1, exists);
#pragma unroll
    for (uint part = 0; part < PARTS; part++)
        parts[part] = next_parts(&low, &high);
}

// Turns the parts of 16 vectors of words into columns of tiles.
INLINE void store_turned(uint *target, const float from[PARTS][SIDE * SIDE])
{
#pragma unroll
    for (uint part = 0; part < PARTS; part++)
        transpose(from[part], SIDE, (float *)(target + part * TILE), SIDE);
}

// A block of queries, as columns of products. Rows behind the last one are zeros.
INLINE void load_queries(uint *target, __global const REAL *q, const size_t stride, const uint count)
{
    for (uint step = 0; step < STEPS; step++)
        for (uint first = 0; first < QUERIES; first += SIDE) {
            ALIGNED float words[PARTS][SIDE * SIDE];
            for (uint i = 0; i < SIDE; i++) {
                uint16 parts[PARTS];
                load_pairs(parts, q + (first + i) * stride, step, first + i < count);
#pragma unroll
                for (uint part = 0; part < PARTS; part++)
                    *(uint16 *)(words[part] + i * SIDE) = parts[part];
            }
            store_turned(target + step * WORDS + first / SIDE * (TILE / 2), words);
        }
}

// 32 keys, as rows of products.
INLINE void load_keys(uint *target, __global const REAL *k, const size_t stride, const uint count)
{
    for (uint i = 0; i < TERMS; i++)
        for (uint step = 0; step < STEPS; step++) {
            uint16 parts[PARTS];
            load_pairs(parts, k + i * stride, step, i < count);
            uint *at = target + step * WORDS + i / SIDE * (TILE / 2) + i % SIDE * SIDE;
#pragma unroll
            for (uint part = 0; part < PARTS; part++)
                *(uint16 *)(at + part * TILE) = parts[part];
        }
}

// 32 values, as terms of products: rows are their columns. The place of 32 columns is
// KEY_STEPS steps behind the one before.
INLINE void load_values(uint *target, __global const REAL *v, const size_t stride, const uint count)
{
    for (uint chunk = 0; chunk < 2 * STEPS; chunk++) {
        ALIGNED float words[PARTS][SIDE * SIDE];
#pragma unroll
        for (uint i = 0; i < SIDE; i++) {
            __global const REAL *row = v + 2 * i * stride;
            float16 even = load_chunk(row, chunk, 2 * i < count);
            float16 odd = load_chunk(row + stride, chunk, 2 * i + 1 < count);
#pragma unroll
            for (uint part = 0; part < PARTS; part++)
                *(uint16 *)(words[part] + i * SIDE) = next_parts(&even, &odd);
        }
        store_turned(target + chunk / 2 * KEY_STEPS * WORDS + chunk % 2 * (TILE / 2), words);
    }
}

// Scales the scores of `keys` keys, hides what is behind up to `end`, and finds the largest.
INLINE void scale_scores(float *scores, const uint keys, const uint end, const float factor,
                         floatV *most)
{
    floatV left_most = most[0], right_most = most[1];
    for (uint key = 0; key < keys; key++, scores += QUERIES) {
        const floatV left = get(scores) * factor, right = get(scores + VECTOR) * factor;
        put(left, scores);
        put(right, scores + VECTOR);
        left_most = larger(left, left_most);
        right_most = larger(right, right_most);
    }
    for (uint key = keys; key < end; key++, scores += QUERIES) {
        put(HIDDEN, scores);
        put(HIDDEN, scores + VECTOR);
    }
    most[0] = left_most;
    most[1] = right_most;
}

// Makes weights of scores, 2^(score - most), as columns of products, and adds them to their sums.
INLINE void weigh(uint *target, const float *scores, const uint steps, Running *running)
{
    const floatV left_most = running->most[0], right_most = running->most[1];
    floatV left_total = running->total[0], right_total = running->total[1];
    for (uint step = 0; step < steps; step++, target += WORDS)
        for (uint i = 0; i < SIDE; i++, scores += 2 * QUERIES) {
            floatV left = exp2_of_negative(get(scores) - left_most);
            floatV right = exp2_of_negative(get(scores + VECTOR) - right_most);
            floatV left_odd = exp2_of_negative(get(scores + QUERIES) - left_most);
            floatV right_odd = exp2_of_negative(get(scores + QUERIES + VECTOR) - right_most);
            left_total += left + left_odd;
            right_total += right + right_odd;
#pragma unroll
            for (uint part = 0; part < PARTS; part++) {
                uint *at = target + part * TILE + i * SIDE;
                *(uint16 *)at = next_parts(&left, &left_odd);
                *(uint16 *)(at + TILE / 2) = next_parts(&right, &right_odd);
            }
        }
    running->total[0] = left_total;
    running->total[1] = right_total;
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_amx(__global const REAL *q,
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
    const uint first = get_group_id(0) * (BLOCKS * QUERIES);
    const uint head = get_group_id(1);
    const uint sample = get_group_id(2);
    const uint count = min((uint)(BLOCKS * QUERIES), queries - first);
    const uint blocks = (count + QUERIES - 1) / QUERIES;
    const size_t row = (size_t)sample * queries + first;
    const size_t context = (size_t)(first_sample + sample) * keys;
    __global const REAL *q_head = q + row * q_stride + q_start + head * HEAD_WIDTH;
    __global const REAL *k_head = k + context * k_stride + k_start + head * HEAD_WIDTH;
    __global const REAL *v_head = v + context * v_stride + v_start + head * HEAD_WIDTH;
    __global REAL *y_head = y + (row * heads + head) * HEAD_WIDTH;
    const size_t y_stride = (size_t)heads * HEAD_WIDTH;

    ALIGNED uint query[BLOCKS][STEPS * WORDS];
    ALIGNED uint k_tile[KEY_STEPS][STEPS * WORDS];
    ALIGNED uint v_tile[STEPS][KEY_STEPS * WORDS];
    ALIGNED uint weights[KEY_STEPS * WORDS];
    ALIGNED float scores[KEYS * QUERIES];
    ALIGNED float sums[BLOCKS][STEPS * TERMS * QUERIES];
    ALIGNED float rows[QUERIES * WIDTH];
    Running running[BLOCKS];
    Lines lines;

    for (uint block = 0; block < blocks; block++) {
        const uint block_first = block * QUERIES;
        load_queries(query[block], q_head + block_first * (size_t)q_stride, q_stride,
                     min((uint)QUERIES, count - block_first));
        for (uint i = 0; i < STEPS * TERMS * QUERIES; i += VECTOR)
            put(0.0f, sums[block] + i);
        running[block].most[0] = running[block].most[1] = HIDDEN;
        running[block].total[0] = running[block].total[1] = 0.0f;
    }

    begin_tiles();
    const uint seen = causal ? min(keys, first_query + first + count) : keys;
    for (uint start = 0; start < seen; start += KEYS) {
        const uint tile_keys = min((uint)KEYS, seen - start);
        const uint next_keys = min((uint)KEYS, seen - start - tile_keys);
        for (uint key = 0; key < tile_keys; key += TERMS) {
            load_keys(k_tile[key / TERMS], k_head + (start + key) * (size_t)k_stride, k_stride,
                      tile_keys - key);
            load_values(v_tile[0] + key / TERMS * WORDS, v_head + (start + key) * (size_t)v_stride,
                        v_stride, tile_keys - key);
        }

        for (uint block = 0; block < blocks; block++) {
            // A block sees the keys up to its last query's position.
            const uint position = first_query + first + block * QUERIES;
            const uint behind = causal ? max(start, position + QUERIES) - start : tile_keys;
            const uint visible = min(tile_keys, behind);
            const uint key_steps = (visible + TERMS - 1) / TERMS;

            // What is wanted soon lies apart where a row holds several heads, so that no cache
            // foresees it: the next keys and values, and at last the results.
            lines.count = lines.fetched = 0;
            for (uint i = part(next_keys, blocks, block); i < part(next_keys, blocks, block + 1);
                 i++) {
                const size_t key = start + tile_keys + i;
                lines.count = note_lines(lines.at, lines.count, k_head + key * k_stride);
                lines.count = note_lines(lines.at, lines.count, v_head + key * v_stride);
            }
            if (next_keys == 0)
                for (uint i = block * QUERIES; i < min((block + 1) * QUERIES, count); i++)
                    lines.count = note_lines(lines.at, lines.count, y_head + i * y_stride);
            const uint products = key_steps * ((STEPS + DEPTH - 1) / DEPTH) + STEPS;
            const uint at_once = (lines.count + products - 1) / products;

            for (uint step = 0; step < STEPS; step += DEPTH)
                for (uint i = 0; i < key_steps; i++) {
                    fetch_some(&lines, at_once);
                    multiply_tiles(scores + i * TERMS * QUERIES, k_tile[i] + step * WORDS,
                                   query[block] + step * WORDS, min(DEPTH, STEPS - (int)step),
                                   step > 0, true);
                }
            floatV most[2] = {running[block].most[0], running[block].most[1]};
            scale_scores(scores, visible, key_steps * TERMS, scale * LOG2_E, most);
            if (causal && start + visible > position + 1) {
                most[0] = running[block].most[0];
                most[1] = running[block].most[1];
                hide(scores, visible, start, position, most);
            }
            fade(&running[block], most, sums[block]);
            weigh(weights, scores, key_steps, &running[block]);
            for (uint step = 0; step < STEPS; step++) {
                fetch_some(&lines, at_once);
                multiply_tiles(sums[block] + step * TERMS * QUERIES, v_tile[step], weights,
                               key_steps, true, false);
            }
        }
    }
    end_tiles();

    for (uint block = 0; block < blocks; block++)
        store_block(y_head + block * QUERIES * y_stride, y_stride, sums[block], rows,
                    &running[block], min((uint)QUERIES, count - block * QUERIES));
}
