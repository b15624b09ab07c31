// group_norm_merge.cl: each channel's mean and scale = gamma / sqrt(variance + eps), from the mean
// and variance of its group.
//
//   partials     [samples, chunks, 2, channels]  float: means, then sums of squared distances
//   gamma        [channels]                      float
//   factors      [samples, 2, channels]          float: means, then scales
//   launch       one work-group per (group, sample)
//
// Chunks are `chunk` pixels, fewer at the end of a band of `band_pixels` and at the end of all
// `pixels`. The group's mean first, then its squares about that mean (Chan's merge of all parts at
// once), each in a fixed order.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items per group of channels; a power of two
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void group_norm_merge(__global const float *partials,
                      __global const float *gamma,
                      __global float *factors,
                      const uint samples,
                      const uint groups,
                      const uint channels,
                      const uint chunks,
                      const uint chunk,
                      const uint pixels,
                      const uint band_pixels,
                      const float eps)
{
    __local float scratch[WG_SIZE];
    const uint item = get_local_id(0);
    const uint group = get_group_id(0);
    const uint sample = get_group_id(1);
    const uint width = channels / groups;
    const uint band_chunks = (band_pixels + chunk - 1) / chunk;
    const uint parts = chunks * width;
    const float total = (float)pixels * width;
    __global const float *means = partials + (size_t)sample * chunks * 2 * channels + group * width;

    float sum = 0.0f;
    for (uint part = item; part < parts; part += WG_SIZE) {
        const uint index = part / width;
        const uint start = index / band_chunks * band_pixels + index % band_chunks * chunk;
        const uint end = min(pixels, (index / band_chunks + 1) * band_pixels);
        const float count = min(chunk, end - start);
        sum += count * means[(size_t)index * 2 * channels + part % width];
    }
    const float mean = group_sum(sum, scratch, WG_SIZE) / total;

    float squares = 0.0f;
    for (uint part = item; part < parts; part += WG_SIZE) {
        const uint index = part / width;
        const uint start = index / band_chunks * band_pixels + index % band_chunks * chunk;
        const uint end = min(pixels, (index / band_chunks + 1) * band_pixels);
        const float count = min(chunk, end - start);
        const size_t at = (size_t)index * 2 * channels + part % width;
        const float distance = means[at] - mean;
        squares += means[at + channels] + count * distance * distance;
    }
    const float normal = rsqrt(group_sum(squares, scratch, WG_SIZE) / total + eps);

    for (uint c = group * width + item; c < (group + 1) * width; c += WG_SIZE) {
        const size_t target = (size_t)sample * 2 * channels + c;
        factors[target] = mean;
        factors[target + channels] = gamma[c] * normal;
    }
}
