// compute = master, rounded to Storage: after loading weights.
//
// master (elements) f32, compute (elements) Storage. A thread does one element, then those a grid further on.
#include "storage.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    cast_weights(const float* __restrict__ master, Storage* __restrict__ compute, u64 elements) {
    u64 threads = static_cast<u64>(gridDim.x) * BLOCK;
    for (u64 i = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x; i < elements; i += threads)
        compute[i] = from_float<Storage>(master[i]);
}
