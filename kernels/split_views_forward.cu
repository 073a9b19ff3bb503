// first = x[..half], second = x[half..]: the two views of a batch.
//
// x (2 * half * VECTOR elements) Storage; first, second (half * VECTOR) Storage, =. Thread t copies the t-th VECTOR elements of
// each view.
#include "storage.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef VECTOR
#error "VECTOR: elements that a thread moves at a time, STORAGE_VECTOR or 1"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    split_views_forward(const Storage* __restrict__ x, Storage* __restrict__ first, Storage* __restrict__ second,
                        u32 half) {
    u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at >= half) return;
    float a[VECTOR], b[VECTOR];
    load_values<VECTOR>(x + at * VECTOR, a);
    load_values<VECTOR>(x + (half + at) * VECTOR, b);
    store_values<VECTOR>(first + at * VECTOR, a);
    store_values<VECTOR>(second + at * VECTOR, b);
}
