// conv2d_forward: y[n, i, j, f] = sum over (u, v, c) of x[n, STRIDE*i + u - PADDING, STRIDE*j + v - PADDING, c] * weight[f, u, v, c]
// as an implicit matrix product: rows m are output pixels, columns filters, terms k = (u, v, c).
//
// x       (views * images, HEIGHT, WIDTH, CHANNELS)           Storage
// weight  (FILTERS, KERNEL, KERNEL, CHANNELS)                 Storage
// y       (views * images, OUT_HEIGHT, OUT_WIDTH, FILTERS)    Storage, =
// sums    (views, parts, 2, FILTERS)                          f32, = (with SUMS): per view, part and filter the sums of y
//         and of y^2 over the part's pixels, of the values as stored; part p is the view's pixels p * BLOCK_M and on.
//
// Grid: x = tile of pixels within the view * tiles of filters + tile of filters, y = view. Each block computes BLOCK_M
// pixels of one view by BLOCK_N filters; which thread fetches, multiplies and writes what: operands.cuh, product_*.cuh,
// epilogue.cuh. 16-byte accesses to x and weight with VECTOR_CHANNELS, to y with VECTOR_FILTERS.

#include "conv2d/main_loop.cuh"
#include "conv2d/operands.cuh"
#include "conv2d/epilogue.cuh"

#ifndef SUMS
#error "SUMS: 1 to emit channel sums"
#endif

// Writes y and, per thread, sums up what it wrote.
struct ForwardWriter {
    Storage* y;
    int rows;  // of the tile that exist
    int filters;  // from this thread's first column on
    float sum[WRITE], square[WRITE];

    __device__ __forceinline__ void operator()(int row, float (&values)[WRITE]) {
        if (row >= rows) return;
#pragma unroll
        for (int i = 0; i < WRITE; i++) {
            float stored = to_float(from_float<Storage>(values[i]));
            sum[i] += stored;
            square[i] += stored * stored;
        }
        write_eight<VECTOR_FILTERS && FILTERS % WRITE == 0, false>(y + row * FILTERS, values, filters);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_forward(const Storage* __restrict__ x, const Storage* __restrict__ weight, Storage* __restrict__ y,
                   float* __restrict__ sums, int images) {
    SHARED_MEMORY(shared);
    enum { N_TILES = (FILTERS + BLOCK_N - 1) / BLOCK_N, PIXELS = OUT_HEIGHT * OUT_WIDTH };
    typedef Windows<HEIGHT, WIDTH, CHANNELS, VECTOR_CHANNELS, 1> A;
    typedef WeightsByFilter B;

    const int part = blockIdx.x / N_TILES, view = blockIdx.y;
    const int first_filter = blockIdx.x % N_TILES * BLOCK_N;
    const int first_pixel = part * BLOCK_M, pixels = images * PIXELS;

    A a = A::make(x, KERNEL, KERNEL);
#pragma unroll
    for (int pass = 0; pass < A::Shape::PASSES; pass++) {
        int pixel = first_pixel + A::Shape::row(pass);
        int n = pixel / PIXELS, rest = pixel % PIXELS;
        a.place(pass, pixel < pixels, view * images + n, rest / OUT_WIDTH * STRIDE - PADDING,
                rest % OUT_WIDTH * STRIDE - PADDING);
    }
    B b = {weight, first_filter};
    Product<A::Shape, B::Shape, true, true> product;
    product.clear();
    main_loop(shared, a, b, product, ceil_div(TAPS * CHANNEL_CHUNKS * CHUNK, BLOCK_K));

    ForwardWriter write = {};
    const int filter = first_filter + epilogue_column();
    write.y = y + (view * pixels + first_pixel) * FILTERS + filter;
    write.rows = pixels - first_pixel;
    write.filters = FILTERS - filter;
    drain(shared, product, write);

#if SUMS
    // Each thread's sums, one row of 2 * BLOCK_N a row group; then one thread a column adds the groups in order.
    __syncthreads();
    float* group = reinterpret_cast<float*>(shared) + threadIdx.x / EPILOGUE_COLUMNS * 2 * BLOCK_N;
    store_eight(group + epilogue_column(), write.sum);
    store_eight(group + BLOCK_N + epilogue_column(), write.square);
    __syncthreads();
    const int parts = ceil_div(pixels, BLOCK_M);
    float* to = sums + (view * parts + part) * 2 * FILTERS + first_filter;
    for (int i = threadIdx.x; i < 2 * BLOCK_N; i += THREADS) {
        int column = i % BLOCK_N;
        if (first_filter + column >= FILTERS) continue;
        float total = 0.0f;
        for (int g = 0; g < EPILOGUE_ROW_STEP; g++) total += reinterpret_cast<float*>(shared)[g * 2 * BLOCK_N + i];
        to[i / BLOCK_N * FILTERS + column] = total;
    }
#endif
}
