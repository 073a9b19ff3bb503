// The ceiling of arithmetic in f32: v = v + a * b, `rounds` times, an even number.
//
// Constant operands would draw less power than data does, so that the clock would stay higher than in training: for random
// integers x of up to 8 bits, other ones for each thread and half of its chains, the rounds add (x + 1)(x + 2) and
// -x (x + 3) in turns. Two rounds add 2, exactly, as no sum needs more than 20 bits.
//
// values (grid.x * BLOCK * CHAINS) f32, updated. A thread keeps CHAINS values, a block's width apart, in registers: chains
// that do not wait for each other.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef CHAINS
#error "CHAINS: values of a thread, an even number"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK) ceilings_fma(float* __restrict__ values, float one, u32 rounds) {
    float* own = values + static_cast<u64>(blockIdx.x) * BLOCK * CHAINS + threadIdx.x;
    float first[2][2], second[2][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u32 bits = (2 * (blockIdx.x * BLOCK + threadIdx.x) + half + 1) * 0x9e3779b9u;
        bits = (bits ^ (bits >> 16)) * 0x7feb352du;
        float x = static_cast<float>(static_cast<int>((bits >> 16) & 511) - 255);
        first[half][0] = x + one;
        first[half][1] = x + 2.0f * one;
        second[half][0] = -x * one;
        second[half][1] = x + 3.0f * one;
    }
    float chain[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) chain[i] = own[i * BLOCK];
    for (u32 round = 0; round < rounds; round += 2) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) chain[i] = __fmaf_rn(first[i % 2][0], first[i % 2][1], chain[i]);
        if (round + 1 == rounds) break;
#pragma unroll
        for (int i = 0; i < CHAINS; i++) chain[i] = __fmaf_rn(second[i % 2][0], second[i % 2][1], chain[i]);
    }
#pragma unroll
    for (int i = 0; i < CHAINS; i++) own[i * BLOCK] = chain[i];
}
