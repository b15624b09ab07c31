// matrix.h: fragments of f16 that a team of work-items multiplies, with sums in f32, as matrix units
// do.
//
// A fragment is 16 outputs of the weights, or 16 rows of x, by 16 terms; the TEAM work-items of a
// team, which follow each other, hold it together. Of the 256 sums of two fragments a work-item has
// TEAM_SUMS. A compiler for matrix units has these words of its own; for any other, a fragment is a
// place in local memory.

#ifndef DTYPE_F16
#error "matrix.h: matrix units multiply f16"
#endif

#define SIDE 16         // rows, outputs or terms of a fragment

#ifndef TEAM
#define TEAM 32
#define TEAM_SUMS 8
#define FRAGMENT __local const ushort *

// The 16 outputs by 16 terms at `tile`, whose rows are `stride` apart, as work-item `lane` of its
// team holds them.
INLINE FRAGMENT weights_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return tile + lane / SIDE * TEAM_SUMS * stride;
}

// The same of 16 rows of x.
INLINE FRAGMENT rows_fragment(__local const ushort *tile, const uint stride, const uint lane)
{
    return tile + lane % SIDE * stride;
}

// sum + w x^T. Sum `i` of work-item `lane` is that of output lane / SIDE * TEAM_SUMS + i and of row
// lane % SIDE.
INLINE float8 multiply_fragments(const FRAGMENT w, const FRAGMENT x, const uint stride, const float8 sum)
{
    float8 sums = sum;
#pragma unroll 1
    for (uint k = 0; k < SIDE; k++) {
        __local const half *at = (__local const half *)w + k;
        const float8 outputs = (float8)(
            vload_half(0, at), vload_half(stride, at),
            vload_half(2 * stride, at), vload_half(3 * stride, at),
            vload_half(4 * stride, at), vload_half(5 * stride, at),
            vload_half(6 * stride, at), vload_half(7 * stride, at));
        sums += outputs * vload_half(k, (__local const half *)x);
    }
    return sums;
}
#endif

#define SUMS WORD(float, TEAM_SUMS)

// Eight elements of which `count` are there; zeros for the others.
INLINE ushort8 load_bits(__global const ushort *p, const uint count)
{
    ushort bits[8];
    for (uint i = 0; i < 8; i++)
        bits[i] = i < count ? p[i] : 0;
    return vload8(0, bits);
}
