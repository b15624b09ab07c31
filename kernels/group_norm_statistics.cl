// group_norm_statistics.cl: mean and sum of squared distances of each channel of a chunk of pixels.
//
//   x            [samples, pixels, x_channels]             REAL
//   x2           [samples, pixels, channels - x_channels]  REAL; absent where x has all channels
//   partials     [all samples, chunks, 2, channels]        float: means, then sums of squares
//   launch       dimension 1: samples; dimension 0: work-items, each ROUNDS vectors of channels of
//                a chunk, channels first
//
// x and x2 are a band: its samples begin at first_sample of partials, its chunks at first_chunk.
// Statistics are per channel, so that a group may straddle the border of x and x2 and no
// work-item waits for another. Mean first, squares second: E[x^2] - E[x]^2 cancels badly when
// |mean| is large next to the deviation; the second reading comes from a cache.

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
#define vstoreV WORD(vstore, VECTOR)
#define load_realV WORD(load_real, VECTOR)

// Of `width` channels of `count` pixels, at most ROUNDS * VECTOR: pixel by pixel, as they lie in
// memory.
INLINE void statistics(__global const REAL *x, const size_t stride, __global float *means,
                       __global float *squares, const uint count, const uint width)
{
    const uint whole = width / VECTOR;
    floatV mean[ROUNDS], square[ROUNDS];
    for (uint round = 0; round < ROUNDS && round < whole; round++)
        mean[round] = square[round] = 0.0f;
    for (uint i = 0; i < count; i++)
        for (uint round = 0; round < ROUNDS && round < whole; round++)
            mean[round] += load_realV(x, i * stride + round * VECTOR);
    for (uint round = 0; round < ROUNDS && round < whole; round++)
        mean[round] /= (float)count;
    for (uint i = 0; i < count; i++)
        for (uint round = 0; round < ROUNDS && round < whole; round++) {
            const floatV distance = load_realV(x, i * stride + round * VECTOR) - mean[round];
            square[round] += distance * distance;
        }
    for (uint round = 0; round < ROUNDS && round < whole; round++) {
        vstoreV(mean[round], round, means);
        vstoreV(square[round], round, squares);
    }
    for (uint c = whole * VECTOR; c < width; c++) {
        float sum = 0.0f, sum_of_squares = 0.0f;
        for (uint i = 0; i < count; i++)
            sum += load_real(x, i * stride + c);
        const float center = sum / count;
        for (uint i = 0; i < count; i++) {
            const float distance = load_real(x, i * stride + c) - center;
            sum_of_squares += distance * distance;
        }
        means[c] = center;
        squares[c] = sum_of_squares;
    }
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
    const uint parts = (channels + ROUNDS * VECTOR - 1) / (ROUNDS * VECTOR);
    const uint item = get_global_id(0);
    const uint sample = get_group_id(1);
    const uint first = item % parts * (ROUNDS * VECTOR);
    const uint end = min(first + ROUNDS * VECTOR, channels);
    const uint index = item / parts;
    const uint start = index * chunk;
    if (start >= pixels)
        return;
    const uint count = min(chunk, pixels - start);
    const size_t pixel = (size_t)sample * pixels + start;
    __global float *means =
        partials + ((size_t)(first_sample + sample) * chunks + first_chunk + index) * 2 * channels;
    __global float *squares = means + channels;
    if (first < x_channels)
        statistics(x + pixel * x_channels + first, x_channels, means + first, squares + first,
                   count, min(end, x_channels) - first);
    if (end > x_channels) {
        const uint begin = max(first, x_channels);
        const uint x2_channels = channels - x_channels;
        statistics(x2 + pixel * x2_channels + begin - x_channels, x2_channels, means + begin,
                   squares + begin, count, end - begin);
    }
}
