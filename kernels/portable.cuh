// The one header of every kernel: short integer names, bf16, 16-byte vectors, and each piece of PTX that a kernel may
// use, in two forms with one meaning. NVRTC sees the PTX; with GLMC_EMULATOR the system C++ compiler sees portable C++
// (emulator/device.h supplies threadIdx, __syncthreads, shuffles and the warp-wide forms).
//
// No toolkit header is included: libnvrtc and the driver are all that a user needs. Tensor-core and asynchronous-copy
// forms need sm_80 or later.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// Sixteen bytes of anything, loaded and stored as one transaction. The address must be a multiple of 16.
struct alignas(16) Vec16 {
    u32 x, y, z, w;
};

// Eight bytes of anything. The address must be a multiple of 8.
struct alignas(8) Vec8 {
    u32 x, y;
};

// bfloat16: the upper half of an f32. Only storage; arithmetic is done in f32.
struct bf16 {
    u16 bits;
};

#ifdef GLMC_EMULATOR
#include "emulator/device.h"
#else

// All shared memory of a kernel comes from the one dynamic block whose size the host passes at launch.
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

#define DEVICE static __device__ __forceinline__

// ---- bf16 (round to nearest even; NaN becomes 0x7fff) ----

DEVICE bf16 to_bf16(float value) {
    bf16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

// Two bf16 in one register, `low` in bits 0..15: the order of elements in memory.
DEVICE u32 pack_bf16(float low, float high) {
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// ---- vector loads and stores: one transaction of 16 bytes (store8: 8) ----

DEVICE Vec16 load16(const void* address) {
    return *reinterpret_cast<const Vec16*>(address);
}

DEVICE void store16(void* address, Vec16 value) {
    *reinterpret_cast<Vec16*>(address) = value;
}

DEVICE void store8(void* address, Vec8 value) {
    *reinterpret_cast<Vec8*>(address) = value;
}

// ---- asynchronous copies from global to shared memory ----

DEVICE u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes; with `valid` false it writes zeros and does not touch `global`. Both addresses must be
// multiples of 16. The data may be read after cp_async_wait and, by other threads, a __syncthreads.
DEVICE void cp_async_16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes the group of copies that this thread started since the last commit (an empty group counts too).
DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `PENDING` of this thread's youngest groups are unfinished.
template <int PENDING>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- tensor cores: fragment layouts are PTX's (ISA, "Matrix Fragments for mma.m16n8k16 with .bf16") ----

// Loads four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8
// (16 bytes, 16-aligned); lane l gets in fragment[i] the elements (l / 4, 2 * (l % 4)) and the next of matrix i.
DEVICE void ldmatrix_x4(u32 (&fragment)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed: fragment[i] holds the elements (2 * (l % 4), l / 4) and the one below it.
DEVICE void ldmatrix_x4_trans(u32 (&fragment)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c (16x8, f32) += a (16x16, bf16, row-major) * b (16x8, bf16, column-major), by one warp. With g = lane / 4 and
// t = lane % 4: a[0..3] = (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8), each with its right neighbour; b[0..1] = (2t, g),
// (2t+8, g), each with the one below; c[0..3] = (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
DEVICE void mma_m16n8k16_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// ---- both forms from here on ----

DEVICE float to_float(float value) {
    return value;
}

DEVICE float to_float(bf16 value) {
    return __uint_as_float(static_cast<u32>(value.bits) << 16);
}

// The two halves of a packed pair.
DEVICE float low_bf16(u32 pair) {
    return __uint_as_float(pair << 16);
}

DEVICE float high_bf16(u32 pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

// from_float<T>(x): x as the kernel's element type, `float` or `bf16`.
template <typename T>
DEVICE T from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) {
    return to_bf16(value);
}

// Eight bf16 in memory order to f32, and back.
DEVICE void unpack8(Vec16 packed, float (&values)[8]) {
    values[0] = low_bf16(packed.x);
    values[1] = high_bf16(packed.x);
    values[2] = low_bf16(packed.y);
    values[3] = high_bf16(packed.y);
    values[4] = low_bf16(packed.z);
    values[5] = high_bf16(packed.z);
    values[6] = low_bf16(packed.w);
    values[7] = high_bf16(packed.w);
}

DEVICE Vec16 pack8(const float (&values)[8]) {
    Vec16 packed;
    packed.x = pack_bf16(values[0], values[1]);
    packed.y = pack_bf16(values[2], values[3]);
    packed.z = pack_bf16(values[4], values[5]);
    packed.w = pack_bf16(values[6], values[7]);
    return packed;
}

// Sum (largest) over the 32 lanes of a full warp, the same in every lane and in every run.
DEVICE float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

DEVICE float warp_max(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}
