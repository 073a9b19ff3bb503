// cp.async: when checked, a copy lands no sooner than the wait that covers it, and its target may not be touched
// until then, so that a missing wait shows; otherwise it lands at once.
#pragma once

#ifdef GLMC_CHECKED

static GLMC_QUIET __attribute__((noinline)) void glmc_copy_async(void* target, const void* source, u32 bytes,
                                                                 bool valid, const char* file, u32 line) {
    GlmcLane* lane = GLMC_LANE();
    u64 pc = GLMC_PC;
    if (valid) glmc_check(source, bytes, false, true, pc);
    glmc_check(target, bytes, true, true, pc);
    if (!glmc_is_shared(lane->block, target))
        glmc_fail(GLMC_FAIL_SHARED_BOUNDS, target, bytes, true, pc, 0, file, line);
    if (lane->copies == GLMC_MAX_COPIES) glmc_fail(GLMC_FAIL_COPIES, target, bytes, true, pc, 0, file, line);
    glmc_mark_in_flight(lane->block, target, bytes);
    lane->copy[lane->copies++] = {target, valid ? source : 0, bytes, lane->group};
}

static GLMC_QUIET __attribute__((noinline)) void cp_async_commit() {
    GLMC_LANE()->group++;
}

static GLMC_QUIET __attribute__((noinline)) void glmc_copies_land(u32 pending) {
    GlmcLane* lane = GLMC_LANE();
    u32 kept = 0;
    for (u32 i = 0; i < lane->copies; i++) {
        GlmcCopy& copy = lane->copy[i];
        // Groups 0 .. group - 1 are committed; the youngest `pending` of them may stay open, as may what is uncommitted.
        if (copy.group + pending < lane->group) {
            if (copy.source)
                memcpy(copy.target, copy.source, copy.bytes);
            else
                memset(copy.target, 0, copy.bytes);
            glmc_mark_landed(lane, copy.target, copy.bytes);
        } else {
            lane->copy[kept++] = copy;
        }
    }
    lane->copies = kept;
}

template <int PENDING>
DEVICE void cp_async_wait() {
    glmc_copies_land(PENDING);
}

#else

DEVICE void glmc_copy_async(void* target, const void* source, u32 bytes, bool valid, const char*, u32) {
    if (valid)
        memcpy(target, source, bytes);
    else
        memset(target, 0, bytes);
}
DEVICE void cp_async_commit() {}
template <int PENDING>
DEVICE void cp_async_wait() {}

#endif

DEVICE void cp_async_16(void* shared, const void* global, bool valid = true, GLMC_HERE) {
    glmc_copy_async(shared, global, 16, valid, file, line);
}
