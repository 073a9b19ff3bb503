// w = backup: the weights are again, bit for bit, what they were before they climbed.
//
// master (elements) f32, =; backup (elements) f32; compute (elements) Storage, = w rounded, null where products read the
// master. A thread does every element that is a grid further on.
#include "storage.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    sam_restore(float* __restrict__ master, const float* __restrict__ backup, Storage* __restrict__ compute,
                u64 elements) {
    u64 threads = static_cast<u64>(gridDim.x) * BLOCK;
    for (u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x; at < elements; at += threads) {
        float w = backup[at];
        master[at] = w;
        if (compute) compute[at] = from_float<Storage>(w);
    }
}
