// The operands of the three products, as loaders: each knows where the chunks of its tile lie in global memory.
//
//     product        rows m               columns n          terms k                A                B
//     forward        output pixels        filters            (tap, channel)         input pixels     weights
//     input grad     input pixels         channels           (tap, filter)          output grads     weights
//     weight grad    filters              (tap, channel)     output pixels          output grads     input pixels
//
// A tile is "k-major" if its rows are m or n and k runs along them, else its rows are k. A tap is one position
// (row, column) of the convolution's kernel; (tap, channel) counts whole chunks of channels, so that a chunk never
// straddles two taps. A loader is made once a block and then called for ascending k; `load(tile, k_tile)` fetches the
// k_tile-th BLOCK_K terms of its operand.
#pragma once

#include "conv2d/tile.cuh"

// Where a convolution's window may lie: so far outside that every test of a bound fails.
enum { NOWHERE = -(1 << 24) };

// Pixels of an image, (k = (tap, channel)) along the rows: A of the forward and of the input gradient.
//
// Row r of the tile is a window into the HEIGHT_ x WIDTH_ image with origin (top, left); tap (u, v) reads pixel
// (top + SIGN * u, left + SIGN * v). Outside the image there are zeros.
template <int HEIGHT_, int WIDTH_, int CHANNELS_, bool VECTOR, int SIGN>
struct Windows {
    typedef Tile<BLOCK_M, BLOCK_K> Shape;
    enum { IN_CHUNKS = (CHANNELS_ + CHUNK - 1) / CHUNK };

    const Storage* image;
    int origin[Shape::PASSES];  // elements from `image` to the window's origin, which may lie outside
    int top[Shape::PASSES];
    int left[Shape::PASSES];
    int tap_rows, tap_columns;

    DEVICE Windows make(const Storage* image, int tap_rows, int tap_columns) {
        Windows w;
        w.image = image;
        w.tap_rows = tap_rows;
        w.tap_columns = tap_columns;
        return w;
    }

    // Sets this thread's row `pass`: the window at (top, left) of image `n`, or no window.
    __device__ __forceinline__ void place(int pass, bool exists, int n, int row, int column) {
        top[pass] = exists ? row : NOWHERE;
        left[pass] = column;
        origin[pass] = exists ? ((n * HEIGHT_ + row) * WIDTH_ + column) * CHANNELS_ : 0;
    }

    __device__ __forceinline__ void load(u8* tile, int k_tile) const {
        int chunk = k_tile * Shape::CHUNKS + Shape::column();
        int tap = chunk / IN_CHUNKS, channel = chunk % IN_CHUNKS * CHUNK;
        // Strided gradients have KERNEL / STRIDE taps per row, rounded down or up: two constants, no true division.
        enum { MOST = (KERNEL + STRIDE - 1) / STRIDE, LEAST = KERNEL / STRIDE > 0 ? KERNEL / STRIDE : 1 };
        int u = SIGN > 0 ? tap / KERNEL : (tap_columns == MOST ? tap / MOST : tap / LEAST);
        int v = tap - u * tap_columns;
        int shift = SIGN * (u * WIDTH_ + v) * CHANNELS_ + channel;
        bool exists = u < tap_rows;
#pragma unroll
        for (int pass = 0; pass < Shape::PASSES; pass++) {
            if (!Shape::has(pass)) continue;
            bool inside = exists && static_cast<u32>(top[pass] + SIGN * u) < static_cast<u32>(HEIGHT_) &&
                          static_cast<u32>(left[pass] + SIGN * v) < static_cast<u32>(WIDTH_);
            fetch_chunk<VECTOR>(tile + Shape::offset(Shape::row(pass), Shape::column()), image + (origin[pass] + shift),
                                inside ? CHANNELS_ - channel : 0);
        }
    }
};

// Weights, k = (tap, channel) along the rows, one row per filter: B of the forward. As they lie in memory.
struct WeightsByFilter {
    typedef Tile<BLOCK_N, BLOCK_K> Shape;

    const Storage* weight;
    int first;

    __device__ __forceinline__ void load(u8* tile, int k_tile) const {
        int chunk = k_tile * Shape::CHUNKS + Shape::column();
        int tap = chunk / CHANNEL_CHUNKS, channel = chunk % CHANNEL_CHUNKS * CHUNK;
#pragma unroll
        for (int pass = 0; pass < Shape::PASSES; pass++) {
            if (!Shape::has(pass)) continue;
            int filter = first + Shape::row(pass);
            bool exists = tap < TAPS && filter < FILTERS;
            fetch_chunk<VECTOR_CHANNELS>(tile + Shape::offset(Shape::row(pass), Shape::column()),
                                         weight + ((filter * TAPS + tap) * CHANNELS + channel),
                                         exists ? CHANNELS - channel : 0);
        }
    }
};

