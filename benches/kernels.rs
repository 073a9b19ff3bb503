//! Every CUDA kernel by itself, as ResNet-32 calls it: on `cuda` in bf16 and f32 at width 64 and batch 64, by the device's
//! own clock; where there is no GPU, in the emulator at sizes that it manages, which says nothing about speed.
//!
//! `cargo bench --bench kernels [-- FILTER]`; elements are floating-point operations of a product, bytes are those of the
//! tensors, each once. `DEVICE=emulator` chooses the device. An op that is several kernels is measured as a whole. In a
//! step, and beside the device's ceilings: `glmc-engine bench ops`.

mod common;

use std::time::Duration;

use common::{activations, floats, indices, place, scratch, step, values};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use glmc_engine::Result;
use glmc_engine::backend;
use glmc_engine::ops::Backend;
use glmc_engine::ops::augment_mix::{AugmentMix, Augmentation, Mixing};
use glmc_engine::ops::batch_norm_apply::{self, Shortcut};
use glmc_engine::ops::batch_norm_statistics::{self, BatchNormStatistics};
use glmc_engine::ops::classify::Classify;
use glmc_engine::ops::conv2d;
use glmc_engine::ops::linear;
use glmc_engine::ops::load_step::{LoadStep, STEP_WORDS};
use glmc_engine::ops::negative_cosine::NegativeCosine;
use glmc_engine::ops::sgd::{Sgd, SgdConfig};
use glmc_engine::ops::soft_label_cross_entropy::{Head, SoftLabelCrossEntropy};
use glmc_engine::ops::soft_labels::SoftLabels;
use glmc_engine::ops::total_loss::{LOSS_COLUMNS, TotalLoss};
use glmc_engine::tensor::{DType, Grad, Precision, Shape, Tensor};

const CLASSES: usize = 10;
const HIDDEN: usize = 128;
const VIEWS: usize = 2;

/// How large a step's tensors are.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    batch: usize,
    extent: usize,
    parameters: usize,
    copy: usize,
    rounds: u32,
}

const GPU: Sizes = Sizes { width: 64, batch: 64, extent: 32, parameters: 7_400_000, copy: 512 << 20, rounds: 4096 };
const EMULATOR: Sizes = Sizes { width: 8, batch: 2, extent: 8, parameters: 10_000, copy: 1 << 20, rounds: 4 };

/// One device in one precision.
struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    backend: &'a dyn Backend,
    sizes: Sizes,
}

