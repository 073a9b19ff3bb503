// What -fsanitize=thread calls for every memory access of a kernel. The library is compiled with that option but not
// linked with its runtime: the functions here look the access up in the shadow of global or shared memory instead.
#pragma once

enum : u32 { GLMC_IN_FLIGHT = 0x8000, GLMC_READERS = 0x8000, GLMC_ALL_READERS = 0xffff };

static GLMC_QUIET inline bool glmc_is_shared(const GlmcBlock* block, const void* address) {
    return reinterpret_cast<u64>(address) - reinterpret_cast<u64>(block->shared) < block->shared_window;
}

// Shared memory: written before it is read; between two barriers no two threads touch two bytes of which one writes
// (threads of one warp are also ordered by __syncwarp).
static GLMC_QUIET inline void glmc_check_shared(GlmcLane* lane, u64 offset, u32 size, bool write, u64 pc,
                                                const void* address) {
    GlmcBlock* block = lane->block;
    if (offset + size > block->shared_bytes)
        glmc_fail(GLMC_FAIL_SHARED_BOUNDS, address, size, write, pc, 0, 0, 0);
    u32 epoch = block->epoch, self = lane->linear, warp = self >> 5;
    u16 syncs = static_cast<u16>(lane->warp->syncs);
    GlmcCell* cell = block->cells + (offset >> 1);
    GlmcCell* end = block->cells + ((offset + size + 1) >> 1);
    bool single = size == 1;  // two threads may share a cell then: only bounds and initialisation are checked
    for (; cell < end; cell++) {
        bool ours = cell->write_epoch >= block->first_epoch;  // written by this block
        if (ours && (cell->writer & GLMC_IN_FLIGHT))
            glmc_fail(GLMC_FAIL_COPY_IN_FLIGHT, address, size, write, pc, cell->writer & 0x7fff, 0, 0);
        if (!single && cell->write_epoch == epoch && cell->writer != self &&
            !((cell->writer >> 5) == warp && cell->writer_syncs != syncs))
            glmc_fail(GLMC_FAIL_SHARED_RACE, address, size, write, pc, cell->writer, 0, 0);
        if (!write) {
            if (!ours) glmc_fail(GLMC_FAIL_SHARED_UNINITIALISED, address, size, write, pc, 0, 0, 0);
            if (cell->read_epoch != epoch) {
                cell->read_epoch = epoch;
                cell->reader = static_cast<u16>(self);
                cell->reader_syncs = syncs;
            } else if (cell->reader != self) {
                u32 reader = cell->reader;
                u32 reader_warp = reader & GLMC_READERS ? reader & 31 : reader >> 5;
                if (reader == GLMC_ALL_READERS || reader_warp != warp)
                    cell->reader = GLMC_ALL_READERS;
                else if (cell->reader_syncs == syncs)
                    cell->reader = static_cast<u16>(GLMC_READERS | warp);
                else {
                    cell->reader = static_cast<u16>(self);
                    cell->reader_syncs = syncs;
                }
            } else {
                cell->reader_syncs = syncs;
            }
        } else {
            if (!single && cell->read_epoch == epoch && cell->reader != self) {
                u32 reader = cell->reader;
                u32 reader_warp = reader & GLMC_READERS ? reader & 31 : reader >> 5;
                if (reader == GLMC_ALL_READERS || reader_warp != warp || cell->reader_syncs == syncs)
                    glmc_fail(GLMC_FAIL_SHARED_RACE, address, size, write, pc,
                              reader & GLMC_READERS ? GLMC_ALL_READERS : reader, 0, 0);
            }
            cell->write_epoch = epoch;
            cell->writer = static_cast<u16>(self);
            cell->writer_syncs = syncs;
        }
    }
}

static GLMC_QUIET inline void glmc_mark_in_flight(GlmcBlock* block, const void* target, u32 bytes) {
    u64 offset = reinterpret_cast<u64>(target) - reinterpret_cast<u64>(block->shared);
    for (u64 i = offset >> 1; i < (offset + bytes) >> 1; i++) block->cells[i].writer |= GLMC_IN_FLIGHT;
}

