// quantize_rows.cl: levels = round(x / scale) in signed bytes, scale = max |x| / 127 of each block of
// 32 terms.
//
//   x       [rows, columns]           REAL, contiguous
//   x2      [rows, inputs - columns]  REAL, or absent: the columns of x that follow
//   levels  [rows, inputs]            char
//   scales  [rows, inputs / 32]       float
//   sums    [rows, inputs / 16]       short: of the levels
//   blocks  rows * inputs / 32
//   launch  one work-item per block
//
// Of two levels that are as near the even one is taken, and the reciprocal of a scale is that which
// IEEE rounding gives, whatever a device's division is: so all devices have the same levels. A block
// whose values are all nearer to 0 than 1e-30 counts as zeros.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif

#define BLOCK 32
#define LEAST 1e-30f

// 1 / value, from a reciprocal that may be some units off in its last place.
INLINE float reciprocal(const float value)
{
    const float first = 1.0f / value;
    const float second = fma(fma(-value, first, 1.0f), first, first);
    return fma(fma(-value, second, 1.0f), second, second);
}

INLINE float largest4(const float4 v)
{
    return fmax(fmax(fabs(v.s0), fabs(v.s1)), fmax(fabs(v.s2), fabs(v.s3)));
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void quantize_rows(__global const REAL *x,
                   __global const REAL *x2,
                   __global char *levels,
                   __global float *scales,
                   __global short *sums,
                   const uint blocks,
                   const uint inputs,
                   const uint columns)
{
    const uint block = get_global_id(0);
    if (block >= blocks)
        return;
    const size_t row = block / (inputs / BLOCK);
    const uint first = block % (inputs / BLOCK) * BLOCK;
    const uint columns2 = inputs - columns;
    float4 value[BLOCK / 4];
    float largest = 0.0f;
#pragma unroll
    for (uint i = 0; i < BLOCK / 4; i++) {
        const uint k = first + 4 * i;
        // Four terms that x ends among are read one by one.
        if (k + 4 <= columns)
            value[i] = load_real4(x, row * columns + k);
        else if (k >= columns)
            value[i] = load_real4(x2, row * columns2 + k - columns);
        else {
            float four[4];
#pragma unroll
            for (uint j = 0; j < 4; j++)
                four[j] = k + j < columns ? load_real(x, row * columns + k + j)
                                          : load_real(x2, row * columns2 + k + j - columns);
            value[i] = (float4)(four[0], four[1], four[2], four[3]);
        }
        largest = fmax(largest, largest4(value[i]));
    }
    const bool counts = largest >= LEAST;
    const float scale = counts ? largest * (1.0f / 127.0f) : 0.0f;
    const float inverse = counts ? reciprocal(scale) : 0.0f;
#pragma unroll
    for (uint half_block = 0; half_block < 2; half_block++) {
        int4 sum = 0;
#pragma unroll
        for (uint i = 4 * half_block; i < 4 * half_block + 4; i++) {
            const int4 level = convert_int4(rint(value[i] * inverse));
            sum += level;
            vstore4(convert_char4(level), (size_t)block * (BLOCK / 4) + i, levels);
        }
        sums[(size_t)block * 2 + half_block] = (short)(sum.s0 + sum.s1 + sum.s2 + sum.s3);
    }
    scales[block] = scale;
}
