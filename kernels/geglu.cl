// geglu.cl: y[c] = x[c] * gelu(x[channels + c]), per row.
//
//   x            [rows, 2 * channels]  REAL
//   y            [rows, channels]      REAL
//   launch       dimension 1: rows; dimension 0: work-items of `ROUNDS` vectors of a row

#ifndef WG_SIZE
#define WG_SIZE 64      // work-items in a group
#endif
#ifndef VECTOR
#define VECTOR 4        // channels of a vector: 4, 8 or 16
#endif
#ifndef ROUNDS
#define ROUNDS 4        // vectors of a work-item
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void geglu(__global const REAL *x,
           __global REAL *y,
           const uint rows,
           const uint channels)
{
    const uint item = get_local_id(0);
    const size_t row = get_group_id(1);
    const size_t values = row * 2 * channels;
    const size_t gates = values + channels;
    const size_t results = row * channels;
    for (uint round = 0; round < ROUNDS; round++) {
        const uint start = (((uint)get_group_id(0) * ROUNDS + round) * WG_SIZE + item) * VECTOR;
        if (start + VECTOR <= channels) {
            const WORD(float, VECTOR) value = WORD(load_real, VECTOR)(x, values + start);
            const WORD(float, VECTOR) gate = WORD(load_real, VECTOR)(x, gates + start);
            WORD(store_real, VECTOR)(y, results + start, value * gelu_vector(gate));
        } else {
            for (uint c = start; c < channels; c++)
                store_real(y, results + c, load_real(x, values + c) * gelu(load_real(x, gates + c)));
        }
    }
}
