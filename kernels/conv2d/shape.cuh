// What every convolution kernel is compiled for: the layer's shape and the element type. All of it comes from
// src/backend/launched/conv2d.rs as -D; divisions by these constants cost a multiplication and a shift.
#pragma once

#include "storage.cuh"

#ifndef HEIGHT
#error "HEIGHT: rows of the input"
#endif
#ifndef WIDTH
#error "WIDTH: columns of the input"
#endif
#ifndef CHANNELS
#error "CHANNELS: channels of the input"
#endif
#ifndef FILTERS
#error "FILTERS: channels of the output"
#endif
#ifndef KERNEL
#error "KERNEL: rows and columns of the convolution's kernel"
#endif
#ifndef STRIDE
#error "STRIDE: of the convolution"
#endif
#ifndef PADDING
#error "PADDING: zeros around the input"
#endif
enum {
    OUT_HEIGHT = (HEIGHT + 2 * PADDING - KERNEL) / STRIDE + 1,
    OUT_WIDTH = (WIDTH + 2 * PADDING - KERNEL) / STRIDE + 1,
    TAPS = KERNEL * KERNEL,
};

// ceil(a / b)
DEVICE constexpr int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}
