//! The CPU's convolutions, layer by layer: forward, input gradient and weight gradient of every distinct layer of
//! ResNet-32 with 3x3 kernels, at width 16 (128 images) and width 64 (32 images).
//!
//! `cargo bench --bench conv2d [-- FILTER]`; elements per second are floating-point operations per second. The
//! environment variable `THREADS` sets the number of threads (all processors by default).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::backend::Memory;
use glmc_engine::backend::native::Native;
use glmc_engine::ops::conv2d::{Conv2dKernels, Geometry};
use glmc_engine::tape::Grad;
use glmc_engine::tensor::{DType, Precision, Tensor};
use std::time::Duration;

fn layers(width: usize, batch: usize) -> Vec<Geometry> {
    let layer = |extent, channels, filters, stride| Geometry {
        batch,
        height: extent,
        width: extent,
        channels,
        filters,
        kernel: 3,
        stride,
        padding: 1,
        views: 2,
    };
    vec![
        layer(32, 3, width, 1),
        layer(32, width, width, 1),
        layer(32, width, 2 * width, 2),
        layer(16, 2 * width, 2 * width, 1),
        layer(16, 2 * width, 4 * width, 2),
        layer(8, 4 * width, 4 * width, 1),
    ]
}

fn tensor(native: &Native, shape: &[usize]) -> Tensor {
    let elements = shape.iter().product::<usize>();
    let buffer = native.alloc(elements * 4, "a benchmark's tensor").expect("memory for a layer");
    let tensor = Tensor::at_start(buffer, shape, DType::F32);
    let values: Vec<f32> = (0..elements).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    native.upload(tensor, bytemuck::cast_slice(&values)).expect("sizes are equal");
    tensor
}

fn conv2d(c: &mut Criterion) {
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    for g in [layers(16, 128), layers(64, 32)].concat() {
        let native = Native::new(Precision::F32, threads).expect("threads");
        let [x, dx] = [(); 2].map(|()| tensor(&native, &g.input()));
        let [y, dy] = [(); 2].map(|()| tensor(&native, &g.output()));
        let [w, dw] = [(); 2].map(|()| tensor(&native, &g.weight()));
        let sums = tensor(&native, &[g.views, native.conv2d_sum_parts(&g), 2, g.filters]);
        let bytes = native.conv2d_backward_scratch(&g);
        let buffer = native.alloc(bytes, "scratch").expect("memory for scratch");
        let scratch = Some(Tensor::at_start(buffer, &[bytes], DType::U8));

        let name = format!("{0}x{0}x{1}->{2}/{3}", g.height, g.channels, g.filters, g.stride);
        let mut group = c.benchmark_group(format!("{name} batch {}", g.batch));
        group.throughput(Throughput::Elements(g.flops() as u64));
        group.bench_function("forward", |b| {
            b.iter(|| native.conv2d_forward(&g, x, w, y, Some(sums)).expect("shapes fit"));
        });
        group.bench_function("input gradient", |b| {
            b.iter(|| native.conv2d_input_grad(&g, dy, w, Grad::write(dx), scratch).expect("shapes fit"));
        });
        group.bench_function("weight gradient", |b| {
            b.iter(|| native.conv2d_weight_grad(&g, x, dy, dw, scratch).expect("shapes fit"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    targets = conv2d
}
criterion_main!(benches);
