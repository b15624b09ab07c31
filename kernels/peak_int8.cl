// peak_int8.cl: y[i] = low 16 bits of the sum over a and t of dot(bytes(x[i] + t * increment),
// bytes(x[i] * (2 a + 1))), of four signed bytes each, for `turns` values of t.
//
//   x            [elements]  uint: four bytes
//   y            [elements]  float
//   launch       a vector a work-item
//
// Measures dot products of bytes: ACCUMULATORS sums that do not wait for each other, with a new
// left operand in every turn, so that no product is the same in two of them.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 1        // words of a sum: 1, or 8 where a work-item has vectors of its own
#endif
#ifndef ACCUMULATORS
#define ACCUMULATORS 8  // sums of a work-item
#endif

#if VECTOR == 1
#define UINTS uint
#define INTS int
#define dot4_words dot4_i8
INLINE UINTS load_words(__global const uint *p, const size_t i) { return p[i]; }
INLINE void store_words(__global float *p, const size_t i, const INTS v) { p[i] = (float)v; }
#else
#define UINTS WORD(uint, VECTOR)
#define INTS WORD(int, VECTOR)
INLINE UINTS load_words(__global const uint *p, const size_t i) { return WORD(vload, VECTOR)(0, p + i); }
INLINE void store_words(__global float *p, const size_t i, const INTS v)
{
    WORD(vstore, VECTOR)(WORD(convert_float, VECTOR)(v), 0, p + i);
}

// The byte of each word that ends `shift` bits below its top.
INLINE INTS widened(const UINTS words, const uint shift)
{
    return WORD(as_int, VECTOR)(words << (UINTS)shift) >> (INTS)24;
}

// The same for the words of a vector.
INLINE INTS dot4_words(const UINTS a, const UINTS b, const INTS sum)
{
    return sum + widened(a, 0) * widened(b, 0) + widened(a, 8) * widened(b, 8)
               + widened(a, 16) * widened(b, 16) + widened(a, 24) * widened(b, 24);
}
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void peak_int8(__global const uint *x,
               __global float *y,
               const uint elements,
               const uint turns,
               const uint increment)
{
    const size_t start = get_global_id(0) * VECTOR;
    if (start + VECTOR <= elements) {
        const UINTS first = load_words(x, start);
        UINTS left = first;
        UINTS right[ACCUMULATORS];
        INTS sums[ACCUMULATORS];
#pragma unroll
        for (uint a = 0; a < ACCUMULATORS; a++) {
            right[a] = first * (UINTS)(2 * a + 1);
            sums[a] = (INTS)(0);
        }
        for (uint turn = 0; turn < turns; turn++) {
#pragma unroll
            for (uint a = 0; a < ACCUMULATORS; a++)
                sums[a] = dot4_words(left, right[a], sums[a]);
            left += (UINTS)(increment);
        }
        INTS sum = sums[0];
#pragma unroll
        for (uint a = 1; a < ACCUMULATORS; a++)
            sum += sums[a];
        store_words(y, start, sum & (INTS)(0xffff));
        return;
    }
    for (size_t i = start; i < elements; i++) {
        int sum = 0;
        for (uint a = 0; a < ACCUMULATORS; a++)
            for (uint turn = 0; turn < turns; turn++)
                sum = dot4_i8(x[i] + turn * increment, x[i] * (2 * a + 1), sum);
        y[i] = (float)(sum & 0xffff);
    }
}
