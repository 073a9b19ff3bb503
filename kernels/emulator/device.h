// CUDA's device language for the system C++ compiler: what portable.cuh and the kernels use of it, and no more.
//
// Each CUDA thread is a coroutine that the host (src/driver/emulator/) resumes; it gives control back only
// where threads meet: __syncthreads and warp-wide functions. The records below are shared with the host, which
// checks their sizes when it loads a kernel. With GLMC_CHECKED every memory access of a kernel is instrumented
// (checks.h); without it a kernel runs as the compiler made it.
#pragma once

#include <math.h>
#include <string.h>

struct GlmcBlock;

// What a coroutine waits for, or why it stopped. Mirrored by `state` in abi.rs.
enum GlmcState : u32 { GLMC_READY = 0, GLMC_BARRIER = 1, GLMC_WARP = 2, GLMC_DONE = 3, GLMC_FAILED = 4 };

// Which warp-wide function a lane waits in.
enum GlmcOp : u32 {
    GLMC_OP_NONE = 0,
    GLMC_OP_SHUFFLE = 1,
    GLMC_OP_BALLOT = 2,
    GLMC_OP_SYNCWARP = 3,
    GLMC_OP_LDMATRIX = 4,
    GLMC_OP_LDMATRIX_TRANS = 5,
    GLMC_OP_MMA = 6,
};

enum GlmcFailureKind : u32 {
    GLMC_FAIL_NONE = 0,
    GLMC_FAIL_GLOBAL_BOUNDS = 1,
    GLMC_FAIL_SHARED_BOUNDS = 2,
    GLMC_FAIL_UNKNOWN_ADDRESS = 3,
    GLMC_FAIL_MISALIGNED = 4,
    GLMC_FAIL_SHARED_UNINITIALISED = 5,
    GLMC_FAIL_SHARED_RACE = 6,
    GLMC_FAIL_COPY_IN_FLIGHT = 7,
    GLMC_FAIL_BLOCKS_WRITE = 8,
    GLMC_FAIL_BLOCKS_READ = 9,
    GLMC_FAIL_STATIC_WRITE = 10,
    GLMC_FAIL_MASK = 11,
    GLMC_FAIL_DIVERGED = 12,
    GLMC_FAIL_COPIES = 13,
    GLMC_FAIL_TRAP = 14,
};

enum { GLMC_MAX_COPIES = 64, GLMC_MAX_THREADS = 1024, GLMC_SLOT_SHIFT = 16 };

// An asynchronous copy that has not landed yet.
struct GlmcCopy {
    void* target;
    const void* source;
    u32 bytes;
    u32 group;
};

// One per warp. Bit l stands for lane l.
struct GlmcWarp {
    u32 present;   // lanes that exist
    u32 runnable;  // lanes that the host may resume
    u32 waiting;   // lanes inside a warp-wide function
    u32 syncs;     // completed __syncwarp calls of the block
};

// One per CUDA thread, in the header of the stack region.
struct GlmcLane {
    GlmcBlock* block;
    GlmcWarp* warp;
    void* yielder;  // the host's
    const char* file;
    u32 line;
    u32 state;
    u32 op;
    u32 mask;
    u32 lane;
    u32 linear;
    u32 thread[3];
    u32 fenced;  // has executed __threadfence: it may read what other blocks wrote
    u32 in[12];
    u32 out[4];
    u32 group;  // asynchronous copies: number of the open group
    u32 copies;
    GlmcCopy copy[GLMC_MAX_COPIES];
};

// Shadow of two bytes of shared memory.
struct GlmcCell {
    u32 write_epoch;
    u32 read_epoch;
    u16 writer;
    u16 writer_syncs;
    u16 reader;
    u16 reader_syncs;
};

struct GlmcFailure {
    u32 kind;
    u32 size;
    u64 address;
    u64 pc;
    const char* file;
    u32 line;
    u32 thread;
    u32 other;
    u32 is_write;
};

// One per block in flight, at the start of the stack region.
struct GlmcBlock {
    void (*suspend)(GlmcLane*);
    u8* shared;
    u64 shared_bytes;
    u64 shared_window;  // bytes from `shared` on that belong to no other memory
    GlmcCell* cells;
    u8* arena;
    u64 arena_bytes;
    u16* granules;    // per 256 bytes of the arena: how many of them are allocated
    u32* owners;      // per 2 bytes of the arena: launch, block and bytes written
    u64 stack_region;
    u64 stack_bytes;
    u64 linear;
    u32 index[3];
    u32 dim[3];
    u32 grid[3];
    u32 first_slot;
    u32 epoch;        // counts barriers; never reset, so that the shadow needs no clearing
    u32 first_epoch;  // of this block
    u32 owner_tag;    // launch and block, as stored in `owners`; 0: the check is off
    u32 threads;
    GlmcFailure failure;
    GlmcWarp warps[GLMC_MAX_THREADS / 32];
};

enum : u64 { GLMC_LANES_OFFSET = 4096, GLMC_REGION_BYTES = 1ull << 27 };

#define GLMC_QUIET __attribute__((no_sanitize("thread")))
#ifdef GLMC_CHECKED
// Reads the scheduler's records, so it must not be instrumented itself; constant for as long as a coroutine lives.
#define GLMC_CONTEXT static __attribute__((noinline, const, no_sanitize("thread")))
#define GLMC_RUNTIME static __attribute__((noinline, no_sanitize("thread")))
#else
#define GLMC_CONTEXT static inline
#define GLMC_RUNTIME static inline
#endif

