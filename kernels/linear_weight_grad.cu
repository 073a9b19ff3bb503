// dweight = dy^T x, dbias = sum over the batch of dy.
//
// x (batch, inputs), dy (batch, outputs), dweight (outputs, inputs), dbias (outputs), all f32; dweight and dbias =,
// dbias null where there is none.
// Grid: (inputs / TILE, outputs / TILE), rounded up; threads: linear.cuh. The first column of blocks writes dbias, from the
// row sums of dy^T that it meets anyway.
#include "linear.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK)
    linear_weight_grad(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dweight,
                       float* __restrict__ dbias, u32 batch, u32 inputs, u32 outputs) {
    SHARED_MEMORY(memory);
    u32 row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    Matrix a = {dy, outputs, batch, 1, outputs};
    Matrix b = {x, inputs, batch, 1, inputs};
    Product p;
    multiply<false, false>(reinterpret_cast<float*>(memory), a, b, row, column, p);
    for (int i = 0; i < MICRO; i++) {
        u32 m = row + threadIdx.x / SIDE + i * SIDE;
        if (dbias && m < outputs && blockIdx.x == 0 && threadIdx.x % SIDE == 0) dbias[m] = p.row_sum[i];
        for (int j = 0; j < MICRO; j++) {
            u32 n = column + threadIdx.x % SIDE + j * SIDE;
            if (m < outputs && n < inputs) dweight[static_cast<u64>(m) * inputs + n] = p.c[i][j];
        }
    }
}
