// The ceiling of arithmetic in bf16: c += a * b by mma.m16n8k16, `rounds` times, an even number. It is the ceiling of what
// the convolutions use; `wgmma` and `tcgen05` of later GPUs reach higher.
//
// Constant operands would draw less power than data does, so that the clock would stay higher than in training: a and b
// are random integers of up to 8 bits and either sign, other ones for each product, and a changes its sign with every
// round, so that two rounds cancel. But the last of the 16 terms of a value is 1 * 1 in every round: each adds 1 in the end,
// exactly, as no sum needs more than 21 bits.
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

// Two random integers in -255..=256.
DEVICE u32 random_pair(u32 seed) {
    u32 x = seed * 0x9e3779b9u;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    x ^= x >> 16;
    return pack_bf16(static_cast<float>(static_cast<int>(x & 511) - 255),
                     static_cast<float>(static_cast<int>((x >> 16) & 511) - 255));
}

extern "C" __global__ void __launch_bounds__(BLOCK) ceilings_mma(float* __restrict__ values, float one, u32 rounds) {
    float* own = values + static_cast<u64>(blockIdx.x) * BLOCK * 4 * TILES + threadIdx.x;
    u32 seed = (blockIdx.x * BLOCK + threadIdx.x) * (4 + 2 * TILES) + 1;
    // The threads whose fragments hold the last term: the upper halves of a[2], a[3] and b[1].
    bool last = threadIdx.x % 4 == 3;
    u32 upper = pack_bf16(0.0f, one), lower = 0xffffu, signs = 0x80008000u;
    u32 a[4], b[TILES][2];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = random_pair(seed + i);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        b[t][0] = random_pair(seed + 4 + 2 * t);
        b[t][1] = random_pair(seed + 5 + 2 * t);
        if (last) b[t][1] = (b[t][1] & lower) | upper;
    }
    u32 late_signs = last ? signs & lower : signs;
    if (last) {
        a[2] = (a[2] & lower) | upper;
        a[3] = (a[3] & lower) | upper;
    }
    float c[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[t][i] = own[(4 * t + i) * BLOCK];
    }
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) mma_m16n8k16_bf16(c[t], a, b[t]);
        a[0] ^= signs;
        a[1] ^= signs;
        a[2] ^= late_signs;
        a[3] ^= late_signs;
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) own[(4 * t + i) * BLOCK] = c[t][i];
    }
}
