// group_norm_apply.cl: y = activation((x - mean) * scale + beta), per channel.
//
//   x            [samples, pixels, x_channels]             REAL
//   x2           [samples, pixels, channels - x_channels]  REAL; absent where x has all channels
//   factors      [all samples, 2, channels]                float: means, then scales
//   beta         [channels]                                float
//   y            [samples, pixels, channels]               REAL
//   launch       dimension 1: samples; dimension 0: work-items, each a vector of channels of a
//                chunk, channels first
//
// x, x2 and y are a band, whose samples begin at first_sample of factors. The mean is subtracted
// first: folded into beta it would cancel badly where |mean| is large next to the deviation.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // channels of a work-item: 4, 8 or 16
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void group_norm_apply(__global const REAL *x,
                      __global const REAL *x2,
                      __global const float *factors,
                      __global const float *beta,
                      __global REAL *y,
                      const uint pixels,
                      const uint channels,
                      const uint x_channels,
                      const uint chunk,
                      const uint first_sample,
                      const uint samples,
                      const uint activation)
{
    const uint vectors = (channels + VECTOR - 1) / VECTOR;
    const uint item = get_global_id(0);
    const uint sample = get_group_id(1);
    const uint channel = item % vectors * VECTOR;
    const uint start = item / vectors * chunk;
    if (start >= pixels)
        return;
    const uint count = min(chunk, pixels - start);
    const size_t pixel = (size_t)sample * pixels + start;
    const uint x2_channels = channels - x_channels;
    __global const float *means = factors + (size_t)(first_sample + sample) * 2 * channels;
    __global const float *scales = means + channels;

    if (channel + VECTOR <= x_channels || (channel >= x_channels && channel + VECTOR <= channels)) {
        const bool second = channel >= x_channels;
        __global const REAL *p = second ? x2 + pixel * x2_channels + channel - x_channels
                                        : x + pixel * x_channels + channel;
        const size_t stride = second ? x2_channels : x_channels;
        const WORD(float, VECTOR) mean = WORD(vload, VECTOR)(0, means + channel);
        const WORD(float, VECTOR) scale = WORD(vload, VECTOR)(0, scales + channel);
        const WORD(float, VECTOR) shift = WORD(vload, VECTOR)(0, beta + channel);
        for (uint i = 0; i < count; i++) {
            const WORD(float, VECTOR) value = WORD(load_real, VECTOR)(p, i * stride);
            const WORD(float, VECTOR) normal = (value - mean) * scale + shift;
            WORD(store_real, VECTOR)
            (y, (pixel + i) * channels + channel, activate_vector(normal, activation));
        }
    } else {
        // The last channels of x, beside the first of x2 or beside nothing.
        for (uint c = channel; c < min(channel + VECTOR, channels); c++) {
            const bool second = c >= x_channels;
            __global const REAL *p = second ? x2 + pixel * x2_channels + c - x_channels
                                            : x + pixel * x_channels + c;
            const size_t stride = second ? x2_channels : x_channels;
            for (uint i = 0; i < count; i++) {
                const float normal = (load_real(p, i * stride) - means[c]) * scales[c] + beta[c];
                store_real(y, (pixel + i) * channels + c, activate(normal, activation));
            }
        }
    }
}
