//! What stands behind the last convolution: pooling, heads, losses, the update.

use super::*;
use glmc_engine::memory::Memory;
use glmc_engine::ops::global_avg_pool::GlobalAvgPoolKernels;
use glmc_engine::ops::linear::{self, LinearKernels};
use glmc_engine::ops::negative_cosine::{NegativeCosine, NegativeCosineKernels};
use glmc_engine::ops::sgd::{Sgd, SgdConfig, SgdKernels};
use glmc_engine::ops::soft_label_cross_entropy::{Head, SoftLabelCrossEntropy, SoftLabelCrossEntropyKernels};
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
            b.linear_forward(&linear::Forward { x, weight, bias, y }).unwrap();
            let (dy, dx) = (b.float(dy, &[n, o]), b.float(before, &[n, i]));
            b.linear_input_grad(&linear::InputGrad { dy, weight, dx: Grad { tensor: dx, accumulate: add } }).unwrap();
            let (dweight, dbias) = (b.float(&vec![9.0; o * i], &[o, i]), b.float(&vec![9.0; o], &[o]));
            b.linear_weight_grad(&linear::WeightGrad { x, dy, dweight, dbias }).unwrap();
            [("y", y), ("dx", dx), ("dweight", dweight), ("dbias", dbias)].map(|(name, t)| (name, b.get(t))).into()
        }
        sweep!("linear", &format!("{batch}x{inputs} -> {outputs}"), |b| run(
            b,
            [batch, inputs, outputs],
            &data,
            accumulate
        ));
    }
}

#[test]
fn losses() {
    let mut random = Random::new(5);
    // Two features at least: the cosine of one has no gradient, and what each side rounds cannot be compared.
    for (batch, classes, features) in [(1, 2, 2), (3, 10, 24), (8, 100, 128), (5, 33, 65), (2, 1000, 256)] {
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
                let (count, scalars) = (2 * batch, b.step(&some_step()));
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
                b.soft_label_cross_entropy(&SoftLabelCrossEntropy { heads: &heads, scalars, rows }).unwrap();
                let mut results = vec![("rows", b.get(rows))];
                results.extend(heads.iter().map(|h| ("dlogits", b.get(h.dlogits.unwrap().tensor))));

                let (u, target) = (b.float(u, &[count, features]), b.float(target, &[count, features]));
                let cosine = b.float(&vec![0.0; count], &[count]);
                let du = b.float(&before[..count * features], &[count, features]);
                b.negative_cosine(&NegativeCosine {
                    u,
                    target,
                    scalars,
                    rows: cosine,
                    du: Some(Grad { tensor: du, accumulate }),
                })
                .unwrap();
                results.extend([("cosine", b.get(cosine)), ("du", b.get(du))]);

                let log = b.float(&[7.0; 16], &[4, 4]);
                let cosine = (heads.len() == 2).then_some(cosine);
                b.total_loss(&TotalLoss { cross_entropy: rows, cosine, scalars, log, batch }).unwrap();
                results.push(("log", b.get(log)));

                // The loss alone, without gradients.
                let only: Vec<Head> = heads.iter().map(|h| Head { dlogits: None, ..*h }).collect();
                b.zero(rows).unwrap();
                b.soft_label_cross_entropy(&SoftLabelCrossEntropy { heads: &only, scalars, rows }).unwrap();
                results.push(("rows alone", b.get(rows)));
                results
            }
            sweep!("soft_label_cross_entropy", &format!("{heads} heads, {batch}x{classes}, {features}"), |b| run(
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
