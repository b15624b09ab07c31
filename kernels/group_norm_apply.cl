// group_norm_apply.cl: y = activation((x - mean) * scale + beta), per channel.
//
//   x            [samples, pixels, x_channels]             REAL
//   x2           [samples, pixels, channels - x_channels]  REAL; absent where x has all channels
//   factors      [all samples, 2, channels]                float: means, then scales
//   beta         [channels]                                float
//   y            [samples, pixels, channels]               REAL
//   launch       dimension 1: samples; dimension 0: work-items, each ROUNDS vectors of channels of
//                a chunk, channels first
//
// x, x2 and y are a band, whose samples begin at first_sample of factors. The mean is subtracted
// first: folded into beta it would cancel badly where |mean| is large next to the deviation.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // channels of a vector: 4, 8 or 16
#endif
#ifndef ROUNDS
#define ROUNDS 1        // vectors of a work-item, which lie together
#endif

#define floatV WORD(float, VECTOR)
#define vloadV WORD(vload, VECTOR)
#define load_realV WORD(load_real, VECTOR)
#define store_realV WORD(store_real, VECTOR)

// `width` channels of `count` pixels, at most ROUNDS * VECTOR: pixel by pixel, as they lie in memory.
INLINE void apply(__global const REAL *x,
                  const size_t x_stride,
                  __global const float *means,
                  __global const float *scales,
                  __global const float *beta,
                  __global REAL *y,
                  const size_t y_stride,
                  const uint count,
                  const uint width,
                  const uint activation)
{
    const uint whole = width / VECTOR;
    floatV mean[ROUNDS], scale[ROUNDS], shift[ROUNDS];
    for (uint round = 0; round < ROUNDS && round < whole; round++) {
        mean[round] = vloadV(round, means);
        scale[round] = vloadV(round, scales);
        shift[round] = vloadV(round, beta);
    }
    for (uint i = 0; i < count; i++)
        for (uint round = 0; round < ROUNDS && round < whole; round++) {
            const floatV distance = load_realV(x, i * x_stride + round * VECTOR) - mean[round];
            const floatV normal = distance * scale[round] + shift[round];
            store_realV(y, i * y_stride + round * VECTOR, activate_vector(normal, activation));
        }
    for (uint c = whole * VECTOR; c < width; c++)
        for (uint i = 0; i < count; i++) {
            const float normal = (load_real(x, i * x_stride + c) - means[c]) * scales[c] + beta[c];
            store_real(y, i * y_stride + c, activate(normal, activation));
        }
}

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
    const uint parts = (channels + ROUNDS * VECTOR - 1) / (ROUNDS * VECTOR);
    const uint item = get_global_id(0);
    const uint sample = get_group_id(1);
    const uint first = item % parts * (ROUNDS * VECTOR);
    const uint end = min(first + ROUNDS * VECTOR, channels);
    const uint start = item / parts * chunk;
    if (start >= pixels)
        return;
    const uint count = min(chunk, pixels - start);
    const size_t pixel = (size_t)sample * pixels + start;
    __global const float *means = factors + (size_t)(first_sample + sample) * 2 * channels;
    __global const float *scales = means + channels;
    y += pixel * channels;
    if (first < x_channels)
        apply(x + pixel * x_channels + first, x_channels, means + first, scales + first,
              beta + first, y + first, channels, count, min(end, x_channels) - first, activation);
    if (end > x_channels) {
        const uint begin = max(first, x_channels);
        const uint x2_channels = channels - x_channels;
        apply(x2 + pixel * x2_channels + begin - x_channels, x2_channels, means + begin,
              scales + begin, beta + begin, y + begin, channels, count, end - begin, activation);
    }
}
