//! The CPU's convolutions, layer by layer: forward, input gradient and weight gradient of every distinct layer of
//! ResNet-32 with 3x3 kernels, at width 16 (128 images) and width 64 (32 images); and those of ResNet-50 and ResNeXt-50 that
//! are of other kinds, on 16 images of 224 x 224: the stem, 1x1 kernels, groups.
//!
//! `cargo bench --bench conv2d [-- FILTER]`; elements per second are floating-point operations per second. The
//! environment variable `THREADS` sets the number of threads (all processors by default).

mod common;

use common::{activations, floats, scratch};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::ops::conv2d::{Forward, Geometry, InputGrad, WeightGrad};
use glmc_engine::tensor::Grad;

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
        groups: 1,
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

fn imagenet_layers() -> Vec<Geometry> {
    let layer = |extent, channels, filters, kernel, stride, groups| Geometry {
        batch: 16,
        height: extent,
        width: extent,
        channels,
        filters,
        kernel,
        stride,
        padding: kernel / 2,
        views: 1,
        groups,
    };
    vec![
        layer(224, 3, 64, 7, 2, 1),
        layer(56, 64, 256, 1, 1, 1),
        layer(56, 256, 64, 1, 1, 1),
        layer(56, 256, 512, 1, 2, 1),
        layer(28, 512, 128, 1, 1, 1),
        layer(14, 1024, 256, 1, 1, 1),
        layer(7, 512, 2048, 1, 1, 1),
        layer(56, 128, 128, 3, 1, 32),
        layer(56, 256, 256, 3, 2, 32),
        layer(28, 256, 256, 3, 1, 32),
        layer(14, 512, 512, 3, 1, 32),
        layer(7, 1024, 1024, 3, 1, 32),
    ]
}

fn conv2d(c: &mut Criterion) {
    for g in [layers(16, 128), layers(64, 32), imagenet_layers()].concat() {
        let cpu = common::cpu();
        let cpu = cpu.as_ref();
        let [x, dx, y, dy] = [g.input(), g.input(), g.output(), g.output()].map(|shape| activations(cpu, &shape));
        let [w, dw] = [(); 2].map(|()| floats(cpu, &g.weight()));
        let sums = floats(cpu, &[g.views, cpu.conv2d_sum_parts(&g), 2, g.filters]);
        let scratch = Some(scratch(cpu, cpu.conv2d_backward_scratch(&g)));

        let mut name = format!("{0}x{0}x{1}->{2}/{3}", g.height, g.channels, g.filters, g.stride);
        if g.kernel != 3 || g.groups > 1 {
            name += &format!(" {0}x{0} in {1}", g.kernel, g.groups);
        }
        let mut group = c.benchmark_group(format!("{name} batch {}", g.batch));
        group.throughput(Throughput::Elements(g.flops() as u64));
        group.bench_function("forward", |b| {
            b.iter(|| cpu.conv2d_forward(&g, &Forward { x, weight: w, y, sums: Some(sums) }).expect("shapes fit"));
        });
        group.bench_function("input gradient", |b| {
            b.iter(|| {
                cpu.conv2d_input_grad(&g, &InputGrad { dy, weight: w, dx: Grad::write(dx) }).expect("shapes fit")
            });
        });
        group.bench_function("weight gradient", |b| {
            b.iter(|| cpu.conv2d_weight_grad(&g, &WeightGrad { x, dy, dweight: dw, scratch }).expect("shapes fit"));
        });
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = conv2d
}
criterion_main!(benches);
