// Inference: z = relu((x - running_mean) / sqrt(running_var + epsilon) * weight + bias + shortcut).
//
// x, z (pixels, channels) Storage, z =; the four parameters (channels) f32; shortcut like z or as option_a.cuh says,
// Storage. Grid and threads: channels.cuh; a thread does ITEMS pixels at a time, one block row apart.
#include "batch_norm_apply.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_inference(const Storage* __restrict__ x, const float* __restrict__ running_mean,
                         const float* __restrict__ running_var, const float* __restrict__ weight,
                         const float* __restrict__ bias, const Storage* __restrict__ shortcut, Storage* __restrict__ z,
                         u32 pixels, u32 channels, u32 columns, float epsilon, OptionA option_a) {
    Place place = place_in_channels(channels, columns);
    if (!place.active) return;
    Normaliser n;
    for (int v = 0; v < VECTOR; v++) {
        u32 channel = place.channel + v;
        n.mean[v] = running_mean[channel];
        n.scale[v] = weight[channel] / sqrtf(running_var[channel] + epsilon);
        n.shift[v] = bias[channel];
    }
    u32 first = blockIdx.x * place.rows + place.row;
    apply_pixels(x, shortcut, z, n, option_a, first, pixels, gridDim.x * place.rows, place.channel, channels);
}
