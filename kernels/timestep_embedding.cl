// timestep_embedding.cl: y = sines and cosines of timestep * frequency.
//
//   timesteps    [samples]         float
//   frequencies  [width / 2]       float
//   y            [samples, width]  REAL: sines, then cosines, the other way round if
//                                  flip_sin_to_cos; 0 in the last column of an odd width
//   launch       dimension 1: samples; dimension 0: a work-item per column
//
// Angles reach 1000, where a relaxed sin() may be off by more than a thousandth: they are reduced to
// an eighth of a turn here, and the sine is a polynomial of our own.

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif

// sin(angle), or cos(angle) if `quarters` is 1, to 2e-7 for |angle| up to 10,000.
INLINE float sine(const float angle, const int quarters)
{
    const float turns = rint(angle * 0.636619772f);
    // pi / 2 in three parts; the first two have few enough bits that their products are exact.
    float r = fma(-turns, 1.5703125f, angle);
    r = fma(-turns, 4.8351288e-4f, r);
    r = fma(-turns, 3.1385020e-7f, r);
    const int quadrant = ((int)turns + quarters) & 3;
    const float r2 = r * r;
    const float sin_r =
        fma(r * r2, fma(r2, fma(r2, -1.9515296e-4f, 8.3321609e-3f), -1.6666655e-1f), r);
    const float cos_tail = fma(r2, fma(r2, 2.4433157e-5f, -1.3887316e-3f), 4.1666646e-2f);
    const float cos_r = fma(r2 * r2, cos_tail, fma(-0.5f, r2, 1.0f));
    const float value = (quadrant & 1) ? cos_r : sin_r;
    return (quadrant & 2) ? -value : value;
}

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void timestep_embedding(__global const float *timesteps,
                        __global const float *frequencies,
                        __global REAL *y,
                        const uint samples,
                        const uint width,
                        const uint flip_sin_to_cos)
{
    const uint column = get_global_id(0);
    const uint sample = get_group_id(1);
    const uint half_width = width / 2;
    if (column >= width)
        return;
    float value = 0.0f;
    if (column < 2 * half_width) {
        const float angle = timesteps[sample] * frequencies[column % half_width];
        const int cosine = (column < half_width) == (flip_sin_to_cos != 0);
        value = sine(angle, cosine);
    }
    store_real(y, (size_t)sample * width + column, value);
}
