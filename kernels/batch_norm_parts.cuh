// The second stage of batch normalisation's channel sums: parts (views, parts, 2, channels) become two sums per view and
// channel, always in the same order.
//
// A block has CHANNELS channels and BLOCK / CHANNELS lanes for each; lane l adds parts l, l + LANES, ... in pairs of floats (the
// variance is a difference of two nearly equal numbers), then the lanes are added in halves through shared memory. In double the
// sums would be as good, but a GPU for desktops does two operations of that kind per cycle and multiprocessor.
#pragma once

#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef CHANNELS
#error "CHANNELS: channels of a block; BLOCK / CHANNELS must be a power of two"
#endif

#define LANES (BLOCK / CHANNELS)

// high + low, where low is at most half a unit in high's last place: 48 bits.
struct Two {
    float high, low;

    DEVICE Two of(float value) {
        return {value, 0.0f};
    }

    // a + b where |a| >= |b| or a = 0, without an error (Dekker, 1971).
    DEVICE Two ordered(float a, float b) {
        float sum = a + b;
        return {sum, b - (sum - a)};
    }

    // Without an error but for the last bits of the lows (the first lines: Knuth, TAOCP 2, 4.2.2).
    DEVICE Two add(Two a, Two b) {
        float sum = a.high + b.high, of_b = sum - a.high;
        float error = (a.high - (sum - of_b)) + (b.high - of_b);
        return ordered(sum, error + (a.low + b.low));
    }

    // By fused operations alone: a compiler that made one of the product and the addition behind it would break `add`.
    DEVICE Two square(float value) {
        float product = __fmaf_rn(value, value, 0.0f);
        return {product, __fmaf_rn(value, value, -product)};
    }

    // a / b, b a whole number that a float holds.
    DEVICE Two divide(Two a, float b) {
        float quotient = a.high / b;
        return ordered(quotient, (__fmaf_rn(-quotient, b, a.high) + a.low) / b);
    }

    __device__ __forceinline__ double value() const {
        return static_cast<double>(high) + low;
    }
};

struct PairSum {
    Two first, second;
};

// Adds up the sums of a channel's lanes; every thread of the block must call it, and gets its channel's result.
// `shared` holds 2 * BLOCK pairs.
DEVICE PairSum add_lanes(Two* shared, PairSum sum) {
    u32 lane = threadIdx.x / CHANNELS;
    shared[threadIdx.x] = sum.first;
    shared[BLOCK + threadIdx.x] = sum.second;
    __syncthreads();
    for (u32 half = LANES / 2; half > 0; half /= 2) {
        if (lane < half) {
            shared[threadIdx.x] = Two::add(shared[threadIdx.x], shared[threadIdx.x + half * CHANNELS]);
            shared[BLOCK + threadIdx.x] =
                Two::add(shared[BLOCK + threadIdx.x], shared[BLOCK + threadIdx.x + half * CHANNELS]);
        }
        __syncthreads();
    }
    sum.first = shared[threadIdx.x % CHANNELS];
    sum.second = shared[BLOCK + threadIdx.x % CHANNELS];
    __syncthreads();
    return sum;
}

// The two sums of one view; see add_lanes for who calls it and what they get.
DEVICE PairSum sum_parts(Two* shared, const float* sums, u32 view, u32 parts, u32 channels) {
    u32 channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
    u32 lane = threadIdx.x / CHANNELS;
    PairSum sum = {};
    if (channel < channels) {
        const float* at = sums + static_cast<u64>(view) * parts * 2 * channels + channel;
#pragma unroll 4
        for (u32 part = lane; part < parts; part += LANES) {
            sum.first = Two::add(sum.first, Two::of(at[static_cast<u64>(part) * 2 * channels]));
            sum.second = Two::add(sum.second, Two::of(at[(static_cast<u64>(part) * 2 + 1) * channels]));
        }
    }
    return add_lanes(shared, sum);
}
