// conv2d_weight_grad_reduce: dweight[i] = partials[0][i] + partials[1][i] + ... + partials[splits - 1][i], in this order
// and in f32.
//
// partials  (splits, elements)    f32
// dweight   (elements)            f32, =
//
// Grid: x = ceil(elements / blockDim.x); one thread an element, so that a warp reads 128 contiguous bytes of a split.

#include "portable.cuh"

extern "C" __global__ void conv2d_weight_grad_reduce(const float* __restrict__ partials, float* __restrict__ dweight,
                                                     int elements, int splits) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= elements) return;
    float sum = 0.0f;
#pragma unroll 4
    for (int split = 0; split < splits; split++) sum += partials[static_cast<i64>(split) * elements + i];
    dweight[i] = sum;
}
