// portable.h: the words that every kernel is written in, for any OpenCL C 1.2 compiler.
//
// A word that a vendor's compiler does better is defined again in that vendor's prelude; its
// meaning is the one given here. Every function is always_inline: a helper with barriers that is
// not, and is called twice on one local array, gives wrong sums under PoCL 3.1.

#define INLINE static inline __attribute__((always_inline))

// REAL is how activations and weights are stored. Arithmetic is float. Half precision is read and
// written by vload_half and vstore_half_rte, which are core OpenCL: no extension is needed. PoCL 3.1
// takes the address of eight and more of them for a multiple of 16 bytes, which elements need not
// have, and now and then faults; so those go through a vector of their bits.
#ifdef DTYPE_F16
#define REAL half
#define PACKED4 ushort4
INLINE float load_real(__global const REAL *p, const size_t i) { return vload_half(i, p); }
INLINE float4 load_real4(__global const REAL *p, const size_t i) { return vload_half4(0, p + i); }
INLINE float8 load_real8(__global const REAL *p, const size_t i)
{
    const ushort8 bits = vload8(0, (__global const ushort *)(p + i));
    return vload_half8(0, (const __private half *)&bits);
}
INLINE float16 load_real16(__global const REAL *p, const size_t i)
{
    const ushort16 bits = vload16(0, (__global const ushort *)(p + i));
    return vload_half16(0, (const __private half *)&bits);
}
INLINE void store_real(__global REAL *p, const size_t i, const float v) { vstore_half_rte(v, i, p); }
INLINE void store_real4(__global REAL *p, const size_t i, const float4 v) { vstore_half4_rte(v, 0, p + i); }
INLINE void store_real8(__global REAL *p, const size_t i, const float8 v)
{
    ushort8 bits;
    vstore_half8_rte(v, 0, (__private half *)&bits);
    vstore8(bits, 0, (__global ushort *)(p + i));
}
INLINE void store_real16(__global REAL *p, const size_t i, const float16 v)
{
    ushort16 bits;
    vstore_half16_rte(v, 0, (__private half *)&bits);
    vstore16(bits, 0, (__global ushort *)(p + i));
}
#else
#define REAL float
#define PACKED4 float4
INLINE float load_real(__global const REAL *p, const size_t i) { return p[i]; }
INLINE float4 load_real4(__global const REAL *p, const size_t i) { return vload4(0, p + i); }
INLINE float8 load_real8(__global const REAL *p, const size_t i) { return vload8(0, p + i); }
INLINE float16 load_real16(__global const REAL *p, const size_t i) { return vload16(0, p + i); }
INLINE void store_real(__global REAL *p, const size_t i, const float v) { p[i] = v; }
INLINE void store_real4(__global REAL *p, const size_t i, const float4 v) { vstore4(v, 0, p + i); }
INLINE void store_real8(__global REAL *p, const size_t i, const float8 v) { vstore8(v, 0, p + i); }
INLINE void store_real16(__global REAL *p, const size_t i, const float16 v) { vstore16(v, 0, p + i); }
#endif

// Four elements as they lie in memory: what is loaded long before it is used takes no more registers
// than it must.
#ifdef DTYPE_F16
INLINE PACKED4 load_packed4(__global const REAL *p) { return vload4(0, (__global const ushort *)p); }
INLINE float4 unpack4(const PACKED4 v) { return vload_half4(0, (const half *)&v); }
#else
INLINE PACKED4 load_packed4(__global const REAL *p) { return vload4(0, p); }
INLINE float4 unpack4(const PACKED4 v) { return v; }
#endif

// WORD(float, VECTOR) is float4 where VECTOR is 4: types and words for vectors of a parameter's
// width, which is 4, 8 or 16.
#define WORD_(name, width) name##width
#define WORD(name, width) WORD_(name, width)

// Has a cache fetch the line at `p`, where the backend knows that the compiler's builtin for that
// works: OpenCL's prefetch() is allowed to do nothing, and does.
INLINE void fetch_line(__global const char *p)
{
#ifdef HAS_BUILTIN_PREFETCH
    __builtin_prefetch((const void *)(size_t)p, 0, 2);
#endif
}

// The sum of `value` over the work-group, the same in every work-item, in a fixed order.
// `scratch` holds one float for each work-item; `size` is a power of two.
INLINE float group_sum(const float value, __local float *scratch, const uint size)
{
    const uint item = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    scratch[item] = value;
    for (uint stride = size / 2; stride > 0; stride /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < stride)
            scratch[item] += scratch[item + stride];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return scratch[0];
}

// Activations, by the numbers that ops/activation.rs gives them.
#define ACTIVATION_NONE 0
#define ACTIVATION_SILU 1
#define ACTIVATION_GELU 2
#define ACTIVATION_GELU_TANH 3
#define ACTIVATION_QUICK_GELU 4

INLINE float silu(const float x) { return x / (1.0f + exp(-x)); }

INLINE float gelu(const float x) { return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f)); }

INLINE float gelu_tanh(const float x)
{
    return 0.5f * x * (1.0f + tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

INLINE float quick_gelu(const float x) { return x / (1.0f + exp(-1.702f * x)); }

INLINE float activate(const float x, const uint activation)
{
    switch (activation) {
    case ACTIVATION_SILU: return silu(x);
    case ACTIVATION_GELU: return gelu(x);
    case ACTIVATION_GELU_TANH: return gelu_tanh(x);
    case ACTIVATION_QUICK_GELU: return quick_gelu(x);
    default: return x;
    }
}

// The same of four values, by one switch.
INLINE float4 activate4(const float4 x, const uint activation)
{
    switch (activation) {
    case ACTIVATION_SILU: return x / (1.0f + exp(-x));
    case ACTIVATION_GELU: return (float4)(gelu(x.s0), gelu(x.s1), gelu(x.s2), gelu(x.s3));
    case ACTIVATION_GELU_TANH:
        return (float4)(gelu_tanh(x.s0), gelu_tanh(x.s1), gelu_tanh(x.s2), gelu_tanh(x.s3));
    case ACTIVATION_QUICK_GELU: return x / (1.0f + exp(-1.702f * x));
    default: return x;
    }
}
