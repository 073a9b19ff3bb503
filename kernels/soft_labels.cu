// Mixed labels (GLMC paper, section 3), with l = label_lambda of the step, i and j the classes of sample n's original and
// partner:
//
//   label[n][c] = l * (c == i) + (1 - l) * (c == j)
//   label_weighted[n][c] = l * w[i] * (c == i) + (1 - l) * w[j] * (c == j)
//
// labels (images), originals and partners (batch) i32; class_weights (classes), label and label_weighted (batch, classes)
// f32, =. A thread an element.
#include "step.cuh"

#ifndef BLOCK
#error "BLOCK: threads of a block"
#endif

extern "C" __global__ void __launch_bounds__(BLOCK)
    soft_labels(const i32* __restrict__ labels, const i32* __restrict__ originals, const i32* __restrict__ partners,
                const float* __restrict__ class_weights, const StepParams* __restrict__ scalars,
                float* __restrict__ label, float* __restrict__ label_weighted, u32 batch, u32 classes) {
    u32 element = blockIdx.x * BLOCK + threadIdx.x;
    if (element >= batch * classes) return;
    u32 n = element / classes;
    i32 c = static_cast<i32>(element - n * classes);
    float lambda = scalars->label_lambda;
    float first = labels[originals[n]] == c ? lambda : 0.0f;
    float second = labels[partners[n]] == c ? 1.0f - lambda : 0.0f;
    label[element] = first + second;
    // One weight for both terms: each is zero unless its class is c.
    label_weighted[element] = first * class_weights[c] + second * class_weights[c];
}