// The coroutine's record, found from its stack pointer: every stack of a block lies in one aligned region.
#define GLMC_LANE()                                                                                                   \
    ({                                                                                                                \
        u64 glmc_frame = reinterpret_cast<u64>(__builtin_frame_address(0));                                           \
        u64 glmc_region = glmc_frame & ~(GLMC_REGION_BYTES - 1);                                                      \
        u64 glmc_slot = (glmc_frame - glmc_region) >> GLMC_SLOT_SHIFT;                                                \
        reinterpret_cast<GlmcLane*>(glmc_region + GLMC_LANES_OFFSET) +                                                \
            (glmc_slot - reinterpret_cast<GlmcBlock*>(glmc_region)->first_slot);                                      \
    })

// ---- language ----

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory comes from SHARED_MEMORY(name) alone");
#define __restrict__ __restrict
#define DEVICE static inline

struct uint3 { u32 x, y, z; };
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));

GLMC_CONTEXT uint3 glmc_thread_index() {
    const GlmcLane* lane = GLMC_LANE();
    return {lane->thread[0], lane->thread[1], lane->thread[2]};
}
GLMC_CONTEXT uint3 glmc_block_index() {
    const GlmcBlock* block = GLMC_LANE()->block;
    return {block->index[0], block->index[1], block->index[2]};
}
GLMC_CONTEXT uint3 glmc_block_dim() {
    const GlmcBlock* block = GLMC_LANE()->block;
    return {block->dim[0], block->dim[1], block->dim[2]};
}
GLMC_CONTEXT uint3 glmc_grid_dim() {
    const GlmcBlock* block = GLMC_LANE()->block;
    return {block->grid[0], block->grid[1], block->grid[2]};
}
GLMC_CONTEXT u8* glmc_shared_memory() {
    return GLMC_LANE()->block->shared;
}

#define threadIdx (glmc_thread_index())
#define blockIdx (glmc_block_index())
#define blockDim (glmc_block_dim())
#define gridDim (glmc_grid_dim())
#define SHARED_MEMORY(name) unsigned char* const name = glmc_shared_memory()

// ---- failures and waiting ----

// Reports a failure of the running thread; never returns.
static __attribute__((noinline, cold, noreturn, no_sanitize("thread"))) void glmc_fail(u32 kind, const void* address,
                                                                                      u32 size, bool is_write,
                                                                                      u64 pc, u32 other,
                                                                                      const char* file, u32 line) {
    GlmcLane* lane = GLMC_LANE();
    GlmcFailure& failure = lane->block->failure;
    failure.kind = kind;
    failure.size = size;
    failure.address = reinterpret_cast<u64>(address);
    failure.pc = pc;
    failure.file = file;
    failure.line = line;
    failure.thread = lane->linear;
    failure.other = other;
    failure.is_write = is_write;
    lane->state = GLMC_FAILED;
    for (;;) lane->block->suspend(lane);
}

#define GLMC_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define GLMC_PC reinterpret_cast<u64>(__builtin_return_address(0))

#ifdef GLMC_CHECKED
#include "checks.h"
#else
#define GLMC_CHECK_READ(address, bytes)
#define GLMC_CHECK_WRITE(address, bytes)
#endif

static __attribute__((noinline, no_sanitize("thread"))) void __syncthreads(GLMC_HERE) {
    GlmcLane* lane = GLMC_LANE();
    lane->file = file;
    lane->line = line;
    lane->state = GLMC_BARRIER;
    lane->block->suspend(lane);
}

GLMC_RUNTIME void __threadfence() {
    GLMC_LANE()->fenced = 1;
}
static __attribute__((noinline, no_sanitize("thread"))) void __trap(GLMC_HERE) {
    glmc_fail(GLMC_FAIL_TRAP, 0, 0, false, 0, 0, file, line);
}

// ---- warp-wide functions ----

#include "warp.h"

// ---- vector loads and stores ----

GLMC_RUNTIME Vec16 load16(const void* address) {
    GLMC_CHECK_READ(address, 16);
    return *static_cast<const Vec16*>(address);
}
GLMC_RUNTIME void store16(void* address, Vec16 value) {
    GLMC_CHECK_WRITE(address, 16);
    *static_cast<Vec16*>(address) = value;
}
GLMC_RUNTIME void store8(void* address, Vec8 value) {
    GLMC_CHECK_WRITE(address, 8);
    *static_cast<Vec8*>(address) = value;
}

// ---- asynchronous copies ----

#include "copies.h"

// ---- atomics, on integers alone: on floats they would add in any order ----

GLMC_RUNTIME u32 atomicAdd(u32* address, u32 value) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

// ---- arithmetic ----

DEVICE u32 __float_as_uint(float value) {
    u32 bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float __uint_as_float(u32 bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
DEVICE u32 __umulhi(u32 a, u32 b) { return static_cast<u32>((static_cast<u64>(a) * b) >> 32); }
DEVICE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

// Kernels use few of these; without the others an argument would be converted in silence.
DEVICE i32 min(i32 a, i32 b) { return a < b ? a : b; }
DEVICE i32 max(i32 a, i32 b) { return a > b ? a : b; }
DEVICE u32 min(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 max(u32 a, u32 b) { return a > b ? a : b; }
DEVICE i64 min(i64 a, i64 b) { return a < b ? a : b; }
DEVICE i64 max(i64 a, i64 b) { return a > b ? a : b; }
DEVICE float min(float a, float b) { return fminf(a, b); }
DEVICE float max(float a, float b) { return fmaxf(a, b); }

// ---- bf16 ----

DEVICE bf16 to_bf16(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

DEVICE u32 pack_bf16(float low, float high) {
    return static_cast<u32>(to_bf16(low).bits) | (static_cast<u32>(to_bf16(high).bits) << 16);
}
