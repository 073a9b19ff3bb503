//! What stands behind the last convolution: pooling, heads, losses, the update.

use super::*;
use glmc_engine::memory::Memory;
use glmc_engine::ops::global_avg_pool::GlobalAvgPoolKernels;
use glmc_engine::ops::join_branches::{self, JoinBranchesKernels};
use glmc_engine::ops::linear::{self, LinearKernels};
use glmc_engine::ops::max_pool::{self, MaxPoolKernels};
use glmc_engine::ops::negative_cosine::{NegativeCosine, NegativeCosineKernels};
use glmc_engine::ops::normalize_rows::NormalizeRowsKernels;
use glmc_engine::ops::scale_columns::{self, ScaleColumnsKernels};
use glmc_engine::ops::sgd::{Sgd, SgdConfig, SgdKernels};
use glmc_engine::ops::split_views::SplitViewsKernels;
use glmc_engine::ops::supervised_loss::{Form, Head, Reduction, SupervisedLoss, SupervisedLossKernels, ViewLabels};
use glmc_engine::ops::total_loss::{TotalLoss, TotalLossKernels};
use glmc_engine::tensor::Grad;

#[test]
fn global_avg_pool() {
    let mut random = Random::new(3);
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
        sweep!("global_avg_pool", &format!("{shape:?}"), |b| run(b, shape, [&x, &before, &dy], accumulate));
    }
}

#[test]
fn max_pool() {
    let mut random = Random::new(31);
    for channels in [1, 3, 4, 8, 16, 24, 100, 512, 2056] {
        let kernel = random.between(1, 6);
        let config = max_pool::Config { kernel, stride: random.between(1, 4), padding: random.below(kernel / 2 + 1) };
        let mut extent = || kernel + random.between(1, 8);
        let (height, width, batch) = (extent(), extent(), random.between(1, 4));
        // A few values, so that many are equal; the kernel is larger by one than no padding needs, so that windows exist.
        let shapes @ [of_x, of_y] = [[height, width], [height, width].map(|side| config.windows(side).unwrap())]
            .map(|[rows, columns]| [batch, rows, columns, channels]);
        let [in_x, in_y] = shapes.map(|shape| shape.iter().product::<usize>());
        let x: Vec<f64> = (0..in_x).map(|_| random.below(5) as f64 - 2.0).collect();
        let (before, dy, accumulate) = (random.values(in_x), random.values(in_y), random.flag());
        fn run<B: Memory + MaxPoolKernels>(
            b: &B,
            [of_x, of_y]: [[usize; 4]; 2],
            [x, before, dy]: [&[f64]; 3],
            config: max_pool::Config,
            accumulate: bool,
        ) -> Results {
            let x = b.compute(x, &of_x);
            let [y, evaluated] = [(); 2].map(|()| b.compute(&vec![7.0; dy.len()], &of_y));
            let taps = b.put(&vec![255.0; dy.len()], &of_y, DType::U8);
            b.max_pool_forward(x, y, Some(taps), config).unwrap();
            b.max_pool_forward(x, evaluated, None, config).unwrap();
            let (dy, dx) = (b.compute(dy, &of_y), b.compute(before, &of_x));
            b.max_pool_backward(dy, taps, Grad { tensor: dx, accumulate }, config).unwrap();
            vec![("y", b.get(y)), ("evaluated", b.get(evaluated)), ("taps", b.get(taps)), ("dx", b.get(dx))]
        }
        let case = format!("{of_x:?} {config:?}");
        sweep!("max_pool", &case, |b| run(b, [of_x, of_y], [&x, &before, &dy], config, accumulate));
    }
}

