// weights.h: weights of panels as floats, however they are stored: as REAL, or in blocks (FORMAT,
// see quant/blocks.h).

#if FORMAT
#define WEIGHT uchar
#define PACKED_WEIGHTS4 float4
#define load_weight4(p, i) weight4(p, i)
#define load_weight16(p, i) weight16(p, i)

INLINE float4 weight4(__global const WEIGHT *p, const size_t i)
{
#ifdef HAS_LEAST
    return scale_of4(p, i) * level_of4(p, i) + least_of4(p, i);
#else
    return scale_of4(p, i) * level_of4(p, i);
#endif
}

INLINE float16 weight16(__global const WEIGHT *p, const size_t i)
{
#ifdef HAS_LEAST
    return scale_of16(p, i) * level_of16(p, i) + least_of16(p, i);
#else
    return scale_of16(p, i) * level_of16(p, i);
#endif
}

// Where a weight is.
#define CURSOR size_t
#define CURSOR_AT(p, i) (i)
INLINE PACKED_WEIGHTS4 load_packed_weights(__global const WEIGHT *p, const CURSOR i)
{
    return weight4(p, i);
}
INLINE float4 unpack_weights(const PACKED_WEIGHTS4 v) { return v; }

// target[0..16][PANEL] = the weights of 16 terms from `start` on, of which a group of a format has
// at least as many.
INLINE void unpack_terms(float *target, __global const WEIGHT *p, const size_t start)
{
#pragma unroll
    for (uint n = 0; n < PANEL; n += 16) {
        const float16 scale = scale_of16(p, start + n);
#ifdef HAS_LEAST
        const float16 least = least_of16(p, start + n);
#else
        const float16 least = 0.0f;
#endif
#pragma unroll
        for (uint k = 0; k < 16; k++)
            vstore16(scale * level_of16(p, start + k * PANEL + n) + least, 0, target + k * PANEL + n);
    }
}

#else
#define WEIGHT REAL
#define PACKED_WEIGHTS4 PACKED4
#define load_weight1 load_real
#define load_weight4 load_real4
#define load_weight8 load_real8
#define load_weight16 load_real16
#define CURSOR __global const REAL *
#define CURSOR_AT(p, i) ((p) + (i))
INLINE PACKED_WEIGHTS4 load_packed_weights(__global const WEIGHT *p, const CURSOR w)
{
    return load_packed4(w);
}
INLINE float4 unpack_weights(const PACKED_WEIGHTS4 v) { return unpack4(v); }
#endif
