// y[n][c] = scales[c] * x[n][c].
//
// x, y (rows, columns), scales (columns), all f32; y =. One thread per element.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    scale_columns_forward(const float* __restrict__ x, const float* __restrict__ scales, float* __restrict__ y,
                          u32 rows, u32 columns) {
    u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at < static_cast<u64>(rows) * columns) y[at] = scales[at % columns] * x[at];
}
