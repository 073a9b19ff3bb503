// The mixtures of four given views (GLMC paper, section 3), as reference steps hold them:
//
//   out[n] = lambda * o1 + (1 - lambda) * r1; out[batch + n] = r2 inside the step's box, else o2
//
// views (4 * batch, height, width, 3) f32, ordered o1, o2, r1, r2; out (2 * batch, height, width, STEM_CHANNELS) Storage, =.
// One thread per pixel of a sample, both mixtures.
#include "mixing.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif

DEVICE Colour read_colour(const float* views, u64 pixel) {
    Colour colour;
    for (int i = 0; i < 3; i++) colour.c[i] = views[pixel * 3 + i];
    return colour;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    mix_views(const float* __restrict__ views, const StepParams* __restrict__ scalars, Storage* __restrict__ out,
              u32 batch, u32 height, u32 width) {
    u32 area = height * width;
    u64 all = static_cast<u64>(batch) * area, at = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at >= all) return;
    u32 pixel = static_cast<u32>(at % area);
    put_colour(out, at, mix(scalars->lambda, read_colour(views, at), read_colour(views, 2 * all + at)));
    bool cut = in_box(scalars->cut, static_cast<i32>(pixel / width), static_cast<i32>(pixel % width));
    put_colour(out, all + at, read_colour(views, (cut ? 3 : 1) * all + at));
}
