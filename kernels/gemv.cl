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

// The k-th term of a row of x. Rows that are not there repeat the last.
INLINE float term_of(__global const REAL *x,
                     const uint row,
                     const uint rows,
                     const uint columns,
                     const uint k)
{
    return load_real(x, (size_t)min(row, rows - 1) * columns + k);
}

INLINE void clear(floatV sums[ROWS][VECTORS])
{
#pragma unroll
    for (uint row = 0; row < ROWS; row++)
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            sums[row][v] = 0.0f;
}

// sums += the k-th of every row's terms, times `factors`.
INLINE void add_term(floatV sums[ROWS][VECTORS],
                     __global const REAL *x,
                     const uint rows,
                     const uint columns,
                     const uint k,
                     const floatV factors[VECTORS])
{
#pragma unroll
    for (uint row = 0; row < ROWS; row++) {
        const floatV value = term_of(x, row, rows, columns, k);
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            sums[row][v] += value * factors[v];
    }
}

// sums += this slice's terms from..to of a matrix of `columns`, whose weights begin at `start`; those of
// this work-item are `output` further.
INLINE void add_terms(floatV sums[ROWS][VECTORS],
                      __global const REAL *x,
                      const uint rows,
                      const uint columns,
                      __global const WEIGHT *weights,
                      const size_t start,
                      const uint from,
                      const uint to,
                      const uint output,
                      const uint slice)
{
    for (uint k = from + slice; k < to; k += SLICES) {
        floatV factors[VECTORS];
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            factors[v] = WORD(load_weight, VECTOR)(weights,
                                                   start + (size_t)k * PANEL + output + v * VECTOR);
        add_term(sums, x, rows, columns, k, factors);
    }
}

#if FORMAT
// The slices that share a group of terms, so few that each decodes a scale for several terms. Where there
// are more slices, they take groups in turn.
#define SHARES (SLICES < 8 ? SLICES : 8)

// sums += this slice's terms of a group, which is the k-th of x on and `at` among weights. They have one
// scale, by which their sum is multiplied.
INLINE void add_group(floatV sums[ROWS][VECTORS],
                      __global const REAL *x,
                      const uint rows,
                      const uint columns,
                      __global const WEIGHT *weights,
                      const size_t at,
                      const uint k,
                      const uint output,
                      const uint slice)
{
    // Places in a block are written so that compilers see what is constant in them.
    __global const WEIGHT *block = weights + BLOCK_AT(at);
    const uint group = (uint)(at / (GROUP_TERMS * PANEL)) % (BLOCK_TERMS / GROUP_TERMS);
    const uint first = group * (GROUP_TERMS * PANEL) + output;
    floatV parts[ROWS][VECTORS];
    clear(parts);
#ifdef HAS_LEAST
    float totals[ROWS] = { 0.0f };
#endif
#pragma unroll
    for (uint share = 0; share < GROUP_TERMS / SHARES; share++) {
        const uint term = share * SHARES + slice % SHARES;
        floatV levels[VECTORS];
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            levels[v] = WORD(level_of, VECTOR)(block, first + term * PANEL + v * VECTOR);
        add_term(parts, x, rows, columns, k + term, levels);
#ifdef HAS_LEAST
#pragma unroll
        for (uint row = 0; row < ROWS; row++)
            totals[row] += term_of(x, row, rows, columns, k + term);
#endif
    }
#pragma unroll
    for (uint v = 0; v < VECTORS; v++) {
        const floatV scale = WORD(scale_of, VECTOR)(block, first + v * VECTOR);
#pragma unroll
        for (uint row = 0; row < ROWS; row++)
            sums[row][v] += scale * parts[row][v];
#ifdef HAS_LEAST
        const floatV least = WORD(least_of, VECTOR)(block, first + v * VECTOR);
#pragma unroll
        for (uint row = 0; row < ROWS; row++)
            sums[row][v] += least * totals[row];
#endif
    }
}
#endif

// sums += this slice's terms of a matrix of `columns`, whose first is the first-th input and whose weights
// begin at `start`, with those of input 0.
INLINE void add_matrix(floatV sums[ROWS][VECTORS],
                       __global const REAL *x,
                       const uint rows,
                       const uint columns,
                       __global const WEIGHT *weights,
                       size_t start,
                       const uint first,
                       const uint output,
                       const uint slice)
{
    start += (size_t)first * PANEL;
#if FORMAT
    // A group may begin before the matrix, or end after it.
    const uint from = min(columns, (GROUP_TERMS - first % GROUP_TERMS) % GROUP_TERMS);
    const uint groups = (columns - from) / GROUP_TERMS;
    for (uint group = slice / SHARES; group < groups; group += SLICES / SHARES) {
        const uint k = from + group * GROUP_TERMS;
        add_group(sums, x, rows, columns, weights, start + (size_t)k * PANEL, k, output, slice);
    }
    add_terms(sums, x, rows, columns, weights, start, 0, from, output, slice);
    add_terms(sums, x, rows, columns, weights, start, from + groups * GROUP_TERMS, columns, output,
              slice);
#else
    add_terms(sums, x, rows, columns, weights, start, 0, columns, output, slice);
#endif
}

// The element of y whose sum is `sum`, if there is one.
INLINE void finish(float sum,
                   __global const float *bias,
                   __global const REAL *residual,
                   __global REAL *y,
                   const uint row,
                   const uint outputs,
                   const uint output,
                   const uint activation)
{
    if (output >= outputs)
        return;
    const size_t at = (size_t)row * outputs + output;
    sum += bias ? bias[output] : 0.0f;
    store_real(y, at, activate(sum, activation) + (residual ? load_real(residual, at) : 0.0f));
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
    const size_t start = panel * inputs * PANEL;
    floatV sums[ROWS][VECTORS];
    clear(sums);

    add_matrix(sums, x, rows, columns, weights, start, 0, lane * ITEM_N, slice);
    if (columns < inputs)
        add_matrix(sums, x2, rows, inputs - columns, weights, start, columns, lane * ITEM_N, slice);

#pragma unroll
    for (uint row = 0; row < ROWS; row++) {
#if SLICES > 1
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            WORD(vstore, VECTOR)(sums[row][v], v, scratch + slice * PANEL + lane * ITEM_N);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint n = get_local_id(0); row < rows && n < PANEL; n += WG_SIZE) {
            float sum = scratch[n];
            for (uint other = 1; other < SLICES; other++)
                sum += scratch[other * PANEL + n];
            finish(sum, bias, residual, y, row, outputs, get_group_id(0) * PANEL + n, activation);
        }
#else
        float values[ITEM_N];
#pragma unroll
        for (uint v = 0; v < VECTORS; v++)
            WORD(vstore, VECTOR)(sums[row][v], v, values);
        for (uint n = 0; row < rows && n < ITEM_N; n++)
            finish(values[n], bias, residual, y, row, outputs,
                   get_group_id(0) * PANEL + lane * ITEM_N + n, activation);
#endif
    }
}
