// attention_register.cl: y = softmax(scale * q k^T) v per head, queries as the lanes of vectors.
//
//   q            [samples, queries, q_stride]           REAL
//   k, v         [all samples, keys, k_ or v_stride]    REAL
//   y            [samples, queries, heads, HEAD_WIDTH]  REAL
//   launch       one work-item per (BLOCKS * 2 * VECTOR queries, head, sample): for CPUs
//
// A head's columns begin at its start, plus head * HEAD_WIDTH, in each row. The samples of q and y
// are those from first_sample on of k and v; their queries are those from first_query on of the
// sequence, which matters to `causal` alone: a query sees no key behind it.
//
// A tile of keys and values is read once for all blocks of a work-item's queries; each block's
// scores of it are made, weighed and spent while they are in a cache: the sum and the largest score
// so far are all that is kept of those before (online softmax). With queries as lanes a row of k or
// v is read as single numbers, which multiply two vectors each, so that no width of a head leaves
// lanes empty and no sum ever runs across lanes.

#ifndef TILE
#define TILE 14         // rows of a register tile, each of two vectors; at most 14
#endif
#ifndef KEYS
#define KEYS 128        // keys in a tile
#endif
#ifndef BLOCKS
#define BLOCKS 8        // blocks of queries of a work-item
#endif
#if TILE < 1 || TILE > 14
#error "TILE must be 1 to 14"
#endif

#define VALUE_ROW ((CHUNKS | 1) * CHUNK)    // an odd number of cache lines: rows in different sets
// Columns are cut into as even tiles as may be: the first LONG_TILES have one more.
#define COLUMN_TILES ((HEAD_WIDTH + TILE - 1) / TILE)
#define SHORT (HEAD_WIDTH / COLUMN_TILES)
#define LONG_TILES (HEAD_WIDTH % COLUMN_TILES)
// Cache lines that a block of queries and its share of a tile's keys can lie in.
#define LINES ((2 * KEYS + 2 * QUERIES) * ROW_LINES)
// DO(i) for each row of a register tile, whose sums are variables with numbers: of an array, some
// compilers leave the sums in memory. What is behind `rows`, a constant, is dropped.
#define EACH_ROW(DO)                                                                       \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
#define DECLARE(i) floatV left##i = 0.0f, right##i = 0.0f;

