// The phases of an input's gradient: input pixels with the same taps. With h = STRIDE*q + p, the pixel takes part only in
// the taps u = u0, u0 + STRIDE, ... where u0 = (p + PADDING) mod STRIDE, from output row q + (p + PADDING - u0) / STRIDE
// downwards.
#pragma once

#include "conv2d/shape.cuh"

// Pixels of a phase, row by row: those of the largest phase, so that some pixels of the others do not exist.
enum { PHASE_ROWS = (HEIGHT + STRIDE - 1) / STRIDE, PHASE_COLUMNS = (WIDTH + STRIDE - 1) / STRIDE };

// One axis of a phase.
struct Axis {
    int phase, first_tap, taps, shift;

    DEVICE Axis make(int phase) {
        int first = (phase + PADDING) % STRIDE;
        return {phase, first, first < KERNEL ? ceil_div(KERNEL - first, STRIDE) : 0, (phase + PADDING - first) / STRIDE};
    }
};
