// gaussian_sample.cl: y = (mean + exp(clamp(log variance, -30, 20) / 2) * noise) * scale.
//
//   moments      [pixels, 2, channels]  REAL: means, then logarithms of variances
//   noise, y     [pixels, channels]     float
//   launch       one work-item per element of y

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void gaussian_sample(__global const REAL *moments,
                     __global const float *noise,
                     __global float *y,
                     const uint pixels,
                     const uint channels,
                     const float scale)
{
    const size_t index = get_global_id(0);
    if (index >= (size_t)pixels * channels)
        return;
    const size_t pixel = index / channels;
    const size_t at = index + pixel * channels;
    const float mean = load_real(moments, at);
    const float log_variance = clamp(load_real(moments, at + channels), -30.0f, 20.0f);
    y[index] = fma(exp(0.5f * log_variance), noise[index], mean) * scale;
}
