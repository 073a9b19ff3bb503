//! The CPU's ops apart from convolutions (see `conv2d`), as a step of ResNet-32 with width 16 and batch 64 calls them:
//! 128 images, two views.
//!
//! `cargo bench --bench ops [-- FILTER]`; bytes per second count each tensor once for every time that it must be read
//! or written. The environment variable `THREADS` sets the number of threads (all processors by default).

mod common;

use common::{floats, indices, place, scratch, step};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::ops::augment_mix::{AugmentMix, Augmentation, Mixing, View};
use glmc_engine::ops::augment_photos::{AugmentPhotos, DRAW_WORDS, INDEX_WORDS, PhotoConfig, PhotoDraw};
use glmc_engine::ops::batch_norm_apply::{Backward, Forward, Geometry, Shortcut};
use glmc_engine::ops::batch_norm_statistics::{self, BatchNormStatistics};
use glmc_engine::ops::join_branches;
use glmc_engine::ops::linear;
use glmc_engine::ops::max_pool;
use glmc_engine::ops::negative_cosine::NegativeCosine;
use glmc_engine::ops::sgd::{Sgd, SgdConfig};
use glmc_engine::ops::supervised_loss::{ClassVector, Form, Head, Reduction, SupervisedLoss, ViewLabels};
use glmc_engine::tensor::DType;
use glmc_engine::tensor::Grad;

const BATCH: usize = 64;
/// Parameters of ResNet-32, width 16, with its heads.
const PARAMETERS: usize = 490_000;

fn batch_norm(c: &mut Criterion) {
    for (extent, channels) in [(32, 16), (16, 32), (8, 64)] {
        for shortcut in [Shortcut::None, Shortcut::Identity] {
            let g =
                Geometry { views: 2, batch: 2 * BATCH, height: extent, width: extent, channels, shortcut, relu: true };
            let native = common::cpu();
            let native = native.as_ref();
            let [x, z, dz, dx] = [(); 4].map(|()| floats(native, &g.shape()));
            let source = (shortcut != Shortcut::None).then(|| [(); 2].map(|()| floats(native, &g.shape())));
            let [weight, bias, running_mean, running_var, dweight, dbias] =
                [(); 6].map(|()| floats(native, &[channels]));
            let (views, parts, pixels, rows) = (g.views, 8, g.pixels(), native.batch_norm_statistics_rows());
            let summed = batch_norm_statistics::Geometry { views, parts, pixels, channels };
            let sums = floats(native, &[views, parts, 2, channels]);
            let statistics = floats(native, &[views, rows, channels]);
            let scratch = scratch(native, native.batch_norm_backward_scratch(&g));
            let first = BatchNormStatistics {
                x,
                sums,
                weight,
                running_mean: Some(running_mean),
                running_var: Some(running_var),
                statistics,
            };
            let forward = Forward { x, statistics, weight, bias, shortcut: source.map(|[s, _]| s), z };
            let backward = Backward {
                x,
                z,
                statistics,
                weight,
                dz,
                dx: Some(Grad::write(dx)),
                dweight: Some(Grad::write(dweight)),
                dbias: Some(Grad::write(dbias)),
                dshortcut: source.map(|[_, d]| Grad::write(d)),
                scratch: Some(scratch),
            };
            let plus = usize::from(source.is_some());
            let name = format!("batch_norm {0}x{extent}x{extent}x{channels}", g.batch);
            let mut group = c.benchmark_group(if plus == 1 { format!("{name} + shortcut") } else { name });
            group.throughput(Throughput::Bytes(((2 + plus) * x.bytes()) as u64));
            group.bench_function("forward", |b| {
                b.iter(|| {
                    native.batch_norm_statistics(&summed, &first).expect("shapes fit");
                    native.batch_norm_apply(&g, &forward).expect("shapes fit");
                });
            });
            group.throughput(Throughput::Bytes(((7 + plus) * x.bytes()) as u64));
            group.bench_function("backward", |b| {
                b.iter(|| native.batch_norm_backward(&g, &backward).expect("shapes fit"));
            });
        }
    }
}

