// dx[n][h][w][c] (+)= the sum of dy[n][p][q][c] over the windows (p, q) whose tap is that pixel, row by row of the windows.
//
// dy (batch, rows, columns, channels) Storage; taps, of dy's shape, a byte each (max_pool_forward.cu); dx (batch, height, width,
// channels) Storage, = or += as `add` says. Block and threads: channels.cuh with the image in grid.z and the pixels of dx; a
// pixel's windows are at most (KERNEL / STRIDE, rounded up) squared.
#include "max_pool.cuh"

// The first window along a side that covers a pixel.
DEVICE u32 first_window(u32 pixel) {
    u32 end = pixel + PADDING + 1;
    return end > KERNEL ? (end - KERNEL + STRIDE - 1) / STRIDE : 0;
}

// One behind the last of `windows` that covers it.
DEVICE u32 end_window(u32 pixel, u32 windows) {
    u32 end = (pixel + PADDING) / STRIDE + 1;
    return end < windows ? end : windows;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    max_pool_backward(const Storage* __restrict__ dy, const u8* __restrict__ taps, Storage* __restrict__ dx, u32 height,
                      u32 width, u32 rows, u32 columns_of_y, u32 channels, u32 columns, u32 add) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    Storage* image = dx + static_cast<u64>(blockIdx.z) * height * width * channels + place.channel;
    u64 windows = static_cast<u64>(blockIdx.z) * rows * columns_of_y;
    for (u32 pixel = blockIdx.x * place.rows + place.row; pixel < height * width; pixel += gridDim.x * place.rows) {
        u32 h = pixel / width, w = pixel % width;
        float sums[VECTOR];
        for (int v = 0; v < VECTOR; v++) sums[v] = 0.0f;
        for (u32 p = first_window(h); p < end_window(h, rows); p++) {
            for (u32 q = first_window(w); q < end_window(w, columns_of_y); q++) {
                u32 own = (h + PADDING - p * STRIDE) * KERNEL + (w + PADDING - q * STRIDE);
                u64 at = (windows + p * columns_of_y + q) * channels + place.channel;
                float values[VECTOR];
                u32 taken[VECTOR];
                load_values<VECTOR>(dy + at, values);
                load_taps<VECTOR>(taps + at, taken);
                for (int v = 0; v < VECTOR; v++) sums[v] += taken[v] == own ? values[v] : 0.0f;
            }
        }
        Storage* at = image + static_cast<u64>(pixel) * channels;
        if (add)
            put_values<VECTOR, true>(at, sums);
        else
            put_values<VECTOR, false>(at, sums);
    }
}
