// winograd_weights.cl: transformed = G W G^T, W being the nine weights of each pair of channels.
//
//   weights      panels of 32 outputs, [ceil(outputs / 32)][9 * channels][32]  REAL, or
//                in blocks, as conv2d_register and conv2d_local read them
//   transformed  [WINDOW * WINDOW][panels][channels][32]  float: panels for a batch of products
//   first_panel, panels  which of the panels of weights
//   launch       groups of dimension 0 share the channels of a panel, VECTOR * ROUNDS weights a
//                work-item; one of dimension 1 for each panel
//
// A tap of a panel is a run of channels * 32 weights, and so is a place of the window: the
// transform goes from nine runs to as many as the window has places, side by side.

#ifndef ROUNDS
#define ROUNDS 4        // vectors of a work-item
#endif

__kernel __attribute__((reqd_work_group_size(WG_SIZE, 1, 1)))
void winograd_weights(__global const WEIGHT *weights,
                      __global float *transformed,
                      const uint channels,
                      const uint first_panel,
                      const uint panels)
{
    const uint run = channels * PANEL;
    const uint panel = get_group_id(1);
    const size_t source = (size_t)(first_panel + panel) * 9 * run;
    __global float *target = transformed + (size_t)panel * run;
    const size_t stride = (size_t)panels * run;
    const uint first = get_group_id(0) * WG_SIZE * VECTOR * ROUNDS + get_local_id(0) * VECTOR;
    for (uint round = 0; round < ROUNDS; round++) {
        const uint at = first + round * WG_SIZE * VECTOR;
        if (at >= run)
            break;
        // By columns, then by rows.
        floatV half_done[3][MOST];
#pragma unroll
        for (uint c = 0; c < 3; c++) {
            floatV column[3];
#pragma unroll
            for (uint r = 0; r < 3; r++)
                column[r] = WORD(load_weight, VECTOR)(weights, source + (r * 3 + c) * run + at);
            transform_weights(column, half_done[c]);
        }
#pragma unroll
        for (uint r = 0; r < WINDOW; r++) {
            floatV row[3], done[MOST];
#pragma unroll
            for (uint c = 0; c < 3; c++)
                row[c] = half_done[c][r];
            transform_weights(row, done);
#pragma unroll
            for (uint c = 0; c < WINDOW; c++)
                store_floatV(target, (r * WINDOW + c) * stride + at, done[c]);
        }
    }
}
