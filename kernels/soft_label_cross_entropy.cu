// Cross-entropy with soft labels of one or two heads, loss and gradient (GLMC paper, section 3), for head k (grid.y) and
// row n of views * batch, whose label is row n % batch:
//
//   rows[k][n] = -sum_c p[c] * log softmax(logits)[c]
//   dlogits[n][c] (+)= coefficients[k] / batch * (softmax(logits)[c] * sum p - p[c])
//
// logits, dlogits (count, classes), label (batch, classes), rows (heads, count), all f32; rows =, dlogits = or += as each
// head's `add` says, null where only the loss is wanted. One warp per row: lane l takes classes l, l + 32, ...; any number of
// classes, read again from cache in each pass.
#include "rows.cuh"
#include "step.cuh"

struct Head {
    const float* logits;
    const float* label;
    float* dlogits;
    u32 add;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(BLOCK)
    soft_label_cross_entropy(Head first, Head second, const StepParams* __restrict__ scalars, float* __restrict__ rows,
                             u32 count, u32 batch, u32 classes) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    if (n >= count) return;
    Head head = second;
    if (blockIdx.y == 0) head = first;
    const float* logits = head.logits + static_cast<u64>(n) * classes;
    const float* label = head.label + static_cast<u64>(n % batch) * classes;

    float largest = minus_infinity();
    for (u32 c = lane; c < classes; c += 32) largest = fmaxf(largest, logits[c]);
    largest = warp_max(largest);
    float exponentials = 0.0f, labels = 0.0f;
    for (u32 c = lane; c < classes; c += 32) {
        exponentials += expf(logits[c] - largest);
        labels += label[c];
    }
    exponentials = warp_sum(exponentials);
    labels = warp_sum(labels);
    float log_sum = logf(exponentials);
    float loss = 0.0f;
    for (u32 c = lane; c < classes; c += 32) loss += label[c] * (log_sum - (logits[c] - largest));
    loss = warp_sum(loss);
    if (lane == 0) rows[blockIdx.y * count + n] = loss;

    if (head.dlogits == nullptr) return;
    float coefficient = scalars->coefficients[blockIdx.y] / batch;
    float* dlogits = head.dlogits + static_cast<u64>(n) * classes;
    for (u32 c = lane; c < classes; c += 32) {
        float softmax = expf(logits[c] - largest) / exponentials;
        float gradient = coefficient * (softmax * labels - label[c]);
        dlogits[c] = head.add ? dlogits[c] + gradient : gradient;
    }
}
