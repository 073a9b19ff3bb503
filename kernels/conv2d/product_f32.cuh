// The product of one stage in plain f32: the oracle. A thread owns PART_M x PART_N results, strided over the tile so
// that neighbouring threads read neighbouring columns; each sum is one chain of additions in ascending k.
#pragma once

#include "conv2d/tile.cuh"

// Sums end in f32 with the rounding of all their terms, and a network of fifty layers multiplies what its first layers lose a
// hundredfold: of a ResNet-50 with four channels the heads are off by 3e-5, nine tenths of it from the stem's 147 terms. So the
// stem adds up in double, and so do 1x1 layers of few terms, which wait for memory all the same.
#if KERNEL > 3 || (KERNEL == 1 && CHANNELS < 64)
typedef double Sum;
#else
typedef float Sum;
#endif

// AShape, BShape: the operands' tiles; A_K, B_K: whether k runs along their rows (else m or n does).
template <typename AShape, typename BShape, bool A_K, bool B_K>
struct Product {
    enum { ROW_THREADS = BLOCK_M / PART_M, COLUMN_THREADS = BLOCK_N / PART_N };

    Sum sums[PART_M][PART_N];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < PART_M; i++)
#pragma unroll
            for (int j = 0; j < PART_N; j++) sums[i][j] = 0;
    }

    DEVICE int row(int i) {
        return threadIdx.x / COLUMN_THREADS + i * ROW_THREADS;
    }

    DEVICE int column(int j) {
        return threadIdx.x % COLUMN_THREADS + j * COLUMN_THREADS;
    }

    template <typename Shape>
    DEVICE float element(const u8* tile, int row, int along) {
        return *reinterpret_cast<const float*>(tile + Shape::offset(row, along / CHUNK) + along % CHUNK * 4);
    }

    __device__ __forceinline__ void step(const u8* a_tile, const u8* b_tile) {
#pragma unroll CHUNK
        for (int k = 0; k < BLOCK_K; k++) {
            float a[PART_M], b[PART_N];
#pragma unroll
            for (int i = 0; i < PART_M; i++)
                a[i] = A_K ? element<AShape>(a_tile, row(i), k) : element<AShape>(a_tile, k, row(i));
#pragma unroll
            for (int j = 0; j < PART_N; j++)
                b[j] = B_K ? element<BShape>(b_tile, column(j), k) : element<BShape>(b_tile, k, column(j));
#pragma unroll
            for (int i = 0; i < PART_M; i++)
#pragma unroll
                for (int j = 0; j < PART_N; j++) sums[i][j] += static_cast<Sum>(a[i]) * b[j];
        }
    }

    // Lays the results into the f32 tile: row r at staged + r * STAGED_ROW.
    __device__ __forceinline__ void stage(float* staged) const {
#pragma unroll
        for (int i = 0; i < PART_M; i++)
#pragma unroll
            for (int j = 0; j < PART_N; j++) staged[row(i) * STAGED_ROW + column(j)] = static_cast<float>(sums[i][j]);
    }
};
