// dx[..half] (+)= dfirst, dx[half..] (+)= dsecond: the gradient of a batch whose two views were taken apart.
//
// dfirst, dsecond (half * VECTOR elements) Storage; dx (2 * half * VECTOR) Storage, = or += as `add` says. Thread t has the t-th
// VECTOR elements of each view.
#include "storage.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef VECTOR
#error "VECTOR: elements that a thread moves at a time, STORAGE_VECTOR or 1"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    split_views_backward(const Storage* __restrict__ dfirst, const Storage* __restrict__ dsecond,
                         Storage* __restrict__ dx, u32 half, u32 add) {
    u64 at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at >= half) return;
    float a[VECTOR], b[VECTOR];
    load_values<VECTOR>(dfirst + at * VECTOR, a);
    load_values<VECTOR>(dsecond + at * VECTOR, b);
    if (add) {
        put_values<VECTOR, true>(dx + at * VECTOR, a);
        put_values<VECTOR, true>(dx + (half + at) * VECTOR, b);
    } else {
        put_values<VECTOR, false>(dx + at * VECTOR, a);
        put_values<VECTOR, false>(dx + (half + at) * VECTOR, b);
    }
}
