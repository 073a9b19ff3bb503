// backup = w; w += scale * grad: the weights climb, and what they were is kept.
//
// master (elements) f32, updated; backup (elements) f32, =; compute (elements) Storage, = w rounded, null where products read
// the master; grad (elements) f32; scale (1) f32. A thread does every element that is a grid further on.
#include "storage.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    sam_perturb(float* __restrict__ master, float* __restrict__ backup, Storage* __restrict__ compute,
                const float* __restrict__ grad, const float* __restrict__ scale, u64 elements) {
    u64 threads = static_cast<u64>(gridDim.x) * BLOCK;
    float factor = *scale;
    for (u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x; at < elements; at += threads) {
        float w = master[at];
        backup[at] = w;
        w += factor * grad[at];
        master[at] = w;
        if (compute) compute[at] = from_float<Storage>(w);
    }
}
