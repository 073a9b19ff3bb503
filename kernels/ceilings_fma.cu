// The ceiling of arithmetic in f32: v = v * one + one, `rounds` times, with `one` 1: rounds are added.
//
// values (grid.x * BLOCK * CHAINS) f32, updated. A thread keeps CHAINS values, a block's width apart, in registers: chains
// that do not wait for each other.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef CHAINS
#error "CHAINS: values of a thread"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK) ceilings_fma(float* __restrict__ values, float one, u32 rounds) {
    float* own = values + static_cast<u64>(blockIdx.x) * BLOCK * CHAINS + threadIdx.x;
    float chain[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) chain[i] = own[i * BLOCK];
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) chain[i] = __fmaf_rn(chain[i], one, one);
    }
#pragma unroll
    for (int i = 0; i < CHAINS; i++) own[i * BLOCK] = chain[i];
}
