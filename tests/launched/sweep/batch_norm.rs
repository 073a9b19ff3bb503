//! Batch normalisation.

use super::*;
use glmc_engine::memory::Memory;
use glmc_engine::ops::batch_norm_apply::{self, BatchNormApplyKernels, Geometry, Shortcut};
use glmc_engine::ops::batch_norm_statistics::{self, BatchNormStatistics, BatchNormStatisticsKernels};
use glmc_engine::tensor::Grad;

/// `(sums, views, parts, 2, channels)` of x and of its square, as `conv2d` would give them.
fn sums_of(x: &[f64], g: &Geometry, parts: usize) -> Vec<f64> {
    let (pixels, c) = (g.pixels(), g.channels);
    let mut sums = vec![0.0; g.views * parts * 2 * c];
    for (i, value) in x.iter().enumerate() {
        let (pixel, channel) = (i / c, i % c);
        let (view, part) = (pixel / pixels, pixel % pixels * parts / pixels);
        let at = (view * parts + part) * 2 * c + channel;
        sums[at] += value;
        sums[at + c] += value * value;
    }
    sums
}

/// The data of a batch normalisation.
struct NormCase {
    g: Geometry,
    parts: usize,
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
    fn new(random: &mut Random, g: Geometry, parts: usize) -> NormCase {
        let count = g.shape().iter().product();
        let source_shape = match g.shortcut {
            Shortcut::OptionA { height, width, channels } => [g.batch, height, width, channels],
            _ => g.shape(),
        };
        let source_count = source_shape.iter().product::<usize>();
        let c = g.channels;
        NormCase {
            g,
            parts,
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

    fn run<B: Memory + BatchNormStatisticsKernels + BatchNormApplyKernels>(&self, b: &B) -> Results {
        let (g, c) = (&self.g, self.g.channels);
        let shape = g.shape();
        let count: usize = shape.iter().product();
        let x = b.compute(&self.x, &shape);
        let shortcut = (g.shortcut != Shortcut::None).then(|| b.compute(&self.source, &self.source_shape));
        let (weight, bias) = (b.float(&self.weight, &[c]), b.float(&self.bias, &[c]));
        let (running_mean, running_var) = (b.float(&self.mean, &[c]), b.float(&self.var, &[c]));
        let z = b.compute(&vec![0.0; count], &shape);
        let whole = Geometry { views: 1, ..*g };
        let tensors = batch_norm_apply::Inference { x, weight, bias, running_mean, running_var, shortcut, z };
        b.batch_norm_inference(&whole, &tensors).unwrap();
        let mut results = vec![("inference", b.get(z))];

        let (views, parts, rows) = (g.views, self.parts, b.batch_norm_statistics_rows());
        let sums = b.float(&sums_of(&self.x, g, parts), &[views, parts, 2, c]);
        let statistics = b.float(&vec![0.0; views * rows * c], &[views, rows, c]);
        let geometry = batch_norm_statistics::Geometry { views, parts, pixels: g.pixels(), channels: c };
        let tensors = BatchNormStatistics {
            x,
            sums,
            weight,
            running_mean: Some(running_mean),
            running_var: Some(running_var),
            statistics,
        };
        b.batch_norm_statistics(&geometry, &tensors).unwrap();
        let tensors = batch_norm_apply::Forward { x, statistics, weight, bias, shortcut, z };
        b.batch_norm_apply(g, &tensors).unwrap();
        for (name, tensor) in [("z", z), ("running_mean", running_mean), ("running_var", running_var)] {
            results.push((name, b.get(tensor)));
        }
        // The rows that every backend has.
        let common = b.get(statistics).chunks_exact(rows * c).flat_map(|view| view[..2 * c].to_vec()).collect();
        results.push(("statistics", common));

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
        let tensors = batch_norm_apply::Backward {
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
    let mut random = Random::new(1);
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
            let g = Geometry {
                views,
                batch: views * random.between(1, 3),
                height,
                width,
                channels: c,
                shortcut,
                relu: n % 2 == 0 || kind == 1,
            };
            let parts = random.between(1, 70).min(height * width);
            let case = NormCase::new(&mut random, g, parts);
            sweep!("batch_norm", &format!("{g:?}, {parts} parts, add {}", case.accumulate), |b| case.run(b));
        }
    }
}

#[test]
fn batch_norm_over_many_blocks() {
    let mut random = Random::new(2);
    let g = Geometry {
        views: 2,
        batch: 16,
        height: 32,
        width: 32,
        channels: 16,
        shortcut: Shortcut::OptionA { height: 64, width: 64, channels: 8 },
        relu: true,
    };
    let case = NormCase::new(&mut random, g, 64);
    sweep!("batch_norm", "many blocks", |b| case.run(b));
}

/// Two values of 300 that differ by 0.25 (the error of a sum of squares is larger than the variance), and more of them.
#[test]
fn batch_norm_of_few_values_far_from_zero() {
    let mut random = Random::new(3);
    for (batch, height) in [(2, 1), (1, 2), (3, 1), (4, 16)] {
        let g = Geometry {
            views: 2,
            batch: 2 * batch,
            height,
            width: 1,
            channels: 20,
            shortcut: Shortcut::None,
            relu: false,
        };
        let mut case = NormCase::new(&mut random, g, height);
        let steps = random.values(case.x.len());
        case.x = steps.iter().enumerate().map(|(i, v)| 300.0 + 0.25 * (i / g.channels % 2) as f64 + v / 64.0).collect();
        case.x.iter_mut().for_each(|v| *v = (*v * 1024.0).round() / 1024.0);
        let forward = |mut results: Results| {
            results.retain(|(name, _)| ["z", "statistics", "running_mean", "running_var"].contains(name));
            results
        };
        // bf16 cannot tell these values apart.
        let want = forward(case.run(&Native::new(Precision::F64, 1).unwrap()));
        for got in [case.run(&emulator(Precision::F32)), case.run(&Native::new(Precision::F32, 1).unwrap())] {
            compare("batch_norm far from zero", &format!("{g:?}"), Precision::F32, &forward(got), &want);
        }
    }
}