fn heads(c: &mut Criterion) {
    let native = common::cpu();
    let native = native.as_ref();
    let mut group = c.benchmark_group("heads");
    let (x, dx) = (floats(native, &[2 * BATCH, 8, 8, 64]), floats(native, &[2 * BATCH, 8, 8, 64]));
    let (r, dr) = (floats(native, &[2 * BATCH, 64]), floats(native, &[2 * BATCH, 64]));
    let [w, dw] = [(); 2].map(|()| floats(native, &[128, 64]));
    let [bias, dbias] = [(); 2].map(|()| floats(native, &[128]));
    let [h, u, du] = [(); 3].map(|()| floats(native, &[2 * BATCH, 128]));
    let [logits, dlogits] = [(); 2].map(|()| floats(native, &[2 * BATCH, 10]));
    let (vectors, scalars) = (floats(native, &[ClassVector::COUNT, 10]), step(native));
    let [labels, originals, partners] = [10, BATCH, BATCH].map(|limit| indices(native, BATCH, limit));
    let shares = common::values(native, &[BATCH], DType::F32);
    let (rows, cosines) = (floats(native, &[1, 2 * BATCH]), floats(native, &[2 * BATCH]));
    group.bench_function("global_avg_pool forward and backward", |b| {
        b.iter(|| {
            native.global_avg_pool_forward(x, r).expect("shapes fit");
            native.global_avg_pool_backward(dr, Grad::write(dx)).expect("shapes fit");
        });
    });
    group.bench_function("max_pool forward and backward", |b| {
        let config = max_pool::Config::IMAGENET;
        let [y, dy] = [(); 2].map(|()| floats(native, &[2 * BATCH, 4, 4, 64]));
        let taps = native.tensor(&[2 * BATCH, 4, 4, 64], DType::U8, "taps").expect("memory for taps");
        b.iter(|| {
            native.max_pool_forward(x, y, Some(taps), config).expect("shapes fit");
            native.max_pool_backward(dy, taps, Grad::write(dx), config).expect("shapes fit");
        });
    });
    group.bench_function("split_views forward and backward", |b| {
        let [first, second] = [0, BATCH].map(|from| dx.rows(from, BATCH));
        b.iter(|| {
            native.split_views_forward(x, first, second).expect("shapes fit");
            native.split_views_backward(first, second, Grad::write(x)).expect("shapes fit");
        });
    });
    group.bench_function("join_branches forward and backward", |b| {
        let [first, second] = [0, BATCH].map(|from| r.rows(from, BATCH));
        let y = h.rows(0, BATCH);
        let (dfirst, dsecond) = (Some(Grad::write(first)), Some(Grad::write(second)));
        let backward = join_branches::Backward { dy: y, shares: Some(shares), dfirst, dsecond };
        b.iter(|| {
            native.join_branches_forward(first, second, Some(shares), y).expect("shapes fit");
            native.join_branches_backward(&backward).expect("shapes fit");
        });
    });
    group.bench_function("linear 64 to 128 forward and backward", |b| {
        b.iter(|| {
            native.linear_forward(&linear::Forward { x: r, weight: w, bias: Some(bias), y: h }).expect("shapes fit");
            native
                .linear_weight_grad(&linear::WeightGrad { x: r, dy: h, dweight: dw, dbias: Some(dbias) })
                .expect("shapes fit");
            native.linear_input_grad(&linear::InputGrad { dy: h, weight: w, dx: Grad::write(dr) }).expect("shapes fit");
        });
    });
    group.bench_function("normalize_rows forward and backward", |b| {
        b.iter(|| {
            native.normalize_rows_forward(r, dr).expect("shapes fit");
            native.normalize_rows_backward(r, r, Grad::write(dr)).expect("shapes fit");
        });
    });
    group.bench_function("supervised_loss", |b| {
        let (form, reduction, scale) = (Form::Softmax { focal: 0.0 }, Reduction::N, 1.0);
        let heads = [Head { logits, vectors, form, reduction, scale, dlogits: Some(Grad::write(dlogits)) }];
        let loss = SupervisedLoss {
            heads: &heads,
            labels,
            originals,
            partners,
            shares,
            views: [ViewLabels::Mixed; 2],
            scalars,
            rows,
        };
        b.iter(|| native.supervised_loss(&loss).expect("shapes fit"));
    });
    group.bench_function("negative_cosine", |b| {
        b.iter(|| {
            native
                .negative_cosine(&NegativeCosine {
                    u,
                    target: h,
                    scalars,
                    rows: cosines,
                    du: Some(Grad::write(du)),
                    dtarget: None,
                })
                .expect("shapes fit")
        });
    });
}

