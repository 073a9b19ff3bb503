// y = x weight^T + bias.
//
// x (batch, inputs), weight (outputs, inputs), bias (outputs) or null for none, y (batch, outputs), all f32; y =.
// Grid: (outputs / TILE, batch / TILE), rounded up; threads: linear.cuh.
#include "linear.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    linear_forward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
                   float* __restrict__ y, u32 batch, u32 inputs, u32 outputs) {
    SHARED_MEMORY(memory);
    u32 row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    Matrix a = {x, batch, inputs, inputs, 1};
    Matrix b = {weight, outputs, inputs, inputs, 1};
    Product p;
    multiply<true, true>(reinterpret_cast<float*>(memory), a, b, row, column, p);
    for (int i = 0; i < MICRO; i++) {
        for (int j = 0; j < MICRO; j++) {
            u32 m = row + threadIdx.x / SIDE + i * SIDE, n = column + threadIdx.x % SIDE + j * SIDE;
            if (m < batch && n < outputs) y[static_cast<u64>(m) * outputs + n] = p.c[i][j] + (bias ? bias[n] : 0.0f);
        }
    }
}
