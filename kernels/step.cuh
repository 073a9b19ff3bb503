// The step's scalars: sixteen 32-bit words, the same as `StepParams` in src/ops/load_step.rs.
#pragma once

#include "portable.cuh"

#define STEP_WORDS 16

struct StepParams {
    u32 seed[2];            // low word first
    u32 epoch;              // 0-based
    u32 step;               // 0-based, in the epoch
    float lambda;           // of the mixtures
    u32 row;                // of the loss log, or the first row of the evaluation's results
    i32 cut[4];             // CutMix box: rows [0]..[1], columns [2]..[3]
    float lr;               // learning rate
    float coefficients[3];  // of L_c, L_cb and L_sim in the total
    u32 first;              // the step's number of the batch's first sample
    u32 reserved;
};

static_assert(sizeof(StepParams) == 4 * STEP_WORDS, "the host writes sixteen words");
