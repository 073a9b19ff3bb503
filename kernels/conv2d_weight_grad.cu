// conv2d_weight_grad: dweight[f, u, v, c] = sum over (n, i, j) of dy[n, i, j, f] * x[n, STRIDE*i + u - PADDING, STRIDE*j + v - PADDING, c]
// as an implicit matrix product: rows m are filters, columns (u, v, c), terms k output pixels.
//
// x         (images, HEIGHT, WIDTH, CHANNELS)                    Storage
// dy        (images, OUT_HEIGHT, OUT_WIDTH, FILTERS)             Storage
// partials  (splits, FILTERS, KERNEL, KERNEL, CHANNELS)          f32, = (with one split this is dweight itself)
//
// The sum over pixels is split: split s takes the pixels s * split_pixels and on, and conv2d_weight_grad_reduce adds the
// splits in order. Two stages instead of atomics: the same bits in every run.
//
// Grid: x = tile of filters * tiles of columns + tile of columns, y = split. Each block computes BLOCK_M filters by BLOCK_N
// columns over one split's pixels; which thread fetches, multiplies and writes what: operands.cuh, product_*.cuh,
// epilogue.cuh. 16-byte accesses to dy with VECTOR_FILTERS, to x and partials with VECTOR_CHANNELS.

#include "conv2d/main_loop.cuh"
#include "conv2d/operands.cuh"
#include "conv2d/epilogue.cuh"

struct WeightGradWriter {
    float* to;  // this thread's first column of filter 0
    int first_filter;
    int channels;  // from that column on in the same tap; 0 past the last tap

    __device__ __forceinline__ void operator()(int row, float (&values)[WRITE]) {
        int filter = first_filter + row;
        if (filter >= FILTERS) return;
        write_eight<VECTOR_CHANNELS && CHANNELS % WRITE == 0, false>(to + filter * (TAPS * CHANNELS), values, channels);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_weight_grad(const Storage* __restrict__ x, const Storage* __restrict__ dy, float* __restrict__ partials,
                       int pixels, int split_pixels) {
    SHARED_MEMORY(shared);
    typedef GradsByPixel A;
    typedef InputsByPixel B;
    enum { N_TILES = (TAPS * B::PADDED + BLOCK_N - 1) / BLOCK_N };

    const int first_filter = blockIdx.x / N_TILES * BLOCK_M;
    const int first_column = blockIdx.x % N_TILES * BLOCK_N;
    const int begin = blockIdx.y * split_pixels, end = min(begin + split_pixels, pixels);

    A a = {dy, first_filter, begin, end};
    B b = B::make(x, first_column, begin, end);
    Product<A::Shape, B::Shape, false, false> product;
    product.clear();
    main_loop(shared, a, b, product, ceil_div(end - begin, BLOCK_K));

    const int column = first_column + epilogue_column();
    const int tap = column / B::PADDED, channel = column % B::PADDED;
    WeightGradWriter write;
    write.to = partials + (static_cast<i64>(blockIdx.y) * FILTERS * TAPS + tap) * CHANNELS + channel;
    write.first_filter = first_filter;
    write.channels = tap < TAPS ? CHANNELS - channel : 0;
    drain(shared, product, write);
}
