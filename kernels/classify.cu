// Where the true class ranks, how sure the best class is, and what the true class costs, for sample n with true class
// t = labels[originals[n]]:
//
//   z[c] = mean of logits[v * batch + n][c] over the views v, and of second's where it is not null
//   ranks[scalars.row + n] = number of classes c with z[c] above z[t], or equal and c < t; classes - 1 if z[t] is NaN
//   confidences[scalars.row + n] = largest softmax probability of scale * z
//   losses[scalars.row + n] = -log of class t's
//
// logits, second (views * batch, classes) f32; labels (images), originals (batch) i32; ranks (images) i32, confidences and
// losses (images) f32, rows scalars.row .. scalars.row + batch =. One warp per sample: lane l takes classes l, l + 32, ...
#include "rows.cuh"
#include "step.cuh"

// Logits of one sample and class are `stride` apart from view to view; `share` is one over their number.
DEVICE float mean_logit(const float* logits, const float* second, u64 at, u64 stride, u32 views, float share) {
    float sum = 0.0f;
    for (u32 v = 0; v < views; v++) sum += logits[at + v * stride];
    if (second) {
        for (u32 v = 0; v < views; v++) sum += second[at + v * stride];
    }
    return share * sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    classify(const float* __restrict__ logits, const float* __restrict__ second, const i32* __restrict__ labels,
             const i32* __restrict__ originals, const StepParams* __restrict__ scalars, i32* __restrict__ ranks,
             float* __restrict__ confidences, float* __restrict__ losses, u32 views, u32 batch, u32 classes, u32 results,
             float scale) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    u32 row = scalars->row + n;
    if (n >= batch) return;
    u64 mine = static_cast<u64>(n) * classes, stride = static_cast<u64>(batch) * classes;
    float share = 1.0f / static_cast<float>(second ? 2 * views : views);
    u32 truth = static_cast<u32>(labels[originals[n]]);
    float true_logit = minus_infinity();
    if (truth < classes) true_logit = mean_logit(logits, second, mine + truth, stride, views, share);
    float largest = minus_infinity(), ahead = 0.0f;
    for (u32 c = lane; c < classes; c += 32) {
        float logit = mean_logit(logits, second, mine + c, stride, views, share);
        largest = fmaxf(largest, logit);
        if (logit > true_logit || (logit == true_logit && c < truth)) ahead += 1.0f;
    }
    largest = warp_max(largest);
    ahead = warp_sum(ahead);  // exact below 2^24 classes
    float exponentials = 0.0f;
    for (u32 c = lane; c < classes; c += 32) {
        exponentials += expf(scale * (mean_logit(logits, second, mine + c, stride, views, share) - largest));
    }
    exponentials = warp_sum(exponentials);
    if (lane != 0 || row >= results) return;
    ranks[row] = true_logit != true_logit ? static_cast<i32>(classes) - 1 : static_cast<i32>(ahead);
    confidences[row] = 1.0f / exponentials;
    losses[row] = logf(exponentials) + scale * (largest - true_logit);
}
