//! Kernels against the CPU in double precision, on random odd shapes, in the emulator with all its checks: any number of
//! channels, any batch, whole vectors and ragged ends, `=` and `+=`.

use glmc_engine::backend::Memory;
use glmc_engine::backend::driver::emulator::{Emulator, Options};
use glmc_engine::backend::launched::Launched;
use glmc_engine::backend::native::Native;
use glmc_engine::ops::augment_mix::{AugmentMix, AugmentMixKernels, Augmentation, Mixing};
use glmc_engine::ops::batch_norm::{self, BatchNormKernels, Shortcut};
use glmc_engine::ops::classify::{Classify, ClassifyKernels};
use glmc_engine::ops::global_avg_pool::GlobalAvgPoolKernels;
use glmc_engine::ops::linear::LinearKernels;
use glmc_engine::ops::negative_cosine::NegativeCosineKernels;
use glmc_engine::ops::sgd::{Sgd, SgdConfig, SgdKernels};
use glmc_engine::ops::soft_label_cross_entropy::{Head, SoftLabelCrossEntropyKernels};
use glmc_engine::ops::soft_labels::{SoftLabels, SoftLabelsKernels};
use glmc_engine::ops::step::{STEP_WORDS, StepKernels, StepParams};
use glmc_engine::ops::total_loss::{TotalLoss, TotalLossKernels};
use glmc_engine::tape::Grad;
use glmc_engine::tensor::{DType, Precision, Tensor};
use half::bf16;

/// A linear congruential generator: shapes and values of a sweep, the same at every run.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// An integer in `low..=high`.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.word() as usize % (high - low + 1)
    }

    fn flag(&mut self) -> bool {
        self.word() % 2 == 1
    }

    /// `n` values in -1..1 that bf16 holds exactly, so that every precision starts from the same.
    fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| bf16::from_f64(self.word() as f64 / (1u64 << 30) as f64 - 1.0).to_f64()).collect()
    }
}

/// One side of the comparison: tensors of host values in its own types.
trait Side: Memory {
    fn put(&self, values: &[f64], shape: &[usize], dtype: DType) -> Tensor {
        let tensor = Tensor::at_start(self.alloc(values.len() * dtype.bytes(), "test").unwrap(), shape, dtype);
        assert_eq!(tensor.elements(), values.len());
        let bytes: Vec<u8> = match dtype {
            DType::U8 => values.iter().map(|&v| v as u8).collect(),
            DType::I32 => values.iter().flat_map(|&v| (v as i32).to_ne_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v as f32).to_ne_bytes()).collect(),
            DType::F32 => values.iter().flat_map(|&v| (v as f32).to_ne_bytes()).collect(),
            DType::F64 => values.iter().flat_map(|&v| v.to_ne_bytes()).collect(),
        };
        self.upload(tensor, &bytes).unwrap();
        tensor
    }

    /// A tensor of the compute type.
    fn compute(&self, values: &[f64], shape: &[usize]) -> Tensor {
        self.put(values, shape, self.precision().compute())
    }

    /// A tensor of the accumulation type.
    fn float(&self, values: &[f64], shape: &[usize]) -> Tensor {
        self.put(values, shape, self.precision().accumulate())
    }

    fn int(&self, values: &[usize], shape: &[usize]) -> Tensor {
        self.put(&values.iter().map(|&v| v as f64).collect::<Vec<_>>(), shape, DType::I32)
    }

    fn step(&self, step: &StepParams) -> Tensor {
        let tensor = Tensor::at_start(self.alloc(4 * STEP_WORDS, "step").unwrap(), &[STEP_WORDS], DType::I32);
        self.upload(tensor, bytemuck::bytes_of(step)).unwrap();
        tensor
    }

    fn get(&self, tensor: Tensor) -> Vec<f64> {
        let mut bytes = vec![0u8; tensor.bytes()];
        self.download(tensor, &mut bytes).unwrap();
        let wide = |chunk: &[u8]| match tensor.dtype {
            DType::U8 => f64::from(chunk[0]),
            DType::I32 => f64::from(i32::from_ne_bytes(chunk.try_into().unwrap())),
            DType::Bf16 => bf16::from_ne_bytes(chunk.try_into().unwrap()).to_f64(),
            DType::F32 => f64::from(f32::from_ne_bytes(chunk.try_into().unwrap())),
            DType::F64 => f64::from_ne_bytes(chunk.try_into().unwrap()),
        };
        bytes.chunks(tensor.dtype.bytes()).map(wide).collect()
    }
}

