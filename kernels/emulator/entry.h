// Comes after a kernel's file; GLMC_ENTRY is the kernel's name. Exports how to call it, the sizes of its arguments, and
// the sizes of the records that it shares with the host.
#pragma once

template <u64... I>
struct GlmcIndices {};
template <u64 N, u64... I>
struct GlmcMakeIndices : GlmcMakeIndices<N - 1, N - 1, I...> {};
template <u64... I>
struct GlmcMakeIndices<0, I...> {
    typedef GlmcIndices<I...> type;
};

template <typename T>
static GLMC_QUIET inline T glmc_argument(const void* bytes) {
    T value;
    memcpy(&value, bytes, sizeof(T));
    return value;
}

template <typename... A, u64... I>
static GLMC_QUIET inline void glmc_call(void (*kernel)(A...), const void* const* arguments, GlmcIndices<I...>) {
    kernel(glmc_argument<A>(arguments[I])...);
}

template <typename... A>
static GLMC_QUIET inline void glmc_call(void (*kernel)(A...), const void* const* arguments) {
    glmc_call(kernel, arguments, typename GlmcMakeIndices<sizeof...(A)>::type());
}

template <typename... A>
static GLMC_QUIET inline u32 glmc_signature(void (*)(A...), u32* sizes, u32 capacity) {
    const u32 all[] = {0, static_cast<u32>(sizeof(A))...};
    for (u32 i = 0; i < sizeof...(A) && i < capacity; i++) sizes[i] = all[i + 1];
    return sizeof...(A);
}

#define GLMC_EXPORT extern "C" GLMC_QUIET __attribute__((used, visibility("default")))

// Runs the calling coroutine's thread of the kernel.
GLMC_EXPORT void glmc_entry(const void* const* arguments) {
    glmc_call(GLMC_ENTRY, arguments);
}

// Number of arguments; their sizes in bytes go to `sizes`.
GLMC_EXPORT u32 glmc_arguments(u32* sizes, u32 capacity) {
    return glmc_signature(GLMC_ENTRY, sizes, capacity);
}

GLMC_EXPORT void glmc_layout(u64* sizes) {
    sizes[0] = sizeof(GlmcBlock);
    sizes[1] = sizeof(GlmcLane);
    sizes[2] = sizeof(GlmcWarp);
    sizes[3] = sizeof(GlmcCell);
    sizes[4] = GLMC_LANES_OFFSET;
    sizes[5] = GLMC_REGION_BYTES;
}
