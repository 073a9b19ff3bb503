// The ceiling of memory: to = from.
//
// from, to (vectors) of 16 bytes each. A block copies BLOCK * ITEMS neighbours; a thread takes ITEMS of them, a block's
// width apart, and has all its loads under way before the first store.
#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef ITEMS
#error "ITEMS: vectors of a thread"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    ceilings_copy(const Vec16* __restrict__ from, Vec16* __restrict__ to, u64 vectors) {
    u64 first = static_cast<u64>(blockIdx.x) * BLOCK * ITEMS + threadIdx.x;
    Vec16 item[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (first + i * BLOCK < vectors) item[i] = load16(from + first + i * BLOCK);
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (first + i * BLOCK < vectors) store16(to + first + i * BLOCK, item[i]);
}
