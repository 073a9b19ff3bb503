// Operand tiles in shared memory, and how their 16-byte chunks get there.
#pragma once

#include "conv2d/knobs.cuh"

// ROWS rows of EXTENT contiguous elements. The chunks of a row are permuted by XOR with bits of the row's number, so
// that the same chunk of eight neighbouring rows, which is what ldmatrix reads at once, lies in eight different groups
// of banks. For rows of 128 bytes this is the 128-byte swizzle of TMA and wgmma, of 64 bytes the 64-byte one.
template <int ROWS_, int EXTENT>
struct Tile {
    enum {
        ROWS = ROWS_,
        CHUNKS = EXTENT / CHUNK,
        ROW_BYTES = CHUNKS * 16,
        BYTES = ROWS * ROW_BYTES,
        // How the block's threads share the chunks out: a thread keeps its chunk column and goes down the rows.
        ROW_STEP = THREADS / CHUNKS,
        PASSES = (ROWS + ROW_STEP - 1) / ROW_STEP,
    };
    static_assert(CHUNKS == 1 || CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0, "XOR must stay inside the row");
    static_assert(THREADS % CHUNKS == 0, "a thread keeps its chunk column");

    DEVICE int offset(int row, int chunk) {
        int swizzle = CHUNKS >= 8 ? row & 7 : row / (8 / CHUNKS) & (CHUNKS - 1);
        return row * ROW_BYTES + (chunk ^ swizzle) * 16;
    }

    // This thread's chunk column, and its row in pass `pass`.
    DEVICE int column() {
        return threadIdx.x % CHUNKS;
    }

    DEVICE int row(int pass) {
        return threadIdx.x / CHUNKS + pass * ROW_STEP;
    }

    // False in a last pass for which there are more threads than chunks.
    DEVICE bool has(int pass) {
        return PASSES * ROW_STEP == ROWS || row(pass) < ROWS;
    }
};

// Fetches one chunk: the first `count` elements from `global`, zeros after them; `global` is not touched where count
// is 0 or less. Whole aligned chunks travel asynchronously; ragged ones element by element.
template <bool VECTOR>
DEVICE void fetch_chunk(u8* shared, const Storage* global, int count) {
    if constexpr (VECTOR) {
        cp_async_16(shared, global, count > 0);
    } else {
        Storage* to = reinterpret_cast<Storage*>(shared);
#pragma unroll
        for (int i = 0; i < CHUNK; i++) to[i] = i < count ? global[i] : from_float<Storage>(0.0f);
    }
}
