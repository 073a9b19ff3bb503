// The scalars of the ascent: those of the step, their coefficients times a factor each.
//
// scalars, ascent: a StepParams each; ascent =. One thread writes.
#include "step.cuh"

extern "C" __global__ void sam_scalars(const StepParams* __restrict__ scalars, StepParams* __restrict__ ascent, float first,
                                       float second, float third) {
    if (threadIdx.x != 0) return;
    StepParams params = *scalars;
    params.coefficients[0] *= first;
    params.coefficients[1] *= second;
    params.coefficients[2] *= third;
    *ascent = params;
}
