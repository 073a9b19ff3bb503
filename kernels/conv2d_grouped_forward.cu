// conv2d_grouped_forward: y[n, i, j, f] = sum over (u, v, c) of
// x[n, STRIDE*i + u - PADDING, STRIDE*j + v - PADDING, g * GROUP_CHANNELS + c] * weight[f, u, v, c], where g = f / GROUP_FILTERS is
// the filter's group.
//
// x       (views * images, HEIGHT, WIDTH, CHANNELS)           Storage
// weight  (FILTERS, KERNEL, KERNEL, CHANNELS / GROUPS)        Storage
// y       (views * images, OUT_HEIGHT, OUT_WIDTH, FILTERS)    Storage, =
// sums    (views, parts, 2, FILTERS)                          f32, = (with SUMS): per view, part and filter the sums of y
//         and of y^2 over the part's pixels, of the values as stored; part p is the view's pixels p * BLOCK_M and on.
//
// Grid: x = tile of pixels within the view * tiles of filters + tile of filters, y = view. Each block computes BLOCK_M
// pixels of one view by BLOCK_N filters; which thread computes what: conv2d/grouped.cuh.

#include "conv2d/grouped.cuh"

#ifndef SUMS
#error "SUMS: 1 to emit channel sums"
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    conv2d_grouped_forward(const Storage* __restrict__ x, const Storage* __restrict__ weight, Storage* __restrict__ y,
                           float* __restrict__ sums, int images) {
    SHARED_MEMORY(shared);
    enum { N_TILES = (FILTERS + BLOCK_N - 1) / BLOCK_N, PIXELS = OUT_HEIGHT * OUT_WIDTH };
    typedef GroupedProduct<GROUP_CHANNELS, GROUP_FILTERS, FILTERS> Product;

    float* weights = reinterpret_cast<float*>(shared);
    const int part = blockIdx.x / N_TILES, view = blockIdx.y;
    const int first_filter = blockIdx.x % N_TILES * BLOCK_N, filter = first_filter + own_column();
    const int first_pixel = part * BLOCK_M + own_run(), pixels = images * PIXELS;

    // Each pixel's window: its origin, and the elements from x to its origin's first channel.
    int top[PART_M], left[PART_M], origin[PART_M];
#pragma unroll
    for (int m = 0; m < PART_M; m++) {
        int pixel = first_pixel + m * RUNS;
        int n = view * images + pixel / PIXELS, rest = pixel % PIXELS;
        // So far outside that every tap is.
        top[m] = pixel < pixels ? rest / OUT_WIDTH * STRIDE - PADDING : -HEIGHT - KERNEL;
        left[m] = rest % OUT_WIDTH * STRIDE - PADDING;
        origin[m] = pixel < pixels ? ((n * HEIGHT + top[m]) * WIDTH + left[m]) * CHANNELS : 0;
    }
    Product product;
    product.clear();
    for (int slice = 0; slice < GROUP_CHANNELS; slice += SLICE) {
        const int count = min(SLICE, GROUP_CHANNELS - slice);
        // Everybody has finished with the slice before.
        __syncthreads();
        for (int i = threadIdx.x; i < BLOCK_N * TAPS * SLICE; i += THREADS) {
            int n = i / (TAPS * SLICE), tap = i / SLICE % TAPS, c = i % SLICE;
            if (first_filter + n < FILTERS && c < count)
                weights[(tap * SLICE + c) * BLOCK_N + n] =
                    to_float(weight[((first_filter + n) * TAPS + tap) * GROUP_CHANNELS + slice + c]);
        }
        __syncthreads();
        if (filter >= FILTERS) continue;
        const Storage* from = x + Product::reads(filter, slice);
#pragma unroll 1
        for (int u = 0; u < KERNEL; u++) {
#pragma unroll 1
            for (int v = 0; v < KERNEL; v++) {
                int at[PART_M];
#pragma unroll
                for (int m = 0; m < PART_M; m++) {
                    bool inside = static_cast<u32>(top[m] + u) < static_cast<u32>(HEIGHT) &&
                                  static_cast<u32>(left[m] + v) < static_cast<u32>(WIDTH);
                    at[m] = inside ? origin[m] + (u * WIDTH + v) * CHANNELS : -1;
                }
                product.add(from, at, weights + (u * KERNEL + v) * SLICE * BLOCK_N + own_column(), count);
            }
        }
    }

    float sum[VECTOR] = {}, square[VECTOR] = {};
#pragma unroll
    for (int m = 0; m < PART_M; m++) {
        int pixel = first_pixel + m * RUNS;
        if (pixel >= pixels || filter >= FILTERS) continue;
#pragma unroll
        for (int v = 0; v < VECTOR; v++) {
            float stored = to_float(from_float<Storage>(product.sums[m][v]));
            sum[v] += stored;
            square[v] += stored * stored;
        }
        store_values<VECTOR>(y + (view * pixels + pixel) * FILTERS + filter, product.sums[m]);
    }

#if SUMS
    // Each thread's sums, one row of 2 * BLOCK_N a run; then one thread a column adds the runs in order.
    __syncthreads();
    float* run = weights + own_run() * 2 * BLOCK_N + own_column();
#pragma unroll
    for (int v = 0; v < VECTOR; v++) {
        run[v] = sum[v];
        run[BLOCK_N + v] = square[v];
    }
    __syncthreads();
    float* to = sums + (view * ceil_div(pixels, BLOCK_M) + part) * 2 * FILTERS + first_filter;
    for (int i = threadIdx.x; i < 2 * BLOCK_N; i += THREADS) {
        int column = i % BLOCK_N;
        if (first_filter + column >= FILTERS) continue;
        float total = 0.0f;
        for (int r = 0; r < RUNS; r++) total += weights[r * 2 * BLOCK_N + i];
        to[i / BLOCK_N * FILTERS + column] = total;
    }
#endif
}
