// Where the true class ranks, and how sure the best class is, for sample n with true class t = labels[originals[n]]:
//
//   ranks[scalars.row + n] = number of classes c with logit above t's, or equal and c < t; classes - 1 if t's is NaN
//   confidences[scalars.row + n] = largest softmax probability of scale * logits
//
// logits (batch, classes) f32; labels (images), originals (batch) i32; ranks (images) i32 and confidences (images) f32,
// rows scalars.row .. scalars.row + batch =. One warp per sample: lane l takes classes l, l + 32, ...
#include "rows.cuh"
#include "step.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    classify(const float* __restrict__ logits, const i32* __restrict__ labels, const i32* __restrict__ originals,
             const StepParams* __restrict__ scalars, i32* __restrict__ ranks, float* __restrict__ confidences, u32 batch,
             u32 classes, u32 results, float scale) {
    u32 n = warp_row(), lane = threadIdx.x % 32;
    u32 row = scalars->row + n;
    if (n >= batch) return;
    const float* mine = logits + static_cast<u64>(n) * classes;
    u32 truth = static_cast<u32>(labels[originals[n]]);
    float true_logit = truth < classes ? mine[truth] : minus_infinity();
    float largest = minus_infinity(), ahead = 0.0f;
    for (u32 c = lane; c < classes; c += 32) {
        float logit = mine[c];
        largest = fmaxf(largest, logit);
        if (logit > true_logit || (logit == true_logit && c < truth)) ahead += 1.0f;
    }
    largest = warp_max(largest);
    ahead = warp_sum(ahead);  // exact below 2^24 classes
    float exponentials = 0.0f;
    for (u32 c = lane; c < classes; c += 32) exponentials += expf(scale * (mine[c] - largest));
    exponentials = warp_sum(exponentials);
    if (lane != 0 || row >= results) return;
    ranks[row] = true_logit != true_logit ? static_cast<i32>(classes) - 1 : static_cast<i32>(ahead);
    confidences[row] = 1.0f / exponentials;
}