fn ends(c: &mut Criterion) {
    let native = common::cpu();
    let native = native.as_ref();
    let mut group = c.benchmark_group("step");
    let images: Vec<u8> = (0..256 * 32 * 32 * 3).map(|i| (i * 31 % 256) as u8).collect();
    let [originals, partners] = [(); 2].map(|()| indices(native, BATCH, 256));
    let tensors = AugmentMix {
        pixels: place(native, &[256, 32, 32, 3], DType::U8, &images),
        originals,
        partners,
        scalars: step(native),
        out: floats(native, &[2 * BATCH, 32, 32, native.stem_channels()]),
    };
    let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: 4, flip: true };
    group.bench_function("augment_mix", |b| {
        b.iter(|| native.augment_mix(Mixing::GLMC, &augmentation, &tensors).expect("shapes fit"));
    });
    // Plain cross-entropy's.
    let single = AugmentMix { out: floats(native, &[BATCH, 32, 32, native.stem_channels()]), ..tensors };
    group.bench_function("augment_mix plain", |b| {
        b.iter(|| native.augment_mix(Mixing::One(View::Plain), &augmentation, &single).expect("shapes fit"));
    });
    let [master, grad, momentum] = [(); 3].map(|()| floats(native, &[PARAMETERS]));
    let tensors = Sgd { master, compute: None, grad, momentum, scalars: step(native) };
    let config = SgdConfig::plain(0.9, 5e-3);
    group.throughput(Throughput::Bytes(5 * 4 * PARAMETERS as u64));
    group.bench_function("sgd", |b| b.iter(|| native.sgd(&config, &tensors).expect("shapes fit")));
}

/// Photographs of 256x341 to 224x224 with all that training draws.
fn photographs(c: &mut Criterion) {
    let native = common::cpu();
    let native = native.as_ref();
    let (images, batch, size, [height, width]) = (8, 8, 224, [256, 341]);
    let bytes: Vec<u8> = (0..images * height * width * 3).map(|i| (i * 31 % 256) as u8).collect();
    let index: Vec<[i32; INDEX_WORDS]> =
        (0..images).map(|image| [(image * height * width * 3) as i32, 0, height as i32, width as i32]).collect();
    let whole = PhotoDraw::of_box([0, 0, height as u32, width as u32], size);
    let jittered = PhotoDraw { brightness: 1.1, contrast: 0.9, saturation: 1.2, flags: PhotoDraw::FLIP, ..whole };
    let mut group = c.benchmark_group("augment_photos");
    group.throughput(Throughput::Elements(batch as u64));
    for (name, draw) in [
        ("resize", whole),
        ("resize, colours", jittered),
        ("resize, colours, hue", PhotoDraw { hue: 0.1, ..jittered }),
        ("resize, colours, blur", PhotoDraw { sigma: 1.0, ..jittered }),
    ] {
        let samples = indices(native, batch, images);
        let tensors = AugmentPhotos {
            pixels: place(native, &[bytes.len()], DType::U8, &bytes),
            index: place(native, &[images, INDEX_WORDS], DType::I32, bytemuck::cast_slice(&index)),
            draws: place(native, &[batch, DRAW_WORDS], DType::I32, bytemuck::cast_slice(&vec![draw; batch])),
            originals: samples,
            partners: samples,
            scalars: step(native),
            out: floats(native, &[batch, size, size, 3]),
            scratch: Some(scratch(native, native.augment_photos_scratch(batch, size))),
        };
        let config = PhotoConfig { size, stride: batch, mean: [0.5; 3], std: [0.25; 3] };
        group.bench_function(name, |b| {
            b.iter(|| native.augment_photos(Mixing::Evaluate, &config, &tensors).expect("shapes fit"));
        });
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = batch_norm, heads, ends, photographs
}
criterion_main!(benches);
