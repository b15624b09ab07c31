// token_embedding.cl: y = tokens[id] + positions[first_row + row].
//
//   ids          [samples, rows]            uint, below the vocabulary's size
//   tokens       panels of 32 tokens, [ceil(vocabulary / 32)][channels][32], in FORMAT
//   positions    [most rows, channels]      REAL
//   y            [samples, rows, channels]  REAL
//   launch       dimension 2: samples; dimension 1: rows; dimension 0: a work-item per channel
//
// Of a panel, the values of four tokens are read and three dropped: few tokens are wanted, once a
// picture, and so every format is decoded by the words that products have for it.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void token_embedding(__global const uint *ids,
                     __global const WEIGHT *tokens,
                     __global const REAL *positions,
                     __global REAL *y,
                     const uint samples,
                     const uint rows,
                     const uint first_row,
                     const uint channels)
{
    const uint channel = get_global_id(0);
    const uint row = get_group_id(1);
    const size_t index = get_group_id(2) * (size_t)rows + row;
    if (channel >= channels)
        return;
    const uint id = ids[index];
    const size_t first = (id / PANEL * (size_t)channels + channel) * PANEL + id % PANEL / 4 * 4;
    const float4 four = load_weight4(tokens, first);
    const float2 two = (id & 2) ? four.hi : four.lo;
    const float token = (id & 1) ? two.y : two.x;
    const float place = load_real(positions, (first_row + row) * (size_t)channels + channel);
    store_real(y, index * channels + channel, token + place);
}
