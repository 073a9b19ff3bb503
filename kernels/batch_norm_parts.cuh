// The second stage of batch normalisation's channel sums: parts (views, parts, 2, channels) become two sums per view and
// channel, always in the same order.
//
// A block has CHANNELS channels and BLOCK / CHANNELS lanes for each; lane l adds parts l, l + LANES, ... in double (the
// variance is a difference of two nearly equal numbers), then the lanes are added in halves through shared memory.
#pragma once

#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef CHANNELS
#error "CHANNELS: channels of a block; BLOCK / CHANNELS must be a power of two"
#endif

#define LANES (BLOCK / CHANNELS)

struct PairSum {
    double first, second;
};

// Adds up the sums of a channel's lanes; every thread of the block must call it, and gets its channel's result.
// `shared` holds 2 * BLOCK doubles.
DEVICE PairSum add_lanes(double* shared, PairSum sum) {
    u32 lane = threadIdx.x / CHANNELS;
    shared[threadIdx.x] = sum.first;
    shared[BLOCK + threadIdx.x] = sum.second;
    __syncthreads();
    for (u32 half = LANES / 2; half > 0; half /= 2) {
        if (lane < half) {
            shared[threadIdx.x] += shared[threadIdx.x + half * CHANNELS];
            shared[BLOCK + threadIdx.x] += shared[BLOCK + threadIdx.x + half * CHANNELS];
        }
        __syncthreads();
    }
    sum.first = shared[threadIdx.x % CHANNELS];
    sum.second = shared[BLOCK + threadIdx.x % CHANNELS];
    __syncthreads();
    return sum;
}

// The two sums of one view; see add_lanes for who calls it and what they get.
DEVICE PairSum sum_parts(double* shared, const float* sums, u32 view, u32 parts, u32 channels) {
    u32 channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
    u32 lane = threadIdx.x / CHANNELS;
    PairSum sum = {0.0, 0.0};
    if (channel < channels) {
        const float* at = sums + static_cast<u64>(view) * parts * 2 * channels + channel;
#pragma unroll 4
        for (u32 part = lane; part < parts; part += LANES) {
            sum.first += at[static_cast<u64>(part) * 2 * channels];
            sum.second += at[(static_cast<u64>(part) * 2 + 1) * channels];
        }
    }
    return add_lanes(shared, sum);
}
