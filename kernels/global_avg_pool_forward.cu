// y[n][c] = mean over the pixels of x[n][.][c].
//
// x (batch, pixels, channels) Storage; y (batch, channels) f32, =. Block and threads: channels.cuh with the image in
// grid.z and grid.x 1; a thread sums every rows-th pixel, then the rows are added in order through shared memory.
#include "channels.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    global_avg_pool_forward(const Storage* __restrict__ x, float* __restrict__ y, u32 pixels, u32 channels,
                            u32 columns) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    Place place = place_in_channels(channels, columns);
    float totals[VECTOR];
    for (int v = 0; v < VECTOR; v++) totals[v] = 0.0f;
    if (place.active) {
        const Storage* image = x + static_cast<u64>(blockIdx.z) * pixels * channels + place.channel;
#pragma unroll 4
        for (u32 pixel = place.row; pixel < pixels; pixel += place.rows) {
            float values[VECTOR];
            load_values<VECTOR>(image + static_cast<u64>(pixel) * channels, values);
            for (int v = 0; v < VECTOR; v++) totals[v] += values[v];
        }
    }
    sum_rows<VECTOR>(shared, totals, place, columns);
    if (place.row == 0 && place.active) {
        float* out = y + static_cast<u64>(blockIdx.z) * channels + place.channel;
        for (int v = 0; v < VECTOR; v++) out[v] = shared[v * columns + place.column] / pixels;
    }
}
