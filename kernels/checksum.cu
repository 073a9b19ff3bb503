// A hash of `bytes` bytes that says whether two buffers are the same without moving them to the host, and how many of the
// numbers in them are not finite: each 32-bit word is mixed with its position (the finaliser of MurmurHash3) and the results are
// added, which no order of threads changes.
//
// data (bytes), starting at a multiple of 4; the last word is filled up with zeros. low, high: the bits of the exponents that the
// lower and the upper half of a word end, which are all set in an infinity and a NaN; 0 where there is none. parts (grid.x, 2)
// u64, =: hash, count; the host adds them. A thread takes words a grid apart; a block adds its threads in halves through shared
// memory.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block, a power of two"
#endif

DEVICE u64 mix_word(u64 word, u64 position) {
    u64 h = (position + 1) * 0x9E3779B97F4A7C15ull ^ word;
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDull;
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53ull;
    return h ^ (h >> 33);
}

DEVICE u32 all_set(u32 word, u32 bits) { return bits != 0 && (word & bits) == bits ? 1 : 0; }

extern "C" __global__ void __launch_bounds__(BLOCK)
    checksum(const u8* __restrict__ data, u64* __restrict__ parts, u64 bytes, u32 low, u32 high) {
    SHARED_MEMORY(memory);
    u64* sums = reinterpret_cast<u64*>(memory);
    u64* counts = sums + BLOCK;
    const u32* words = reinterpret_cast<const u32*>(data);
    u64 whole = bytes / 4, threads = static_cast<u64>(gridDim.x) * BLOCK;
    u64 thread = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    u64 sum = 0, count = 0;
    for (u64 i = thread; i < whole; i += threads) {
        u32 word = words[i];
        sum += mix_word(word, i);
        count += all_set(word, low) + all_set(word, high);
    }
    if (thread == 0 && bytes % 4 != 0) {
        u32 last = 0;
        for (u64 i = whole * 4; i < bytes; i++) last |= static_cast<u32>(data[i]) << (8 * (i % 4));
        sum += mix_word(last, whole);
        count += all_set(last, low) + all_set(last, high);
    }
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
            counts[threadIdx.x] += counts[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = sums[0];
        parts[2 * blockIdx.x + 1] = counts[0];
    }
}
