// dx (+)= dy weight.
//
// dy (batch, outputs), weight (outputs, inputs), dx (batch, inputs), all f32; dx = or += as `add` says.
// Grid: (inputs / TILE, batch / TILE), rounded up; threads: linear.cuh.
#include "linear.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    linear_input_grad(const float* __restrict__ dy, const float* __restrict__ weight, float* __restrict__ dx,
                      u32 batch, u32 inputs, u32 outputs, u32 add) {
    SHARED_MEMORY(memory);
    u32 row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    Matrix a = {dy, batch, outputs, outputs, 1};
    Matrix b = {weight, inputs, outputs, 1, inputs};
    Product p;
    multiply<true, false>(reinterpret_cast<float*>(memory), a, b, row, column, p);
    for (int i = 0; i < MICRO; i++) {
        for (int j = 0; j < MICRO; j++) {
            u32 m = row + threadIdx.x / SIDE + i * SIDE, n = column + threadIdx.x % SIDE + j * SIDE;
            if (m < batch && n < inputs) {
                float* out = dx + static_cast<u64>(m) * inputs + n;
                *out = p.c[i][j] + (add ? *out : 0.0f);
            }
        }
    }
}
