// y[n][p][q][c] = the largest x[n][p * STRIDE - PADDING + i][q * STRIDE - PADDING + j][c], i and j below KERNEL; taps says by
// i * KERNEL + j where it was: the first of equal values, and a NaN (the last of several) before any number.
//
// x (batch, height, width, channels) and y (batch, rows, columns, channels) Storage; taps, of y's shape, a byte each, or null;
// both =. Block and threads: channels.cuh with the image in grid.z and the pixels of y.
#include "max_pool.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    max_pool_forward(const Storage* __restrict__ x, Storage* __restrict__ y, u8* __restrict__ taps, u32 height, u32 width,
                     u32 rows, u32 columns_of_y, u32 channels, u32 columns) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    const Storage* image = x + static_cast<u64>(blockIdx.z) * height * width * channels + place.channel;
    u64 outputs = static_cast<u64>(blockIdx.z) * rows * columns_of_y;
    for (u32 pixel = blockIdx.x * place.rows + place.row; pixel < rows * columns_of_y; pixel += gridDim.x * place.rows) {
        i32 top = static_cast<i32>(pixel / columns_of_y) * STRIDE - PADDING;
        i32 left = static_cast<i32>(pixel % columns_of_y) * STRIDE - PADDING;
        float largest[VECTOR];
        u32 taken[VECTOR];
        for (int v = 0; v < VECTOR; v++) largest[v] = 0.0f, taken[v] = 0;
        bool first = true;
#pragma unroll
        for (int i = 0; i < KERNEL; i++) {
#pragma unroll
            for (int j = 0; j < KERNEL; j++) {
                i32 h = top + i, w = left + j;
                if (h < 0 || w < 0 || h >= static_cast<i32>(height) || w >= static_cast<i32>(width)) continue;
                float values[VECTOR];
                load_values<VECTOR>(image + (static_cast<u64>(h) * width + w) * channels, values);
                for (int v = 0; v < VECTOR; v++) {
                    // A NaN is larger than nothing, and not equal to itself.
                    bool better = first || values[v] > largest[v] || values[v] != values[v];
                    largest[v] = better ? values[v] : largest[v];
                    taken[v] = better ? i * KERNEL + j : taken[v];
                }
                first = false;
            }
        }
        u64 at = (outputs + pixel) * channels + place.channel;
        store_values<VECTOR>(y + at, largest);
        if (taps) store_taps<VECTOR>(taps + at, taken);
    }
}