impl<T: Memory> Side for T {}

/// Named results of one side.
type Results = Vec<(&'static str, Vec<f64>)>;

fn emulator(precision: Precision) -> Launched {
    Launched::new(Box::new(Emulator::new(Options::default()).unwrap()), precision).unwrap()
}

/// Compares each result with the CPU's: the largest difference over the largest value. `tolerance` is that of f32 and of
/// bf16.
fn compare(case: &str, precision: Precision, got: &Results, want: &Results, tolerance: (f64, f64)) {
    let limit = if precision == Precision::Bf16 { tolerance.1 } else { tolerance.0 };
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{case}: {name}");
        let scale = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let error = (g - w).abs() / scale;
            assert!(error <= limit, "{case}, {precision}: {name}[{i}] is {g}, not {w} ({error:.2e} > {limit:.0e})");
        }
    }
}

/// Runs a body on the CPU in double and in the emulator in both precisions.
macro_rules! sweep {
    ($case:expr, $tolerance:expr, $body:expr) => {{
        let native = Native::new(Precision::F64, 1).unwrap();
        let want = $body(&native);
        for precision in [Precision::F32, Precision::Bf16] {
            let got = $body(&emulator(precision));
            compare($case, precision, &got, &want, $tolerance);
        }
    }};
}

/// `(sums, views, parts, 2, channels)` of x and of its square, as `conv2d` would give them.
fn sums_of(x: &[f64], g: &batch_norm::Geometry) -> Vec<f64> {
    let (pixels, c) = (g.pixels(), g.channels);
    let mut sums = vec![0.0; g.views * g.parts * 2 * c];
    for (i, value) in x.iter().enumerate() {
        let (pixel, channel) = (i / c, i % c);
        let (view, part) = (pixel / pixels, pixel % pixels * g.parts / pixels);
        let at = (view * g.parts + part) * 2 * c + channel;
        sums[at] += value;
        sums[at + c] += value * value;
    }
    sums
}

/// The data of a batch normalisation.
struct NormCase {
    g: batch_norm::Geometry,
    x: Vec<f64>,
    source: Vec<f64>,
    source_shape: [usize; 4],
    weight: Vec<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    var: Vec<f64>,
    dz: Vec<f64>,
    /// What gradients hold before, where they are added to.
    before: Vec<f64>,
    accumulate: bool,
}

impl NormCase {
    fn new(random: &mut Random, g: batch_norm::Geometry) -> NormCase {
        let count = g.shape().iter().product();
        let source_shape = match g.shortcut {
            Shortcut::OptionA { height, width, channels } => [g.batch, height, width, channels],
            _ => g.shape(),
        };
        let source_count = source_shape.iter().product::<usize>();
        let c = g.channels;
        NormCase {
            g,
            x: random.values(count).iter().map(|v| bf16::from_f64(v * 2.0 + 0.5).to_f64()).collect(),
            source: random.values(source_count),
            source_shape,
            weight: random.values(c),
            bias: random.values(c),
            mean: random.values(c),
            var: random.values(c).iter().map(|v| v + 1.5).collect(),
            dz: random.values(count),
            before: random.values(count.max(source_count)),
            accumulate: random.flag(),
        }
    }

