// What the implicit matrix products are compiled for beyond the layer's shape: the tiling.
#pragma once

#include "conv2d/shape.cuh"

#ifndef BLOCK_M
#error "BLOCK_M: rows of the output tile that a block computes"
#endif
#ifndef BLOCK_N
#error "BLOCK_N: columns of that tile"
#endif
#ifndef BLOCK_K
#error "BLOCK_K: terms of the product that one stage of the pipeline holds"
#endif
#ifndef PART_M
#error "PART_M: rows of the tile of one warp (bf16), or of one thread (f32)"
#endif
#ifndef PART_N
#error "PART_N: columns of the tile of one warp (bf16), or of one thread (f32)"
#endif
#ifndef STAGES
#error "STAGES: of the pipeline that fetches operands, at least 2"
#endif
#ifndef VECTOR_CHANNELS
#error "VECTOR_CHANNELS: 1 if rows of input channels are whole, aligned 16-byte chunks"
#endif
#ifndef VECTOR_FILTERS
#error "VECTOR_FILTERS: 1 if rows of output channels are whole, aligned 16-byte chunks"
#endif

#if STORAGE_BF16
enum { THREADS = BLOCK_M / PART_M * (BLOCK_N / PART_N) * 32 };
static_assert(BLOCK_K % 16 == 0 && PART_M % 16 == 0 && PART_N % 16 == 0, "whole m16n8k16 products, loaded in pairs");
#else
enum { THREADS = BLOCK_M / PART_M * (BLOCK_N / PART_N) };
#endif

enum {
    // Elements of a 16-byte chunk, the unit in which operands travel.
    CHUNK = STORAGE_VECTOR,
    // Chunks of a pixel's channels; a ragged last chunk is filled up with zeros.
    CHANNEL_CHUNKS = (CHANNELS + CHUNK - 1) / CHUNK,
    FILTER_CHUNKS = (FILTERS + CHUNK - 1) / CHUNK,
    // Columns that a thread writes at once.
    WRITE = 8,
    // The f32 tile through which results leave: eight words more a row, so that the eight rows which a warp writes at
    // once lie in different banks.
    STAGED_ROW = BLOCK_N + 8,
};

static_assert(BLOCK_M % PART_M == 0 && BLOCK_N % PART_N == 0, "whole tiles");
static_assert(BLOCK_N % WRITE == 0 && THREADS % (BLOCK_N / WRITE) == 0, "a thread keeps its columns");
static_assert(STAGES >= 2, "one stage is filled while another is read");
static_assert(!VECTOR_CHANNELS || CHANNELS % CHUNK == 0, "ragged channels have no 16-byte rows");
static_assert(!VECTOR_FILTERS || FILTERS % CHUNK == 0, "ragged filters have no 16-byte rows");
