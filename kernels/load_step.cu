// Takes the next row of the step table apart and moves the cursor on.
//
// table (rows, 16 + 3 * batch) i32, cursor (1) i32: the row to take, += 1; scalars (16), originals (batch), partners (batch)
// i32, shares (batch) f32, =. One block: all its threads must have read the cursor before it moves. A table that has run out
// stops the device with an error, since going on would train on a stale step.
#include "step.cuh"

#ifndef BLOCK
#error "BLOCK: threads of the block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    load_step(const i32* __restrict__ table, i32* cursor, i32* __restrict__ scalars, i32* __restrict__ originals,
              i32* __restrict__ partners, float* __restrict__ shares, u32 rows, u32 batch) {
    u32 row = static_cast<u32>(*cursor);
    __syncthreads();
    if (row >= rows) __trap();
    const i32* words = table + static_cast<u64>(row) * (STEP_WORDS + 3 * batch);
    for (u32 i = threadIdx.x; i < STEP_WORDS + 3 * batch; i += BLOCK) {
        i32 word = words[i];
        if (i < STEP_WORDS)
            scalars[i] = word;
        else if (i < STEP_WORDS + batch)
            originals[i - STEP_WORDS] = word;
        else if (i < STEP_WORDS + 2 * batch)
            partners[i - STEP_WORDS - batch] = word;
        else
            shares[i - STEP_WORDS - 2 * batch] = __uint_as_float(static_cast<u32>(word));
    }
    if (threadIdx.x == 0) *cursor = static_cast<i32>(row + 1);
}
