// The views of given images, as reference steps hold them (GLMC paper, section 3):
//
//   view v, of o = images[v * batch + n] and r = images[(VIEWS + v) * batch + n], shows in out[v * batch + n]
//     VIEW_PLAIN: o.  VIEW_MIXUP: lambda * o + (1 - lambda) * r.  VIEW_CUTMIX: r inside the step's box, else o.
//     VIEW_PARTNER: r
//
// images (2 * VIEWS * batch, height, width, 3) f32, of one plain view (batch, ...); out (VIEWS * batch, height, width,
// STEM_CHANNELS) Storage, =. One thread per pixel of a sample, all views.
#include "mixing.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif
#ifndef VIEWS
#error "VIEWS: 1 or 2"
#endif

DEVICE Colour read_colour(const float* images, u64 pixel) {
    Colour colour;
    for (int i = 0; i < 3; i++) colour.c[i] = images[pixel * 3 + i];
    return colour;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    mix_views(const float* __restrict__ images, const StepParams* __restrict__ scalars, Storage* __restrict__ out,
              u32 batch, u32 height, u32 width, u32 first, u32 second) {
    u32 area = height * width;
    u64 all = static_cast<u64>(batch) * area, at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at >= all) return;
    u32 pixel = static_cast<u32>(at % area);
    float lambda = scalars->lambda;
    bool cut = in_box(scalars->cut, static_cast<i32>(pixel / width), static_cast<i32>(pixel % width));
#pragma unroll
    for (u32 view = 0; view < VIEWS; view++) {
        u32 shows = view == 0 ? first : second;
        bool swapped = shows == VIEW_PARTNER || (shows == VIEW_CUTMIX && cut);
        Colour colour = read_colour(images, (swapped ? VIEWS + view : view) * all + at);
        if (shows == VIEW_MIXUP && lambda != 1.0f) {
            colour = mix(lambda, colour, read_colour(images, (VIEWS + view) * all + at));
        }
        put_colour(out, view * all + at, colour);
    }
}
