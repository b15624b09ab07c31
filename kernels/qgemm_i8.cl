// qgemm_i8.cl: y = activation(x W^T + bias) + residual, levels times levels in bytes, by tiles in
// local memory.
//
//   levels    [rows, inputs]       char: x, as quantize_rows gives it
//   scales    [rows, inputs / 32]  float
//   sums      [rows, inputs / 16]  short
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32], in blocks
//   bias      [outputs]            float, or absent
//   residual  [rows, outputs]      REAL, or absent
//   y         [rows, outputs]      REAL
//   launch    one work-group per TILE_M rows and TILE_N outputs
//
// The products of a block of x with as many terms of the weights are added up as integers, exactly;
// then they are scaled once, and added up as floats.

#ifndef TILE_M
#define TILE_M 64       // rows of a work-group's tile
#endif
#ifndef TILE_N
#define TILE_N 64       // outputs of it, whole panels
#endif
#ifndef ITEM_M
#define ITEM_M 4        // rows of a work-item's tile
#endif
#ifndef ITEM_N
#define ITEM_N 4        // outputs of it
#endif

#define BLOCK 32                        // terms of one scale of x
#define QUADS (BLOCK / 4)
#if FORMAT == 14
#define GROUP 16                        // terms of one scale of the weights
#else
#define GROUP 32
#endif
#define GROUPS (BLOCK / GROUP)
#define ITEMS_N (TILE_N / ITEM_N)
#define WG_SIZE (TILE_M / ITEM_M * ITEMS_N)

#if TILE_N % PANEL || TILE_M % ITEM_M || TILE_N % ITEM_N || ITEM_M % 4 || ITEM_N % 4
#error "tiles are whole panels, work-items' tiles and quads"
#endif

// The levels of four terms from `term` on for four outputs, those of an output in a word.
INLINE int4 quads(__global const uchar *weights, const size_t index)
{
    const char4 a = convert_char4(convert_int4(level_of4(weights, index)));
    const char4 b = convert_char4(convert_int4(level_of4(weights, index + PANEL)));
    const char4 c = convert_char4(convert_int4(level_of4(weights, index + 2 * PANEL)));
    const char4 d = convert_char4(convert_int4(level_of4(weights, index + 3 * PANEL)));
    return (int4)(as_int((char4)(a.s0, b.s0, c.s0, d.s0)), as_int((char4)(a.s1, b.s1, c.s1, d.s1)),
                  as_int((char4)(a.s2, b.s2, c.s2, d.s2)), as_int((char4)(a.s3, b.s3, c.s3, d.s3)));
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void qgemm_i8(__global const char *levels,
              __global const float *scales,
              __global const short *sums,
              __global const uchar *weights,
              __global const float *bias,
              __global const REAL *residual,
              __global REAL *y,
              const uint rows,
              const uint outputs,
              const uint inputs,
              const uint activation)
{
    __local int a[QUADS * TILE_M] __attribute__((aligned(16)));
    __local float a_scales[TILE_M] __attribute__((aligned(16)));
    __local int b[QUADS * TILE_N] __attribute__((aligned(16)));
    __local float b_scales[GROUPS * TILE_N] __attribute__((aligned(16)));
#ifdef HAS_LEAST
    __local float a_sums[TILE_M] __attribute__((aligned(16)));
    __local float b_least[TILE_N] __attribute__((aligned(16)));
#endif
    const uint item = get_local_id(0);
    const uint first_row = get_group_id(0) * TILE_M;
    const uint first_output = get_group_id(1) * TILE_N;
    const uint m0 = item / ITEMS_N * ITEM_M;
    const uint n0 = item % ITEMS_N * ITEM_N;
    const uint last_panel = (outputs + PANEL - 1) / PANEL - 1;
    const uint blocks = inputs / BLOCK;
    float sum[ITEM_M][ITEM_N];
#pragma unroll
    for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
        for (uint n = 0; n < ITEM_N; n++)
            sum[m][n] = 0.0f;

    for (uint block = 0; block < blocks; block++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        // What lies past the last row or panel is the last one again, and is not stored.
        for (uint i = item; i < TILE_M * QUADS; i += WG_SIZE) {
            const size_t row = min(first_row + i / QUADS, rows - 1);
            __global const int *words = (__global const int *)(levels + row * inputs);
            a[i % QUADS * TILE_M + i / QUADS] = words[block * QUADS + i % QUADS];
        }
        for (uint i = item; i < TILE_M; i += WG_SIZE) {
            const size_t at = (size_t)min(first_row + i, rows - 1) * blocks + block;
            a_scales[i] = scales[at];
#ifdef HAS_LEAST
            a_sums[i] = scales[at] * (float)(sums[2 * at] + sums[2 * at + 1]);
#endif
        }
        for (uint i = item; i < TILE_N / 4 * QUADS; i += WG_SIZE) {
            const uint n = i % (TILE_N / 4) * 4;
            const uint quad = i / (TILE_N / 4);
            const size_t panel = min((first_output + n) / PANEL, last_panel);
            const size_t term = panel * inputs + block * BLOCK;
            const size_t index = term * PANEL + n % PANEL;
            vstore4(quads(weights, index + quad * 4 * PANEL), 0, b + quad * TILE_N + n);
            if (quad < GROUPS)
                vstore4(scale_of4(weights, index + quad * GROUP * PANEL), 0,
                        b_scales + quad * TILE_N + n);
#ifdef HAS_LEAST
            if (quad == 0)
                vstore4(least_of4(weights, index), 0, b_least + n);
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint group = 0; group < GROUPS; group++) {
            int product[ITEM_M][ITEM_N];
#pragma unroll
            for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
                for (uint n = 0; n < ITEM_N; n++)
                    product[m][n] = 0;
#pragma unroll
            for (uint quad = group * (GROUP / 4); quad < (group + 1) * (GROUP / 4); quad++) {
                int left[ITEM_M], right[ITEM_N];
#pragma unroll
                for (uint m = 0; m < ITEM_M; m += 4)
                    vstore4(vload4(0, a + quad * TILE_M + m0 + m), 0, left + m);
#pragma unroll
                for (uint n = 0; n < ITEM_N; n += 4)
                    vstore4(vload4(0, b + quad * TILE_N + n0 + n), 0, right + n);
#pragma unroll
                for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
                    for (uint n = 0; n < ITEM_N; n++)
                        product[m][n] = dot4_i8(left[m], right[n], product[m][n]);
            }
#pragma unroll
            for (uint m = 0; m < ITEM_M; m++) {
                const float scale = a_scales[m0 + m];
#pragma unroll
                for (uint n = 0; n < ITEM_N; n++)
                    sum[m][n] += (float)product[m][n] * scale * b_scales[group * TILE_N + n0 + n];
            }
        }
#ifdef HAS_LEAST
#pragma unroll
        for (uint m = 0; m < ITEM_M; m++)
#pragma unroll
            for (uint n = 0; n < ITEM_N; n++)
                sum[m][n] += a_sums[m0 + m] * b_least[n0 + n];
#endif
    }

#pragma unroll
    for (uint m = 0; m < ITEM_M; m++) {
        const uint row = first_row + m0 + m;
#pragma unroll
        for (uint n = 0; n < ITEM_N; n++) {
            const uint output = first_output + n0 + n;
            if (row < rows && output < outputs) {
                const size_t at = (size_t)row * outputs + output;
                float value = sum[m][n] + (bias ? bias[output] : 0.0f);
                value = activate(value, activation);
                store_real(y, at, value + (residual ? load_real(residual, at) : 0.0f));
            }
        }
    }
}
