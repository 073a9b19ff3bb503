// The gradient of y[n] = (2 s first[n], 2 (1 - s) second[n]) with s = shares[n], or 1 for both factors without shares:
//
//   dfirst[n] (+)= 2 s dy[n][..features]; dsecond[n] (+)= 2 (1 - s) dy[n][features..]
//
// dfirst, dsecond (rows, features) or null where not wanted, dy (rows, 2 * features), shares (rows) or null, all f32; dfirst and
// dsecond = or += as add_first and add_second say. One thread per element of dy.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    join_branches_backward(const float* __restrict__ dy, const float* __restrict__ shares, float* __restrict__ dfirst,
                           float* __restrict__ dsecond, u32 rows, u32 features, u32 add_first, u32 add_second) {
    u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    u32 columns = 2 * features;
    if (at >= static_cast<u64>(rows) * columns) return;
    u32 row = static_cast<u32>(at / columns), column = static_cast<u32>(at % columns);
    bool is_first = column < features;
    float* branch = is_first ? dfirst : dsecond;
    if (branch == nullptr) return;
    float factor = 1.0f;
    if (shares) factor = 2.0f * (is_first ? shares[row] : 1.0f - shares[row]);
    u64 to = static_cast<u64>(row) * features + (is_first ? column : column - features);
    bool add = is_first ? add_first : add_second;
    branch[to] = factor * dy[at] + (add ? branch[to] : 0.0f);
}
