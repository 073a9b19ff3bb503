// Every row c of w that is longer than `limit` is scaled to it: w_c *= limit / |w_c|; with `exact` every row but those of zeros.
//
// master (rows, columns) f32, updated; compute (rows, columns) Storage, = w rounded, null where products read the master; limit
// (1) f32. With norms (rows) f32, only those are written (=), to the bit what would be compared with the limit; the others are
// null then. One warp per row: lane l takes columns l, l + 32, ...
#include "rows.cuh"
#include "storage.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    project_rows(float* __restrict__ master, Storage* __restrict__ compute, const float* __restrict__ limit,
                 float* __restrict__ norms, u32 rows, u32 columns, u32 exact) {
    u32 row = warp_row(), lane = threadIdx.x % 32;
    if (row >= rows) return;
    u64 first = static_cast<u64>(row) * columns;
    float square = 0.0f;
    for (u32 i = lane; i < columns; i += 32) square += master[first + i] * master[first + i];
    float norm = sqrtf(warp_sum(square));
    if (norms) {
        if (lane == 0) norms[row] = norm;
        return;
    }
    float scale = norm > *limit || (exact && norm > 0.0f) ? *limit / norm : 1.0f;
    for (u32 i = lane; i < columns; i += 32) {
        float w = master[first + i] * scale;
        master[first + i] = w;
        if (compute) compute[first + i] = from_float<Storage>(w);
    }
}