impl Bench<'_> {
    fn run(&mut self, name: &str, work: impl Fn(&dyn Backend) -> Result<()>) {
        let backend = self.backend;
        self.group.bench_function(name, |b| {
            b.iter_custom(|calls| {
                backend.time(&mut || (0..calls).try_for_each(|_| work(backend))).expect("tensors fit the op")
            });
        });
    }

    fn moves(&mut self, tensors: &[Tensor]) {
        self.group.throughput(Throughput::Bytes(tensors.iter().map(|t| t.bytes() as u64).sum()));
    }

    fn compute(&self, shape: &[usize]) -> Tensor {
        activations(self.backend, shape)
    }

    fn float(&self, shape: &[usize]) -> Tensor {
        floats(self.backend, shape)
    }

    fn ceilings(&mut self) {
        let (backend, sizes) = (self.backend, self.sizes);
        let count = backend.ceiling_values();
        let sums = floats(backend, &[count]);
        let flops = backend.ceiling_math(sums, sizes.rounds).expect("a multiple");
        self.group.throughput(Throughput::Elements(flops as u64));
        self.run("ceiling of arithmetic", |b| b.ceiling_math(sums, sizes.rounds).map(|_| ()));
        let [from, to] = [(); 2].map(|()| scratch(backend, sizes.copy));
        self.moves(&[from, to]);
        self.run("ceiling of memory", |b| b.ceilings_copy(from, to));
        for tensor in [sums, from, to] {
            backend.free(tensor.buffer);
        }
    }

    fn convolutions(&mut self) {
        let Sizes { width, batch, extent, .. } = self.sizes;
        let stem = self.backend.stem_channels();
        for (name, extent, channels, filters, stride) in [
            ("stem", extent, stem, width, 1),
            ("layer1", extent, width, width, 1),
            ("into layer2", extent, width, 2 * width, 2),
            ("layer2", extent / 2, 2 * width, 2 * width, 1),
            ("into layer3", extent / 2, 2 * width, 4 * width, 2),
            ("layer3", extent / 4, 4 * width, 4 * width, 1),
        ] {
            let g = conv2d::Geometry {
                batch: VIEWS * batch,
                height: extent,
                width: extent,
                channels,
                filters,
                kernel: 3,
                stride,
                padding: 1,
                views: VIEWS,
            };
            let [x, dx, y, dy] = [g.input(), g.input(), g.output(), g.output()].map(|shape| self.compute(&shape));
            let (weight, dweight) = (self.compute(&g.weight()), self.float(&g.weight()));
            let sums = self.float(&[VIEWS, self.backend.conv2d_sum_parts(&g), 2, filters]);
            let scratch = Some(scratch(self.backend, self.backend.conv2d_backward_scratch(&g)));
            let name = format!("conv2d {name} {}x{extent}x{extent}x{channels}->{filters}", g.batch);
            self.group.throughput(Throughput::Elements(g.flops() as u64));
            self.run(&format!("{name} forward"), |b| {
                b.conv2d_forward(&g, &conv2d::Forward { x, weight, y, sums: Some(sums) })
            });
            self.run(&format!("{name} input gradient"), |b| {
                b.conv2d_input_grad(&g, &conv2d::InputGrad { dy, weight, dx: Grad::write(dx) })
            });
            self.run(&format!("{name} weight gradient"), |b| {
                b.conv2d_weight_grad(&g, &conv2d::WeightGrad { x, dy, dweight, scratch })
            });
        }
    }

    fn norms(&mut self) {
        let Sizes { width, batch, extent, .. } = self.sizes;
        let source = (2 * extent, width / 2);
        for (name, shortcut) in [
            ("", Shortcut::None),
            (" + shortcut", Shortcut::Identity),
            (" + option A", Shortcut::OptionA { height: source.0, width: source.0, channels: source.1 }),
        ] {
            let g = batch_norm_apply::Geometry {
                views: VIEWS,
                batch: VIEWS * batch,
                height: extent,
                width: extent,
                channels: width,
                shortcut,
                relu: true,
            };
            // As many parts as the convolution before it makes.
            let parts = self.backend.conv2d_sum_parts(&conv2d::Geometry {
                batch: g.batch,
                height: extent,
                width: extent,
                channels: width,
                filters: width,
                kernel: 3,
                stride: 1,
                padding: 1,
                views: VIEWS,
            });
            let [x, z, dz, dx] = [(); 4].map(|()| self.compute(&g.shape()));
            let source = match shortcut {
                Shortcut::None => None,
                Shortcut::Identity => Some(g.shape()),
                Shortcut::OptionA { height, width, channels } => Some([g.batch, height, width, channels]),
            };
            let source = source.map(|shape| [(); 2].map(|()| self.compute(&shape)));
            let [weight, bias, running_mean, running_var, dweight, dbias] = [(); 6].map(|()| self.float(&[width]));
            let (pixels, rows) = (g.pixels(), self.backend.batch_norm_statistics_rows());
            let summed = batch_norm_statistics::Geometry { views: VIEWS, parts, pixels, channels: width };
            let (sums, statistics) = (self.float(&[VIEWS, parts, 2, width]), self.float(&[VIEWS, rows, width]));
            let scratch = Some(scratch(self.backend, self.backend.batch_norm_backward_scratch(&g)));
            let name = format!("batch_norm {}x{extent}x{extent}x{width}{name}", g.batch);
            let shortcut = source.map(|[source, _]| source);
            let first = BatchNormStatistics { x, sums, weight, running_mean, running_var, statistics };
            let forward = batch_norm_apply::Forward { x, statistics, weight, bias, shortcut, z };
            let others: Vec<Tensor> = shortcut.into_iter().collect();
            self.moves(&[&[x, z], others.as_slice()].concat());
            self.run(&format!("{name} forward"), |b| {
                b.batch_norm_statistics(&summed, &first)?;
                b.batch_norm_apply(&g, &forward)
            });
            let inference = batch_norm_apply::Inference { x, weight, bias, running_mean, running_var, shortcut, z };
            self.run(&format!("{name} inference"), |b| b.batch_norm_inference(&g, &inference));
            let backward = batch_norm_apply::Backward {
                x,
                z,
                statistics,
                weight,
                dz,
                dx: Some(Grad::write(dx)),
                dweight: Some(Grad::write(dweight)),
                dbias: Some(Grad::write(dbias)),
                dshortcut: source.map(|[_, dsource]| Grad::write(dsource)),
                scratch,
            };
            self.moves(&[&[x, z, dz, dx], others.as_slice()].concat());
            self.run(&format!("{name} backward"), |b| b.batch_norm_backward(&g, &backward));
        }
    }

    fn heads(&mut self) {
        let Sizes { width, batch, extent, .. } = self.sizes;
        let (rows, features) = (VIEWS * batch, 4 * width);
        let [x, dx] = [(); 2].map(|()| self.compute(&[rows, extent / 4, extent / 4, features]));
        let [r, dr] = [(); 2].map(|()| self.float(&[rows, features]));
        self.moves(&[x, r]);
        self.run("global_avg_pool forward", |b| b.global_avg_pool_forward(x, r));
        self.run("global_avg_pool backward", |b| b.global_avg_pool_backward(dr, Grad::write(dx)));
        let [weight, dweight] = [(); 2].map(|()| self.float(&[HIDDEN, features]));
        let [bias, dbias] = [(); 2].map(|()| self.float(&[HIDDEN]));
        let [h, u, du] = [(); 3].map(|()| self.float(&[rows, HIDDEN]));
        self.group.throughput(Throughput::Elements((2 * rows * features * HIDDEN) as u64));
        self.run("linear forward", |b| b.linear_forward(&linear::Forward { x: r, weight, bias, y: h }));
        self.run("linear input gradient", |b| {
            b.linear_input_grad(&linear::InputGrad { dy: h, weight, dx: Grad::write(dr) })
        });
        self.run("linear weight gradient", |b| {
            b.linear_weight_grad(&linear::WeightGrad { x: r, dy: h, dweight, dbias })
        });
        let (scalars, cosines) = (step(self.backend), self.float(&[rows]));
        self.moves(&[u, h, du]);
        self.run("negative_cosine", |b| {
            b.negative_cosine(&NegativeCosine { u, target: h, scalars, rows: cosines, du: Some(Grad::write(du)) })
        });
        let [logits, dlogits] = [(); 2].map(|()| self.float(&[rows, CLASSES]));
        let (label, losses) = (self.float(&[batch, CLASSES]), self.float(&[1, rows]));
        let head = Head { logits, label, dlogits: Some(Grad::write(dlogits)) };
        self.moves(&[logits, label, dlogits]);
        self.run("soft_label_cross_entropy", |b| {
            b.soft_label_cross_entropy(&SoftLabelCrossEntropy { heads: &[head], scalars, rows: losses })
        });
        let log = self.float(&[1, LOSS_COLUMNS]);
        let total = TotalLoss { cross_entropy: losses, cosine: Some(cosines), scalars, log, batch };
        self.moves(&[losses, cosines]);
        self.run("total_loss", |b| b.total_loss(&total));
        let labels = indices(self.backend, rows, CLASSES);
        let originals = indices(self.backend, rows, rows);
        let (ranks, confidences) = (indices(self.backend, rows, rows), values(self.backend, &[rows], DType::F32));
        let classify = Classify { logits, labels, originals, scalars, ranks, confidences };
        self.moves(&[logits]);
        self.run("classify", |b| b.classify(&classify));
    }

    fn ends(&mut self) {
        let Sizes { batch, extent, parameters, .. } = self.sizes;
        let images = 4 * batch;
        let pixels: Vec<u8> = (0..images * extent * extent * 3).map(|i| (i * 31 % 256) as u8).collect();
        let pixels = place(self.backend, &[images, extent, extent, 3], DType::U8, &pixels);
        let [originals, partners] = [(); 2].map(|()| indices(self.backend, batch, images));
        let scalars = step(self.backend);
        let out = self.compute(&[VIEWS * batch, extent, extent, self.backend.stem_channels()]);
        let tensors = AugmentMix { pixels, originals, partners, scalars, out };
        let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: extent / 8, flip: true };
        self.moves(&[pixels.rows(0, 2 * batch), out]);
        self.run("augment_mix", |b| b.augment_mix(Mixing::Glmc, &augmentation, &tensors));
        let views = self.float(&[4 * batch, extent, extent, 3]);
        self.moves(&[views, out]);
        self.run("mix_views", |b| b.mix_views(views, scalars, out));
        let (labels, class_weights) = (indices(self.backend, images, CLASSES), self.float(&[CLASSES]));
        let [label, label_weighted] = [(); 2].map(|()| self.float(&[batch, CLASSES]));
        let tensors = SoftLabels { labels, originals, partners, class_weights, scalars, label, label_weighted };
        self.moves(&[label, label_weighted]);
        self.run("soft_labels", |b| b.soft_labels(&tensors));
        // The cursor moves on at every call: it starts again before each, so that a row is left.
        let words = STEP_WORDS + 2 * batch;
        let table = Tensor { shape: Shape::new(&[1, words]), ..indices(self.backend, words, images) };
        let cursor = indices(self.backend, 1, 1);
        self.moves(&[table]);
        self.run("load_step, and a word set to zero", |b| {
            b.zero(cursor)?;
            b.load_step(&LoadStep { table, cursor, scalars, originals, partners })
        });
        let [master, grad, momentum] = [(); 3].map(|()| self.float(&[parameters]));
        let compute = (self.backend.precision() == Precision::Bf16).then(|| self.compute(&[parameters]));
        let tensors = Sgd { master, compute, grad, momentum, scalars };
        let config = SgdConfig { momentum: 0.9, weight_decay: 5e-3 };
        let others: Vec<Tensor> = compute.into_iter().collect();
        self.moves(&[&[master, master, momentum, momentum, grad], others.as_slice()].concat());
        self.run("sgd", |b| b.sgd(&config, &tensors));
        let compute = self.compute(&[parameters]);
        self.moves(&[master, compute]);
        self.run("cast_weights", |b| b.cast_weights(master, compute));
    }
}

fn kernels(c: &mut Criterion) {
    let wanted = std::env::var("DEVICE").unwrap_or_else(|_| "cuda".into());
    let (device, sizes) = match backend::open(&wanted, Precision::F32, common::threads()) {
        Ok(_) if wanted == "emulator" => (wanted, EMULATOR),
        Ok(_) => (wanted, GPU),
        Err(error) => {
            eprintln!("{error}; the emulator at small sizes instead, whose times say nothing about a GPU's");
            ("emulator".into(), EMULATOR)
        }
    };
    for precision in [Precision::Bf16, Precision::F32] {
        let backend = match backend::open(&device, precision, common::threads()) {
            Ok(backend) => backend,
            Err(error) => {
                eprintln!("skipped: {error}");
                continue;
            }
        };
        let mut group = c.benchmark_group(format!("{} {precision}", backend.name()));
        group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(200));
        let mut bench = Bench { group, backend: backend.as_ref(), sizes };
        bench.ceilings();
        bench.convolutions();
        bench.norms();
        bench.heads();
        bench.ends();
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = kernels
}
criterion_main!(benches);
