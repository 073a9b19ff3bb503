// conv2d_grouped_weight_grad: dweight[f, u, v, c] = sum over (n, i, j) of
// dy[n, i, j, f] * x[n, STRIDE*i + u - PADDING, STRIDE*j + v - PADDING, g * GROUP_CHANNELS + c], where g = f / GROUP_FILTERS is the
// filter's group.
//
// x         (images, HEIGHT, WIDTH, CHANNELS)                            Storage
// dy        (images, OUT_HEIGHT, OUT_WIDTH, FILTERS)                     Storage
// partials  (splits, FILTERS, KERNEL, KERNEL, CHANNELS / GROUPS)         f32, = (with one split this is dweight itself)
//
// The sum over pixels is split as in conv2d_weight_grad: split s takes the pixels s * split_pixels and on, and
// conv2d_weight_grad_reduce adds the splits in order.
//
// An item is one tap of VECTOR neighbouring filters by up to VECTOR neighbouring channels of their groups: either vectors
// lie inside groups, or groups have as many channels as filters and a vector holds several whole ones. The sums of an item
// are in the registers of LANES threads, each of which takes every LANES-th pixel; their sums are added in order.
//
// Grid: x = ITEMS items, y = split. Thread: item + ITEMS * lane; the taps of the same channels lie side by side, so that
// a warp reads dy once. Two resident blocks in the launch bounds leave the sums their registers.

#include "conv2d/shape.cuh"

#ifndef GROUPS
#error "GROUPS: of channels"
#endif
#ifndef VECTOR
#error "VECTOR: neighbouring filters of an item, those of 16 bytes or 1"
#endif
#ifndef ITEMS
#error "ITEMS: of a block"
#endif
#ifndef LANES
#error "LANES: threads that share the pixels of an item"
#endif

enum {
    THREADS = ITEMS * LANES,
    GROUP_CHANNELS = CHANNELS / GROUPS,
    GROUP_FILTERS = FILTERS / GROUPS,
    // Whether a vector holds several groups.
    SEVERAL = GROUP_FILTERS % VECTOR != 0,
    // Channels of an item, and items of the same filters and tap.
    WIDE = SEVERAL ? GROUP_CHANNELS : VECTOR,
    CHUNKS = GROUP_CHANNELS / WIDE,
};

static_assert(CHANNELS % GROUPS == 0 && FILTERS % GROUPS == 0, "whole groups");
static_assert(SEVERAL ? GROUP_CHANNELS == GROUP_FILTERS && VECTOR % GROUP_FILTERS == 0 && FILTERS % VECTOR == 0
                      : GROUP_CHANNELS % VECTOR == 0, "vectors lie in groups, or groups in vectors");

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    conv2d_grouped_weight_grad(const Storage* __restrict__ x, const Storage* __restrict__ dy, float* __restrict__ partials,
                               int pixels, int split_pixels) {
    SHARED_MEMORY(shared);
    const int item = blockIdx.x * ITEMS + threadIdx.x % ITEMS, lane = threadIdx.x / ITEMS;
    const int tap = item % TAPS, chunk = item / TAPS % CHUNKS * WIDE, filter = item / (TAPS * CHUNKS) * VECTOR;
    const int channel = SEVERAL ? filter : filter / GROUP_FILTERS * GROUP_CHANNELS + chunk;

    float sums[VECTOR][WIDE];
#pragma unroll
    for (int v = 0; v < VECTOR; v++)
#pragma unroll
        for (int c = 0; c < WIDE; c++) sums[v][c] = 0.0f;
    if (filter < FILTERS) {
        const int begin = blockIdx.y * split_pixels, end = min(begin + split_pixels, pixels);
        const int row = tap / KERNEL - PADDING, column = tap % KERNEL - PADDING;
        for (int pixel = begin + lane; pixel < end; pixel += LANES) {
            int n = pixel / (OUT_HEIGHT * OUT_WIDTH), rest = pixel % (OUT_HEIGHT * OUT_WIDTH);
            int h = rest / OUT_WIDTH * STRIDE + row, w = rest % OUT_WIDTH * STRIDE + column;
            if (static_cast<u32>(h) >= static_cast<u32>(HEIGHT) || static_cast<u32>(w) >= static_cast<u32>(WIDTH)) continue;
            float d[VECTOR], from[VECTOR];
            load_values<VECTOR>(dy + pixel * FILTERS + filter, d);
            load_values<VECTOR>(x + ((n * HEIGHT + h) * WIDTH + w) * CHANNELS + channel, from);
#pragma unroll
            for (int v = 0; v < VECTOR; v++)
#pragma unroll
                for (int c = 0; c < WIDE; c++) sums[v][c] += d[v] * from[SEVERAL ? v / WIDE * WIDE + c : c];
        }
    }

    // One filter at a time: (lane, item, channel).
    float* all = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int v = 0; v < VECTOR; v++) {
        if (v > 0) __syncthreads();
#pragma unroll
        for (int c = 0; c < WIDE; c++) all[threadIdx.x * WIDE + c] = sums[v][c];
        __syncthreads();
        if (lane > 0 || filter >= FILTERS) continue;
        float* to = partials + ((static_cast<i64>(blockIdx.y) * FILTERS + filter + v) * TAPS + tap) * GROUP_CHANNELS + chunk;
        for (int c = 0; c < WIDE; c++) {
            float total = 0.0f;
            for (int l = 0; l < LANES; l++) total += all[(l * ITEMS + threadIdx.x) * WIDE + c];
            to[c] = total;
        }
    }
}
