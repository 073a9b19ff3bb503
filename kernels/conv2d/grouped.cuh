// Forward and input gradient of a convolution in groups: what both share. A group has few channels, so that the layer is
// bound by memory rather than arithmetic: plain f32 products from registers, no matrix product.
//
// A block makes BLOCK_N channels of BLOCK_M pixels, a thread VECTOR neighbouring channels of PART_M pixels. Those are
// RUNS pixels apart, so that neighbouring threads have neighbouring channels, then neighbouring pixels. The weights of
// SLICE of a group's channels lie in shared memory as f32, (tap, channel read, channel made); pixels are read where they
// lie, 16 bytes at a time with VECTOR > 1, and meet again in the first-level cache.
//
// Both ask for a single resident block in their launch bounds: left to itself the compiler would save registers for more
// blocks, and spill.
//
// With VECTOR > 1 either a vector lies inside a group on both sides, or groups have as many channels on both sides and a
// vector holds several whole ones.
#pragma once

#include "conv2d/shape.cuh"

#ifndef GROUPS
#error "GROUPS: of channels"
#endif
#ifndef VECTOR
#error "VECTOR: neighbouring channels that a thread makes, those of 16 bytes or 1"
#endif
#ifndef BLOCK_M
#error "BLOCK_M: pixels that a block makes"
#endif
#ifndef BLOCK_N
#error "BLOCK_N: channels that a block makes"
#endif
#ifndef PART_M
#error "PART_M: pixels that a thread makes"
#endif
#ifndef SLICE
#error "SLICE: channels of a group whose weights are in shared memory at a time"
#endif

enum {
    COLUMNS = BLOCK_N / VECTOR,
    RUNS = BLOCK_M / PART_M,
    THREADS = RUNS * COLUMNS,
    GROUP_CHANNELS = CHANNELS / GROUPS,
    GROUP_FILTERS = FILTERS / GROUPS,
};

static_assert(CHANNELS % GROUPS == 0 && FILTERS % GROUPS == 0, "whole groups");
static_assert(BLOCK_M % PART_M == 0 && BLOCK_N % VECTOR == 0, "whole tiles");

// This thread's first channel of the block's, and its first pixel.
DEVICE int own_column() {
    return threadIdx.x % COLUMNS * VECTOR;
}

DEVICE int own_run() {
    return threadIdx.x / COLUMNS;
}

DEVICE void load_weights(const float* from, float (&values)[VECTOR]) {
    if constexpr (VECTOR == 1) {
        values[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR; i += 4) {
            float four[4];
            load_floats(from + i, four);
#pragma unroll
            for (int j = 0; j < 4; j++) values[i + j] = four[j];
        }
    }
}

// IN, OUT: channels of a group that are read and that are made; OUT_CHANNELS: of all groups.
template <int IN, int OUT, int OUT_CHANNELS>
struct GroupedProduct {
    // Whether a vector holds several groups; how many channels each of its channels takes from a vector that is read.
    enum { SEVERAL = OUT % VECTOR != 0, TAKEN = SEVERAL ? OUT : VECTOR };
    static_assert(SEVERAL ? IN == OUT && VECTOR % OUT == 0 && SLICE == IN && OUT_CHANNELS % VECTOR == 0
                          : IN % VECTOR == 0 && SLICE % VECTOR == 0, "vectors lie in groups, or groups in vectors");

    float sums[PART_M][VECTOR];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < PART_M; m++)
#pragma unroll
            for (int v = 0; v < VECTOR; v++) sums[m][v] = 0.0f;
    }

    // The first channel that the thread whose first channel is `channel` reads, in a slice that begins with `slice`.
    DEVICE int reads(int channel, int slice) {
        return SEVERAL ? channel : channel / OUT * IN + slice;
    }

    // Adds one tap's products with `count` channels of a slice. `at[m]`: elements from `pixels` to the first channel that
    // is read for pixel m, negative for a pixel outside. `weights`: those of the tap for this thread's channels.
    __device__ __forceinline__ void add(const Storage* pixels, const int (&at)[PART_M], const float* weights, int count) {
        // One round has enough to overlap; more at a time would spill.
#pragma unroll 1
        for (int c = 0; c < count; c += TAKEN) {
            float x[PART_M][VECTOR];
#pragma unroll
            for (int m = 0; m < PART_M; m++) {
                if (at[m] >= 0) {
                    load_values<VECTOR>(pixels + at[m] + c, x[m]);
                } else {
#pragma unroll
                    for (int v = 0; v < VECTOR; v++) x[m][v] = 0.0f;
                }
            }
#pragma unroll
            for (int k = 0; k < TAKEN; k++) {
                float w[VECTOR];
                load_weights(weights + (c + k) * BLOCK_N, w);
#pragma unroll
                for (int m = 0; m < PART_M; m++)
#pragma unroll
                    for (int v = 0; v < VECTOR; v++) sums[m][v] += x[m][SEVERAL ? v / TAKEN * TAKEN + k : k] * w[v];
            }
        }
    }
};
