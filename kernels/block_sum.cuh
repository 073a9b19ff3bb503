// The sum of one number per thread of a block, in an order that is always the same.
#pragma once

#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block, a power of two"
#endif

// Adds the threads in halves; all get the sum. `shared` has BLOCK places, which are free again afterwards.
DEVICE float block_sum(float* shared, float value) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    float sum = shared[0];
    __syncthreads();
    return sum;
}