#[test]
fn split_views() {
    let mut random = Random::new(21);
    // Views of a multiple of sixteen bytes and not, of one block and of several.
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 2, 8], [5, 8, 8, 4], [1, 4, 3, 4], [2, 16, 16, 33]] {
        let [batch, height, width, channels] = shape;
        let (both, half) = ([2 * batch, height, width, channels], shape.iter().product::<usize>());
        let data = [2 * half, half, half, 2 * half].map(|n| random.values(n));
        let accumulate = random.flag();
        fn run<B: Memory + SplitViewsKernels>(
            b: &B,
            [both, shape]: [[usize; 4]; 2],
            data: &[Vec<f64>; 4],
            accumulate: bool,
        ) -> Results {
            let [x, dfirst, dsecond, before] = data;
            let [first, second] = [0; 2].map(|_| b.compute(&vec![7.0; dfirst.len()], &shape));
            b.split_views_forward(b.compute(x, &both), first, second).unwrap();
            let (dfirst, dsecond) = (b.compute(dfirst, &shape), b.compute(dsecond, &shape));
            let dx = b.compute(before, &both);
            b.split_views_backward(dfirst, dsecond, Grad { tensor: dx, accumulate }).unwrap();
            vec![("first", b.get(first)), ("second", b.get(second)), ("dx", b.get(dx))]
        }
        sweep!("split_views", &format!("{shape:?}"), |b| run(b, [both, shape], &data, accumulate));
    }
}

#[test]
fn join_branches() {
    let mut random = Random::new(22);
    for [rows, features] in [[1, 1], [3, 31], [8, 32], [128, 64], [5, 129], [2, 1025]] {
        let elements = rows * features;
        let data = [elements, elements, 2 * elements, elements, elements].map(|n| random.values(n));
        let shares: Vec<f64> = (0..rows).map(|n| (n % 5) as f64 / 4.0).collect();
        let add = [random.flag(), random.flag()];
        fn run<B: Memory + JoinBranchesKernels>(
            b: &B,
            [rows, features]: [usize; 2],
            (data, shares): (&[Vec<f64>; 5], &[f64]),
            add: [bool; 2],
        ) -> Results {
            let one = [rows, features];
            let (first, second) = (b.float(&data[0], &one), b.float(&data[1], &one));
            let dy = b.float(&data[2], &[rows, 2 * features]);
            let mut results = Results::new();
            for shares in [Some(b.put(shares, &[rows], DType::F32)), None] {
                let y = b.float(&vec![7.0; data[2].len()], &[rows, 2 * features]);
                b.join_branches_forward(first, second, shares, y).unwrap();
                results.push(("y", b.get(y)));
                // Both, and one without the other.
                for wanted in [[true, true], [true, false], [false, true]] {
                    let [dfirst, dsecond] = [0, 1].map(|i| {
                        let tensor = b.float(&data[3 + i], &one);
                        Grad { tensor, accumulate: add[i] }
                    });
                    let some = |grad: Grad, wanted: bool| wanted.then_some(grad);
                    b.join_branches_backward(&join_branches::Backward {
                        dy,
                        shares,
                        dfirst: some(dfirst, wanted[0]),
                        dsecond: some(dsecond, wanted[1]),
                    })
                    .unwrap();
                    results.extend([("dfirst", b.get(dfirst.tensor)), ("dsecond", b.get(dsecond.tensor))]);
                }
            }
            results
        }
        sweep!("join_branches", &format!("{rows}x{features}"), |b| run(b, [rows, features], (&data, &shares), add));
    }
}

#[test]
fn linear() {
    let mut random = Random::new(4);
    let extents = [[1, 1, 1], [1, 17, 3], [5, 64, 10], [33, 40, 129], [128, 64, 100], [7, 257, 16], [40, 24, 2000]];
    for [batch, inputs, outputs] in extents {
        let data = [batch * inputs, outputs * inputs, outputs, batch * outputs, batch * inputs];
        let data = data.map(|n| random.values(n));
        let accumulate = random.flag();
        fn run<B: Memory + LinearKernels>(b: &B, [n, i, o]: [usize; 3], data: &[Vec<f64>; 5], add: bool) -> Results {
            let [x, weight, bias, dy, before] = data;
            let (x, weight, bias) = (b.float(x, &[n, i]), b.float(weight, &[o, i]), b.float(bias, &[o]));
            let y = b.float(&vec![0.0; n * o], &[n, o]);
            b.linear_forward(&linear::Forward { x, weight, bias: Some(bias), y }).unwrap();
            let bare = b.float(&vec![5.0; n * o], &[n, o]);
            b.linear_forward(&linear::Forward { x, weight, bias: None, y: bare }).unwrap();
            let (dy, dx) = (b.float(dy, &[n, o]), b.float(before, &[n, i]));
            b.linear_input_grad(&linear::InputGrad { dy, weight, dx: Grad { tensor: dx, accumulate: add } }).unwrap();
            let (dweight, dbias) = (b.float(&vec![9.0; o * i], &[o, i]), b.float(&vec![9.0; o], &[o]));
            b.linear_weight_grad(&linear::WeightGrad { x, dy, dweight, dbias: Some(dbias) }).unwrap();
            let alone = b.float(&vec![9.0; o * i], &[o, i]);
            b.linear_weight_grad(&linear::WeightGrad { x, dy, dweight: alone, dbias: None }).unwrap();
            assert!(b.get(alone) == b.get(dweight), "the same, without a bias");
            let results = [("y", y), ("y", bare), ("dx", dx), ("dweight", dweight), ("dbias", dbias)];
            results.map(|(name, t)| (name, b.get(t))).into()
        }
        sweep!("linear", &format!("{batch}x{inputs} -> {outputs}"), |b| run(
            b,
            [batch, inputs, outputs],
            &data,
            accumulate
        ));
    }
}

