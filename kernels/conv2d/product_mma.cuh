// The product of one stage by tensor cores: mma.sync.m16n8k16, bf16 in, f32 sums. A warp owns PART_M x PART_N results;
// warps go along n first. The fragments of the next 16 terms are loaded while those of the current ones are multiplied.
#pragma once

#include "conv2d/tile.cuh"

// AShape, BShape: the operands' tiles; A_K, B_K: whether k runs along their rows (else m or n does, and ldmatrix
// transposes).
template <typename AShape, typename BShape, bool A_K, bool B_K>
struct Product {
    enum { M_TILES = PART_M / 16, N_PAIRS = PART_N / 16, K_STEPS = BLOCK_K / 16 };

    float sums[M_TILES][2 * N_PAIRS][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < M_TILES; i++)
#pragma unroll
            for (int j = 0; j < 2 * N_PAIRS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    }

    // First row and column of this warp's results.
    DEVICE int first_row() {
        return threadIdx.x / 32 / (BLOCK_N / PART_N) * PART_M;
    }

    DEVICE int first_column() {
        return threadIdx.x / 32 % (BLOCK_N / PART_N) * PART_N;
    }

    // The 16 x 16 elements of A at row tile i: matrices in the order (rows 0-7, k 0-7), (8-15, 0-7), (0-7, 8-15), ...
    DEVICE void load_a(u32 (&fragment)[4], const u8* tile, int i, int step) {
        int lane = threadIdx.x % 32, m = first_row() + i * 16, k = step * 16;
        if (A_K)
            ldmatrix_x4(fragment, tile + AShape::offset(m + lane % 16, k / 8 + lane / 16));
        else
            ldmatrix_x4_trans(fragment, tile + AShape::offset(k + lane % 8 + lane / 16 * 8, m / 8 + lane / 8 % 2));
    }

    // The 16 x 16 elements of B at column pair j: (k 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15).
    DEVICE void load_b(u32 (&fragment)[4], const u8* tile, int j, int step) {
        int lane = threadIdx.x % 32, n = first_column() + j * 16, k = step * 16;
        if (B_K)
            ldmatrix_x4(fragment, tile + BShape::offset(n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
        else
            ldmatrix_x4_trans(fragment, tile + BShape::offset(k + lane % 16, n / 8 + lane / 16));
    }

    DEVICE void load(u32 (&a)[M_TILES][4], u32 (&b)[N_PAIRS][4], const u8* a_tile, const u8* b_tile, int step) {
#pragma unroll
        for (int i = 0; i < M_TILES; i++) load_a(a[i], a_tile, i, step);
#pragma unroll
        for (int j = 0; j < N_PAIRS; j++) load_b(b[j], b_tile, j, step);
    }

    __device__ __forceinline__ void step(const u8* a_tile, const u8* b_tile) {
        u32 a[2][M_TILES][4], b[2][N_PAIRS][4];
        load(a[0], b[0], a_tile, b_tile, 0);
#pragma unroll
        for (int k = 0; k < K_STEPS; k++) {
            if (k + 1 < K_STEPS) load(a[(k + 1) % 2], b[(k + 1) % 2], a_tile, b_tile, k + 1);
#pragma unroll
            for (int i = 0; i < M_TILES; i++)
#pragma unroll
                for (int j = 0; j < 2 * N_PAIRS; j++) {
                    const u32 half[2] = {b[k % 2][j / 2][j % 2 * 2], b[k % 2][j / 2][j % 2 * 2 + 1]};
                    mma_m16n8k16_bf16(sums[i][j], a[k % 2][i], half);
                }
        }
    }

    // Lays the results into the f32 tile: row r at staged + r * STAGED_ROW.
    __device__ __forceinline__ void stage(float* staged) const {
        int lane = threadIdx.x % 32;
        float* corner = staged + (first_row() + lane / 4) * STAGED_ROW + first_column() + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < M_TILES; i++)
#pragma unroll
            for (int j = 0; j < 2 * N_PAIRS; j++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    store8(corner + (i * 16 + half * 8) * STAGED_ROW + j * 8,
                           {__float_as_uint(sums[i][j][half * 2]), __float_as_uint(sums[i][j][half * 2 + 1])});
    }
};