// Scores of `rows` keys, a constant: query is [HEAD_WIDTH][2][VECTOR], keys is
// [CHUNKS][rows][CHUNK], scores is [rows][2][VECTOR]. On the way a cache is told to fetch the
// lines, a few a chunk, so that they come while there is work to do.
INLINE void score_rows(const uint rows, const float *query, const float *keys, float *scores,
                       floatV *most, __global const char **lines, const uint line_count)
{
    EACH_ROW(DECLARE)
    uint line = 0;
    for (uint chunk = 0; chunk < CHUNKS; chunk++) {
        const uint line_end = line_count * (chunk + 1) / CHUNKS;
        for (; line < line_end; line++)
            fetch_line(lines[line]);
        const uint columns = min(CHUNK, HEAD_WIDTH - (int)chunk * CHUNK);
        const float *first = keys;
        for (uint column = 0; column < columns; column++) {
            const floatV left = get(query), right = get(query + VECTOR);
#define MULTIPLY(i)                                     \
            if (i < rows) {                             \
                const floatV key = first[i * CHUNK];    \
                left##i = fma(key, left, left##i);      \
                right##i = fma(key, right, right##i);   \
            }
            EACH_ROW(MULTIPLY)
#undef MULTIPLY
            query += QUERIES;
            first++;
        }
        keys += rows * CHUNK;
    }
    floatV left_most = most[0], right_most = most[1];
#define STORE(i)                                        \
    if (i < rows) {                                     \
        left_most = larger(left##i, left_most);         \
        right_most = larger(right##i, right_most);      \
        put(left##i, scores + i * QUERIES);             \
        put(right##i, scores + i * QUERIES + VECTOR);   \
    }
    EACH_ROW(STORE)
#undef STORE
    most[0] = left_most;
    most[1] = right_most;
}

// As score_rows, of any number of rows up to TILE.
INLINE void score(const uint rows, const float *query, const float *keys, float *scores,
                  floatV *most, __global const char **lines, const uint line_count)
{
    switch (rows) {
#define ROWS(count)                                                                    \
    case count:                                                                        \
        score_rows(count < TILE ? count : TILE, query, keys, scores, most, lines, line_count); \
        break;
    ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
    ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
#undef ROWS
    }
}

// Adds weights x values of `columns` columns, a constant, to sums, which is [columns][2][VECTOR].
INLINE void spend(const uint columns, const float *weights, const uint keys, const float *values,
                  float *target)
{
    EACH_ROW(DECLARE)
#define LOAD(i)                                         \
    if (i < columns) {                                  \
        left##i = get(target + i * QUERIES);            \
        right##i = get(target + i * QUERIES + VECTOR);  \
    }
    EACH_ROW(LOAD)
#undef LOAD
    for (uint key = 0; key < keys; key++) {
        const floatV left = get(weights), right = get(weights + VECTOR);
#define MULTIPLY(i)                                     \
        if (i < columns) {                              \
            const floatV value = values[i];             \
            left##i = fma(value, left, left##i);        \
            right##i = fma(value, right, right##i);     \
        }
        EACH_ROW(MULTIPLY)
#undef MULTIPLY
        weights += QUERIES;
        values += VALUE_ROW;
    }
#define STORE(i)                                        \
    if (i < columns) {                                  \
        put(left##i, target + i * QUERIES);             \
        put(right##i, target + i * QUERIES + VECTOR);   \
    }
    EACH_ROW(STORE)
#undef STORE
}

// Makes weights of scores, 2^(score - most), and adds them to their sums.
INLINE void weigh(float *scores, const uint keys, Running *running)
{
    const floatV left_most = running->most[0], right_most = running->most[1];
    floatV left_total = running->total[0], right_total = running->total[1];
    for (uint key = 0; key < keys; key++, scores += QUERIES) {
        const floatV left = exp2_of_negative(get(scores) - left_most);
        const floatV right = exp2_of_negative(get(scores + VECTOR) - right_most);
        put(left, scores);
        put(right, scores + VECTOR);
        left_total += left;
        right_total += right;
    }
    running->total[0] = left_total;
    running->total[1] = right_total;
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

    ALIGNED float query[BLOCKS][WIDTH * QUERIES];   // [WIDTH][2][VECTOR], times scale and log2 e
    ALIGNED float sums[BLOCKS][WIDTH * QUERIES];
    ALIGNED float scores[KEYS * QUERIES];           // then weights
    ALIGNED float k_tile[KEYS * WIDTH];             // register tiles, one behind the other
    ALIGNED float v_tile[KEYS * VALUE_ROW];
    ALIGNED float rows[QUERIES * WIDTH];            // of queries, or of the result
    Running running[BLOCKS];
    __global const char *lines[LINES];

    const uint seen = causal ? min(keys, first_query + first + count) : keys;
    for (uint start = 0; start < seen; start += KEYS) {
        const uint tile_keys = min((uint)KEYS, seen - start);
        const uint next_keys = min((uint)KEYS, seen - start - tile_keys);
        const uint tiles = (tile_keys + TILE - 1) / TILE;
        for (uint tile = 0; tile < tiles; tile++) {
            const uint tile_start = part(tile_keys, tiles, tile);
            const uint tile_rows = part(tile_keys, tiles, tile + 1) - tile_start;
            for (uint i = 0; i < tile_rows; i++) {
                load_row(rows, k_head, (start + tile_start + i) * (size_t)k_stride, 1.0f);
                const float16 *key = (const float16 *)rows;
                float16 *target = (float16 *)(k_tile + tile_start * WIDTH) + i;
                for (uint chunk = 0; chunk < CHUNKS; chunk++)
                    target[chunk * tile_rows] = key[chunk];
            }
        }
        for (uint i = 0; i < tile_keys; i++)
            load_row(v_tile + i * VALUE_ROW, v_head, (start + i) * (size_t)v_stride, 1.0f);

        for (uint block = 0; block < blocks; block++) {
            const uint block_first = block * QUERIES;
            const uint block_queries = min((uint)QUERIES, count - block_first);
            if (start == 0) {
                for (uint i = 0; i < QUERIES * WIDTH; i += VECTOR)
                    put(0.0f, sums[block] + i);
                for (uint i = 0; i < block_queries; i++)
                    load_row(rows + i * WIDTH, q_head, (block_first + i) * (size_t)q_stride,
                             scale * LOG2_E);
                for (uint i = block_queries * WIDTH; i < QUERIES * WIDTH; i += VECTOR)
                    put(0.0f, rows + i);
                for (uint lane = 0; lane < QUERIES; lane += VECTOR)
                    for (uint c = 0; c < WIDTH; c += VECTOR)
                        transpose(rows + lane * WIDTH + c, WIDTH,
                                  query[block] + c * QUERIES + lane, QUERIES);
                running[block].most[0] = running[block].most[1] = HIDDEN;
                running[block].total[0] = running[block].total[1] = 0.0f;
            }

            // What is wanted soon lies apart where a row holds several heads, so that no cache
            // foresees it: the next keys and values, queries and results.
            uint line_count = 0;
            for (uint i = part(next_keys, blocks, block); i < part(next_keys, blocks, block + 1);
                 i++) {
                const size_t key = start + tile_keys + i;
                line_count = note_lines(lines, line_count, k_head + key * k_stride);
                line_count = note_lines(lines, line_count, v_head + key * v_stride);
            }
            if (start == 0)
                for (uint i = block_first + QUERIES; i < min(block_first + 2 * QUERIES, count); i++)
                    line_count = note_lines(lines, line_count, q_head + i * (size_t)q_stride);
            if (next_keys == 0)
                for (uint i = block_first; i < block_first + block_queries; i++)
                    line_count = note_lines(lines, line_count, y_head + i * y_stride);

            // A block sees the keys up to its last query's position.
            const uint position = first_query + first + block_first;
            const uint behind = causal ? max(start, position + QUERIES) - start : tile_keys;
            const uint visible = min(tile_keys, behind);
            floatV most[2] = {running[block].most[0], running[block].most[1]};
            for (uint tile = 0; tile < tiles; tile++) {
                const uint tile_start = part(tile_keys, tiles, tile);
                const uint line = part(line_count, tiles, tile);
                if (tile_start < visible)
                    score(part(tile_keys, tiles, tile + 1) - tile_start, query[block],
                          k_tile + tile_start * WIDTH, scores + tile_start * QUERIES, most,
                          lines + line, part(line_count, tiles, tile + 1) - line);
            }
            if (causal && start + visible > position + 1) {
                most[0] = running[block].most[0];
                most[1] = running[block].most[1];
                hide(scores, visible, start, position, most);
            }
            fade(&running[block], most, sums[block]);
            weigh(scores, visible, &running[block]);
            for (uint tile = 0; tile < LONG_TILES; tile++) {
                const uint c = tile * (SHORT + 1);
                spend(SHORT + 1, scores, visible, v_tile + c, sums[block] + c * QUERIES);
            }
            for (uint tile = LONG_TILES; tile < COLUMN_TILES; tile++) {
                const uint c = LONG_TILES + tile * SHORT;
                spend(SHORT, scores, visible, v_tile + c, sums[block] + c * QUERIES);
            }

            if (next_keys == 0)
                store_block(y_head + block_first * y_stride, y_stride, sums[block], rows,
                            &running[block], block_queries);
        }
    }
}
