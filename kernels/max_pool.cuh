// What the two kernels of max_pool share: their windows, and VECTOR taps, a byte each, moved at a time.
#pragma once

#include "channels.cuh"

#ifndef KERNEL
#error "KERNEL: rows and columns of a window, at most 16"
#endif
#ifndef STRIDE
#error "STRIDE: pixels from one window to the next"
#endif
#ifndef PADDING
#error "PADDING: pixels around the image that no value is taken from, at most KERNEL / 2"
#endif

template <int V>
DEVICE void store_taps(u8* address, const u32 (&taps)[V]) {
    if constexpr (V == 1) {
        *address = static_cast<u8>(taps[0]);
    } else {
        u32 words[V / 4];
        for (int v = 0; v < V / 4; v++)
            words[v] = taps[4 * v] | taps[4 * v + 1] << 8 | taps[4 * v + 2] << 16 | taps[4 * v + 3] << 24;
        if constexpr (V == 8)
            store8(address, Vec8{words[0], words[1]});
        else
            *reinterpret_cast<u32*>(address) = words[0];
    }
}

template <int V>
DEVICE void load_taps(const u8* address, u32 (&taps)[V]) {
    if constexpr (V == 1) {
        taps[0] = *address;
    } else {
        for (int v = 0; v < V; v += 4) {
            u32 word = *reinterpret_cast<const u32*>(address + v);
            for (int byte = 0; byte < 4; byte++) taps[v + byte] = word >> (8 * byte) & 0xffu;
        }
    }
}
