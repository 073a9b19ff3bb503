// One planted bug a kernel, with -DBUG=1; with -DBUG=0 the same kernel is right. The line that must be named carries the
// comment HERE and the kernel's name.
#include "portable.cuh"

#ifndef BUG
#error "BUG (0 or 1) must be defined"
#endif

extern "C" __global__ void past_the_end(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (BUG || i < n) {
        float value = i < n ? x[i] : 0.0f;
        y[i] = value;  // HERE past_the_end
    }
}

extern "C" __global__ void before_the_start(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float left = BUG || i > 0 ? x[i - 1] : 0.0f;  // HERE before_the_start
    y[i] = x[i] + left;
}

extern "C" __global__ void far_away(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float* from = BUG ? reinterpret_cast<const float*>(16) : x;
    if (i < n) y[i] = from[i];  // HERE far_away
}

extern "C" __global__ void misaligned_call(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (i * 4 + 4 < n) store16(y + 4 * i, load16(x + 4 * i + BUG));  // HERE misaligned_call
}

extern "C" __global__ void misaligned_type(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (i * 4 + 4 < n) reinterpret_cast<float4*>(y)[i] = *reinterpret_cast<const float4*>(x + 4 * i + BUG);  // HERE misaligned_type
}

extern "C" __global__ void unwritten_shared(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    if (!BUG || i != 5) tile[i] = i < n ? x[i] : 0.0f;
    __syncthreads();
    y[i] = tile[(i + 1) % blockDim.x];  // HERE unwritten_shared
}

extern "C" __global__ void past_shared(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    tile[i + BUG] = i < n ? x[i] : 0.0f;  // HERE past_shared
    __syncthreads();
    y[i] = tile[i + BUG];
}

extern "C" __global__ void missing_barrier(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    tile[i] = 0.0f;
    __syncthreads();
    tile[i] = i < n ? x[i] : 0.0f;  // HERE missing_barrier
#if !BUG
    __syncthreads();
#endif
    y[i] = tile[blockDim.x - 1 - i];
}

// A tile is overwritten while others still read the last one: the barrier at the end of the loop is missing.
extern "C" __global__ void overwritten_early(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < n; start += blockDim.x) {
        tile[i] = start + i < n ? x[start + i] : 0.0f;  // HERE overwritten_early
        __syncthreads();
        sum += tile[(i + 1) % blockDim.x];
#if !BUG
        __syncthreads();
#endif
    }
    y[i] = sum;
}

extern "C" __global__ void missing_syncwarp(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    tile[i] = 0.0f;
    __syncwarp();
    tile[i] = i < n ? x[i] : 0.0f;  // HERE missing_syncwarp
#if !BUG
    __syncwarp();
#endif
    y[i] = tile[i ^ 1];
}

extern "C" __global__ void missing_wait(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    cp_async_16(tile + 4 * i, x + 4 * i, 4 * i + 4 <= n);
    cp_async_commit();
    cp_async_wait<BUG>();
    __syncthreads();
    y[i] = tile[i];  // HERE missing_wait
}

extern "C" __global__ void partial_barrier(const float* x, float* y, int n) {
    SHARED_MEMORY(memory);
    float* tile = reinterpret_cast<float*>(memory);
    int i = threadIdx.x;
    tile[i] = i < n ? x[i] : 0.0f;
    if (BUG && i >= 40) return;
    __syncthreads();  // HERE partial_barrier
    y[i] = tile[i];
}

extern "C" __global__ void two_barriers(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (BUG && i >= 32)
        __syncthreads();
    else
        __syncthreads();  // HERE two_barriers
    y[i] = i < n ? x[i] : 0.0f;
}

extern "C" __global__ void partial_shuffle(const float* x, float* y, int n) {
    int i = threadIdx.x;
    float value = i < n ? x[i] : 0.0f;
    if (!BUG || i % 32 < 20) value += __shfl_xor_sync(0xffffffffu, value, 1);  // HERE partial_shuffle
    y[i] = value;
}

extern "C" __global__ void order_dependent(u32* counter, u32* y) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 ticket = atomicAdd(counter, 1u);
    y[i] = BUG ? ticket : i;
}

extern "C" __global__ void two_blocks_write(const float* x, float* y, int n) {
    int i = blockIdx.x * (blockDim.x - BUG) + threadIdx.x;
    if (i < n) y[i] = x[i];  // HERE two_blocks_write
}

extern "C" __global__ void read_across_blocks(float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = 1.0f;
    if (i < n) y[i] = x[BUG ? i % blockDim.x : i];  // HERE read_across_blocks
}

static int state_of_the_file[64];

extern "C" __global__ void static_write(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (BUG) state_of_the_file[(i + n) % 64] = i;  // HERE static_write
    y[i] = i < n ? x[i] : static_cast<float>(state_of_the_file[i]);
}

// Neighbouring blocks and threads write neighbouring bf16, two to a word: no error.
extern "C" __global__ void half_words(const bf16* x, bf16* y, int n) {
    SHARED_MEMORY(memory);
    bf16* tile = reinterpret_cast<bf16*>(memory);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        tile[threadIdx.x] = x[i];
        y[i] = tile[threadIdx.x];
    }
}

// The last block to finish adds the partial sums of all: allowed after __threadfence.
extern "C" __global__ void last_block(const float* x, float* partial, u32* counter, float* y, int n) {
    SHARED_MEMORY(memory);
    u32* last = reinterpret_cast<u32*>(memory);
    int i = blockIdx.x * 32 + threadIdx.x;
    float sum = warp_sum(i < n ? x[i] : 0.0f);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        *last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (*last && threadIdx.x == 0) {
        __threadfence();
        float total = 0.0f;
        for (u32 block = 0; block < gridDim.x; block++) total += partial[block];
        y[0] = total;
    }
}
