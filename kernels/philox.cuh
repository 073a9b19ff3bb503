// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the same function, word for
// word, as src/rng/philox.rs, where the meaning of counter and key is said.
#pragma once

#include "portable.cuh"

struct PhiloxWords {
    u32 word[4];
};

DEVICE PhiloxWords philox4x32(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    PhiloxWords result = {{c0, c1, c2, c3}};
    return result;
}

// Four words for draw number `index` of `purpose` in a step of an epoch.
DEVICE PhiloxWords philox_draw(const u32 (&seed)[2], u32 epoch, u32 step, u32 purpose, u32 index) {
    return philox4x32(index, step, epoch, purpose, seed[0], seed[1]);
}

// A word as an integer in 0..bound, by multiply-high.
DEVICE u32 philox_below(u32 word, u32 bound) {
    return __umulhi(word, bound);
}

// Purposes that the device draws for (`Purpose` in src/rng/philox.rs).
#define PHILOX_AUGMENT 8u  // + view: o1, o2, r1, r2
