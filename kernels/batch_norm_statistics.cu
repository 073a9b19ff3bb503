// Batch statistics from the sums that the convolution made, and the running statistics.
//
//   mean = sum(x) / count, var = sum(x^2) / count - mean^2, invstd = 1 / sqrt(var + epsilon)
//   running_mean = (1 - momentum) * running_mean + momentum * mean, view after view
//   running_var likewise with the unbiased var * count / (count - 1)
//
// That difference loses digits where mean^2 is far above var, which takes few values: of two, one channel in a hundred
// has mean^2 > 10^4 * var. Views of at most FEW values per channel are therefore read again, once for the mean and once for
// the squared deviations from it; they cost next to nothing.
//
// x (views * count, channels) Storage; sums (views, parts, 2, channels) f32; statistics = (views, 2, channels) f32: mean,
// invstd; running_mean, running_var (channels) f32, updated, null where they stay as they are. `count` is a view's number of values per channel.
// Grid: channels / CHANNELS blocks; lane 0 of each channel writes. See batch_norm_parts.cuh.
#include "batch_norm_parts.cuh"
#include "storage.cuh"

#ifndef FEW
#error "FEW: values per channel up to which x is read for the statistics"
#endif

// Sums over one view of x - shift and of its square; see add_lanes for who calls it and what they get.
DEVICE PairSum sum_view(double* shared, const Storage* x, double shift, u32 view, u32 count, u32 channels) {
    u32 channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
    PairSum sum = {0.0, 0.0};
    if (channel < channels) {
        for (u32 i = threadIdx.x / CHANNELS; i < count; i += LANES) {
            double value = to_float(x[(static_cast<u64>(view) * count + i) * channels + channel]) - shift;
            sum.first += value;
            sum.second += value * value;
        }
    }
    return add_lanes(shared, sum);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_statistics(const Storage* __restrict__ x, const float* __restrict__ sums,
                          float* __restrict__ statistics, float* __restrict__ running_mean,
                          float* __restrict__ running_var, u32 views, u32 parts, u32 channels, u32 count,
                          float epsilon, float momentum) {
    SHARED_MEMORY(memory);
    double* shared = reinterpret_cast<double*>(memory);
    u32 channel = blockIdx.x * CHANNELS + threadIdx.x;
    bool writes = threadIdx.x < CHANNELS && channel < channels;
    bool runs = writes && running_mean;
    double running[2] = {0.0, 0.0};
    if (runs) {
        running[0] = running_mean[channel];
        running[1] = running_var[channel];
    }
    for (u32 view = 0; view < views; view++) {
        double mean, variance;
        if (count <= FEW) {
            mean = sum_view(shared, x, 0.0, view, count, channels).first / count;
            variance = sum_view(shared, x, mean, view, count, channels).second / count;
        } else {
            PairSum sum = sum_parts(shared, sums, view, parts, channels);
            mean = sum.first / count;
            variance = sum.second / count - mean * mean;
            // Rounding of the parts may leave a constant channel slightly below zero; NaN must pass.
            if (variance < 0.0) variance = 0.0;
        }
        if (writes) {
            float* out = statistics + static_cast<u64>(view) * 2 * channels + channel;
            out[0] = static_cast<float>(mean);
            out[channels] = static_cast<float>(1.0 / sqrt(variance + epsilon));
        }
        running[0] += momentum * (mean - running[0]);
        running[1] += momentum * (variance * count / (count - 1.0) - running[1]);
    }
    if (runs) {
        running_mean[channel] = static_cast<float>(running[0]);
        running_var[channel] = static_cast<float>(running[1]);
    }
}
