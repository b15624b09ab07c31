// layer_norm.cl: y = gamma * (x - mean) / sqrt(variance + eps) + beta, per row.
//
//   x, y         [rows, channels]  REAL, contiguous
//   gamma, beta  [channels]        float
//   launch       one work-group per ROUNDS rows, one after the other
//
// Mean first, variance second: E[x^2] - E[x]^2 cancels badly when |mean| is large next to the
// deviation.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items per row; a power of two
#endif
#ifndef VECTOR
#define VECTOR 4        // channels of a vector: 4, 8 or 16
#endif
#ifndef ROUNDS
#define ROUNDS 1        // rows of a work-group
#endif

#define floatV WORD(float, VECTOR)

// The sum of a vector's lanes.
INLINE float lanes_sum(const floatV v)
{
    float lanes[VECTOR];
    WORD(vstore, VECTOR)(v, 0, lanes);
    float sum = 0.0f;
#pragma unroll
    for (uint lane = 0; lane < VECTOR; lane++)
        sum += lanes[lane];
    return sum;
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void layer_norm(__global const REAL *x,
                __global const float *gamma,
                __global const float *beta,
                __global REAL *y,
                const uint rows,
                const uint channels,
                const float eps)
{
    __local float scratch[WG_SIZE];
    const uint item = get_local_id(0);
    const uint whole = channels / VECTOR * VECTOR;      // channels in whole vectors
    const uint end = min(((uint)get_group_id(0) + 1) * ROUNDS, rows);
    for (uint row = get_group_id(0) * ROUNDS; row < end; row++) {
        const size_t start = (size_t)row * channels;

        floatV sums = 0.0f;
        for (uint c = item * VECTOR; c < whole; c += WG_SIZE * VECTOR)
            sums += WORD(load_real, VECTOR)(x, start + c);
        float sum = lanes_sum(sums);
        for (uint c = whole + item; c < channels; c += WG_SIZE)
            sum += load_real(x, start + c);
        const float mean = group_sum(sum, scratch, WG_SIZE) / channels;

        sums = 0.0f;
        for (uint c = item * VECTOR; c < whole; c += WG_SIZE * VECTOR) {
            const floatV distance = WORD(load_real, VECTOR)(x, start + c) - mean;
            sums += distance * distance;
        }
        float squares = lanes_sum(sums);
        for (uint c = whole + item; c < channels; c += WG_SIZE) {
            const float distance = load_real(x, start + c) - mean;
            squares += distance * distance;
        }
        const float scale = rsqrt(group_sum(squares, scratch, WG_SIZE) / channels + eps);

        for (uint c = item * VECTOR; c < whole; c += WG_SIZE * VECTOR) {
            const floatV normal = (WORD(load_real, VECTOR)(x, start + c) - mean) * scale;
            const floatV scaled = normal * WORD(vload, VECTOR)(0, gamma + c);
            WORD(store_real, VECTOR)(y, start + c, scaled + WORD(vload, VECTOR)(0, beta + c));
        }
        for (uint c = whole + item; c < channels; c += WG_SIZE)
            store_real(y, start + c, (load_real(x, start + c) - mean) * scale * gamma[c] + beta[c]);
    }
}
