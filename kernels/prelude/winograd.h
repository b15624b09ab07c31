// winograd.h: the transforms of Winograd's convolution, of VECTOR channels or weights at a time.
// What winograd_weights, winograd_input and winograd_output share.
//
// TILE outputs a side are computed from a window of WINDOW = TILE + 2 inputs a side, by as many
// products as the window has places instead of nine for each output: 36 for 144, or 16 for 36.
// With Y the outputs, X the window, W the weights of one pair of channels:
//
//   Y = A^T [(G W G^T) * (B^T X B)] A,  * being place by place
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, 2015,
// have these matrices; the points are 0, 1, -1, infinity, and 2, -2 where TILE is 4.

#ifndef TILE
#define TILE 4          // outputs of a tile, each way: 2 or 4
#endif
#ifndef VECTOR
#define VECTOR 16       // elements of a work-item at a time: 1, 4, 8 or 16
#endif
#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a work-group
#endif

#if TILE != 2 && TILE != 4
#error "winograd.h: tiles are 2 or 4"
#endif

#define WINDOW (TILE + 2)
#define MOST 6          // the larger window, which arrays are declared for
#define PANEL 32

// float as load_real and store_real have REAL, and vectors of one, which OpenCL C does not have.
#define float1 float
INLINE float load_real1(__global const REAL *p, const size_t i) { return load_real(p, i); }
INLINE void store_real1(__global REAL *p, const size_t i, const float v) { store_real(p, i, v); }
INLINE float load_float1(__global const float *p, const size_t i) { return p[i]; }
INLINE float4 load_float4(__global const float *p, const size_t i) { return vload4(0, p + i); }
INLINE float8 load_float8(__global const float *p, const size_t i) { return vload8(0, p + i); }
INLINE float16 load_float16(__global const float *p, const size_t i) { return vload16(0, p + i); }
INLINE void store_float1(__global float *p, const size_t i, const float v) { p[i] = v; }
INLINE void store_float4(__global float *p, const size_t i, const float4 v) { vstore4(v, 0, p + i); }
INLINE void store_float8(__global float *p, const size_t i, const float8 v) { vstore8(v, 0, p + i); }
INLINE void store_float16(__global float *p, const size_t i, const float16 v) { vstore16(v, 0, p + i); }

#define floatV WORD(float, VECTOR)
#define load_floatV WORD(load_float, VECTOR)
#define store_floatV WORD(store_float, VECTOR)
#define load_realV WORD(load_real, VECTOR)
#define store_realV WORD(store_real, VECTOR)

// y = B^T x
INLINE void transform_window(const floatV *x, floatV *y)
{
    if (TILE == 2) {
        y[0] = x[0] - x[2];
        y[1] = x[1] + x[2];
        y[2] = x[2] - x[1];
        y[3] = x[1] - x[3];
    } else {
        const floatV even1 = x[4] - 4.0f * x[2];
        const floatV odd1 = x[3] - 4.0f * x[1];
        const floatV even2 = x[4] - x[2];
        const floatV odd2 = 2.0f * (x[3] - x[1]);
        y[0] = 4.0f * x[0] - 5.0f * x[2] + x[4];
        y[1] = even1 + odd1;
        y[2] = even1 - odd1;
        y[3] = even2 + odd2;
        y[4] = even2 - odd2;
        y[5] = 4.0f * x[1] - 5.0f * x[3] + x[5];
    }
}

// y = G w
INLINE void transform_weights(const floatV *w, floatV *y)
{
    const floatV ends = w[0] + w[2];
    if (TILE == 2) {
        y[0] = w[0];
        y[1] = 0.5f * (ends + w[1]);
        y[2] = 0.5f * (ends - w[1]);
        y[3] = w[2];
    } else {
        const floatV far = w[0] * (1.0f / 24) + w[2] * (1.0f / 6);
        y[0] = 0.25f * w[0];
        y[1] = (ends + w[1]) * (-1.0f / 6);
        y[2] = (ends - w[1]) * (-1.0f / 6);
        y[3] = far + w[1] * (1.0f / 12);
        y[4] = far - w[1] * (1.0f / 12);
        y[5] = w[2];
    }
}

// y = A^T m
INLINE void transform_products(const floatV *m, floatV *y)
{
    const floatV even1 = m[1] + m[2];
    const floatV odd1 = m[1] - m[2];
    if (TILE == 2) {
        y[0] = m[0] + even1;
        y[1] = odd1 - m[3];
    } else {
        const floatV even2 = m[3] + m[4];
        const floatV odd2 = m[3] - m[4];
        y[0] = m[0] + even1 + even2;
        y[1] = odd1 + 2.0f * odd2;
        y[2] = even1 + 4.0f * even2;
        y[3] = odd1 + 8.0f * odd2 + m[5];
    }
}
