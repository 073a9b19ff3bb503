// parts[i] = the sum of squares of grad[i * PART] to grad[(i + 1) * PART - 1], as far as there are gradients.
//
// grad (elements) f32; parts (elements / PART, rounded up) f32, =. A block per part: thread t adds elements t, t + BLOCK, ...,
// then the threads are added in halves, so that the order is always the same.
#include "block_sum.cuh"

#ifndef PART
#error "PART: gradients of a block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    sam_squares(const float* __restrict__ grad, float* __restrict__ parts, u64 elements) {
    SHARED_MEMORY(memory);
    u64 first = static_cast<u64>(blockIdx.x) * PART;
    u32 count = elements - first < PART ? static_cast<u32>(elements - first) : PART;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += BLOCK) sum += grad[first + i] * grad[first + i];
    sum = block_sum(reinterpret_cast<float*>(memory), sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
