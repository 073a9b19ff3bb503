// From bytes to a step's input in one pass: gather, crop, flip, normalise, MixUp and CutMix (GLMC paper, section 3).
//
//   normalised byte p of colour c: (p / 255 - mean[c]) / std[c]; a pixel outside the image is a black byte
//   stream s (o1, o2, r1, r2 are 0 to 3) of sample n: word 0 of philox_draw(seed, epoch, step, AUGMENT + s, scalars.first + n)
//   gives the crop's row below(w, 2 * padding + 1), word 1 its column, the lowest bit of word 2 the flip (where flips are on)
//   view v, of o = stream v of the original and r = stream 2 + v of its partner, shows in out[v * batch + n]
//     VIEW_PLAIN: o.  VIEW_MIXUP: lambda * o + (1 - lambda) * r.  VIEW_CUTMIX: r inside the step's box, else o.
//     VIEW_PARTNER: r
//   VIEWS 0 (evaluation): out[n] = the original as it is; where `first` is 2, out[batch + n] = its mirror image
//
// pixels (images, height, width, 3) bytes; originals, partners (batch) i32; out (views * batch, height, width,
// STEM_CHANNELS) Storage, =. Grid (pixels of an image / BLOCK, batch): one thread per pixel, all views; the first four
// threads draw the block's crops and flips into shared memory. No pixel of a partner is fetched that is not shown.
#include "mixing.cuh"
#include "philox.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block, at least 4"
#endif
#ifndef VIEWS
#error "VIEWS: 1 or 2, 0 for evaluation"
#endif

struct Augmentation {
    float mean[3], std[3];
    u32 padding;
    u32 flip;
};

// How a view looks at its image: output (row, column) is image (row + down, column + right), mirrored first if `flip`.
struct Look {
    i32 down, right, flip;
};

DEVICE Look draw_look(const StepParams& scalars, const Augmentation& a, u32 view, u32 sample) {
    PhiloxWords words = philox_draw(scalars.seed, scalars.epoch, scalars.step, PHILOX_AUGMENT + view, sample);
    Look look;
    look.down = static_cast<i32>(philox_below(words.word[0], 2 * a.padding + 1)) - static_cast<i32>(a.padding);
    look.right = static_cast<i32>(philox_below(words.word[1], 2 * a.padding + 1)) - static_cast<i32>(a.padding);
    look.flip = static_cast<i32>(a.flip & words.word[2] & 1u);
    return look;
}

DEVICE Colour look_up(const u8* image, const Look& look, const Augmentation& a, i32 row, i32 column, i32 height,
                      i32 width) {
    i32 y = row + look.down, x = (look.flip ? width - 1 - column : column) + look.right;
    bool inside = y >= 0 && y < height && x >= 0 && x < width;
    const u8* at = image + (inside ? (static_cast<u64>(y) * width + x) * 3 : 0);
    Colour colour;
    for (int i = 0; i < 3; i++) {
        float byte = inside ? static_cast<float>(at[i]) : 0.0f;
        colour.c[i] = (byte / 255.0f - a.mean[i]) / a.std[i];
    }
    return colour;
}

// With one block at least nothing spills anywhere; a step's views keep full occupancy, but on sm_100a three quarters.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    augment_mix(const u8* __restrict__ pixels, const i32* __restrict__ originals, const i32* __restrict__ partners,
                const StepParams* __restrict__ scalars, Storage* __restrict__ out, u32 batch, u32 height, u32 width,
                u32 first, u32 second, Augmentation augmentation) {
    SHARED_MEMORY(memory);
    Look* looks = reinterpret_cast<Look*>(memory);
    u32 n = blockIdx.y, area = height * width;
    u32 pixel = blockIdx.x * BLOCK + threadIdx.x;
    i32 rows = static_cast<i32>(height), columns = static_cast<i32>(width);
    i32 row = static_cast<i32>(pixel / width), column = static_cast<i32>(pixel % width);
    const u8* original = pixels + static_cast<u64>(originals[n]) * area * 3;
    u64 at = static_cast<u64>(n) * area + pixel;
#if VIEWS == 0
    (void)looks;
    if (pixel >= area) return;
    for (u32 view = 0; view < first; view++) {
        Look look = {0, 0, static_cast<i32>(view)};
        put_colour(out, static_cast<u64>(view) * batch * area + at,
                   look_up(original, look, augmentation, row, column, rows, columns));
    }
#else
    u32 stream = threadIdx.x, of = stream % 2;
    bool shown = of < VIEWS && (stream < 2 || (of == 0 ? first : second) != VIEW_PLAIN);
    if (stream < 4 && shown) looks[stream] = draw_look(*scalars, augmentation, stream, scalars->first + n);
    __syncthreads();
    if (pixel >= area) return;
    const u8* partner = original;
    if (first != VIEW_PLAIN || (VIEWS == 2 && second != VIEW_PLAIN)) {
        partner = pixels + static_cast<u64>(partners[n]) * area * 3;
    }
    float lambda = scalars->lambda;
    bool cut = in_box(scalars->cut, row, column);
#pragma unroll
    for (u32 view = 0; view < VIEWS; view++) {
        u32 shows = view == 0 ? first : second;
        bool swapped = shows == VIEW_PARTNER || (shows == VIEW_CUTMIX && cut);
        Colour colour = look_up(swapped ? partner : original, looks[swapped ? 2 + view : view], augmentation, row,
                                column, rows, columns);
        if (shows == VIEW_MIXUP && lambda != 1.0f) {
            Colour other = look_up(partner, looks[2 + view], augmentation, row, column, rows, columns);
            colour = mix(lambda, colour, other);
        }
        put_colour(out, static_cast<u64>(view) * batch * area + at, colour);
    }
#endif
}
