// scale = rho / (sqrt(sum parts) + epsilon): how far the weights climb along the gradient whose squares are in `parts`.
//
// parts (count) f32; scale (1) f32, =. One block: thread t adds parts t, t + BLOCK, ..., then the threads are added in halves.
#include "block_sum.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    sam_scale(const float* __restrict__ parts, float* __restrict__ scale, u32 count, float rho, float epsilon) {
    SHARED_MEMORY(memory);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += BLOCK) sum += parts[i];
    sum = block_sum(reinterpret_cast<float*>(memory), sum);
    if (threadIdx.x == 0) *scale = rho / (sqrtf(sum) + epsilon);
}
