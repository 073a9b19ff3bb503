// conv2d_input_grad: dx[n, h, w, c] = sum over (u, v, f) of dy[n, i, j, f] * weight[f, u, v, c], where STRIDE*i + u - PADDING = h and
// STRIDE*j + v - PADDING = w, as an implicit matrix product: rows m are input pixels, columns channels, terms k = (u, v, f).
//
// dy      (images, OUT_HEIGHT, OUT_WIDTH, FILTERS)     Storage
// weight  (FILTERS, KERNEL, KERNEL, CHANNELS)          Storage
// dx      (images, HEIGHT, WIDTH, CHANNELS)            Storage, = (+= with ADD: added in f32, rounded once)
//
// With a stride, a pixel takes part only in the taps of its phase: with h = STRIDE*q + p only u = u0, u0 + STRIDE, ...
// where u0 = (p + PADDING) mod STRIDE, from row i = q + (p + PADDING - u0) / STRIDE downwards. Each phase (p of the rows,
// p of the columns) is a product of its own with just its taps, so no term is multiplied in vain; a phase without any
// tap writes zeros.
//
// Grid: x = tile of the phase's pixels * tiles of channels + tile of channels, y = phase. Each block computes BLOCK_M
// pixels of one phase by BLOCK_N channels; which thread fetches, multiplies and writes what: operands.cuh,
// product_*.cuh, epilogue.cuh. 16-byte accesses to dy with VECTOR_FILTERS, to weight and dx with VECTOR_CHANNELS.

#include "conv2d/main_loop.cuh"
#include "conv2d/operands.cuh"
#include "conv2d/phases.cuh"
#include "conv2d/epilogue.cuh"

#ifndef ADD
#error "ADD: 1 to add to dx"
#endif

struct InputGradWriter {
    Storage* dx;
    int first_pixel, images;
    int row_phase, column_phase;
    int channels;  // from this thread's first column on

    __device__ __forceinline__ void operator()(int row, float (&values)[WRITE]) {
        int pixel = first_pixel + row;
        int n = pixel / (PHASE_ROWS * PHASE_COLUMNS), rest = pixel % (PHASE_ROWS * PHASE_COLUMNS);
        int h = rest / PHASE_COLUMNS * STRIDE + row_phase, w = rest % PHASE_COLUMNS * STRIDE + column_phase;
        if (n >= images || h >= HEIGHT || w >= WIDTH) return;
        write_eight<VECTOR_CHANNELS && CHANNELS % WRITE == 0, ADD>(dx + ((n * HEIGHT + h) * WIDTH + w) * CHANNELS,
                                                                         values, channels);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_input_grad(const Storage* __restrict__ dy, const Storage* __restrict__ weight, Storage* __restrict__ dx,
                      int images) {
    SHARED_MEMORY(shared);
    enum { N_TILES = (CHANNELS + BLOCK_N - 1) / BLOCK_N, PIXELS = PHASE_ROWS * PHASE_COLUMNS };
    typedef Windows<OUT_HEIGHT, OUT_WIDTH, FILTERS, VECTOR_FILTERS, -1> A;
    typedef WeightsByTap B;

    const int first_pixel = blockIdx.x / N_TILES * BLOCK_M;
    const int first_channel = blockIdx.x % N_TILES * BLOCK_N;
    // The last phases have the most taps (with odd kernels padded by half): they start first.
    const int phase = STRIDE * STRIDE - 1 - blockIdx.y;
    const Axis rows = Axis::make(phase / STRIDE), columns = Axis::make(phase % STRIDE);

    A a = A::make(dy, rows.taps, columns.taps);
#pragma unroll
    for (int pass = 0; pass < A::Shape::PASSES; pass++) {
        int pixel = first_pixel + A::Shape::row(pass);
        int n = pixel / PIXELS, rest = pixel % PIXELS;
        a.place(pass, n < images, n, rest / PHASE_COLUMNS + rows.shift, rest % PHASE_COLUMNS + columns.shift);
    }
    B b = {weight, first_channel, rows.first_tap, columns.first_tap, rows.taps, columns.taps};
    Product<A::Shape, B::Shape, true, false> product;
    product.clear();
    main_loop(shared, a, b, product, ceil_div(rows.taps * columns.taps * FILTER_CHUNKS * CHUNK, BLOCK_K));

    const int channel = first_channel + epilogue_column();
    InputGradWriter write = {dx + channel, first_pixel, images, rows.phase, columns.phase, CHANNELS - channel};
    drain(shared, product, write);
}
