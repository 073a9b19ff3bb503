// What augment_mix and mix_views share: a pixel of three colours, mixed, and written with the stem's padding.
#pragma once

#include "step.cuh"
#include "storage.cuh"

#ifndef STEM_CHANNELS
#error "STEM_CHANNELS: channels of the output; those past the third are zero"
#endif

// What a view shows: the original; lambda of it and the rest of its partner; it with the step's box from its partner; the
// partner.
#define VIEW_PLAIN 0
#define VIEW_MIXUP 1
#define VIEW_CUTMIX 2
#define VIEW_PARTNER 3

struct Colour {
    float c[3];
};

// lambda * first + (1 - lambda) * second.
DEVICE Colour mix(float lambda, const Colour& first, const Colour& second) {
    Colour result;
    for (int i = 0; i < 3; i++) result.c[i] = lambda * first.c[i] + (1.0f - lambda) * second.c[i];
    return result;
}

DEVICE bool in_box(const i32 (&cut)[4], i32 row, i32 column) {
    return row >= cut[0] && row < cut[1] && column >= cut[2] && column < cut[3];
}

DEVICE void put_colour(Storage* out, u64 pixel, const Colour& colour) {
    Storage* at = out + pixel * STEM_CHANNELS;
#if STEM_CHANNELS == STORAGE_VECTOR
    float values[STEM_CHANNELS] = {colour.c[0], colour.c[1], colour.c[2]};
    store_values<STEM_CHANNELS>(at, values);
#else
    for (int i = 0; i < STEM_CHANNELS; i++) at[i] = from_float<Storage>(i < 3 ? colour.c[i] : 0.0f);
#endif
}
