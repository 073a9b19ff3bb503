// y = x / |x| for each row, |x| at least `epsilon`.
//
// x, y (rows, features) f32; y =. One warp per row: lane l takes features l, l + 32, ...
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    normalize_rows_forward(const float* __restrict__ x, float* __restrict__ y, u32 rows, u32 features, float epsilon) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    if (n >= rows) return;
    u64 row = static_cast<u64>(n) * features;
    float square = 0.0f;
    for (u32 i = lane; i < features; i += 32) square += x[row + i] * x[row + i];
    float length = sqrtf(warp_sum(square));
    float divisor = length < epsilon ? epsilon : length;
    for (u32 i = lane; i < features; i += 32) y[row + i] = x[row + i] / divisor;
}
