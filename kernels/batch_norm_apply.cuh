// The pass over the pixels that ends a batch normalisation: z = relu((x - mean) * scale + shift + shortcut), the same for
// training and inference, which differ in where mean and scale come from.
#pragma once

#include "channels.cuh"
#include "option_a.cuh"

#ifndef ITEMS
#error "ITEMS: pixels that a thread loads before it computes"
#endif
#ifndef RELU
#error "RELU: 1 if a ReLU comes last, else 0"
#endif
#ifndef SHORTCUT
#error "SHORTCUT: 0 for none, 1 for a tensor like z, 2 for option A"
#endif

// Per-channel numbers of a thread.
struct Normaliser {
    float mean[VECTOR], scale[VECTOR], shift[VECTOR];
};

// What `shortcut` adds at `pixel` of the batch to the channels from `channel` on, as it lies in memory; zero where
// option A pads.
DEVICE Packed<VECTOR> load_shortcut(const Storage* shortcut, const OptionA& a, u32 pixel, u32 channel, u32 channels) {
#if SHORTCUT == 2
    SourcePixel p = source_pixel(a, pixel);
    u32 source_channel = channel - a.pad;  // wraps below the padding
    if (source_channel < a.channels)
        return load_packed<VECTOR>(shortcut + source_offset(a, p.image, p.row, p.column) + source_channel);
    Packed<VECTOR> zero = {};
    return zero;
#else
    return load_packed<VECTOR>(shortcut + static_cast<u64>(pixel) * channels + channel);
#endif
}

// Pixels `first`, `first + step`, ... below `end`, counted over the whole batch.
DEVICE void apply_pixels(const Storage* __restrict__ x, const Storage* __restrict__ shortcut, Storage* __restrict__ z,
                         const Normaliser& n, const OptionA& a, u32 first, u32 end, u32 step, u32 channel,
                         u32 channels) {
    for (u32 base = first; base < end; base += ITEMS * step) {
        Packed<VECTOR> in[ITEMS];
#if SHORTCUT
        Packed<VECTOR> added[ITEMS];
#endif
#pragma unroll
        for (u32 i = 0; i < ITEMS; i++) {
            u32 pixel = base + i * step;
            if (pixel < end) {
                in[i] = load_packed<VECTOR>(x + static_cast<u64>(pixel) * channels + channel);
#if SHORTCUT
                added[i] = load_shortcut(shortcut, a, pixel, channel, channels);
#endif
            }
        }
#pragma unroll
        for (u32 i = 0; i < ITEMS; i++) {
            u32 pixel = base + i * step;
            if (pixel < end) {
                float values[VECTOR];
                widen<VECTOR>(in[i], values);
#if SHORTCUT
                float more[VECTOR];
                widen<VECTOR>(added[i], more);
#endif
                for (int v = 0; v < VECTOR; v++) {
                    float value = __fmaf_rn(values[v] - n.mean[v], n.scale[v], n.shift[v]);
#if SHORTCUT
                    value += more[v];
#endif
#if RELU
                    value = value < 0.0f ? 0.0f : value;  // NaN stays, so that the loss shows it
#endif
                    values[v] = value;
                }
                store_values<VECTOR>(z + static_cast<u64>(pixel) * channels + channel, values);
            }
        }
    }
}
