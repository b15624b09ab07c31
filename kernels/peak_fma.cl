// peak_fma.cl: y[i] = sum over a of v_a, each v_a = v_a * scale + shift, `turns` times from x[i] + a.
//
//   x, y         [elements]  REAL
//   launch       a vector a work-item
//
// Measures arithmetic: ACCUMULATORS chains that do not wait for each other. With |scale| < 1 a
// chain settles at shift / (1 - scale), so nothing overflows or becomes denormal; scale and shift
// are run-time data, so that no compiler can shorten a chain.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // lanes of a chain: 4, 8 or 16
#endif
#ifndef ACCUMULATORS
#define ACCUMULATORS 8  // chains of a work-item
#endif
#ifndef HALF
#define HALF 0          // 1: arithmetic in half, which not every device has
#endif

#if HALF
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
#define NUMBER half
#else
#define NUMBER float
#endif
#define NUMBERS WORD(NUMBER, VECTOR)

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void peak_fma(__global const REAL *x,
              __global REAL *y,
              const uint elements,
              const uint turns,
              const float scale,
              const float shift)
{
    const size_t start = get_global_id(0) * VECTOR;
    if (start + VECTOR <= elements) {
        const NUMBERS factor = (NUMBERS)((NUMBER)scale);
        const NUMBERS term = (NUMBERS)((NUMBER)shift);
        const NUMBERS first = WORD(WORD(convert_, NUMBER), VECTOR)(WORD(load_real, VECTOR)(x, start));
        NUMBERS sums[ACCUMULATORS];
#pragma unroll
        for (uint a = 0; a < ACCUMULATORS; a++)
            sums[a] = first + (NUMBERS)((NUMBER)a);
        for (uint turn = 0; turn < turns; turn++) {
#pragma unroll
            for (uint a = 0; a < ACCUMULATORS; a++)
                sums[a] = sums[a] * factor + term;
        }
        NUMBERS sum = sums[0];
#pragma unroll
        for (uint a = 1; a < ACCUMULATORS; a++)
            sum += sums[a];
        WORD(store_real, VECTOR)(y, start, WORD(convert_float, VECTOR)(sum));
        return;
    }
    for (size_t i = start; i < elements; i++) {
        NUMBER sum = (NUMBER)0;
        for (uint a = 0; a < ACCUMULATORS; a++) {
            NUMBER value = (NUMBER)load_real(x, i) + (NUMBER)a;
            for (uint turn = 0; turn < turns; turn++)
                value = value * (NUMBER)scale + (NUMBER)shift;
            sum += value;
        }
        store_real(y, i, (float)sum);
    }
}
