// layer_norm.cl: y = gamma * (x - mean) / sqrt(variance + eps) + beta, per row.
//
//   x, y         [rows, channels]  REAL, contiguous
//   gamma, beta  [channels]        float
//   launch       one work-group per row
//
// Mean first, variance second: E[x^2] - E[x]^2 cancels badly when |mean| is large next to the
// deviation.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items per row; a power of two
#endif

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
    const size_t start = get_group_id(0) * (size_t)channels;

    float sum = 0.0f;
    for (uint c = item; c < channels; c += WG_SIZE)
        sum += load_real(x, start + c);
    const float mean = group_sum(sum, scratch, WG_SIZE) / channels;

    float squares = 0.0f;
    for (uint c = item; c < channels; c += WG_SIZE) {
        const float distance = load_real(x, start + c) - mean;
        squares += distance * distance;
    }
    const float scale = rsqrt(group_sum(squares, scratch, WG_SIZE) / channels + eps);

    for (uint c = item; c < channels; c += WG_SIZE) {
        const float normal = (load_real(x, start + c) - mean) * scale;
        store_real(y, start + c, normal * gamma[c] + beta[c]);
    }
}
