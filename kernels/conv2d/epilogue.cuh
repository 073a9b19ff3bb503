// The epilogue: results leave through an f32 tile in shared memory, so that each thread gets WRITE neighbouring
// columns of a row, whatever the main loop's layout of results was, and writes them as 16-byte vectors.
#pragma once

#include "conv2d/tile.cuh"

enum {
    EPILOGUE_COLUMNS = BLOCK_N / WRITE,
    EPILOGUE_ROW_STEP = THREADS / EPILOGUE_COLUMNS,
};

// This thread's first column in the tile; it is the same for all its rows.
DEVICE int epilogue_column() {
    return threadIdx.x % EPILOGUE_COLUMNS * WRITE;
}

// Eight values from or to memory, 16 bytes at a time.
DEVICE void load_eight(const float* from, float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        Vec16 four = load16(from + i);
        values[i] = __uint_as_float(four.x);
        values[i + 1] = __uint_as_float(four.y);
        values[i + 2] = __uint_as_float(four.z);
        values[i + 3] = __uint_as_float(four.w);
    }
}

DEVICE void load_eight(const bf16* from, float (&values)[8]) {
    unpack8(load16(from), values);
}

DEVICE void store_eight(float* to, const float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4)
        store16(to + i, {__float_as_uint(values[i]), __float_as_uint(values[i + 1]), __float_as_uint(values[i + 2]),
                         __float_as_uint(values[i + 3])});
}

DEVICE void store_eight(bf16* to, const float (&values)[8]) {
    store16(to, pack8(values));
}

// Writes, or adds to what is there, the first `count` of eight values. VECTOR: count is never between 0 and 8, and
// the address is a multiple of 16.
template <bool VECTOR, bool ACCUMULATE, typename T>
DEVICE void write_eight(T* to, float (&values)[8], int count) {
    if constexpr (VECTOR) {
        if (count <= 0) return;
        if constexpr (ACCUMULATE) {
            float old[8];
            load_eight(to, old);
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] += old[i];
        }
        store_eight(to, values);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < count) to[i] = from_float<T>(ACCUMULATE ? to_float(to[i]) + values[i] : values[i]);
    }
}

// Calls write(row, values) for WRITE columns from epilogue_column() on, for each of this thread's rows, ascending.
template <typename P, typename W>
DEVICE void drain(u8* shared, const P& product, W& write) {
    float* staged = reinterpret_cast<float*>(shared);
    product.stage(staged);
    __syncthreads();
    for (int row = threadIdx.x / EPILOGUE_COLUMNS; row < BLOCK_M; row += EPILOGUE_ROW_STEP) {
        float values[WRITE];
        load_eight(staged + row * STAGED_ROW + epilogue_column(), values);
        write(row, values);
    }
}
