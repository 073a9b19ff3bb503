// torch.optim.SGD over parameters side by side: g += decay * w; m = momentum * m + g; w -= lr * m, or with `nesterov`
// w -= lr * (g + momentum * m).
//
// master, momentum (elements) f32, updated; grad (elements) f32; compute (elements) Storage, = w rounded, null where
// products read the master; lr from the step's scalars, times lr_factor. A thread does VECTOR (4 or 1) elements side by side, then those
// a grid further on; the last elements % VECTOR are done one by one.
#include "step.cuh"
#include "storage.cuh"

#ifndef VECTOR
#error "VECTOR: 4 where all addresses are multiples of 16, else 1"
#endif

struct SgdConfig {
    float lr, momentum, decay;
    bool nesterov;
};

DEVICE float update(float weight, float grad, float* momentum, const SgdConfig& c) {
    float g = grad + c.decay * weight;
    float m = c.momentum * *momentum + g;
    *momentum = m;
    float ahead = c.nesterov ? g + c.momentum * m : m;
    return weight - c.lr * ahead;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    sgd(float* __restrict__ master, const float* __restrict__ grad, float* __restrict__ momentum,
        Storage* __restrict__ compute, const StepParams* __restrict__ scalars, u64 elements, float momentum_factor,
        float decay, float lr_factor, u32 nesterov) {
    SgdConfig c = {scalars->lr * lr_factor, momentum_factor, decay, nesterov != 0};
    u64 threads = static_cast<u64>(gridDim.x) * BLOCK;
    u64 thread = static_cast<u64>(blockIdx.x) * BLOCK + threadIdx.x;
    u64 whole = elements / VECTOR;
#if VECTOR == 4
    for (u64 i = thread; i < whole; i += threads) {
        u64 at = i * 4;
        float w[4], g[4], m[4];
        load_floats(master + at, w);
        load_floats(grad + at, g);
        load_floats(momentum + at, m);
        for (int v = 0; v < 4; v++) w[v] = update(w[v], g[v], &m[v], c);
        store_floats(master + at, w[0], w[1], w[2], w[3]);
        store_floats(momentum + at, m[0], m[1], m[2], m[3]);
        if (compute) {
#if STORAGE_BF16
            Vec8 packed;
            packed.x = pack_bf16(w[0], w[1]);
            packed.y = pack_bf16(w[2], w[3]);
            store8(compute + at, packed);
#else
            store_floats(compute + at, w[0], w[1], w[2], w[3]);
#endif
        }
    }
    whole *= 4;
#else
    whole = 0;
#endif
    for (u64 at = whole + thread; at < elements; at += threads) {
        float w = update(master[at], grad[at], momentum + at, c);
        master[at] = w;
        if (compute) compute[at] = from_float<Storage>(w);
    }
}
