// cast.cl: y = x, stored as another type.
//
//   x            [elements]  REAL
//   y            [elements]  half if TARGET_F16, else float
//   launch       work-items of `ROUNDS` vectors; a group's items side by side

#ifndef TARGET_F16
#define TARGET_F16 0
#endif
#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // elements of a vector: 4, 8 or 16
#endif
#ifndef ROUNDS
#define ROUNDS 4        // vectors of a work-item
#endif

#if TARGET_F16
#define TARGET half
INLINE void store_one(__global TARGET *p, const size_t i, const float v) { vstore_half_rte(v, i, p); }
INLINE void store_vector(__global TARGET *p, const size_t i, const WORD(float, VECTOR) v)
{
    WORD(WORD(vstore_half, VECTOR), _rte)(v, 0, p + i);
}
#else
#define TARGET float
INLINE void store_one(__global TARGET *p, const size_t i, const float v) { p[i] = v; }
INLINE void store_vector(__global TARGET *p, const size_t i, const WORD(float, VECTOR) v)
{
    WORD(vstore, VECTOR)(v, 0, p + i);
}
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void cast(__global const REAL *x,
          __global TARGET *y,
          const uint elements)
{
    const size_t group = get_group_id(0);
    const size_t item = get_local_id(0);
    for (uint round = 0; round < ROUNDS; round++) {
        const size_t start = ((group * ROUNDS + round) * WG_SIZE + item) * VECTOR;
        if (start + VECTOR <= elements) {
            store_vector(y, start, WORD(load_real, VECTOR)(x, start));
        } else {
            for (size_t i = start; i < elements; i++)
                store_one(y, i, load_real(x, i));
        }
    }
}