// The copy's bytes count as written now, by the thread that waited.
static GLMC_QUIET inline void glmc_mark_landed(GlmcLane* lane, const void* target, u32 bytes) {
    GlmcBlock* block = lane->block;
    u64 offset = reinterpret_cast<u64>(target) - reinterpret_cast<u64>(block->shared);
    for (u64 i = offset >> 1; i < (offset + bytes) >> 1; i++) {
        GlmcCell& cell = block->cells[i];
        cell.write_epoch = block->epoch;
        cell.writer = static_cast<u16>(lane->linear);
        cell.writer_syncs = static_cast<u16>(lane->warp->syncs);
    }
}

// Global memory: inside an allocation; no byte written by two blocks of a launch, or read by one block after another
// wrote it (unless the reader has executed __threadfence, as the last block of a reduction does).
static GLMC_QUIET inline void glmc_check_global(GlmcLane* lane, u64 offset, u32 size, bool write, u64 pc,
                                                const void* address) {
    GlmcBlock* block = lane->block;
    for (u64 at = offset; at < offset + size;) {
        u64 step = 256 - (at & 255), rest = offset + size - at;
        if (step > rest) step = rest;
        if ((at & 255) + step > block->granules[at >> 8])
            glmc_fail(GLMC_FAIL_GLOBAL_BOUNDS, address, size, write, pc, 0, 0, 0);
        at += step;
    }
    u32 tag = block->owner_tag;
    if (tag == 0) return;
    for (u64 cell = offset >> 1; cell <= (offset + size - 1) >> 1; cell++) {
        u32 bytes = 3;
        if (cell << 1 < offset) bytes = 2;
        if ((cell << 1) + 2 > offset + size) bytes &= 1;
        u32* owner = block->owners + cell;
        u32 old = __atomic_load_n(owner, __ATOMIC_RELAXED);
        if ((old & ~3u) == tag) {
            if (write && (old | bytes) != old) __atomic_store_n(owner, old | bytes, __ATOMIC_RELAXED);
            continue;
        }
        for (;;) {
            if (old >> 24 == tag >> 24 && (old & bytes) && !(lane->fenced && !write)) {
                glmc_fail(write ? GLMC_FAIL_BLOCKS_WRITE : GLMC_FAIL_BLOCKS_READ, address, size, write, pc,
                          (old >> 2) & 0x3fffff, 0, 0);
            }
            if (!write || __atomic_compare_exchange_n(owner, &old, tag | bytes, false, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED))
                break;
        }
    }
}

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

static GLMC_QUIET __attribute__((noinline)) void glmc_check(const void* address, u64 size, bool write, bool natural, u64 pc) {
    GlmcLane* lane = GLMC_LANE();
    GlmcBlock* block = lane->block;
    u64 at = reinterpret_cast<u64>(address);
    u64 offset = at - block->stack_region;
    if (offset < block->stack_bytes) return;  // locals and arguments
    if (natural && (at & (size - 1))) glmc_fail(GLMC_FAIL_MISALIGNED, address, size, write, pc, 0, 0, 0);
    offset = at - reinterpret_cast<u64>(block->shared);
    if (offset < block->shared_window) return glmc_check_shared(lane, offset, size, write, pc, address);
    offset = at - reinterpret_cast<u64>(block->arena);
    if (offset < block->arena_bytes) return glmc_check_global(lane, offset, size, write, pc, address);
    if (at >= reinterpret_cast<u64>(__ehdr_start) && at + size <= reinterpret_cast<u64>(_end)) {
        if (write) glmc_fail(GLMC_FAIL_STATIC_WRITE, address, size, write, pc, 0, 0, 0);
        return;  // a table of constants
    }
    glmc_fail(GLMC_FAIL_UNKNOWN_ADDRESS, address, size, write, pc, 0, 0, 0);
}