    fn run<B: Memory + BatchNormKernels>(&self, b: &B) -> Results {
        let (g, c) = (&self.g, self.g.channels);
        let shape = g.shape();
        let count: usize = shape.iter().product();
        let x = b.compute(&self.x, &shape);
        let shortcut = (g.shortcut != Shortcut::None).then(|| b.compute(&self.source, &self.source_shape));
        let (weight, bias) = (b.float(&self.weight, &[c]), b.float(&self.bias, &[c]));
        let (running_mean, running_var) = (b.float(&self.mean, &[c]), b.float(&self.var, &[c]));
        let z = b.compute(&vec![0.0; count], &shape);
        let whole = batch_norm::Geometry { views: 1, ..*g };
        b.batch_norm_inference(
            &whole,
            &batch_norm::Inference { x, weight, bias, running_mean, running_var, shortcut, z },
        )
        .unwrap();
        let mut results = vec![("inference", b.get(z))];

        let sums = b.float(&sums_of(&self.x, g), &[g.views, g.parts, 2, c]);
        let statistics = b.float(&vec![0.0; g.views * 2 * c], &[g.views, 2, c]);
        let tensors = batch_norm::Forward { x, sums, weight, bias, running_mean, running_var, shortcut, z, statistics };
        b.batch_norm_forward(g, &tensors).unwrap();
        for (name, tensor) in
            [("z", z), ("statistics", statistics), ("running_mean", running_mean), ("running_var", running_var)]
        {
            results.push((name, b.get(tensor)));
        }

        let source_count = self.source.len();
        let grad = |tensor| Grad { tensor, accumulate: self.accumulate };
        let dx = grad(b.compute(&self.before[..count], &shape));
        let dshortcut = grad(b.compute(&self.before[..source_count], &self.source_shape));
        let (dweight, dbias) = (grad(b.float(&self.before[..c], &[c])), grad(b.float(&self.before[..c], &[c])));
        let bytes = b.batch_norm_backward_scratch(g);
        let scratch = Some(Tensor::at_start(b.alloc(bytes, "scratch").unwrap(), &[bytes], DType::U8));
        let dz = b.compute(&self.dz, &shape);
        // The mask must be the same on every side, however z was rounded.
        let z = b.compute(&self.x.iter().map(|v| v.max(0.0)).collect::<Vec<_>>(), &shape);
        let tensors = batch_norm::Backward {
            x,
            z,
            statistics,
            weight,
            dz,
            dx: Some(dx),
            dweight: Some(dweight),
            dbias: Some(dbias),
            dshortcut: (g.shortcut != Shortcut::None).then_some(dshortcut),
            scratch,
        };
        b.batch_norm_backward(g, &tensors).unwrap();
        for (name, grad) in [("dx", dx), ("dshortcut", dshortcut), ("dweight", dweight), ("dbias", dbias)] {
            results.push((name, b.get(grad.tensor)));
        }
        results
    }
}

#[test]
fn batch_norm() {
    let mut random = Random(1);
    let channels = [1, 2, 3, 8, 12, 16, 20, 24, 33, 64, 96, 160, 257, 320, 512];
    for (n, &c) in channels.iter().enumerate() {
        for kind in 0..3 {
            let views = random.between(1, 2);
            let (height, width) = (random.between(2, 7), random.between(1, 6));
            let shortcut = match kind {
                0 => Shortcut::None,
                1 => Shortcut::Identity,
                // Half the channels or a ragged share; odd and even source sizes.
                _ => Shortcut::OptionA {
                    height: 2 * height - random.between(0, 1),
                    width: 2 * width - random.between(0, 1),
                    channels: if c % 2 == 0 && random.flag() { c / 2 - c / 2 % 2 + c % 2 } else { c - (c - 1) / 2 * 2 },
                },
            };
            let shortcut = match shortcut {
                Shortcut::OptionA { channels: 0, height, width } => Shortcut::OptionA { channels: c, height, width },
                other => other,
            };
            let g = batch_norm::Geometry {
                views,
                batch: views * random.between(1, 3),
                height,
                width,
                channels: c,
                parts: random.between(1, 70).min(height * width),
                shortcut,
                relu: n % 2 == 0 || kind == 1,
            };
            let case = NormCase::new(&mut random, g);
            sweep!(&format!("{g:?}, add {}", case.accumulate), (3e-5, 2e-2), |b| case.run(b));
        }
    }
}

