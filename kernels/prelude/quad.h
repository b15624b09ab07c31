// quad.h: four elements at the end of a row, where fewer may be there.

// Four elements of which `count` are there; zeros for the others.
INLINE float4 load_quad(__global const REAL *p, const size_t i, const uint count)
{
    if (count == 4)
        return load_real4(p, i);
    float4 value = 0.0f;
    if (count > 0)
        value.s0 = load_real(p, i);
    if (count > 1)
        value.s1 = load_real(p, i + 1);
    if (count > 2)
        value.s2 = load_real(p, i + 2);
    return value;
}

// As many of four elements as are there.
INLINE void store_quad(__global REAL *p, const size_t i, const uint count, const float4 value)
{
    if (count == 4) {
        store_real4(p, i, value);
        return;
    }
    if (count > 0)
        store_real(p, i, value.s0);
    if (count > 1)
        store_real(p, i + 1, value.s1);
    if (count > 2)
        store_real(p, i + 2, value.s2);
}
