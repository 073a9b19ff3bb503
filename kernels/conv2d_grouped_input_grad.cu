// conv2d_grouped_input_grad: dx[n, h, w, c] = sum over (u, v, f) of dy[n, i, j, f] * weight[f, u, v, c - g * GROUP_CHANNELS],
// where STRIDE*i + u - PADDING = h, STRIDE*j + v - PADDING = w, g = c / GROUP_CHANNELS is the channel's group, and f runs over
// its filters.
//
// dy      (images, OUT_HEIGHT, OUT_WIDTH, FILTERS)        Storage
// weight  (FILTERS, KERNEL, KERNEL, CHANNELS / GROUPS)    Storage
// dx      (images, HEIGHT, WIDTH, CHANNELS)               Storage, = (+= with ADD: added in f32, rounded once)
//
// Grid: x = tile of the phase's pixels * tiles of channels + tile of channels, y = phase (conv2d/phases.cuh), so that the
// pixels of a block have the same taps. Each block computes BLOCK_M pixels by BLOCK_N channels; which thread computes
// what: conv2d/grouped.cuh.

#include "conv2d/grouped.cuh"
#include "conv2d/phases.cuh"

#ifndef ADD
#error "ADD: 1 to add to dx"
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    conv2d_grouped_input_grad(const Storage* __restrict__ dy, const Storage* __restrict__ weight,
                              Storage* __restrict__ dx, int images) {
    SHARED_MEMORY(shared);
    enum { N_TILES = (CHANNELS + BLOCK_N - 1) / BLOCK_N, PIXELS = PHASE_ROWS * PHASE_COLUMNS };
    typedef GroupedProduct<GROUP_FILTERS, GROUP_CHANNELS, CHANNELS> Product;

    float* weights = reinterpret_cast<float*>(shared);
    const int first_pixel = blockIdx.x / N_TILES * BLOCK_M + own_run();
    const int first_channel = blockIdx.x % N_TILES * BLOCK_N, channel = first_channel + own_column();
    // The last phases have the most taps (with odd kernels padded by half): they start first.
    const int phase = STRIDE * STRIDE - 1 - blockIdx.y;
    const Axis rows = Axis::make(phase / STRIDE), columns = Axis::make(phase % STRIDE);

    // Each pixel's output pixel by its first tap, from which later taps go up and left, and where it lies from dy on.
    int bottom[PART_M], right[PART_M], origin[PART_M];
#pragma unroll
    for (int m = 0; m < PART_M; m++) {
        int pixel = first_pixel + m * RUNS;
        int n = pixel / PIXELS, rest = pixel % PIXELS;
        // So far outside that every tap is.
        bottom[m] = n < images ? rest / PHASE_COLUMNS + rows.shift : -1;
        right[m] = rest % PHASE_COLUMNS + columns.shift;
        origin[m] = n < images ? ((n * OUT_HEIGHT + bottom[m]) * OUT_WIDTH + right[m]) * FILTERS : 0;
    }
    Product product;
    product.clear();
    for (int slice = 0; slice < GROUP_FILTERS; slice += SLICE) {
        const int count = min(SLICE, GROUP_FILTERS - slice);
        // Everybody has finished with the slice before.
        __syncthreads();
        for (int i = threadIdx.x; i < BLOCK_N * TAPS * SLICE; i += THREADS) {
            int n = i % BLOCK_N, f = i / BLOCK_N % SLICE, tap = i / (BLOCK_N * SLICE);
            int group = (first_channel + n) / GROUP_CHANNELS, c = (first_channel + n) % GROUP_CHANNELS;
            if (first_channel + n < CHANNELS && f < count)
                weights[i] = to_float(weight[((group * GROUP_FILTERS + slice + f) * TAPS + tap) * GROUP_CHANNELS + c]);
        }
        __syncthreads();
        if (channel >= CHANNELS) continue;
        const Storage* from = dy + Product::reads(channel, slice);
#pragma unroll 1
        for (int u = 0; u < rows.taps; u++) {
#pragma unroll 1
            for (int v = 0; v < columns.taps; v++) {
                int at[PART_M];
#pragma unroll
                for (int m = 0; m < PART_M; m++) {
                    bool inside = static_cast<u32>(bottom[m] - u) < static_cast<u32>(OUT_HEIGHT) &&
                                  static_cast<u32>(right[m] - v) < static_cast<u32>(OUT_WIDTH);
                    at[m] = inside ? origin[m] - (u * OUT_WIDTH + v) * FILTERS : -1;
                }
                int tap = (rows.first_tap + STRIDE * u) * KERNEL + columns.first_tap + STRIDE * v;
                product.add(from, at, weights + tap * SLICE * BLOCK_N + own_column(), count);
            }
        }
    }

    if (channel >= CHANNELS) return;
#pragma unroll
    for (int m = 0; m < PART_M; m++) {
        int pixel = first_pixel + m * RUNS;
        int n = pixel / PIXELS, rest = pixel % PIXELS;
        int h = rest / PHASE_COLUMNS * STRIDE + rows.phase, w = rest % PHASE_COLUMNS * STRIDE + columns.phase;
        if (n >= images || h >= HEIGHT || w >= WIDTH) continue;
        put_values<VECTOR, ADD>(dx + ((n * HEIGHT + h) * WIDTH + w) * CHANNELS + channel, product.sums[m]);
    }
}
