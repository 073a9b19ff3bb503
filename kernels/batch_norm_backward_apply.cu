// Backward, third stage: the gradients of the input and of the shortcut.
//
//   g = dz where z > 0 (everywhere without a ReLU), xhat = (x - mean) * invstd, n = pixels of a view
//   dx (+)= weight * invstd * (g - sum(g) / n - xhat * sum(g * xhat) / n)
//   dshortcut (+)= g, through option A where that was the shortcut: writing, it also zeroes the pixels that option A skips
//
// x, z, dz, dx (views * pixels, channels) Storage; statistics, totals (views, 2, channels), weight (channels) f32;
// dshortcut like z or as option_a.cuh says, Storage. Null for a gradient that is not wanted; `+=` where its `add` flag says
// so, else `=`. Grid and threads: channels.cuh.
#include "channels.cuh"
#include "option_a.cuh"

#ifndef RELU
#error "RELU: 1 if a ReLU came last, else 0"
#endif
#ifndef SHORTCUT
#error "SHORTCUT: 0 for none, 1 for a tensor like z, 2 for option A"
#endif
DEVICE void put(Storage* address, const float (&values)[VECTOR], bool add) {
    if (add)
        put_values<VECTOR, true>(address, values);
    else
        put_values<VECTOR, false>(address, values);
}

#if SHORTCUT == 2
// The gradient at `pixel` goes to its source; the three skipped neighbours get zero.
DEVICE void put_option_a(Storage* dshortcut, const OptionA& a, u32 pixel, u32 channel, const float (&g)[VECTOR],
                         bool add) {
    u32 source_channel = channel - a.pad;  // wraps below the padding
    if (source_channel >= a.channels) return;
    SourcePixel p = source_pixel(a, pixel);
    put(dshortcut + source_offset(a, p.image, p.row, p.column) + source_channel, g, add);
    if (add) return;
    float zero[VECTOR] = {};
    bool right = p.column + 1 < a.width, below = p.row + 1 < a.height;
    if (right)
        store_values<VECTOR>(dshortcut + source_offset(a, p.image, p.row, p.column + 1) + source_channel, zero);
    if (below)
        store_values<VECTOR>(dshortcut + source_offset(a, p.image, p.row + 1, p.column) + source_channel, zero);
    if (right && below)
        store_values<VECTOR>(dshortcut + source_offset(a, p.image, p.row + 1, p.column + 1) + source_channel, zero);
}
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_backward_apply(const Storage* __restrict__ x, const Storage* __restrict__ z,
                              const Storage* __restrict__ dz, const float* __restrict__ statistics,
                              const float* __restrict__ totals, const float* __restrict__ weight,
                              Storage* __restrict__ dx, Storage* __restrict__ dshortcut, u32 add_dx,
                              u32 add_dshortcut, u32 pixels, u32 channels, u32 columns, OptionA option_a) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    u32 view = blockIdx.z;
    // dx = g * scale - offset - (x - mean) * slope
    float mean[VECTOR], scale[VECTOR], offset[VECTOR], slope[VECTOR];
    for (int v = 0; v < VECTOR; v++) {
        u32 channel = place.channel + v;
        float invstd = statistics[(view * 2 + 1) * channels + channel];
        mean[v] = statistics[(view * 2) * channels + channel];
        scale[v] = weight[channel] * invstd;
        offset[v] = scale[v] * (totals[(view * 2) * channels + channel] / pixels);
        slope[v] = scale[v] * invstd * (totals[(view * 2 + 1) * channels + channel] / pixels);
    }
    u32 end = (view + 1) * pixels;
#pragma unroll 2
    for (u32 pixel = view * pixels + blockIdx.x * place.rows + place.row; pixel < end;
         pixel += gridDim.x * place.rows) {
        u64 at = static_cast<u64>(pixel) * channels + place.channel;
        float g[VECTOR];
        load_values<VECTOR>(dz + at, g);
#if RELU
        float zs[VECTOR];
        load_values<VECTOR>(z + at, zs);
        for (int v = 0; v < VECTOR; v++) g[v] = zs[v] <= 0.0f ? 0.0f : g[v];
#endif
        if (dx) {
            float xs[VECTOR];
            load_values<VECTOR>(x + at, xs);
            for (int v = 0; v < VECTOR; v++) xs[v] = g[v] * scale[v] - offset[v] - (xs[v] - mean[v]) * slope[v];
            put(dx + at, xs, add_dx);
        }
#if SHORTCUT == 1
        if (dshortcut) put(dshortcut + at, g, add_dshortcut);
#elif SHORTCUT == 2
        if (dshortcut) put_option_a(dshortcut, option_a, pixel, place.channel, g, add_dshortcut);
#endif
    }
}
