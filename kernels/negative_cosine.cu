// Negative cosine similarity of each row of u with the other view's target, loss and gradients (GLMC paper, section 3).
// With m = (n + batch) % (2 * batch), t = target[m], |.| at least EPSILON:
//
//   cos = u[n] . t / (|u[n]| |t|), rows[n] = -cos
//   du[n] (+)= coefficients[2] / batch * (cos * u[n] / |u[n]| - t / |t|) / |u[n]|
//   dtarget[n] (+)= the same of target[n], which meets u[m]
//
// u, target, du, dtarget (2 * batch, features), rows (2 * batch), all f32; rows =, du and dtarget = or += as add_u and
// add_target say, null where not wanted; they may be one. One warp per row: lane l takes features l, l + 32, ...
#include "rows.cuh"
#include "step.cuh"

// The cosine of two rows; with `out` the gradient of its negative by `own`, times `coefficient`.
DEVICE float pair(const float* own, const float* other, float coefficient, float* out, u32 features, float epsilon,
                  u32 add) {
    u32 lane = threadIdx.x % 32;
    float dot = 0.0f, own_square = 0.0f, other_square = 0.0f;
    for (u32 i = lane; i < features; i += 32) {
        float a = own[i], b = other[i];
        dot += a * b;
        own_square += a * a;
        other_square += b * b;
    }
    dot = warp_sum(dot);
    float own_length = sqrtf(warp_sum(own_square));
    float own_norm = fmaxf(own_length, epsilon);
    float other_norm = fmaxf(sqrtf(warp_sum(other_square)), epsilon);
    float cosine = dot / own_norm / other_norm;
    if (out == nullptr) return cosine;
    // A norm that counts as EPSILON is a constant: it has no gradient.
    float along = own_length > epsilon ? cosine : 0.0f;
    float scale = coefficient / own_norm;
    for (u32 i = lane; i < features; i += 32) {
        float gradient = scale * (along * (own[i] / own_norm) - other[i] / other_norm);
        out[i] = gradient + (add ? out[i] : 0.0f);
    }
    return cosine;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    negative_cosine(const float* __restrict__ u, const float* __restrict__ target,
                    const StepParams* __restrict__ scalars, float* __restrict__ rows, float* du, float* dtarget,
                    u32 count, u32 features, float epsilon, u32 add_u, u32 add_target) {
    u32 n = warp_row(), batch = count / 2;
    if (n >= count) return;
    u64 own = static_cast<u64>(n) * features, other = static_cast<u64>((n + batch) % count) * features;
    float coefficient = scalars->coefficients[2] / batch;
    float cosine = pair(u + own, target + other, coefficient, du ? du + own : nullptr, features, epsilon, add_u);
    if (threadIdx.x % 32 == 0) rows[n] = -cosine;
    if (dtarget) pair(target + own, u + other, coefficient, dtarget + own, features, epsilon, add_target);
}
