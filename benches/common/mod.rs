//! What the benches share: a device, and tensors on it.

#![allow(dead_code, reason = "each bench uses some of it")]

use std::time::Duration;

use criterion::Criterion;
use glmc_engine::backend;
use glmc_engine::memory::write_floats;
use glmc_engine::ops::Backend;
use glmc_engine::ops::load_step::{STEP_WORDS, StepParams};
use glmc_engine::tensor::{DType, Precision, Tensor};

/// The environment variable `THREADS`, or 0: all processors.
pub fn threads() -> usize {
    std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The processor, in single precision.
pub fn cpu() -> Box<dyn Backend> {
    backend::open("cpu", Precision::F32, threads()).expect("threads")
}

/// Criterion's settings for work of milliseconds.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
}

/// A tensor of these bytes.
pub fn place(backend: &dyn Backend, shape: &[usize], dtype: DType, bytes: &[u8]) -> Tensor {
    let buffer = backend.alloc(bytes.len(), "a benchmark's tensor").expect("memory for a layer");
    let tensor = Tensor::at_start(buffer, shape, dtype);
    backend.upload(tensor, bytes).expect("sizes are equal");
    tensor
}

/// Scratch of this many bytes.
pub fn scratch(backend: &dyn Backend, bytes: usize) -> Tensor {
    Tensor::at_start(backend.alloc(bytes, "scratch").expect("memory for scratch"), &[bytes], DType::U8)
}

/// Values of both signs, no two neighbours alike, of any floating-point type.
pub fn values(backend: &dyn Backend, shape: &[usize], dtype: DType) -> Tensor {
    let elements: usize = shape.iter().product();
    let buffer = backend.alloc(elements * dtype.bytes(), "a benchmark's tensor").expect("memory for a layer");
    let tensor = Tensor::at_start(buffer, shape, dtype);
    let values: Vec<f64> = (0..elements).map(|i| (i * 37 % 251) as f64 / 125.0 - 1.0).collect();
    write_floats(backend, tensor, &values).expect("a floating-point type");
    tensor
}

/// [`values`] of the accumulation type.
pub fn floats(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    values(backend, shape, backend.precision().accumulate())
}

/// [`values`] of the compute type.
pub fn activations(backend: &dyn Backend, shape: &[usize]) -> Tensor {
    values(backend, shape, backend.precision().compute())
}

/// Indices of samples below `limit`.
pub fn indices(backend: &dyn Backend, count: usize, limit: usize) -> Tensor {
    let values: Vec<i32> = (0..count).map(|i| (i * 97 % limit) as i32).collect();
    place(backend, &[count], DType::I32, bytemuck::cast_slice(&values))
}

/// A step's scalars.
pub fn step(backend: &dyn Backend) -> Tensor {
    let params =
        StepParams { lambda: 0.4, cut: [4, 24, 8, 28], lr: 1e-6, coefficients: [0.5; 3], ..Default::default() };
    place(backend, &[STEP_WORDS], DType::I32, bytemuck::bytes_of(&params))
}
