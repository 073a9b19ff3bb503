// Backward, first stage: what the gradient of every channel needs to know about all its pixels.
//
//   g = dz where z > 0 (everywhere without a ReLU), xhat = (x - mean) * invstd
//   sums[view][part] = (sum of g, sum of g * xhat) over the part's pixels
//
// x, z, dz (views * pixels, channels) Storage; statistics (views, 2, channels) f32; sums (views, parts, 2, channels) f32,
// =; parts is grid.x. z is not read without a ReLU. Grid and threads: channels.cuh; a block's rows are added in order.
#include "channels.cuh"

#ifndef RELU
#error "RELU: 1 if a ReLU came last, else 0"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_backward_sums(const Storage* __restrict__ x, const Storage* __restrict__ z,
                             const Storage* __restrict__ dz, const float* __restrict__ statistics,
                             float* __restrict__ sums, u32 pixels, u32 channels, u32 columns) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    Place place = place_in_channels(channels, columns);
    u32 view = blockIdx.z;
    float totals[2 * VECTOR];
    for (int i = 0; i < 2 * VECTOR; i++) totals[i] = 0.0f;
    if (place.active) {
        float mean[VECTOR], invstd[VECTOR];
        for (int v = 0; v < VECTOR; v++) {
            mean[v] = statistics[(view * 2) * channels + place.channel + v];
            invstd[v] = statistics[(view * 2 + 1) * channels + place.channel + v];
        }
        u32 end = (view + 1) * pixels;
#pragma unroll 2
        for (u32 pixel = view * pixels + blockIdx.x * place.rows + place.row; pixel < end;
             pixel += gridDim.x * place.rows) {
            u64 offset = static_cast<u64>(pixel) * channels + place.channel;
            float g[VECTOR], xs[VECTOR];
            load_values<VECTOR>(dz + offset, g);
            load_values<VECTOR>(x + offset, xs);
#if RELU
            float zs[VECTOR];
            load_values<VECTOR>(z + offset, zs);
            for (int v = 0; v < VECTOR; v++) g[v] = zs[v] <= 0.0f ? 0.0f : g[v];
#endif
            for (int v = 0; v < VECTOR; v++) {
                totals[v] += g[v];
                totals[VECTOR + v] += g[v] * ((xs[v] - mean[v]) * invstd[v]);
            }
        }
    }
    sum_rows<2 * VECTOR>(shared, totals, place, columns);
    if (place.row == 0 && place.active) {
        float* out = sums + static_cast<u64>(view * gridDim.x + blockIdx.x) * 2 * channels + place.channel;
        for (int v = 0; v < VECTOR; v++) {
            out[v] = shared[v * columns + place.column];
            out[channels + v] = shared[(VECTOR + v) * columns + place.column];
        }
    }
}