/// The form, reduction and S of the heads of a case.
type Forms = &'static [(Form, Reduction, f32)];

const FORMS: [Forms; 7] = [
    &[(Form::Softmax { focal: 0.0 }, Reduction::N, 1.0)],
    &[(Form::Softmax { focal: 0.0 }, Reduction::SumW, 4.0), (Form::Softmax { focal: 0.0 }, Reduction::N, 1.0)],
    &[(Form::Softmax { focal: 1.0 }, Reduction::N, 1.0)],
    &[(Form::Softmax { focal: 0.5 }, Reduction::SumW, 2.0), (Form::BceOnSoftmax, Reduction::N, 1.0)],
    &[(Form::BceOnSoftmax, Reduction::SumW, 1.5)],
    &[(Form::SigmoidFocal { focal: 1.0 }, Reduction::N, 1.0)],
    &[
        (Form::SigmoidFocal { focal: 0.0 }, Reduction::SumW, 0.5),
        (Form::SigmoidFocal { focal: 2.5 }, Reduction::N, 1.0),
    ],
];

/// What a head's loss is computed from, in -1..=1.
struct LossCase {
    batch: usize,
    classes: usize,
    labels: Vec<usize>,
    /// Originals, then partners.
    images: [Vec<usize>; 2],
    shares: Vec<f64>,
    logits: [Vec<f64>; 2],
    vectors: [Vec<f64>; 2],
    before: Vec<f64>,
    accumulate: bool,
}

impl LossCase {
    fn new(random: &mut Random, batch: usize, classes: usize) -> LossCase {
        let images = batch + 3;
        let pick = |random: &mut Random| (0..batch).map(|_| random.between(0, images - 1)).collect();
        // Also the shares at which a term is left out.
        let shares = (0..batch).map(|_| random.between(0, 4) as f64 / 4.0).collect();
        let mut vectors = |margins: bool| {
            let mut rows = random.values(5 * classes);
            let (scales, rest) = rows.split_at_mut(2 * classes);
            scales[..classes].iter_mut().for_each(|s| *s = 1.0 + *s / 2.0);
            let (margin, rest) = rest.split_at_mut(classes);
            margin.iter_mut().for_each(|m| *m = if margins { m.abs() } else { 0.0 });
            let (weights, smoothing) = rest.split_at_mut(classes);
            weights.iter_mut().for_each(|w| *w += 1.25);
            smoothing.iter_mut().for_each(|eps| *eps = if *eps > 0.0 { *eps / 2.0 } else { 0.0 });
            rows
        };
        let vectors = [vectors(true), vectors(false)];
        LossCase {
            batch,
            classes,
            labels: (0..images).map(|_| random.between(0, classes - 1)).collect(),
            images: [pick(random), pick(random)],
            shares,
            logits: [0; 2].map(|_| random.values(2 * batch * classes).iter().map(|v| 6.0 * v).collect()),
            vectors,
            before: random.values(2 * batch * classes),
            accumulate: random.flag(),
        }
    }

