// The main loop: a pipeline of STAGES stages in shared memory, each with BLOCK_K terms of both operands. While the
// product of one stage is computed, the copies into the STAGES - 1 others are under way.
#pragma once

#include "conv2d/tile.cuh"

#if STORAGE_BF16
#include "conv2d/product_mma.cuh"
#else
#include "conv2d/product_f32.cuh"
#endif

// Computes `product` over `k_tiles` tiles of the operands. Afterwards no copy is under way and nothing reads the
// shared memory any more.
template <typename A, typename B, typename P>
DEVICE void main_loop(u8* shared, const A& a, const B& b, P& product, int k_tiles) {
    enum { A_BYTES = A::Shape::BYTES, STAGE_BYTES = A_BYTES + B::Shape::BYTES };
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage < k_tiles) {
            a.load(shared + stage * STAGE_BYTES, stage);
            b.load(shared + stage * STAGE_BYTES + A_BYTES, stage);
        }
        cp_async_commit();
    }
    int reading = 0, writing = STAGES - 1;
    for (int k_tile = 0; k_tile < k_tiles; k_tile++) {
        // One group is committed a tile, empty or not: all but the youngest STAGES - 2 are the tiles up to this one.
        cp_async_wait<STAGES - 2>();
        // Everybody's copies have landed, and everybody has finished with the stage that is filled next.
        __syncthreads();
        int next = k_tile + STAGES - 1;
        if (next < k_tiles) {
            a.load(shared + writing * STAGE_BYTES, next);
            b.load(shared + writing * STAGE_BYTES + A_BYTES, next);
        }
        cp_async_commit();
        product.step(shared + reading * STAGE_BYTES, shared + reading * STAGE_BYTES + A_BYTES);
        reading = reading + 1 == STAGES ? 0 : reading + 1;
        writing = writing + 1 == STAGES ? 0 : writing + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
}
