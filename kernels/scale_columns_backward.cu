// The gradient of y[n][c] = scales[c] * x[n][c]:
//
//   dx[n][c] (+)= scales[c] * dy[n][c]; dscales[c] (+)= sum over n of x[n][c] * dy[n][c]
//
// x, dy, dx (rows, columns), scales, dscales (columns), all f32; dx and dscales = or += as add_x and add_scales say, null
// where not wanted. A block has 32 columns and all rows: thread t takes column t % 32 and every LANES-th row from t / 32 on,
// then the first 32 threads add up the LANES sums of their column, in order.
#include "portable.cuh"

#ifndef LANES
#error "LANES: rows that a block takes at a time"
#endif
#define BLOCK (32 * LANES)

extern "C" __global__ void __launch_bounds__(BLOCK)
    scale_columns_backward(const float* __restrict__ x, const float* __restrict__ scales, const float* __restrict__ dy,
                           float* __restrict__ dx, float* __restrict__ dscales, u32 rows, u32 columns, u32 add_x,
                           u32 add_scales) {
    SHARED_MEMORY(memory);
    float* sums = reinterpret_cast<float*>(memory);
    u32 column = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0.0f;
    if (column < columns) {
        float scale = scales[column];
        for (u32 n = threadIdx.x / 32; n < rows; n += LANES) {
            u64 at = static_cast<u64>(n) * columns + column;
            float gradient = dy[at];
            sum += x[at] * gradient;
            if (dx) dx[at] = scale * gradient + (add_x ? dx[at] : 0.0f);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || column >= columns || dscales == nullptr) return;
    float total = 0.0f;
    for (u32 lane = 0; lane < LANES; lane++) total += sums[lane * 32 + threadIdx.x];
    dscales[column] = total + (add_scales ? dscales[column] : 0.0f);
}
