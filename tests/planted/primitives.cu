// Small kernels that use each primitive of portable.cuh once, for tests of the emulator and of the compilers.
#include "portable.cuh"

#ifndef TILE
#error "TILE (rows of a square tile) must be defined"
#endif

// c (m,n) = a (m,k) * b (k,n); one thread an element, a TILE x TILE tile a block.
extern "C" __global__ void __launch_bounds__(TILE* TILE)
    tiled_product(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int n, int k) {
    SHARED_MEMORY(memory);
    float* as = reinterpret_cast<float*>(memory);
    float* bs = as + TILE * TILE;
    int x = threadIdx.x, y = threadIdx.y;
    int column = blockIdx.x * TILE + x, row = blockIdx.y * TILE + y;
    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        as[y * TILE + x] = row < m && start + x < k ? a[row * k + start + x] : 0.0f;
        bs[y * TILE + x] = start + y < k && column < n ? b[(start + y) * n + column] : 0.0f;
        __syncthreads();
        for (int p = 0; p < TILE; p++) sum += as[y * TILE + p] * bs[p * TILE + x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

// Stages 16 columns of a (16,k) and of b (8,k), both row-major bf16, in one of two buffers.
DEVICE void stage_tiles(unsigned char* memory, const bf16* a, const bf16* b, int k, int step) {
    unsigned char* buffer = memory + (step & 1) * 768;
    int lane = threadIdx.x;
    int start = step * 16;
    cp_async_16(buffer + lane * 16, a + (lane / 2) * k + start + (lane % 2) * 8, start < k);
    if (lane < 16) cp_async_16(buffer + 512 + lane * 16, b + (lane / 2) * k + start + (lane % 2) * 8, start < k);
    cp_async_commit();
}

// c (16,8) = a (16,k) * b (8,k)^T by one warp: double-buffered cp.async, ldmatrix, mma. k is a multiple of 16.
extern "C" __global__ void mma_product(const bf16* a, const bf16* b, float* c, int k) {
    SHARED_MEMORY(memory);
    int lane = threadIdx.x;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    stage_tiles(memory, a, b, k, 0);
    for (int step = 0; step * 16 < k; step++) {
        stage_tiles(memory, a, b, k, step + 1);
        cp_async_wait<1>();
        __syncthreads();
        unsigned char* buffer = memory + (step & 1) * 768;
        u32 fa[4], fb[4];
        // Matrices in the order of mma's registers: rows 0..7 and 8..15 of the left half, then of the right.
        ldmatrix_x4(fa, buffer + (lane % 16) * 32 + (lane / 16) * 16);
        ldmatrix_x4(fb, buffer + 512 + (lane % 8) * 32 + (lane / 8 % 2) * 16);
        u32 pair[2] = {fb[0], fb[1]};
        mma_m16n8k16_bf16(sum, fa, pair);
        __syncthreads();
    }
    cp_async_wait<0>();
    int g = lane / 4, t = lane % 4;
    c[g * 8 + 2 * t] = sum[0];
    c[g * 8 + 2 * t + 1] = sum[1];
    c[(g + 8) * 8 + 2 * t] = sum[2];
    c[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

// The same with b transposed in shared memory first and read back by ldmatrix.trans.
extern "C" __global__ void mma_product_trans(const bf16* a, const bf16* b, float* c, int k) {
    SHARED_MEMORY(memory);
    bf16* bt = reinterpret_cast<bf16*>(memory + 512);  // (16,8): row p, column j
    int lane = threadIdx.x;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int start = 0; start < k; start += 16) {
        store16(memory + lane * 16, load16(a + (lane / 2) * k + start + (lane % 2) * 8));
        for (int i = lane; i < 128; i += 32) bt[i] = b[(i % 8) * k + start + i / 8];
        __syncthreads();
        u32 fa[4], fb[4];
        ldmatrix_x4(fa, memory + (lane % 16) * 32 + (lane / 16) * 16);
        ldmatrix_x4_trans(fb, bt + (lane % 16) * 8);
        u32 pair[2] = {fb[0], fb[1]};
        mma_m16n8k16_bf16(sum, fa, pair);
        __syncthreads();
    }
    int g = lane / 4, t = lane % 4;
    c[g * 8 + 2 * t] = sum[0];
    c[g * 8 + 2 * t + 1] = sum[1];
    c[(g + 8) * 8 + 2 * t] = sum[2];
    c[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

// out (32,8): one column a warp-wide function.
extern "C" __global__ void warp_functions(int* out) {
    int lane = threadIdx.x, value = lane * 3;
    int* row = out + lane * 8;
    row[0] = __shfl_xor_sync(0xffffffffu, value, 5);
    row[1] = __shfl_down_sync(0xffffffffu, value, 7);
    row[2] = __shfl_up_sync(0xffffffffu, value, 3);
    row[3] = __shfl_sync(0xffffffffu, value, 2, 8);
    row[4] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 2 == 0));
    row[5] = __any_sync(0xffffffffu, lane == 9);
    row[6] = __all_sync(0xffffffffu, lane != 9);
    row[7] = static_cast<int>(warp_sum(static_cast<float>(lane)));
}

extern "C" __global__ void round_bf16(const float* values, bf16* rounded, u32 count) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) rounded[i] = to_bf16(values[i]);
}

extern "C" __global__ void add_one(u32* data, u32 count) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) data[i] += 1;
}
