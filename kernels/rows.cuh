// Kernels that give a warp to each row of a matrix.
#pragma once

#include "portable.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block, a multiple of 32"
#endif

// The row of the calling warp; the same for all its lanes, so that it may leave as a whole.
DEVICE u32 warp_row() {
    return blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
}

DEVICE float minus_infinity() {
    return __uint_as_float(0xff800000u);
}
