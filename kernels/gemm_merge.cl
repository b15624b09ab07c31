// gemm_merge.cl: y = activation(sum of all slices + bias) + residual, of what gemm_split has left.
//
//   sums      [slices, rows, outputs]  float
//   bias      [outputs]                float, or absent
//   residual  [rows, outputs]          REAL, or absent
//   y         [rows, outputs]          REAL
//   launch    one work-item per element
//
// Slices are added in their order, so that a result does not depend on which was done first.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gemm_merge(__global const float *sums,
                __global const float *bias,
                __global const REAL *residual,
                __global REAL *y,
                const uint rows,
                const uint outputs,
                const uint slices,
                const uint activation)
{
    const size_t elements = (size_t)rows * outputs;
    const size_t element = get_global_id(0);
    if (element >= elements)
        return;
    float sum = 0.0f;
    for (uint slice = 0; slice < slices; slice++)
        sum += sums[slice * elements + element];
    if (bias)
        sum += bias[element % outputs];
    float value = activate(sum, activation);
    if (residual)
        value += load_real(residual, element);
    store_real(y, element, value);
}