// Weights, one row a term k = (tap, filter), channels along the rows: B of the input gradient. Only the taps
// (tap_row + STRIDE * u, tap_column + STRIDE * v) are terms.
struct WeightsByTap {
    typedef Tile<BLOCK_K, BLOCK_N> Shape;

    const Storage* weight;
    int first;
    int tap_row, tap_column, tap_rows, tap_columns;

    __device__ __forceinline__ void load(u8* tile, int k_tile) const {
        enum { PADDED = FILTER_CHUNKS * CHUNK };
        enum { MOST = (KERNEL + STRIDE - 1) / STRIDE, LEAST = KERNEL / STRIDE > 0 ? KERNEL / STRIDE : 1 };
        int channel = first + Shape::column() * CHUNK;
#pragma unroll
        for (int pass = 0; pass < Shape::PASSES; pass++) {
            if (!Shape::has(pass)) continue;
            int k = k_tile * BLOCK_K + Shape::row(pass);
            int tap = k / PADDED, filter = k % PADDED;
            int u = tap_columns == MOST ? tap / MOST : tap / LEAST;
            int v = tap - u * tap_columns;
            bool exists = u < tap_rows && filter < FILTERS;
            int at = (filter * KERNEL + tap_row + STRIDE * u) * KERNEL + tap_column + STRIDE * v;
            fetch_chunk<VECTOR_CHANNELS>(tile + Shape::offset(Shape::row(pass), Shape::column()),
                                         weight + (at * CHANNELS + channel), exists ? CHANNELS - channel : 0);
        }
    }
};

// Gradients of the output, one row per pixel, filters along the rows: A of the weight gradient. As they lie in memory.
struct GradsByPixel {
    typedef Tile<BLOCK_K, BLOCK_M> Shape;

    const Storage* dy;
    int first;
    int begin, end;  // pixels, all images together

    __device__ __forceinline__ void load(u8* tile, int k_tile) const {
        int filter = first + Shape::column() * CHUNK;
#pragma unroll
        for (int pass = 0; pass < Shape::PASSES; pass++) {
            if (!Shape::has(pass)) continue;
            int pixel = begin + k_tile * BLOCK_K + Shape::row(pass);
            fetch_chunk<VECTOR_FILTERS>(tile + Shape::offset(Shape::row(pass), Shape::column()),
                                        dy + (pixel * FILTERS + filter), pixel < end ? FILTERS - filter : 0);
        }
    }
};

// Input pixels, one row an output pixel, (tap, channel) along the rows: B of the weight gradient.
struct InputsByPixel {
    typedef Tile<BLOCK_K, BLOCK_N> Shape;
    // A tap's channels are padded to a multiple of WRITE, so that the columns that a thread writes are of one tap.
    enum { PADDED = (CHANNELS + WRITE - 1) / WRITE * WRITE, TAP_CHUNKS = PADDED / CHUNK };

    const Storage* x;
    int begin, end;
    int row, column, channel;  // this thread's tap and channel; the row is NOWHERE past the last tap

    DEVICE InputsByPixel make(const Storage* x, int first, int begin, int end) {
        int chunk = first / CHUNK + Shape::column();
        int tap = chunk / TAP_CHUNKS;
        InputsByPixel i;
        i.x = x;
        i.begin = begin;
        i.end = end;
        i.row = tap < TAPS ? tap / KERNEL - PADDING : NOWHERE;
        i.column = tap % KERNEL - PADDING;
        i.channel = chunk % TAP_CHUNKS * CHUNK;
        return i;
    }

    __device__ __forceinline__ void load(u8* tile, int k_tile) const {
#pragma unroll
        for (int pass = 0; pass < Shape::PASSES; pass++) {
            if (!Shape::has(pass)) continue;
            int pixel = begin + k_tile * BLOCK_K + Shape::row(pass);
            int n = pixel / (OUT_HEIGHT * OUT_WIDTH), rest = pixel % (OUT_HEIGHT * OUT_WIDTH);
            int h = rest / OUT_WIDTH * STRIDE + row, w = rest % OUT_WIDTH * STRIDE + column;
            bool inside = pixel < end && static_cast<u32>(h) < static_cast<u32>(HEIGHT) &&
                          static_cast<u32>(w) < static_cast<u32>(WIDTH);
            fetch_chunk<VECTOR_CHANNELS>(tile + Shape::offset(Shape::row(pass), Shape::column()),
                                         x + (((n * HEIGHT + h) * WIDTH + w) * CHANNELS + channel),
                                         inside ? CHANNELS - channel : 0);
        }
    }
};
