// group_norm_statistics.cl: mean and sum of squared distances of each channel of a chunk of pixels.
//
//   x            [samples, pixels, x_channels]             REAL
//   x2           [samples, pixels, channels - x_channels]  REAL; absent where x has all channels
//   partials     [all samples, chunks, 2, channels]        float: means, then sums of squares
//   launch       dimension 1: samples; dimension 0: work-items, each a vector of channels of a
//                chunk, channels first
//
// x and x2 are a band: its samples begin at first_sample of partials, its chunks at first_chunk.
// Statistics are per channel, so that a group may straddle the border of x and x2 and no
// work-item waits for another. Mean first, squares second: E[x^2] - E[x]^2 cancels badly when
// |mean| is large next to the deviation; the second reading comes from a cache.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // channels of a work-item: 4, 8 or 16
#endif

// Of one channel, at every `stride`-th element from p on.
INLINE float channel_mean(__global const REAL *p, const uint count, const size_t stride)
{
    float sum = 0.0f;
    for (uint pixel = 0; pixel < count; pixel++)
        sum += load_real(p, pixel * stride);
    return sum / count;
}

INLINE float channel_squares(__global const REAL *p, const uint count, const size_t stride,
                             const float mean)
{
    float squares = 0.0f;
    for (uint pixel = 0; pixel < count; pixel++) {
        const float distance = load_real(p, pixel * stride) - mean;
        squares += distance * distance;
    }
    return squares;
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void group_norm_statistics(__global const REAL *x,
                           __global const REAL *x2,
                           __global float *partials,
                           const uint pixels,
                           const uint channels,
                           const uint x_channels,
                           const uint chunk,
                           const uint chunks,
                           const uint first_chunk,
                           const uint first_sample,
                           const uint samples)
{
    const uint vectors = (channels + VECTOR - 1) / VECTOR;
    const uint item = get_global_id(0);
    const uint sample = get_group_id(1);
    const uint channel = item % vectors * VECTOR;
    const uint index = item / vectors;
    const uint start = index * chunk;
    if (start >= pixels)
        return;
    const uint count = min(chunk, pixels - start);
    const size_t pixel = (size_t)sample * pixels + start;
    const uint x2_channels = channels - x_channels;
    const size_t target =
        ((size_t)(first_sample + sample) * chunks + first_chunk + index) * 2 * channels + channel;

    if (channel + VECTOR <= x_channels || (channel >= x_channels && channel + VECTOR <= channels)) {
        const bool second = channel >= x_channels;
        __global const REAL *p = second ? x2 + pixel * x2_channels + channel - x_channels
                                        : x + pixel * x_channels + channel;
        const size_t stride = second ? x2_channels : x_channels;
        WORD(float, VECTOR) sum = 0.0f;
        for (uint i = 0; i < count; i++)
            sum += WORD(load_real, VECTOR)(p, i * stride);
        const WORD(float, VECTOR) mean = sum / (float)count;
        WORD(float, VECTOR) squares = 0.0f;
        for (uint i = 0; i < count; i++) {
            const WORD(float, VECTOR) distance = WORD(load_real, VECTOR)(p, i * stride) - mean;
            squares += distance * distance;
        }
        WORD(vstore, VECTOR)(mean, 0, partials + target);
        WORD(vstore, VECTOR)(squares, 0, partials + target + channels);
    } else {
        // The last channels of x, beside the first of x2 or beside nothing.
        for (uint c = channel; c < min(channel + VECTOR, channels); c++) {
            const bool second = c >= x_channels;
            __global const REAL *p = second ? x2 + pixel * x2_channels + c - x_channels
                                            : x + pixel * x_channels + c;
            const size_t stride = second ? x2_channels : x_channels;
            const float mean = channel_mean(p, count, stride);
            partials[target + c - channel] = mean;
            partials[target + c - channel + channels] = channel_squares(p, count, stride, mean);
        }
    }
}