#[test]
fn batch_norm_over_many_blocks() {
    let mut random = Random(2);
    let g = batch_norm::Geometry {
        views: 2,
        batch: 16,
        height: 32,
        width: 32,
        channels: 16,
        parts: 64,
        shortcut: Shortcut::OptionA { height: 64, width: 64, channels: 8 },
        relu: true,
    };
    let case = NormCase::new(&mut random, g);
    sweep!("many blocks", (3e-5, 2e-2), |b| case.run(b));
}

/// Two values of 300 that differ by 0.25 (the error of a sum of squares is larger than the variance), and more of them.
#[test]
fn batch_norm_of_few_values_far_from_zero() {
    let mut random = Random(3);
    for (batch, height) in [(2, 1), (1, 2), (3, 1), (4, 16)] {
        let g = batch_norm::Geometry {
            views: 2,
            batch: 2 * batch,
            height,
            width: 1,
            channels: 20,
            parts: height,
            shortcut: Shortcut::None,
            relu: false,
        };
        let mut case = NormCase::new(&mut random, g);
        let steps = random.values(case.x.len());
        case.x = steps.iter().enumerate().map(|(i, v)| 300.0 + 0.25 * (i / g.channels % 2) as f64 + v / 64.0).collect();
        case.x.iter_mut().for_each(|v| *v = (*v * 1024.0).round() / 1024.0);
        let forward = |mut results: Results| {
            results.retain(|(name, _)| ["z", "statistics", "running_mean", "running_var"].contains(name));
            results
        };
        let native = Native::new(Precision::F64, 1).unwrap();
        // bf16 cannot tell these values apart. The mean is stored in f32, to a ten-thousandth of the deviation.
        let got = forward(case.run(&emulator(Precision::F32)));
        compare(&format!("{g:?}"), Precision::F32, &got, &forward(case.run(&native)), (3e-4, 2e-2));
    }
}

#[test]
fn global_avg_pool() {
    let mut random = Random(3);
    for channels in [1, 3, 8, 16, 24, 100, 256, 512, 2056] {
        let shape = [random.between(1, 5), random.between(1, 9), random.between(1, 9), channels];
        let (batch, pixels) = (shape[0], shape[1] * shape[2]);
        let (x, before) = (random.values(batch * pixels * channels), random.values(batch * pixels * channels));
        let (dy, accumulate) = (random.values(batch * channels), random.flag());
        fn run<B: Memory + GlobalAvgPoolKernels>(
            b: &B,
            shape: [usize; 4],
            [x, before, dy]: [&[f64]; 3],
            accumulate: bool,
        ) -> Results {
            let flat = [shape[0], shape[3]];
            let (x, y) = (b.compute(x, &shape), b.float(&vec![0.0; dy.len()], &flat));
            b.global_avg_pool_forward(x, y).unwrap();
            let (dy, dx) = (b.float(dy, &flat), b.compute(before, &shape));
            b.global_avg_pool_backward(dy, Grad { tensor: dx, accumulate }).unwrap();
            vec![("y", b.get(y)), ("dx", b.get(dx))]
        }
        sweep!(&format!("{shape:?}"), (2e-6, 1e-2), |b| run(b, shape, [&x, &before, &dy], accumulate));
    }
}

