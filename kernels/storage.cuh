// The type that activations, their gradients and the compute copy of the weights are stored in: f32 (the oracle) or bf16.
// Arithmetic is f32 either way. Kernels move VECTOR elements at a time: sixteen bytes where the launcher found channels and
// addresses to be multiples of that, one element otherwise.
#pragma once

#include "portable.cuh"

#ifndef STORAGE_BF16
#error "STORAGE_BF16: 1 for bf16, 0 for f32"
#endif

#if STORAGE_BF16
typedef bf16 Storage;
#define STORAGE_VECTOR 8  // elements of sixteen bytes
#else
typedef float Storage;
#define STORAGE_VECTOR 4
#endif

// V elements as they lie in memory: loading is kept apart from widening, so that a kernel can have several loads in flight.
template <int V>
struct Packed {
    static_assert(V == STORAGE_VECTOR, "a vector is sixteen bytes or one element");
    Vec16 raw;
};

template <>
struct Packed<1> {
    Storage raw;
};

template <int V>
DEVICE Packed<V> load_packed(const Storage* address) {
    Packed<V> result;
    if constexpr (V == 1)
        result.raw = *address;
    else
        result.raw = load16(address);
    return result;
}

template <int V>
DEVICE void widen(Packed<V> packed, float (&values)[V]) {
    if constexpr (V == 1) {
        values[0] = to_float(packed.raw);
    } else if constexpr (V == 8) {
        unpack8(packed.raw, values);
    } else {
        values[0] = __uint_as_float(packed.raw.x);
        values[1] = __uint_as_float(packed.raw.y);
        values[2] = __uint_as_float(packed.raw.z);
        values[3] = __uint_as_float(packed.raw.w);
    }
}

template <int V>
DEVICE void load_values(const Storage* address, float (&values)[V]) {
    widen<V>(load_packed<V>(address), values);
}

// Four f32 at an address that is a multiple of 16.
DEVICE void store_floats(float* address, float a, float b, float c, float d) {
    Vec16 raw;
    raw.x = __float_as_uint(a);
    raw.y = __float_as_uint(b);
    raw.z = __float_as_uint(c);
    raw.w = __float_as_uint(d);
    store16(address, raw);
}

DEVICE void load_floats(const float* address, float (&values)[4]) {
    Vec16 raw = load16(address);
    values[0] = __uint_as_float(raw.x);
    values[1] = __uint_as_float(raw.y);
    values[2] = __uint_as_float(raw.z);
    values[3] = __uint_as_float(raw.w);
}

template <int V>
DEVICE void store_values(Storage* address, const float (&values)[V]) {
    if constexpr (V == 1)
        *address = from_float<Storage>(values[0]);
    else if constexpr (V == 8)
        store16(address, pack8(values));
    else
        store_floats(reinterpret_cast<float*>(address), values[0], values[1], values[2], values[3]);
}

// `=` or `+=` of V elements; the sum is made in f32 and rounded once.
template <int V, bool ACCUMULATE>
DEVICE void put_values(Storage* address, const float (&values)[V]) {
    if constexpr (ACCUMULATE) {
        float sum[V];
        load_values<V>(address, sum);
        for (int v = 0; v < V; v++) sum[v] += values[v];
        store_values<V>(address, sum);
    } else {
        store_values<V>(address, values);
    }
}
