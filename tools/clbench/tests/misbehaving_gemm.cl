// misbehaving_gemm.cl: stands in for gemm_register.cl and does what a candidate must not, by the
// value of TILE_M. 12 is right: slow, and written for reading.
//
//   arguments, launch  those of gemm_register, a batch of 1: see kernels/gemm_register.cl
//
//   TILE_M  4  does not compile         8  writes behind y        14  loops for ever
//           6  crashes                 12  is right
//   TILES  16  gives a wrong result, whatever TILE_M is right
//   VECTOR  4  writes before x, an input

#if TILE_M == 4
#error "no tile of 4 rows"
#endif

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm_register(__global const REAL *x,
                   __global const REAL *x2,
                   __global const REAL *weights,
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
    const uint tiles = (rows + TILE_M - 1) / TILE_M;
    const uint first_row = share(tiles, get_num_groups(0), get_group_id(0)) * TILE_M;
    const uint next_row = share(tiles, get_num_groups(0), get_group_id(0) + 1) * TILE_M;
    const uint last_row = min(rows, next_row);
    const uint panels = (outputs + PANEL - 1) / PANEL;
    const uint first_output = share(panels, get_num_groups(1), get_group_id(1)) * PANEL;
    const uint next_output = share(panels, get_num_groups(1), get_group_id(1) + 1) * PANEL;
    const uint last_output = min(outputs, next_output);
#if TILE_M == 14
    for (volatile int turn = 0; turn < 1; turn = 0)
        ;
#endif
#if TILE_M == 6
    *(volatile __global int *)(size_t)64 = 1;
#endif
    for (uint m = first_row; m < last_row; m++) {
        for (uint n = first_output; n < last_output; n++) {
            const size_t panel = (size_t)(n / PANEL) * inputs * PANEL + n % PANEL;
            float sum = bias ? bias[n] : 0.0f;
            for (uint k = 0; k < inputs; k++) {
                const float a = k < columns
                    ? load_real(x, (size_t)m * columns + k)
                    : load_real(x2, (size_t)m * (inputs - columns) + k - columns);
                sum += a * load_real(weights, panel + (size_t)k * PANEL);
            }
            sum = activate(sum, activation);
#if TILES == 16
            sum += m == 3 && n == 5 ? 1.0f : 0.0f;
#endif
            const size_t at = (size_t)m * outputs + n;
            store_real(y, at, sum + (residual ? load_real(residual, at) : 0.0f));
        }
    }
#if TILE_M == 8
    if (last_row == rows && last_output == outputs)
        store_real(y, (size_t)rows * outputs + 3, 1.0f);
#endif
#if VECTOR == 4
    if (first_row == 0 && first_output == 0)
        ((volatile __global REAL *)x)[-2] = 7;
#endif
}