#[test]
fn linear() {
    let mut random = Random(4);
    let extents = [[1, 1, 1], [1, 17, 3], [5, 64, 10], [33, 40, 129], [128, 64, 100], [7, 257, 16], [40, 24, 2000]];
    for [batch, inputs, outputs] in extents {
        let data = [batch * inputs, outputs * inputs, outputs, batch * outputs, batch * inputs];
        let data = data.map(|n| random.values(n));
        let accumulate = random.flag();
        fn run<B: Memory + LinearKernels>(b: &B, [n, i, o]: [usize; 3], data: &[Vec<f64>; 5], add: bool) -> Results {
            let [x, weight, bias, dy, before] = data;
            let (x, weight, bias) = (b.float(x, &[n, i]), b.float(weight, &[o, i]), b.float(bias, &[o]));
            let y = b.float(&vec![0.0; n * o], &[n, o]);
            b.linear_forward(x, weight, bias, y).unwrap();
            let (dy, dx) = (b.float(dy, &[n, o]), b.float(before, &[n, i]));
            b.linear_input_grad(dy, weight, Grad { tensor: dx, accumulate: add }).unwrap();
            let (dweight, dbias) = (b.float(&vec![9.0; o * i], &[o, i]), b.float(&vec![9.0; o], &[o]));
            b.linear_weight_grad(x, dy, dweight, dbias).unwrap();
            [("y", y), ("dx", dx), ("dweight", dweight), ("dbias", dbias)].map(|(name, t)| (name, b.get(t))).into()
        }
        sweep!(&format!("{batch}x{inputs} -> {outputs}"), (2e-6, 2e-6), |b| run(
            b,
            [batch, inputs, outputs],
            &data,
            accumulate
        ));
    }
}

fn some_step() -> StepParams {
    StepParams {
        seed: [0x1234_5678, 0x9abc_def0],
        epoch: 3,
        step: 17,
        lambda: 0.375,
        label_lambda: 0.3125,
        cut: [1, 4, 2, 6],
        lr: 0.125,
        coefficients: [0.75, 0.25, 4.0],
        row: 2,
        reserved: 0,
    }
}

#[test]
fn losses() {
    let mut random = Random(5);
    for (batch, classes, features) in [(1, 2, 1), (3, 10, 24), (8, 100, 128), (5, 33, 65), (2, 1000, 256)] {
        for heads in [1, 2] {
            let count = 2 * batch;
            let logits: Vec<_> = (0..heads).map(|_| random.values(count * classes)).collect();
            let labels: Vec<_> = (0..heads)
                .map(|_| random.values(batch * classes).iter().map(|v| (v + 1.0) / classes as f64).collect::<Vec<_>>())
                .collect();
            let before = random.values(count * classes.max(features));
            let (u, target, add) = (random.values(count * features), random.values(count * features), random.flag());
            fn run<B: Memory + SoftLabelCrossEntropyKernels + NegativeCosineKernels + TotalLossKernels>(
                b: &B,
                (batch, classes, features): (usize, usize, usize),
                (logits, labels): (&[Vec<f64>], &[Vec<f64>]),
                [u, target, before]: [&[f64]; 3],
                accumulate: bool,
            ) -> Results {
                let (count, step) = (2 * batch, b.step(&some_step()));
                let heads: Vec<Head> = logits
                    .iter()
                    .zip(labels)
                    .map(|(logits, label)| Head {
                        logits: b.float(&logits.iter().map(|v| 6.0 * v).collect::<Vec<_>>(), &[count, classes]),
                        label: b.float(label, &[batch, classes]),
                        dlogits: Some(Grad {
                            tensor: b.float(&before[..count * classes], &[count, classes]),
                            accumulate,
                        }),
                    })
                    .collect();
                let rows = b.float(&vec![0.0; heads.len() * count], &[heads.len(), count]);
                b.soft_label_cross_entropy(&heads, step, rows).unwrap();
                let mut results = vec![("rows", b.get(rows))];
                results.extend(heads.iter().map(|h| ("dlogits", b.get(h.dlogits.unwrap().tensor))));

                let (u, target) = (b.float(u, &[count, features]), b.float(target, &[count, features]));
                let cosine = b.float(&vec![0.0; count], &[count]);
                let du = b.float(&before[..count * features], &[count, features]);
                b.negative_cosine(u, target, step, cosine, Some(Grad { tensor: du, accumulate })).unwrap();
                results.extend([("cosine", b.get(cosine)), ("du", b.get(du))]);

                let log = b.float(&[7.0; 16], &[4, 4]);
                let cosine = (heads.len() == 2).then_some(cosine);
                b.total_loss(&TotalLoss { cross_entropy: rows, cosine, step, log, batch }).unwrap();
                results.push(("log", b.get(log)));

                // The loss alone, without gradients.
                let only: Vec<Head> = heads.iter().map(|h| Head { dlogits: None, ..*h }).collect();
                b.zero(rows).unwrap();
                b.soft_label_cross_entropy(&only, step, rows).unwrap();
                results.push(("rows alone", b.get(rows)));
                results
            }
            sweep!(&format!("{heads} heads, {batch}x{classes}, {features}"), (5e-6, 5e-6), |b| run(
                b,
                (batch, classes, features),
                (&logits, &labels),
                [&u, &target, &before],
                add
            ));
        }
    }
}

