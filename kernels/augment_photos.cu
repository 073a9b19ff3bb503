// Photographs cut out, resized, recoloured, blurred, mirrored and normalised as drawn on the host (torchvision's
// transforms on floats; src/ops/augment_photos.rs has the formulas).
//
// pixels: bytes, image after image; index (images, 4) i32: low and high word of an image's first byte, height, width;
// draws (rows, 16), a PhotoDraw each, image n of set s at row step * stride + s * batch + n; originals, partners (batch)
// i32: which image a sample is, of the first `views` sets and of those after them; out (sets * batch, size, size, 3) f32,
// =, zeros where the set's bit in `shown` is not set; scratch as large, overwritten.
//
// One block per image, in passes between which the image lies in `out`: (1) resize, mirror, the colour steps before the
// contrast; (2) the contrast, for which the block adds up the mean grey, and the steps after it; (3) the blur along rows,
// into scratch, (4) along columns. What is not drawn costs nothing. Mirroring commutes with all that follows it.
#include "block_sum.cuh"
#include "photo.cuh"
#include "step.cuh"

// (value - mean) * factor, factor 1 / standard deviation.
struct PhotoConfig {
    float mean[3], factor[3];
};

DEVICE void put(float* image, u32 pixel, const Rgb& rgb) {
    for (int i = 0; i < 3; i++) image[pixel * 3 + i] = rgb.c[i];
}

// What comes after the last colour step: grey, and the normalisation if nothing follows.
DEVICE void finish(Rgb& rgb, const PhotoDraw& draw, const PhotoConfig& config) {
    if (draw.flags & GREY) {
        float grey = grey_of(rgb);
        for (int i = 0; i < 3; i++) rgb.c[i] = grey;
    }
    if (draw.sigma > 0.0f) return;
    for (int i = 0; i < 3; i++) rgb.c[i] = (rgb.c[i] - config.mean[i]) * config.factor[i];
}

struct Box {
    u32 top, left, height, width;
};

// A draw's box, put inside the image; the emulator says what was wrong.
DEVICE Box box_of(const PhotoDraw& draw, u32 height, u32 width) {
#ifdef GLMC_EMULATOR
    if (draw.height == 0 || draw.width == 0 || draw.top >= height || draw.left >= width ||
        draw.height > height - draw.top || draw.width > width - draw.left)
        __trap();
#endif
    Box box;
    box.top = min(draw.top, height - 1);
    box.left = min(draw.left, width - 1);
    box.height = min(max(draw.height, 1u), height - box.top);
    box.width = min(max(draw.width, 1u), width - box.left);
    return box;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    augment_photos(const u8* __restrict__ pixels, const i32* __restrict__ index, const PhotoDraw* __restrict__ draws,
                   const i32* __restrict__ originals, const i32* __restrict__ partners,
                   const StepParams* __restrict__ scalars, float* __restrict__ out, float* __restrict__ scratch,
                   u32 batch, u32 views, u32 shown, u32 stride, u32 size, PhotoConfig config) {
    SHARED_MEMORY(memory);
    float* sums = reinterpret_cast<float*>(memory);  // BLOCK, then 2 * size weights of the blur
    float* weights = sums + BLOCK;
    u32 set = blockIdx.x / batch, n = blockIdx.x % batch, area = size * size;
    float* image = out + static_cast<u64>(blockIdx.x) * area * 3;
    if (!(shown >> set & 1u)) {
        for (u32 at = threadIdx.x; at < area * 3; at += BLOCK) image[at] = 0.0f;
        return;
    }
    // Read again where it is used: kept in registers, all of it would not leave enough of them.
    const PhotoDraw& draw = draws[static_cast<u64>(scalars->step) * stride + blockIdx.x];
    const i32* entry = index + static_cast<u64>(set < views ? originals[n] : partners[n]) * INDEX_WORDS;
    u64 offset = static_cast<u64>(static_cast<u32>(entry[1])) << 32 | static_cast<u32>(entry[0]);
    u32 height = static_cast<u32>(entry[2]), width = static_cast<u32>(entry[3]);
    Box box = box_of(draw, height, width);
    u32 pitch = width * 3;
    const u8* source = pixels + offset + static_cast<u64>(box.top) * pitch + box.left * 3;

    u32 contrast = COLOUR_STEPS;
    for (u32 place = 0; place < COLOUR_STEPS; place++) {
        if (colour_step(draw, place) == CONTRAST && draw.contrast != 1.0f) contrast = place;
    }
    float grey = 0.0f;
    for (u32 at = threadIdx.x; at < area; at += BLOCK) {
        u32 y = at / size, x = at % size;
        Span rows = span_of(draw.scale[0], draw.shift[0], y, box.height);
        Span columns = span_of(draw.scale[1], draw.shift[1], x, box.width);
        Rgb rgb = resized(source, pitch, rows, columns);
        recolour(rgb, draw, 0, contrast, 0.0f);
        if (contrast == COLOUR_STEPS) finish(rgb, draw, config);
        else grey += grey_of(rgb);
        put(image, draw.flags & FLIP ? at - x + (size - 1 - x) : at, rgb);
    }
    if (contrast < COLOUR_STEPS) {
        // Also a barrier: the pixels below may be another thread's, of the mirror image.
        float mean = block_sum(sums, grey) / static_cast<float>(area);
        for (u32 at = threadIdx.x; at < area; at += BLOCK) {
            Rgb rgb = {{image[at * 3], image[at * 3 + 1], image[at * 3 + 2]}};
            recolour(rgb, draw, contrast, COLOUR_STEPS, mean);
            finish(rgb, draw, config);
            put(image, at, rgb);
        }
    }
    if (!(draw.sigma > 0.0f)) return;

    i32 side = static_cast<i32>(size);
    i32 radius = static_cast<i32>(fminf(ceilf(3.0f * draw.sigma), static_cast<float>(size - 1)));
    for (i32 k = static_cast<i32>(threadIdx.x); k <= 2 * radius; k += BLOCK) {
        float distance = static_cast<float>(k - radius) / draw.sigma;
        weights[k] = expf(-0.5f * distance * distance);
    }
    __syncthreads();
    float all = 0.0f;
    for (i32 k = 0; k <= 2 * radius; k++) all += weights[k];
    float factor = 1.0f / all;
    float* between = scratch + static_cast<u64>(blockIdx.x) * area * 3;
    for (u32 at = threadIdx.x; at < area * 3; at += BLOCK) {
        u32 colour = at % 3, pixel = at / 3, x = pixel % size, start = pixel - x;
        float sum = 0.0f;
        for (i32 k = -radius; k <= radius; k++) {
            sum += weights[k + radius] * image[(start + reflect(static_cast<i32>(x) + k, side)) * 3 + colour];
        }
        between[at] = sum * factor;
    }
    __syncthreads();
    u32 row = size * 3;
    for (u32 at = threadIdx.x; at < area * 3; at += BLOCK) {
        u32 y = at / row, column = at % row;
        float sum = 0.0f;
        for (i32 k = -radius; k <= radius; k++) {
            sum += weights[k + radius] * between[reflect(static_cast<i32>(y) + k, side) * row + column];
        }
        u32 colour = at % 3;
        float mean = colour == 0 ? config.mean[0] : colour == 1 ? config.mean[1] : config.mean[2];
        float inverse = colour == 0 ? config.factor[0] : colour == 1 ? config.factor[1] : config.factor[2];
        image[at] = (sum * factor - mean) * inverse;
    }
}
