// How a kernel over (views, pixels, channels) is cut into blocks, and how a block adds up what its threads summed.
//
// A block has `columns` threads side by side along the channels, VECTOR channels each, and BLOCK / columns rows of them,
// a pixel each; what does not divide stays idle. grid.x cuts the pixels of a view, grid.y the channels, grid.z is the
// view. A thread meets the same channels at every pixel, so that it loads per-channel numbers once.
#pragma once

#include "storage.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef VECTOR
#error "VECTOR: elements that a thread moves at a time, STORAGE_VECTOR or 1"
#endif

struct Place {
    u32 column;   // of the thread in the block
    u32 row;      // of the thread in the block
    u32 rows;     // of the block
    u32 channel;  // the first of the thread's VECTOR channels
    bool active;  // false for threads that have nothing to do
};

DEVICE Place place_in_channels(u32 channels, u32 columns) {
    Place place;
    u32 thread = threadIdx.x;
    place.row = thread / columns;
    place.column = thread - place.row * columns;
    place.rows = BLOCK / columns;
    place.channel = (blockIdx.y * columns + place.column) * VECTOR;
    place.active = place.row < place.rows && place.channel < channels;
    return place;
}

// Adds up `COUNT` numbers per thread over the rows of a block, in the order of the rows, through shared memory of
// COUNT * BLOCK floats. The sums are left in shared[q * columns + column], to be read by any thread.
template <int COUNT>
DEVICE void sum_rows(float* shared, const float (&values)[COUNT], const Place& place, u32 columns) {
    if (place.row < place.rows) {
        for (int q = 0; q < COUNT; q++) shared[(place.row * COUNT + q) * columns + place.column] = values[q];
    }
    __syncthreads();
    u32 width = COUNT * columns;
    for (u32 at = threadIdx.x; at < width; at += BLOCK) {
        float sum = shared[at];
        for (u32 row = 1; row < place.rows; row++) sum += shared[row * width + at];
        shared[at] = sum;
    }
    __syncthreads();
}
