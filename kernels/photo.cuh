// A photograph's draw, its resize at one pixel, and what happens to a pixel's colours (src/ops/augment_photos.rs has the
// formulas).
#pragma once

#include "portable.cuh"

#define DRAW_WORDS 16
#define INDEX_WORDS 4

#define BRIGHTNESS 0
#define CONTRAST 1
#define SATURATION 2
#define HUE 3
#define COLOUR_STEPS 4

#define FLIP 1u
#define GREY 2u

// The same as `PhotoDraw` in src/ops/augment_photos.rs.
struct PhotoDraw {
    u32 top, left, height, width;  // the box in the source
    float scale[2];                // source pixels per output pixel: rows, columns
    float shift[2];                // output pixels before the first one
    float brightness, contrast, saturation;
    float hue;    // turns
    u32 order;    // of the colour steps, two bits each
    u32 flags;
    float sigma;  // of the blur, in output pixels
    u32 reserved;
};

static_assert(sizeof(PhotoDraw) == 4 * DRAW_WORDS, "the host writes sixteen words");

struct Rgb {
    float c[3];
};

// Which pixels of a side of the box make an output pixel.
struct Span {
    float scale, at, inverse;  // the centre is scale * at
    u32 first, last;
};

// A clamp is for what the host must not draw: a GPU then shows a wrong pixel, and reads no other buffer.
DEVICE Span span_of(float scale, float shift, u32 output, u32 extent) {
    Span span;
    float support = fmaxf(scale, 1.0f), end = static_cast<float>(extent);
    span.scale = scale;
    span.at = static_cast<float>(output) + shift + 0.5f;
    span.inverse = 1.0f / support;
    float first = __fmaf_rn(scale, span.at, 0.5f - support), last = __fmaf_rn(scale, span.at, 0.5f + support);
    span.first = min(static_cast<u32>(fminf(fmaxf(first, 0.0f), end)), extent - 1);
    span.last = max(static_cast<u32>(fminf(fmaxf(last, 0.0f), end)), span.first + 1);
    return span;
}

// The weight of pixel j, not yet divided by the sum. One rounding: far from the corner a rounded centre would be off by a
// ten-thousandth of a pixel.
DEVICE float weight_of(const Span& span, u32 j) {
    return fmaxf(1.0f - fabsf(__fmaf_rn(-span.scale, span.at, static_cast<float>(j) + 0.5f)) * span.inverse, 0.0f);
}

// An output pixel, 0..1; `box` is the box's first pixel, `pitch` the bytes of a row of the source.
DEVICE Rgb resized(const u8* box, u32 pitch, const Span& rows, const Span& columns) {
    Rgb sum = {{0.0f, 0.0f, 0.0f}};
    float all_rows = 0.0f, all_columns = 0.0f;
    for (u32 x = columns.first; x < columns.last; x++) all_columns += weight_of(columns, x);
    for (u32 y = rows.first; y < rows.last; y++) {
        const u8* at = box + static_cast<u64>(y) * pitch + columns.first * 3;
        Rgb row = {{0.0f, 0.0f, 0.0f}};
        for (u32 x = columns.first; x < columns.last; x++, at += 3) {
            float weight = weight_of(columns, x);
            for (int i = 0; i < 3; i++) row.c[i] += weight * static_cast<float>(at[i]);
        }
        float weight = weight_of(rows, y);
        all_rows += weight;
        for (int i = 0; i < 3; i++) sum.c[i] += weight * row.c[i];
    }
    float all = 255.0f * all_rows * all_columns, factor = all > 0.0f ? 1.0f / all : 0.0f;
    for (int i = 0; i < 3; i++) sum.c[i] *= factor;
    return sum;
}

DEVICE float grey_of(const Rgb& rgb) {
    return 0.2989f * rgb.c[0] + 0.587f * rgb.c[1] + 0.114f * rgb.c[2];
}

// A NaN stays one.
DEVICE float clamp_to_one(float value) {
    value = value < 0.0f ? 0.0f : value;
    return value > 1.0f ? 1.0f : value;
}

DEVICE void blend(Rgb& rgb, float factor, float other) {
    for (int i = 0; i < 3; i++) rgb.c[i] = clamp_to_one(factor * rgb.c[i] + (1.0f - factor) * other);
}

// V - V S clamp(min(k, 4 - k)) with k = n + H mod 6, n = 5, 3, 1, is HSV to RGB, H in sixths of a turn; V S is the range.
DEVICE void shift_hue(Rgb& rgb, float sixths) {
    float r = rgb.c[0], g = rgb.c[1], b = rgb.c[2];
    float most = fmaxf(r, fmaxf(g, b)), range = most - fminf(r, fminf(g, b));
    float inverse = range > 0.0f ? 1.0f / range : 0.0f;
    float hue = g == most ? 2.0f + (b - r) * inverse : 4.0f + (r - g) * inverse;
    hue = (r == most ? (g - b) * inverse : hue) + sixths;
    hue = hue < 0.0f ? hue + 6.0f : hue;
    hue = hue >= 6.0f ? hue - 6.0f : hue;
    for (int i = 0; i < 3; i++) {
        float k = hue + static_cast<float>(5 - 2 * i);
        k = k >= 6.0f ? k - 6.0f : k;
        rgb.c[i] = most - range * clamp_to_one(fminf(k, 4.0f - k));
    }
}

DEVICE u32 colour_step(const PhotoDraw& draw, u32 place) {
    return draw.order >> (2 * place) & 3u;
}

// The colour steps at places first..last of the order; `mean` is the image's mean grey before the contrast.
DEVICE void recolour(Rgb& rgb, const PhotoDraw& draw, u32 first, u32 last, float mean) {
    for (u32 place = first; place < last; place++) {
        u32 step = colour_step(draw, place);
        if (step == BRIGHTNESS && draw.brightness != 1.0f) blend(rgb, draw.brightness, 0.0f);
        if (step == CONTRAST && draw.contrast != 1.0f) blend(rgb, draw.contrast, mean);
        if (step == SATURATION && draw.saturation != 1.0f) blend(rgb, draw.saturation, grey_of(rgb));
        if (step == HUE && draw.hue != 0.0f) {
            float turns = draw.hue - floorf(draw.hue);
            shift_hue(rgb, 6.0f * turns);
        }
    }
}

// Position `at` of a side, reflected at its ends without repeating them; at most one side too far.
DEVICE u32 reflect(i32 at, i32 size) {
    at = at < 0 ? -at : at;
    return static_cast<u32>(at < size ? at : 2 * (size - 1) - at);
}
