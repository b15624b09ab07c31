// gemm_split.cl: sums of x W^T over slices of K, by tiles in local memory; gemm_merge adds them up.
//
//   x         [rows, columns]           REAL, contiguous
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, or in blocks
//   sums      [slices, rows, outputs]   float
//   launch    one work-group per TILE_M rows, TILE_N outputs and slice, see local_tile.h
//
// Where a product has few tiles and many terms, its slices are work for more compute units. A slice
// is slice_terms terms of x and x2, fewer where K ends, and zeros beyond.

// Four sums, or those of them whose outputs are there.
INLINE void store_sums(__global float *p, const uint count, const float4 value)
{
    if (count >= 4) {
        vstore4(value, 0, p);
        return;
    }
    if (count > 0)
        p[0] = value.s0;
    if (count > 1)
        p[1] = value.s1;
    if (count > 2)
        p[2] = value.s2;
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gemm_split(__global const REAL *x,
                __global const REAL *x2,
                __global const WEIGHT *weights,
                __global float *sums,
                const uint rows,
                const uint outputs,
                const uint inputs,
                const uint columns,
                const uint slices,
                const uint slice_terms)
{
    __local float a[BUFFERS * A_TILE] __attribute__((aligned(16)));
    __local float b[BUFFERS * B_TILE] __attribute__((aligned(16)));
    const uint slice = get_group_id(2);
    const uint first = min(slice * slice_terms, inputs);
    const uint last = min(first + slice_terms, inputs);
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;
    CURSOR w[B_LOADS];
    find_weights(w, weights, (size_t)first * PANEL, first_output, outputs, inputs);
    float sum[ITEM_M * ITEM_N];
#pragma unroll
    for (uint i = 0; i < ITEM_M * ITEM_N; i++)
        sum[i] = 0.0f;

#pragma unroll 1
    for (uint part = 0; part < 2; part++) {
        const uint width = part == 0 ? columns : inputs - columns;
        const uint start = part == 0 ? min(first, columns) : (uint)max((int)first - (int)columns, 0);
        const uint end = part == 0 ? min(last, columns) : (uint)max((int)last - (int)columns, 0);
        __global const REAL *source[A_LOADS];
        bool inside[A_LOADS];
#pragma unroll
        for (uint i = 0; i < A_LOADS; i++) {
            const size_t row = min(first_row + row_of(i), rows - 1);
            source[i] = (part == 0 ? x : x2) + row * width + start + term_of(i);
            inside[i] = true;
        }
        multiply_terms(a, b, source, inside, weights, w, end - start, sum);
    }

    const uint item_row = first_row + get_local_id(0) / ITEMS_N * ITEM_M;
    const uint item_output = first_output + get_local_id(0) % ITEMS_N * 4;
    sums += (size_t)slice * rows * outputs;
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++) {
        const size_t row = item_row + m;
        if (row >= rows)
            break;
#pragma unroll
        for (uint n = 0; n < ITEM_N; n += 4) {
            const uint output = item_output + n * ITEMS_N;
            const uint count = (uint)max((int)outputs - (int)output, 0);
            store_sums(sums + row * outputs + output, count, vload4(0, sum + m * ITEM_N + n));
        }
    }
}
