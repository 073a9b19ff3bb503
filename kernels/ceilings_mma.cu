// The ceiling of arithmetic in bf16: c += a * b by mma.m16n8k16, `rounds` times, with every a 1 and every b 1/16: each
// round adds 1. It is the ceiling of what the convolutions use; `wgmma` and `tcgen05` of later GPUs reach higher.
//
// values (grid.x * BLOCK * 4 * TILES) f32, updated. A warp keeps TILES products c of 16 x 8, which do not wait for each
// other; a thread's four values of each, like all its values, lie a block's width apart in memory.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block, whole warps"
#endif
#ifndef TILES
#error "TILES: products of a warp"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK) ceilings_mma(float* __restrict__ values, float one, u32 rounds) {
    float* own = values + static_cast<u64>(blockIdx.x) * BLOCK * 4 * TILES + threadIdx.x;
    u32 ones = pack_bf16(one, one), sixteenths = pack_bf16(one / 16, one / 16);
    u32 a[4] = {ones, ones, ones, ones}, b[2] = {sixteenths, sixteenths};
    float c[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[t][i] = own[(4 * t + i) * BLOCK];
    }
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) mma_m16n8k16_bf16(c[t], a, b);
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) own[(4 * t + i) * BLOCK] = c[t][i];
    }
}
