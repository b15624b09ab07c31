// activation.h: activations of vectors, in multiply-adds that every compiler keeps in vectors: the
// exponentials and error functions of some drivers go lane by lane, and take longer than a kernel's
// memory.

#ifndef VECTOR
#define VECTOR 4        // lanes of a vector: 4, 8 or 16
#endif

#define floatV WORD(float, VECTOR)
#define intV WORD(int, VECTOR)
#define as_floatV WORD(as_float, VECTOR)
#define as_intV WORD(as_int, VECTOR)

// e^x within a few ulp; the value at the nearest of -87 and 88 for x beyond these.
INLINE floatV exp_vector(const floatV v)
{
    const floatV x = clamp(v, -87.0f, 88.0f);
    // x in turns of ln 2, rounded: a conversion cuts towards zero.
    const floatV turns = x * 1.44269504f;
    const floatV half_turn = as_floatV((as_intV(x) & (intV)0x80000000) | (intV)0x3f000000);
    const intV whole = WORD(convert_int, VECTOR)(turns + half_turn);
    const floatV n = WORD(convert_float, VECTOR)(whole);
    // ln 2 in two parts, the first short enough that its product is exact.
    const floatV r = fma(n, (floatV)2.1219444e-4f, fma(n, (floatV)-0.6933594f, x));
    // (e^r - 1 - r) / r^2 on |r| < ln(2) / 2, a minimax fit.
    floatV tail = 1.9789261e-4f;
    tail = fma(tail, r, (floatV)1.3945752e-3f);
    tail = fma(tail, r, (floatV)8.333504e-3f);
    tail = fma(tail, r, (floatV)4.166628e-2f);
    tail = fma(tail, r, (floatV)1.6666666e-1f);
    tail = fma(tail, r, (floatV)0.5f);
    return (fma(tail, r * r, r) + 1.0f) * as_floatV((whole + 127) << 23);
}

// erf(x) within a few ulp.
INLINE floatV erf_vector(const floatV x)
{
    // erf(x) / x - 1 on |x| < 0.95.
    const floatV square = x * x;
    floatV near = 8.1851176e-5f;
    near = fma(near, square, (floatV)-8.097711e-4f);
    near = fma(near, square, (floatV)5.196953e-3f);
    near = fma(near, square, (floatV)-2.6857706e-2f);
    near = fma(near, square, (floatV)1.1283664e-1f);
    near = fma(near, square, (floatV)-3.761263e-1f);
    near = fma(near, square, (floatV)1.2837917e-1f);
    near = fma(near, x, x);
    // -ln(1 - erf(x)) / x on 0.95 < x < 4, where erf is 1 but for the rounding.
    const floatV size = fmin(fabs(x), 4.0f);
    floatV exponent = 1.2339338e-5f;
    exponent = fma(exponent, size, (floatV)-3.3395917e-4f);
    exponent = fma(exponent, size, (floatV)3.688104e-3f);
    exponent = fma(exponent, size, (floatV)-2.3859264e-2f);
    exponent = fma(exponent, size, (floatV)1.0635056e-1f);
    exponent = fma(exponent, size, (floatV)6.350821e-1f);
    exponent = fma(exponent, size, (floatV)1.1286657f);
    const floatV far = 1.0f - exp_vector(-exponent * size);
    const floatV signed_far = as_floatV(as_intV(far) | (as_intV(x) & (intV)0x80000000));
    return size < 0.95f ? near : signed_far;
}

// x * sigmoid(z)
INLINE floatV gated_vector(const floatV x, const floatV z) { return x / (1.0f + exp_vector(-z)); }

INLINE floatV gelu_vector(const floatV x)
{
    return 0.5f * x * (1.0f + erf_vector(x * 0.70710678118654752f));
}

INLINE floatV activate_vector(const floatV x, const uint activation)
{
    switch (activation) {
    case ACTIVATION_SILU: return gated_vector(x, x);
    case ACTIVATION_GELU: return gelu_vector(x);
    // The tanh is a sigmoid of twice its argument: 2 * sqrt(2 / pi) * (x + 0.044715 x^3).
    case ACTIVATION_GELU_TANH: return gated_vector(x, 1.5957691f * (x + 0.044715f * x * x * x));
    case ACTIVATION_QUICK_GELU: return gated_vector(x, 1.702f * x);
    default: return x;
    }
}
