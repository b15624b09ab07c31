// peak_local.cl: y[item] = sum over k < LOADS * turns of the elements of vector item + k of a tile.
//
//   x            [TILE]   float: every group's tile
//   y            [items]  float
//   launch       WG_SIZE work-items a group
//
// Measures reads of local memory: side by side in a group, each turn's at another place. The item
// counts inside its group; vectors are counted modulo the tile's.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // floats of a read: 4, 8 or 16
#endif

#define TILE 4096       // floats; 16 KiB, which the first cache of a CPU holds too
#define VECTORS (TILE / VECTOR)
#define LOADS 8         // of a turn, into as many sums

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void peak_local(__global const float *x,
                __global float *y,
                const uint items,
                const uint turns)
{
    __local float tile[TILE];
    const uint item = get_local_id(0);
    for (uint v = item; v < VECTORS; v += WG_SIZE)
        WORD(vstore, VECTOR)(WORD(vload, VECTOR)(v, x), v, tile);
    barrier(CLK_LOCAL_MEM_FENCE);
    WORD(float, VECTOR) sums[LOADS];
#pragma unroll
    for (uint k = 0; k < LOADS; k++)
        sums[k] = (WORD(float, VECTOR))(0.0f);
    for (uint turn = 0; turn < turns; turn++) {
#pragma unroll
        for (uint k = 0; k < LOADS; k++)
            sums[k] += WORD(vload, VECTOR)((item + turn * LOADS + k) % VECTORS, tile);
    }
#pragma unroll
    for (uint k = 1; k < LOADS; k++)
        sums[0] += sums[k];
    float parts[VECTOR];
    WORD(vstore, VECTOR)(sums[0], 0, parts);
    float sum = 0.0f;
#pragma unroll
    for (uint c = 0; c < VECTOR; c++)
        sum += parts[c];
    if (get_global_id(0) < items)
        y[get_global_id(0)] = sum;
}
