// gemv.cl: y = activation(x W^T + bias) + residual, of few rows: a product that reads its weight.
//
//   x         [rows, columns]           REAL, contiguous; at most ROWS rows
//   x2        [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   weights   panels of 32 outputs, [ceil(outputs / 32)][inputs][32]  REAL, or in blocks
//   bias      [outputs]                 float, or absent
//   residual  [rows, outputs]           REAL, or absent
//   y         [rows, outputs]           REAL
//   batch     so many products of these sizes: every array but the bias has all of theirs, one
//             after the other
//   launch    one work-group per panel and product: SLICES slices of K by 32 / ITEM_N work-items
//
// The weight is read once, a panel from front to back: neighbouring work-items have neighbouring
// outputs, neighbouring slices neighbouring terms. Slices are added in their order. A CPU device
// takes one work-item for a panel, a GPU as many as its lanes.

#ifndef ROWS
#define ROWS 1          // 1, 2, 4 or 8
#endif
#ifndef VECTOR
#define VECTOR 4        // lanes of a vector: 4, 8 or 16
#endif
#ifndef ITEM_N
#define ITEM_N 4        // outputs of a work-item: a multiple of VECTOR that divides 32
#endif
#ifndef SLICES
#define SLICES 8        // parts of K
#endif

#if ITEM_N % VECTOR != 0 || 32 % ITEM_N != 0
#error "ITEM_N must be a multiple of VECTOR and divide 32"
#endif

#define LANES (PANEL / ITEM_N)
#define VECTORS (ITEM_N / VECTOR)
#define WG_SIZE (LANES * SLICES)
#define floatV WORD(float, VECTOR)

// sums += this slice's terms of a matrix of `columns`, whose weights begin at `start`.
INLINE void add_terms(floatV sums[ROWS][VECTORS],
                      __global const REAL *x,
                      const uint rows,
                      const uint columns,
                      __global const WEIGHT *weights,
                      const size_t start,
                      const uint slice)
{
    for (uint k = slice; k < columns; k += SLICES) {
        floatV terms[VECTORS];
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            terms[v] = WORD(load_weight, VECTOR)(weights, start + (size_t)k * PANEL + v * VECTOR);
#pragma unroll
        for (uint row = 0; row < ROWS; row++) {
            // Rows that are not there repeat the last.
            const floatV value = load_real(x, (size_t)min(row, rows - 1) * columns + k);
#pragma unroll
            for (uint v = 0; v < VECTORS; v++)
                sums[row][v] += value * terms[v];
        }
    }
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gemv(__global const REAL *x,
          __global const REAL *x2,
          __global const WEIGHT *weights,
          __global const float *bias,
          __global const REAL *residual,
          __global REAL *y,
          const uint rows,
          const uint outputs,
          const uint inputs,
          const uint columns,
          const uint batch,
          const uint activation)
{
    const size_t product = get_group_id(2);
    x += product * rows * columns;
    x2 += x2 ? product * rows * (inputs - columns) : 0;
    const size_t panel = product * ((outputs + PANEL - 1) / PANEL) + get_group_id(0);
    residual += residual ? product * rows * outputs : 0;
    y += product * rows * outputs;
#if SLICES > 1
    __local float scratch[SLICES * PANEL];
#endif
    const uint lane = get_local_id(0) % LANES;
    const uint slice = get_local_id(0) / LANES;
    const uint first_output = get_group_id(0) * PANEL + lane * ITEM_N;
    const size_t start = panel * inputs * PANEL + lane * ITEM_N;
    floatV sums[ROWS][VECTORS];
#pragma unroll
    for (uint row = 0; row < ROWS; row++)
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            sums[row][v] = 0.0f;

    add_terms(sums, x, rows, columns, weights, start, slice);
    if (columns < inputs)
        add_terms(sums, x2, rows, inputs - columns, weights, start + (size_t)columns * PANEL,
                  slice);

#pragma unroll
    for (uint row = 0; row < ROWS; row++) {
        float values[ITEM_N];
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            WORD(vstore, VECTOR)(sums[row][v], v, values);
#if SLICES > 1
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint n = 0; n < ITEM_N; n++)
            scratch[slice * PANEL + lane * ITEM_N + n] = values[n];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint other = 1; slice == 0 && other < SLICES; other++)
            for (uint n = 0; n < ITEM_N; n++)
                values[n] += scratch[other * PANEL + lane * ITEM_N + n];
#endif
        for (uint n = 0; slice == 0 && row < rows && n < ITEM_N; n++) {
            const uint output = first_output + n;
            if (output < outputs) {
                const size_t at = (size_t)row * outputs + output;
                const float sum = values[n] + (bias ? bias[output] : 0.0f);
                store_real(y, at,
                           activate(sum, activation) + (residual ? load_real(residual, at) : 0.0f));
            }
        }
    }
}
