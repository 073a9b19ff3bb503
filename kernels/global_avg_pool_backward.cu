// dx[n][p][c] (+)= dy[n][c] / pixels.
//
// dy (batch, channels) f32; dx (batch, pixels, channels) Storage, = or += as `add` says. Block and threads: channels.cuh
// with the image in grid.z.
#include "channels.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    global_avg_pool_backward(const float* __restrict__ dy, Storage* __restrict__ dx, u32 pixels, u32 channels,
                             u32 columns, u32 add) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    float values[VECTOR];
    for (int v = 0; v < VECTOR; v++)
        values[v] = dy[static_cast<u64>(blockIdx.z) * channels + place.channel + v] / pixels;
    Storage* image = dx + static_cast<u64>(blockIdx.z) * pixels * channels + place.channel;
    for (u32 pixel = blockIdx.x * place.rows + place.row; pixel < pixels; pixel += gridDim.x * place.rows) {
        Storage* at = image + static_cast<u64>(pixel) * channels;
        if (add)
            put_values<VECTOR, true>(at, values);
        else
            put_values<VECTOR, false>(at, values);
    }
}
