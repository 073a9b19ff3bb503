// log[scalars.row] = (L_c, L_cb, L_sim, total): each loss the sum of its rows over `batch`, absent ones 0, total their sum
// weighted by the scalars' coefficients.
//
// cross_entropy (heads, count), cosine (count) or null, log (log_rows, 4), all f32; one row of log =. One block: thread t
// adds rows t, t + BLOCK, ..., then the threads are added in halves, so that the order is always the same.
#include "step.cuh"

#ifndef BLOCK
#error "BLOCK: threads of the block, a power of two"
#endif

DEVICE float sum_of_rows(float* shared, const float* rows, u32 count) {
    float sum = 0.0f;
    if (rows)
        for (u32 i = threadIdx.x; i < count; i += BLOCK) sum += rows[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    sum = shared[0];
    __syncthreads();
    return sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    total_loss(const float* __restrict__ cross_entropy, const float* __restrict__ cosine,
               const StepParams* __restrict__ scalars, float* __restrict__ log, u32 heads, u32 count, u32 cosine_count,
               u32 batch, u32 log_rows) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    float losses[3];
    losses[0] = sum_of_rows(shared, cross_entropy, count) / batch;
    losses[1] = sum_of_rows(shared, heads > 1 ? cross_entropy + count : nullptr, count) / batch;
    losses[2] = sum_of_rows(shared, cosine, cosine_count) / batch;
    if (threadIdx.x != 0) return;
    if (scalars->row >= log_rows) __trap();  // the host counted wrong: better an error than another buffer overwritten
    float* out = log + static_cast<u64>(scalars->row) * 4;
    float total = 0.0f;
    for (int i = 0; i < 3; i++) {
        out[i] = losses[i];
        total += scalars->coefficients[i] * losses[i];
    }
    out[3] = total;
}
