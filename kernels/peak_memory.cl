// peak_memory.cl: y = x, or y[i] = value, or y[item] = the sum of what the work-item reads of x.
//
//   x            [elements]  float; absent where ACTION is to write
//   y            [elements]  float; [work-items] where ACTION is to read
//   launch       work-items of `ROUNDS` vectors; a group's items side by side
//
// Measures memory: each element once, in order, as the other kernels read and write it.

#ifndef ACTION
#define ACTION 2        // 0: read, 1: write, 2: copy
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

#define READ 0
#define WRITE 1

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void peak_memory(__global const float *x,
                 __global float *y,
                 const uint elements,
                 const float value)
{
    const size_t group = get_group_id(0);
    const size_t item = get_local_id(0);
    WORD(float, VECTOR) sums = (WORD(float, VECTOR))(0.0f);
    float sum = 0.0f;
    for (uint round = 0; round < ROUNDS; round++) {
        const size_t start = ((group * ROUNDS + round) * WG_SIZE + item) * VECTOR;
        if (start + VECTOR <= elements) {
            if (ACTION == READ)
                sums += WORD(vload, VECTOR)(0, x + start);
            else if (ACTION == WRITE)
                WORD(vstore, VECTOR)((WORD(float, VECTOR))(value), 0, y + start);
            else
                WORD(vstore, VECTOR)(WORD(vload, VECTOR)(0, x + start), 0, y + start);
        } else {
            for (size_t i = start; i < elements; i++) {
                if (ACTION == READ)
                    sum += x[i];
                else
                    y[i] = ACTION == WRITE ? value : x[i];
            }
        }
    }
    if (ACTION == READ) {
        float parts[VECTOR];
        WORD(vstore, VECTOR)(sums, 0, parts);
        for (uint c = 0; c < VECTOR; c++)
            sum += parts[c];
        y[get_global_id(0)] = sum;
    }
}
