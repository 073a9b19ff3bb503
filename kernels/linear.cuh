// The matrix product of the linear layer's three passes, f32, through shared memory.
//
// c (m, n) = a (m, k) b (k, n). A block of 16 x 16 threads makes a tile of TILE x TILE; a thread makes the MICRO x MICRO
// elements whose row is its own plus multiples of 16, and whose column likewise, so that neighbours write and read
// neighbouring addresses. DEPTH elements of k are staged at a time. Each element is summed in the order of k.
#pragma once

#include "portable.cuh"

#ifndef MICRO
#error "MICRO: a thread makes MICRO x MICRO elements"
#endif
#ifndef DEPTH
#error "DEPTH: elements of the inner extent staged at a time"
#endif

#define SIDE 16
#define BLOCK (SIDE * SIDE)
#define TILE (SIDE * MICRO)
#define PITCH (TILE + 1)  // of a staged column, so that neither way of storing it meets one bank twice

// A matrix in memory: element (outer, inner) at outer * outer_stride + inner * inner_stride; one of the strides is 1.
struct Matrix {
    const float* at;
    u32 outer, inner;
    u32 outer_stride, inner_stride;
};

// Stages elements (first .. first + TILE, from .. from + DEPTH) as tile[inner][outer], zero outside the matrix.
// INNER_FASTEST: neighbouring threads take neighbouring inner indices, which then lie side by side in memory.
template <bool INNER_FASTEST>
DEVICE void stage(float* tile, const Matrix& m, u32 first, u32 from) {
    for (u32 i = threadIdx.x; i < TILE * DEPTH; i += BLOCK) {
        u32 outer = INNER_FASTEST ? i / DEPTH : i % TILE;
        u32 inner = INNER_FASTEST ? i % DEPTH : i / TILE;
        bool inside = first + outer < m.outer && from + inner < m.inner;
        u64 at = static_cast<u64>(first + outer) * m.outer_stride + static_cast<u64>(from + inner) * m.inner_stride;
        tile[inner * PITCH + outer] = inside ? m.at[at] : 0.0f;
    }
}

struct Product {
    float c[MICRO][MICRO];
    float row_sum[MICRO];  // of a's rows
};

// The block's tile at (row, column). `shared` holds 2 * DEPTH * PITCH floats.
template <bool A_INNER_FASTEST, bool B_INNER_FASTEST>
DEVICE void multiply(float* shared, const Matrix& a, const Matrix& b, u32 row, u32 column, Product& p) {
    float* left = shared;
    float* right = shared + DEPTH * PITCH;
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (int i = 0; i < MICRO; i++) {
        p.row_sum[i] = 0.0f;
        for (int j = 0; j < MICRO; j++) p.c[i][j] = 0.0f;
    }
    for (u32 from = 0; from < a.inner; from += DEPTH) {
        stage<A_INNER_FASTEST>(left, a, row, from);
        stage<B_INNER_FASTEST>(right, b, column, from);
        __syncthreads();
#pragma unroll 8
        for (u32 k = 0; k < DEPTH; k++) {
            float av[MICRO], bv[MICRO];
            for (int i = 0; i < MICRO; i++) av[i] = left[k * PITCH + y + i * SIDE];
            for (int j = 0; j < MICRO; j++) bv[j] = right[k * PITCH + x + j * SIDE];
            for (int i = 0; i < MICRO; i++) {
                p.row_sum[i] += av[i];
                for (int j = 0; j < MICRO; j++) p.c[i][j] += av[i] * bv[j];
            }
        }
        __syncthreads();
    }
}
