//! The whole training step on the CPU in f32: GLMC, ResNet-32, CIFAR's shapes, width 16 with 64 samples and width 64 with 8.
//!
//! `cargo bench --bench step [-- FILTER]`; elements per second are samples per second. The environment variable `THREADS`
//! sets the number of threads (all processors by default). For other sizes and devices: `glmc-engine bench step`.

mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::bench::{Samples, Setup, Workload};
use glmc_engine::method::METHODS;

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    for (width, batch) in [(16, 64), (64, 8)] {
        let workload = Workload {
            model: "resnet32".into(),
            width,
            method: METHODS[0],
            batch,
            classes: 10,
            size: 32,
            photos: false,
        };
        let samples = Samples::new(&workload).expect("a workload that makes sense");
        let backend = common::cpu();
        let setup = Setup::new(backend.as_ref(), &workload, &samples).expect("memory for a step");
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("resnet32 width {width}, batch {batch}"), |b| {
            b.iter(|| setup.round(1).expect("a step"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
    targets = step
}
criterion_main!(benches);