#[test]
fn sgd() {
    let mut random = Random(6);
    for elements in [1, 3, 4, 1023, 4096, 10_001] {
        let data = [random.values(elements), random.values(elements), random.values(elements)];
        fn run<B: Memory + SgdKernels>(b: &B, data: &[Vec<f64>; 3]) -> Results {
            let shape = [data[0].len()];
            let [master, grad, momentum] = [0, 1, 2].map(|i| b.float(&data[i], &shape));
            let copy = (b.precision() == Precision::Bf16).then(|| b.compute(&vec![0.0; shape[0]], &shape));
            let step = b.step(&some_step());
            let tensors = Sgd { master, compute: copy, grad, momentum, step };
            let config = SgdConfig { momentum: 0.875, weight_decay: 0.0625 };
            b.sgd(&config, &tensors).unwrap();
            b.sgd(&config, &tensors).unwrap();
            let weights = b.get(master);
            let products = copy.map_or(weights.clone(), |copy| {
                let rounded: Vec<f64> = weights.iter().map(|&v| bf16::from_f32(v as f32).to_f64()).collect();
                assert!(b.get(copy) == rounded, "the copy is the master, rounded once");
                b.zero(copy).unwrap();
                b.cast_weights(master, copy).unwrap();
                assert!(b.get(copy) == rounded);
                weights.clone()
            });
            vec![("weights", weights), ("copy", products), ("momentum", b.get(momentum))]
        }
        sweep!(&format!("{elements} elements"), (1e-6, 1e-6), |b| run(b, &data));
    }
}

/// Everything that integers decide must be exact.
#[test]
fn steps_labels_and_ranks() {
    let mut random = Random(7);
    for (batch, classes, images) in [(1, 2, 3), (5, 10, 40), (70, 129, 200)] {
        let labels: Vec<usize> = (0..images).map(|_| random.between(0, classes - 1)).collect();
        let row = STEP_WORDS + 2 * batch;
        let table: Vec<usize> = (0..3 * row).map(|_| random.between(0, images - 1)).collect();
        let weights = random.values(classes);
        // Few different values, so that ties are common.
        let logits: Vec<f64> = (0..batch * classes).map(|_| random.between(0, 5) as f64).collect();
        fn run<B: Memory + StepKernels + SoftLabelsKernels + ClassifyKernels>(
            b: &B,
            (batch, classes, images): (usize, usize, usize),
            (labels, table): (&[usize], &[usize]),
            (weights, logits): (&[f64], &[f64]),
        ) -> Results {
            let table = b.int(table, &[3, STEP_WORDS + 2 * batch]);
            let cursor = b.int(&[1], &[1]);
            let words = b.int(&[0; STEP_WORDS], &[STEP_WORDS]);
            let (originals, partners) = (b.int(&vec![0; batch], &[batch]), b.int(&vec![0; batch], &[batch]));
            b.load_step(table, cursor, words, originals, partners).unwrap();
            let mut results: Results = [words, cursor, originals, partners].map(|t| ("step", b.get(t))).into();
            let (labels, step) = (b.int(labels, &[images]), b.step(&some_step()));
            let [label, label_weighted] = [0; 2].map(|_| b.float(&vec![9.0; batch * classes], &[batch, classes]));
            let class_weights = b.float(weights, &[classes]);
            b.soft_labels(&SoftLabels { labels, originals, partners, class_weights, step, label, label_weighted })
                .unwrap();
            results.extend([("label", b.get(label)), ("weighted", b.get(label_weighted))]);
            let ranks = b.int(&vec![0; images + 2], &[images + 2]);
            let confidences = b.put(&vec![0.0; images + 2], &[images + 2], DType::F32);
            let logits = b.float(logits, &[batch, classes]);
            b.classify(&Classify { logits, labels, originals, step, ranks, confidences }).unwrap();
            results.extend([("ranks", b.get(ranks)), ("confidences", b.get(confidences))]);
            results
        }
        sweep!(&format!("{batch} of {images}, {classes} classes"), (1e-6, 1e-6), |b| run(
            b,
            (batch, classes, images),
            (&labels, &table),
            (&weights, &logits)
        ));
    }
}

