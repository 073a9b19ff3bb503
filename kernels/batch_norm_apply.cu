// Training's second half: z = relu((x - mean) * invstd * weight + bias + shortcut), statistics per view.
//
// x, z (views * pixels, channels) Storage, z =; statistics (views, 2, channels), weight and bias (channels) f32; shortcut
// like z or as option_a.cuh says, Storage. `pixels` are those of one view.
// Grid and threads: channels.cuh; a thread does ITEMS pixels at a time, one block row apart.
#include "batch_norm_apply.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_apply(const Storage* __restrict__ x, const float* __restrict__ statistics,
                     const float* __restrict__ weight, const float* __restrict__ bias,
                     const Storage* __restrict__ shortcut, Storage* __restrict__ z, u32 pixels, u32 channels,
                     u32 columns, OptionA option_a) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    u32 view = blockIdx.z;
    Normaliser n;
    for (int v = 0; v < VECTOR; v++) {
        u32 channel = place.channel + v;
        n.mean[v] = statistics[(view * 2) * channels + channel];
        n.scale[v] = statistics[(view * 2 + 1) * channels + channel] * weight[channel];
        n.shift[v] = bias[channel];
    }
    u32 first = view * pixels + blockIdx.x * place.rows + place.row;
    apply_pixels(x, shortcut, z, n, option_a, first, (view + 1) * pixels, gridDim.x * place.rows, place.channel,
                 channels);
}