#define GLMC_CHECK_READ(address, bytes) glmc_check(address, bytes, false, true, GLMC_PC)
#define GLMC_CHECK_WRITE(address, bytes) glmc_check(address, bytes, true, true, GLMC_PC)

// ---- the sanitizer's entry points, as GCC and Clang emit them ----

#define GLMC_TSAN extern "C" GLMC_QUIET __attribute__((used, visibility("hidden"))) void
#define GLMC_TSAN_SIZE(SIZE)                                                                                          \
    GLMC_TSAN __tsan_read##SIZE(void* p) { glmc_check(p, SIZE, false, true, GLMC_PC); }                                \
    GLMC_TSAN __tsan_write##SIZE(void* p) { glmc_check(p, SIZE, true, true, GLMC_PC); }                                \
    GLMC_TSAN __tsan_unaligned_read##SIZE(void* p) { glmc_check(p, SIZE, false, true, GLMC_PC); }                      \
    GLMC_TSAN __tsan_unaligned_write##SIZE(void* p) { glmc_check(p, SIZE, true, true, GLMC_PC); }                      \
    GLMC_TSAN __tsan_volatile_read##SIZE(void* p) { glmc_check(p, SIZE, false, true, GLMC_PC); }                       \
    GLMC_TSAN __tsan_volatile_write##SIZE(void* p) { glmc_check(p, SIZE, true, true, GLMC_PC); }                       \
    GLMC_TSAN __tsan_unaligned_volatile_read##SIZE(void* p) { glmc_check(p, SIZE, false, true, GLMC_PC); }             \
    GLMC_TSAN __tsan_unaligned_volatile_write##SIZE(void* p) { glmc_check(p, SIZE, true, true, GLMC_PC); }             \
    GLMC_TSAN __tsan_read_write##SIZE(void* p) {                                                                       \
        glmc_check(p, SIZE, false, true, GLMC_PC);                                                                     \
        glmc_check(p, SIZE, true, true, GLMC_PC);                                                                      \
    }                                                                                                                 \
    GLMC_TSAN __tsan_unaligned_read_write##SIZE(void* p) {                                                             \
        glmc_check(p, SIZE, false, true, GLMC_PC);                                                                     \
        glmc_check(p, SIZE, true, true, GLMC_PC);                                                                      \
    }

GLMC_TSAN_SIZE(1)
GLMC_TSAN_SIZE(2)
GLMC_TSAN_SIZE(4)
GLMC_TSAN_SIZE(8)
GLMC_TSAN_SIZE(16)

GLMC_TSAN __tsan_init() {}
GLMC_TSAN __tsan_func_entry(void*) {}
GLMC_TSAN __tsan_func_exit() {}
GLMC_TSAN __tsan_vptr_update(void**, void*) {}
GLMC_TSAN __tsan_vptr_read(void**) {}
GLMC_TSAN __tsan_read_range(void* p, unsigned long size) {
    if (size) glmc_check(p, size, false, false, GLMC_PC);
}
GLMC_TSAN __tsan_write_range(void* p, unsigned long size) {
    if (size) glmc_check(p, size, true, false, GLMC_PC);
}
extern "C" GLMC_QUIET __attribute__((used, visibility("hidden"))) void* __tsan_memcpy(void* to, const void* from,
                                                                                    unsigned long size) {
    if (size) glmc_check(from, size, false, false, GLMC_PC);
    if (size) glmc_check(to, size, true, false, GLMC_PC);
    return memcpy(to, from, size);
}
extern "C" GLMC_QUIET __attribute__((used, visibility("hidden"))) void* __tsan_memmove(void* to, const void* from,
                                                                                     unsigned long size) {
    if (size) glmc_check(from, size, false, false, GLMC_PC);
    if (size) glmc_check(to, size, true, false, GLMC_PC);
    return memmove(to, from, size);
}
extern "C" GLMC_QUIET __attribute__((used, visibility("hidden"))) void* __tsan_memset(void* to, int value,
                                                                                    unsigned long size) {
    if (size) glmc_check(to, size, true, false, GLMC_PC);
    return memset(to, value, size);
}