    fn run<B: Memory + SupervisedLossKernels>(&self, b: &B, forms: Forms) -> Results {
        let (batch, classes, count) = (self.batch, self.classes, 2 * self.batch);
        let head = |(k, &(form, reduction, scale)): (usize, &(Form, Reduction, f32))| Head {
            logits: b.float(&self.logits[k], &[count, classes]),
            vectors: b.float(&self.vectors[k], &[5, classes]),
            form,
            reduction,
            scale,
            dlogits: Some(Grad { tensor: b.float(&self.before, &[count, classes]), accumulate: self.accumulate }),
        };
        let heads: Vec<Head> = forms.iter().enumerate().map(head).collect();
        let labels = b.int(&self.labels, &[self.labels.len()]);
        let [originals, partners] = [0, 1].map(|which| b.int(&self.images[which], &[batch]));
        let shares = b.put(&self.shares, &[batch], DType::F32);
        let (scalars, rows) = (b.step(&some_step()), b.float(&vec![0.0; heads.len() * count], &[heads.len(), count]));
        let tensors = SupervisedLoss {
            heads: &heads,
            labels,
            originals,
            partners,
            shares,
            views: [ViewLabels::Mixed; 2],
            scalars,
            rows,
        };
        b.supervised_loss(&tensors).unwrap();
        let mut results = vec![("rows", b.get(rows))];
        results.extend(heads.iter().map(|h| ("dlogits", b.get(h.dlogits.unwrap().tensor))));
        // The loss alone, without gradients.
        let only: Vec<Head> = heads.iter().map(|h| Head { dlogits: None, ..*h }).collect();
        b.zero(rows).unwrap();
        b.supervised_loss(&SupervisedLoss { heads: &only, ..tensors }).unwrap();
        results.push(("rows alone", b.get(rows)));
        results
    }
}

#[test]
fn supervised_loss() {
    let mut random = Random::new(9);
    for (batch, classes) in [(1, 1), (1, 2), (3, 3), (8, 10), (5, 33), (37, 7), (2, 1000), (1, 8142)] {
        for forms in FORMS {
            let case = LossCase::new(&mut random, batch, classes);
            sweep!("supervised_loss", &format!("{batch}x{classes}, {forms:?}"), |b| case.run(b, forms));
        }
    }
}

#[test]
fn normalize_rows() {
    let mut random = Random::new(9);
    // One feature has no direction to learn: its gradient is what rounding leaves.
    for [rows, features] in [[1, 2], [3, 31], [4, 32], [5, 33], [127, 64], [10, 100], [2, 2049]] {
        let data = [0; 3].map(|_| random.values(rows * features));
        let accumulate = random.flag();
        fn run<B: Memory + NormalizeRowsKernels>(
            b: &B,
            shape: [usize; 2],
            data: &[Vec<f64>; 3],
            accumulate: bool,
        ) -> Results {
            let [x, dy, dx] = [0, 1, 2].map(|i| b.float(&data[i], &shape));
            let y = b.float(&vec![7.0; data[0].len()], &shape);
            b.normalize_rows_forward(x, y).unwrap();
            b.normalize_rows_backward(x, dy, Grad { tensor: dx, accumulate }).unwrap();
            vec![("y", b.get(y)), ("dx", b.get(dx))]
        }
        sweep!("normalize_rows", &format!("{rows}x{features}"), |b| run(b, [rows, features], &data, accumulate));
    }
}

#[test]
fn scale_columns() {
    let mut random = Random::new(10);
    for [rows, columns] in [[1, 1], [3, 31], [8, 32], [9, 33], [128, 10], [70, 129], [2, 2049]] {
        let data = [0; 3].map(|_| random.values(rows * columns));
        let vectors = [0; 2].map(|_| random.values(columns));
        let add = [random.flag(), random.flag()];
        fn run<B: Memory + ScaleColumnsKernels>(
            b: &B,
            shape: [usize; 2],
            data: &[Vec<f64>; 3],
            vectors: &[Vec<f64>; 2],
            [add_x, add_scales]: [bool; 2],
        ) -> Results {
            let [x, dy, dx] = [0, 1, 2].map(|i| b.float(&data[i], &shape));
            let [scales, dscales] = [0, 1].map(|i| b.float(&vectors[i], &shape[1..]));
            let y = b.float(&vec![7.0; data[0].len()], &shape);
            b.scale_columns_forward(x, scales, y).unwrap();
            let dx = Grad { tensor: dx, accumulate: add_x };
            let dscales = Grad { tensor: dscales, accumulate: add_scales };
            let all = scale_columns::Backward { x, scales, dy, dx: Some(dx), dscales: Some(dscales) };
            b.scale_columns_backward(&all).unwrap();
            let mut results = vec![("y", b.get(y)), ("dx", b.get(dx.tensor)), ("dscales", b.get(dscales.tensor))];
            // One without the other.
            let again = [("dx", Some(dx), None), ("dscales", None, Some(dscales))];
            for (name, dx, dscales) in again {
                b.scale_columns_backward(&scale_columns::Backward { dx, dscales, ..all }).unwrap();
                // Found by name: one of the two is given.
                results.push((name, b.get(dx.or(dscales).unwrap().tensor)));
            }
            results
        }
        sweep!("scale_columns", &format!("{rows}x{columns}"), |b| run(b, [rows, columns], &data, &vectors, add));
    }
}

