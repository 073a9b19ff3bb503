// Backward, second stage: the parts' sums added up, and with them the parameters' gradients.
//
//   totals[view] = sum of sums[view][part] over the parts
//   dbias = sum over the views of sum(g), dweight = sum over the views of sum(g * xhat)
//
// sums (views, parts, 2, channels) f32; totals (views, 2, channels) f32, =; dweight, dbias (channels) f32, = or += as
// add_weight and add_bias say, null where not wanted. Grid: channels / CHANNELS blocks; see batch_norm_parts.cuh.
#include "batch_norm_parts.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_backward_totals(const float* __restrict__ sums, float* __restrict__ totals,
                               float* __restrict__ dweight, float* __restrict__ dbias, u32 views, u32 parts,
                               u32 channels, u32 add_weight, u32 add_bias) {
    SHARED_MEMORY(memory);
    u32 channel = blockIdx.x * CHANNELS + threadIdx.x;
    bool writes = threadIdx.x < CHANNELS && channel < channels;
    double bias = 0.0, weight = 0.0;
    for (u32 view = 0; view < views; view++) {
        PairSum sum = sum_parts(reinterpret_cast<double*>(memory), sums, view, parts, channels);
        bias += sum.first;
        weight += sum.second;
        if (writes) {
            float* out = totals + static_cast<u64>(view) * 2 * channels + channel;
            out[0] = static_cast<float>(sum.first);
            out[channels] = static_cast<float>(sum.second);
        }
    }
    if (writes && dweight) dweight[channel] = static_cast<float>(weight) + (add_weight ? dweight[channel] : 0.0f);
    if (writes && dbias) dbias[channel] = static_cast<float>(bias) + (add_bias ? dbias[channel] : 0.0f);
}
