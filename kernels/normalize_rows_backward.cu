// The gradient of y = x / |x|, row by row:
//
//   dx (+)= (dy - y (y . dy)) / |x|; where |x| is less than `epsilon`, and thus counts as that, dx (+)= dy / epsilon
//
// x, dy, dx (rows, features) f32; dx = or += as `add` says. One warp per row: lane l takes features l, l + 32, ...
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    normalize_rows_backward(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, u32 rows,
                            u32 features, float epsilon, u32 add) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    if (n >= rows) return;
    u64 row = static_cast<u64>(n) * features;
    float square = 0.0f, dot = 0.0f;
    for (u32 i = lane; i < features; i += 32) {
        square += x[row + i] * x[row + i];
        dot += x[row + i] * dy[row + i];
    }
    float length = sqrtf(warp_sum(square));
    dot = warp_sum(dot);
    float divisor = length < epsilon ? epsilon : length;
    float along = length < epsilon ? 0.0f : dot / divisor;
    for (u32 i = lane; i < features; i += 32) {
        float gradient = (dy[row + i] - along * (x[row + i] / divisor)) / divisor;
        dx[row + i] = gradient + (add ? dx[row + i] : 0.0f);
    }
}