#[test]
fn losses() {
    let mut random = Random::new(5);
    // Two features at least: the cosine of one has no gradient, and what each side rounds cannot be compared.
    for (batch, features) in [(1, 2), (3, 24), (8, 128), (5, 65), (2, 256)] {
        for heads in [1, 2] {
            let count = 2 * batch;
            let rows = random.values(heads * count);
            let before = random.values(count * features);
            let (u, target, add) = (random.values(count * features), random.values(count * features), random.flag());
            fn run<B: Memory + NegativeCosineKernels + TotalLossKernels>(
                b: &B,
                (batch, features, heads): (usize, usize, usize),
                [rows, u, target, before]: [&[f64]; 4],
                accumulate: bool,
            ) -> Results {
                let (count, scalars) = (2 * batch, b.step(&some_step()));
                let (u, target) = (b.float(u, &[count, features]), b.float(target, &[count, features]));
                let cosine = b.float(&vec![0.0; count], &[count]);
                let du = b.float(&before[..count * features], &[count, features]);
                let grad = |tensor: Tensor, accumulate| Some(Grad { tensor, accumulate });
                let one = NegativeCosine { u, target, scalars, rows: cosine, du: grad(du, accumulate), dtarget: None };
                b.negative_cosine(&one).unwrap();
                let mut results = vec![("cosine", b.get(cosine)), ("du", b.get(du))];
                // With the target's gradient, and of u with itself.
                let dtarget = b.float(&before[..count * features], &[count, features]);
                let both = NegativeCosine { dtarget: grad(dtarget, accumulate), ..one };
                b.negative_cosine(&both).unwrap();
                results.extend([("du", b.get(du)), ("dtarget", b.get(dtarget))]);
                let own = NegativeCosine { target: u, du: grad(du, accumulate), dtarget: grad(du, true), ..one };
                b.negative_cosine(&own).unwrap();
                results.push(("du", b.get(du)));
                let (rows, log) = (b.float(rows, &[heads, count]), b.float(&[7.0; 16], &[4, 4]));
                let cosine = (heads == 2).then_some(cosine);
                b.total_loss(&TotalLoss { cross_entropy: rows, cosine, scalars, log, batch }).unwrap();
                results.push(("log", b.get(log)));
                results
            }
            sweep!("negative_cosine", &format!("{heads} heads, {batch}x{features}"), |b| run(
                b,
                (batch, features, heads),
                [&rows, &u, &target, &before],
                add
            ));
        }
    }
}

#[test]
fn sgd() {
    let mut random = Random::new(6);
    for elements in [1, 3, 4, 1023, 4096, 10_001] {
        let data = [random.values(elements), random.values(elements), random.values(elements)];
        fn run<B: Memory + SgdKernels>(b: &B, data: &[Vec<f64>; 3]) -> Results {
            let shape = [data[0].len()];
            let [master, grad, momentum] = [0, 1, 2].map(|i| b.float(&data[i], &shape));
            let copy = (b.precision() == Precision::Bf16).then(|| b.compute(&vec![0.0; shape[0]], &shape));
            let scalars = b.step(&some_step());
            let tensors = Sgd { master, compute: copy, grad, momentum, scalars };
            let config = SgdConfig::plain(0.875, 0.0625);
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
        sweep!("sgd", &format!("{elements} elements"), |b| run(b, &data));
    }
}
