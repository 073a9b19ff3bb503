// y[n] = (2 s first[n], 2 (1 - s) second[n]) with s = shares[n]; without shares both factors are 1 (BBN, equation 1).
//
// first, second (rows, features), y (rows, 2 * features), shares (rows) or null, all f32; y =. One thread per element of y.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    join_branches_forward(const float* __restrict__ first, const float* __restrict__ second,
                          const float* __restrict__ shares, float* __restrict__ y, u32 rows, u32 features) {
    u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    u32 columns = 2 * features;
    if (at >= static_cast<u64>(rows) * columns) return;
    u32 row = static_cast<u32>(at / columns), column = static_cast<u32>(at % columns);
    bool is_first = column < features;
    float factor = 1.0f;
    if (shares) factor = 2.0f * (is_first ? shares[row] : 1.0f - shares[row]);
    const float* branch = is_first ? first : second;
    y[at] = factor * branch[static_cast<u64>(row) * features + (is_first ? column : column - features)];
}
