// Negative cosine similarity of each row of u with the other view's target, loss and gradient; the
// target gets none (GLMC paper, section 3). With t = target[(n + batch) % (2 * batch)], |.| at least EPSILON:
//
//   cos = u . t / (|u| |t|), rows[n] = -cos
//   du[n] (+)= coefficients[2] / batch * (cos * u / |u| - t / |t|) / |u|
//
// u, target, du (2 * batch, features), rows (2 * batch), all f32; rows =, du = or += as `add` says, null where only the
// loss is wanted. One warp per row: lane l takes features l, l + 32, ...
#include "rows.cuh"
#include "step.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    negative_cosine(const float* __restrict__ u, const float* __restrict__ target,
                    const StepParams* __restrict__ scalars, float* __restrict__ rows, float* __restrict__ du, u32 count,
                    u32 features, float epsilon, u32 add) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    if (n >= count) return;
    u32 batch = count / 2;
    const float* left = u + static_cast<u64>(n) * features;
    const float* right = target + static_cast<u64>((n + batch) % count) * features;
    float dot = 0.0f, left_square = 0.0f, right_square = 0.0f;
    for (u32 i = lane; i < features; i += 32) {
        float a = left[i], b = right[i];
        dot += a * b;
        left_square += a * a;
        right_square += b * b;
    }
    dot = warp_sum(dot);
    float left_length = sqrtf(warp_sum(left_square));
    float left_norm = fmaxf(left_length, epsilon);
    float right_norm = fmaxf(sqrtf(warp_sum(right_square)), epsilon);
    float cosine = dot / left_norm / right_norm;
    if (lane == 0) rows[n] = -cosine;
    if (du == nullptr) return;
    // A norm that counts as EPSILON is a constant: it has no gradient.
    float along = left_length > epsilon ? cosine : 0.0f;
    float scale = scalars->coefficients[2] / batch / left_norm;
    float* out = du + static_cast<u64>(n) * features;
    for (u32 i = lane; i < features; i += 32) {
        float gradient = scale * (along * (left[i] / left_norm) - right[i] / right_norm);
        out[i] = gradient + (add ? out[i] : 0.0f);
    }
}