#[test]
fn augment_mix() {
    let mut random = Random(8);
    for (images, batch, height, width, padding, flip) in
        [(3, 2, 5, 7, 2, true), (9, 4, 32, 32, 4, true), (2, 1, 1, 1, 1, false), (4, 3, 18, 17, 0, true)]
    {
        let pixels: Vec<f64> = (0..images * height * width * 3).map(|_| random.between(0, 255) as f64).collect();
        let pick = |random: &mut Random| (0..batch).map(|_| random.between(0, images - 1)).collect::<Vec<_>>();
        let (originals, partners) = (pick(&mut random), pick(&mut random));
        let views = random.values(4 * batch * height * width * 3);
        let augmentation = Augmentation { mean: [0.5, 0.25, 0.375], std: [0.25, 0.5, 0.125], padding, flip };
        fn run<B: Memory + AugmentMixKernels>(
            b: &B,
            [images, batch, height, width]: [usize; 4],
            (pixels, views): (&[f64], &[f64]),
            (originals, partners): (&[usize], &[usize]),
            augmentation: &Augmentation,
        ) -> Results {
            let pixels = b.put(pixels, &[images, height, width, 3], DType::U8);
            let (originals, partners) = (b.int(originals, &[batch]), b.int(partners, &[batch]));
            let (step, stem) = (b.step(&some_step()), b.stem_channels());
            // The stem's padding is zero, and is left out of the comparison.
            let colours = |tensor: Tensor| -> Vec<f64> {
                let values = b.get(tensor);
                values
                    .chunks(stem)
                    .flat_map(|p| {
                        assert!(p[3..].iter().all(|&v| v == 0.0));
                        p[..3].to_vec()
                    })
                    .collect()
            };
            let blank = |n: usize| b.compute(&vec![5.0; n * height * width * stem], &[n, height, width, stem]);
            let mut results = Results::new();
            for (name, mixing) in [("glmc", Mixing::Glmc), ("single", Mixing::Single), ("evaluate", Mixing::Evaluate)] {
                let out = blank(mixing.views() * batch);
                b.augment_mix(mixing, augmentation, &AugmentMix { pixels, originals, partners, step, out }).unwrap();
                results.push((name, colours(out)));
            }
            let (views, out) = (b.float(views, &[4 * batch, height, width, 3]), blank(2 * batch));
            b.mix_views(views, step, out).unwrap();
            results.push(("views", colours(out)));
            results
        }
        sweep!(&format!("{batch} of {images}, {height}x{width}"), (1e-6, 5e-3), |b| run(
            b,
            [images, batch, height, width],
            (&pixels, &views),
            (&originals, &partners),
            &augmentation
        ));
    }
}
