//! Every kernel by itself, as ResNet-32 calls it: an op that is several kernels is measured as a whole.

mod photos;
mod values;

use std::time::Instant;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::{Ceilings, Workload};
use crate::driver::dry_run::{Listing, Noted};
use crate::error::{Error, Result};
use crate::ops::Backend;
use crate::ops::augment_mix::{AugmentMix, Augmentation, Mixing, View};
use crate::ops::batch_norm_apply::{self, Shortcut};
use crate::ops::batch_norm_statistics::{self, BatchNormStatistics};
use crate::ops::classify::Classify;
use crate::ops::load_step::{LoadStep, row_words};
use crate::ops::sam::{Climb, PART};
use crate::ops::scale_columns;
use crate::ops::sgd::{Sgd, SgdConfig};
use crate::ops::supervised_loss::{ClassVector, Form, Head, Reduction, SupervisedLoss, ViewLabels};
use crate::ops::total_loss::{LOSS_COLUMNS, TotalLoss};
use crate::ops::{conv2d, join_branches, linear, max_pool};
use crate::ops::{negative_cosine::NegativeCosine, project_rows::ProjectRows};
use crate::tape::{Cost, time_repeated};
use crate::tensor::{DType, Grad, Precision, Shape, Tensor};

const CLASSES: usize = 10;
const HIDDEN: usize = 128;
const VIEWS: usize = 2;
/// Times of a row at least; the median counts.
const TIMES: usize = 5;
/// Share of the time that measuring the ceilings takes.
const CEILINGS: f64 = 0.2;
/// Rows of the whole table, about: what is left of the time is divided among as many.
const ROWS: f64 = 64.0;

/// The times of kernels, with what they are held against.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelsBench {
    pub device: String,
    /// Arithmetic.
    pub precision: Precision,
    /// Channels of the first stage, samples per step, rows and columns of an image.
    pub sizes: [usize; 3],
    /// The most that the device does.
    pub ceilings: Ceilings,
    /// In the order of a step.
    pub kernels: Vec<KernelTime>,
}

/// One row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelTime {
    /// Op, shapes and pass.
    pub name: String,
    /// Floating-point operations of its product, 0 without one.
    pub flops: f64,
    /// Bytes of its tensors, each once.
    pub bytes: f64,
    /// Median.
    pub seconds: f64,
    /// The least time by the ceilings over the time.
    pub of_peak: f64,
}

/// Times the kernels of `w`'s sizes whose names match `only` (`*` and `?` as in file names; no pattern is all),
/// all together for about `seconds`.
///
/// # Errors
/// When the workload is invalid, nothing matches, or the device fails.
pub fn bench_kernels(backend: &dyn Backend, w: &Workload, only: Option<&str>, seconds: f64) -> Result<KernelsBench> {
    let sizes = [w.width, w.batch, w.size];
    let sizes = Sizes::checked(sizes)?;
    let ceilings = Ceilings::measure(backend, CEILINGS * seconds)?;
    let mut bench = Bench::new(backend, sizes, ceilings);
    bench.only = only.map(WildMatch::new);
    bench.seconds = (1.0 - CEILINGS) * seconds / ROWS;
    bench.sections()?;
    if bench.kernels.is_empty() {
        return Err(Error::Usage(format!("--only {}: no kernel's name matches", only.unwrap_or_default())));
    }
    Ok(KernelsBench {
        device: backend.name(),
        precision: backend.precision(),
        sizes: [w.width, w.batch, w.size],
        ceilings,
        kernels: bench.kernels,
    })
}

/// What each row of [`bench_kernels`] launches for width, batch and size, on a backend over the dry run of `listing`.
///
/// # Errors
/// When the sizes are out of range.
pub fn count_kernels(backend: &dyn Backend, listing: Listing, sizes: [usize; 3]) -> Result<Vec<RowLaunches>> {
    let ceilings = Ceilings { tflops: 1.0, gbytes: 1.0, copied_bytes: 0 };
    let mut bench = Bench::new(backend, Sizes::checked(sizes)?, ceilings);
    bench.counted = Some((listing, Vec::new()));
    bench.sections()?;
    Ok(bench.counted.map_or(Vec::new(), |(_, rows)| rows))
}

/// Parameters of a ResNet-32, over the square of its width: 7.4 million at 64.
const PARAMETERS: usize = 1800;

/// How large a step's tensors are.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    batch: usize,
    extent: usize,
    parameters: usize,
}

impl Sizes {
    /// For width, batch and rows of an image.
    fn checked([width, batch, extent]: [usize; 3]) -> Result<Sizes> {
        if width == 0 || width > 1024 || !width.is_multiple_of(2) || batch == 0 || batch > 1 << 12 {
            return Err(Error::Config("bench kernels takes an even width in 2..=1024 and a batch in 1..=4096".into()));
        }
        if !(8..=256).contains(&extent) || !extent.is_multiple_of(4) {
            return Err(Error::Config("bench kernels takes images of 8 to 256 pixels, a multiple of 4".into()));
        }
        Ok(Sizes { width, batch, extent, parameters: PARAMETERS * width * width })
    }
}

/// One device in one precision.
struct Bench<'a> {
    backend: &'a dyn Backend,
    only: Option<WildMatch>,
    sizes: Sizes,
    ceilings: Ceilings,
    /// For each row.
    seconds: f64,
    /// Of the rows that follow.
    cost: Cost,
    /// Given back at the end of a section.
    tensors: std::cell::RefCell<Vec<Tensor>>,
    kernels: Vec<KernelTime>,
    /// Where nothing runs: what the rows launch, instead of their times.
    counted: Option<(Listing, Vec<RowLaunches>)>,
}

/// What one call of a row launches.
pub struct RowLaunches {
    /// The row's name.
    pub name: String,
    /// In their order.
    pub launches: Vec<Noted>,
}

impl<'a> Bench<'a> {
    /// Without rows so far.
    fn new(backend: &'a dyn Backend, sizes: Sizes, ceilings: Ceilings) -> Bench<'a> {
        let (cost, tensors, kernels) = (Cost::default(), Default::default(), Vec::new());
        Bench { backend, only: None, sizes, ceilings, seconds: 0.0, cost, tensors, kernels, counted: None }
    }

    fn sections(&mut self) -> Result<()> {
        let sections = [Bench::convolutions, Bench::norms, Bench::heads, Bench::ends, Bench::photographs];
        let outcome = sections.iter().try_for_each(|section| section(self));
        self.free();
        outcome
    }

    /// What the next rows do: operations, and tensors that are read or written once.
    fn of(&mut self, flops: f64, tensors: &[Tensor]) {
        self.cost = Cost { flops, bytes: tensors.iter().map(|t| t.bytes() as f64).sum() };
    }

    /// Adds a row, if its name is wanted.
    fn run(&mut self, name: &str, work: impl Fn(&dyn Backend) -> Result<()>) -> Result<()> {
        if self.only.as_ref().is_some_and(|only| !only.matches(name)) {
            return Ok(());
        }
        if let Some((listing, rows)) = &mut self.counted {
            listing.take();
            work(self.backend)?;
            rows.push(RowLaunches { name: name.to_string(), launches: listing.take() });
            return Ok(());
        }
        // The first call compiles.
        work(self.backend)?;
        let (begun, mut times) = (Instant::now(), Vec::new());
        while times.len() < TIMES || begun.elapsed().as_secs_f64() < self.seconds {
            times.push(time_repeated(self.backend, &mut || work(self.backend))?);
        }
        times.sort_unstable();
        let seconds = times[times.len() / 2].as_secs_f64().max(1e-9);
        let of_peak = self.ceilings.least_seconds(&self.cost).0 / seconds;
        let Cost { flops, bytes } = self.cost;
        self.kernels.push(KernelTime { name: name.to_string(), flops, bytes, seconds, of_peak });
        Ok(())
    }

    fn free(&mut self) {
        self.tensors.get_mut().drain(..).for_each(|tensor| self.backend.free(tensor.buffer));
    }

    fn convolutions(&mut self) -> Result<()> {
        let Sizes { width, batch, extent, .. } = self.sizes;
        let stem = self.backend.stem_channels();
        let groups = if width.is_multiple_of(4) { width / 4 } else { 1 };
        for (name, extent, channels, filters, stride, groups) in [
            ("stem", extent, stem, width, 1, 1),
            ("layer1", extent, width, width, 1, 1),
            ("layer1 in groups of 4", extent, width, width, 1, groups),
            ("into layer2", extent, width, 2 * width, 2, 1),
            ("layer2", extent / 2, 2 * width, 2 * width, 1, 1),
            ("into layer3", extent / 2, 2 * width, 4 * width, 2, 1),
            ("layer3", extent / 4, 4 * width, 4 * width, 1, 1),
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
                groups,
            };
            let [x, dx] = self.computes(&g.input())?;
            let [y, dy] = self.computes(&g.output())?;
            let (weight, dweight) = (self.compute(&g.weight())?, self.float(&g.weight())?);
            let sums = self.float(&[VIEWS, self.backend.conv2d_sum_parts(&g), 2, filters])?;
            let scratch = Some(self.scratch(self.backend.conv2d_backward_scratch(&g))?);
            let name = format!("conv2d {name} {}x{extent}x{extent}x{channels}->{filters}", g.batch);
            self.of(g.flops(), &[x, weight, y]);
            self.run(&format!("{name} forward"), |b| {
                b.conv2d_forward(&g, &conv2d::Forward { x, weight, y, sums: Some(sums) })
            })?;
            self.of(g.flops(), &[dy, weight, dx]);
            self.run(&format!("{name} input gradient"), |b| {
                b.conv2d_input_grad(&g, &conv2d::InputGrad { dy, weight, dx: Grad::write(dx) })
            })?;
            self.of(g.flops(), &[x, dy, dweight]);
            self.run(&format!("{name} weight gradient"), |b| {
                b.conv2d_weight_grad(&g, &conv2d::WeightGrad { x, dy, dweight, scratch })
            })?;
        }
        self.free();
        Ok(())
    }

    fn norms(&mut self) -> Result<()> {
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
                groups: 1,
            });
            let [x, z, dz, dx] = self.computes(&g.shape())?;
            let source = match shortcut {
                Shortcut::None => None,
                Shortcut::Identity => Some(g.shape()),
                Shortcut::OptionA { height, width, channels } => Some([g.batch, height, width, channels]),
            };
            let source = source.map(|shape| self.computes::<2>(&shape)).transpose()?;
            let [weight, bias, running_mean, running_var, dweight, dbias] = self.floats(&[width])?;
            let (pixels, rows) = (g.pixels(), self.backend.batch_norm_statistics_rows());
            let summed = batch_norm_statistics::Geometry { views: VIEWS, parts, pixels, channels: width };
            let (sums, statistics) = (self.float(&[VIEWS, parts, 2, width])?, self.float(&[VIEWS, rows, width])?);
            let scratch = Some(self.scratch(self.backend.batch_norm_backward_scratch(&g))?);
            let name = format!("batch_norm {}x{extent}x{extent}x{width}{name}", g.batch);
            let shortcut = source.map(|[source, _]| source);
            let first = BatchNormStatistics {
                x,
                sums,
                weight,
                running_mean: Some(running_mean),
                running_var: Some(running_var),
                statistics,
            };
            let forward = batch_norm_apply::Forward { x, statistics, weight, bias, shortcut, z };
            let others: Vec<Tensor> = shortcut.into_iter().collect();
            self.of(0.0, &[&[x, z], others.as_slice()].concat());
            self.run(&format!("{name} forward"), |b| {
                b.batch_norm_statistics(&summed, &first)?;
                b.batch_norm_apply(&g, &forward)
            })?;
            let inference = batch_norm_apply::Inference { x, weight, bias, running_mean, running_var, shortcut, z };
            self.run(&format!("{name} inference"), |b| b.batch_norm_inference(&g, &inference))?;
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
            self.of(0.0, &[&[x, z, dz, dx], others.as_slice()].concat());
            self.run(&format!("{name} backward"), |b| b.batch_norm_backward(&g, &backward))?;
        }
        self.free();
        Ok(())
    }

    fn heads(&mut self) -> Result<()> {
        let Sizes { width, batch, extent, .. } = self.sizes;
        let (rows, features) = (VIEWS * batch, 4 * width);
        let [x, dx] = self.computes(&[rows, extent / 4, extent / 4, features])?;
        let [r, dr] = self.floats(&[rows, features])?;
        self.of(0.0, &[x, r]);
        self.run("global_avg_pool forward", |b| b.global_avg_pool_forward(x, r))?;
        self.run("global_avg_pool backward", |b| b.global_avg_pool_backward(dr, Grad::write(dx)))?;
        let (config, side) = (max_pool::Config::IMAGENET, (extent / 4).div_ceil(2));
        let [y, dy] = self.computes(&[rows, side, side, features])?;
        let taps = self.place(&[rows, side, side, features], DType::U8, &vec![0; rows * side * side * features])?;
        self.of(0.0, &[x, y, taps]);
        self.run("max_pool forward", |b| b.max_pool_forward(x, y, Some(taps), config))?;
        self.run("max_pool backward", |b| b.max_pool_backward(dy, taps, Grad::write(dx), config))?;
        let [first, dfirst] = self.computes(&[batch, extent / 4, extent / 4, features])?;
        let [second, dsecond] = self.computes(&[batch, extent / 4, extent / 4, features])?;
        self.of(0.0, &[x, first, second]);
        self.run("split_views forward", |b| b.split_views_forward(x, first, second))?;
        self.run("split_views backward", |b| b.split_views_backward(dfirst, dsecond, Grad::write(dx)))?;
        let [first, second] = self.floats(&[batch, features])?;
        let [y, weights] = [self.float(&[batch, 2 * features])?, self.tensor(&[batch], DType::F32)?];
        self.of(0.0, &[first, second, y]);
        self.run("join_branches forward", |b| b.join_branches_forward(first, second, Some(weights), y))?;
        let (dfirst, dsecond) = (Some(Grad::write(first)), Some(Grad::write(second)));
        let backward = join_branches::Backward { dy: y, shares: Some(weights), dfirst, dsecond };
        self.run("join_branches backward", |b| b.join_branches_backward(&backward))?;
        let [weight, dweight] = self.floats(&[HIDDEN, features])?;
        let [bias, dbias] = self.floats(&[HIDDEN])?;
        let [h, u, du] = self.floats(&[rows, HIDDEN])?;
        self.of((2 * rows * features * HIDDEN) as f64, &[r, weight, h]);
        self.run("linear forward", |b| b.linear_forward(&linear::Forward { x: r, weight, bias: Some(bias), y: h }))?;
        self.run("linear input gradient", |b| {
            b.linear_input_grad(&linear::InputGrad { dy: h, weight, dx: Grad::write(dr) })
        })?;
        self.run("linear weight gradient", |b| {
            b.linear_weight_grad(&linear::WeightGrad { x: r, dy: h, dweight, dbias: Some(dbias) })
        })?;
        self.of(0.0, &[r, dr]);
        self.run("normalize_rows forward", |b| b.normalize_rows_forward(r, dr))?;
        self.of(0.0, &[r, r, dr]);
        self.run("normalize_rows backward", |b| b.normalize_rows_backward(r, r, Grad::write(dr)))?;
        let (scalars, cosines) = (self.step()?, self.float(&[rows])?);
        self.of(0.0, &[u, h, du]);
        self.run("negative_cosine", |b| {
            b.negative_cosine(&NegativeCosine {
                u,
                target: h,
                scalars,
                rows: cosines,
                du: Some(Grad::write(du)),
                dtarget: None,
            })
        })?;
        let [logits, dlogits] = self.floats(&[rows, CLASSES])?;
        let (vectors, losses) = (self.float(&[ClassVector::COUNT, CLASSES])?, self.float(&[1, rows])?);
        let labels = self.indices(rows, CLASSES)?;
        let [originals, partners] = [self.indices(batch, rows)?, self.indices(batch, rows)?];
        let shares = self.tensor(&[batch], DType::F32)?;
        let (form, reduction, scale) = (Form::Softmax { focal: 0.0 }, Reduction::N, 1.0);
        let head = Head { logits, vectors, form, reduction, scale, dlogits: Some(Grad::write(dlogits)) };
        let heads = [head];
        let loss = SupervisedLoss {
            heads: &heads,
            labels,
            originals,
            partners,
            shares,
            views: [ViewLabels::Mixed; 2],
            scalars,
            rows: losses,
        };
        self.of(0.0, &[logits, dlogits]);
        self.run("supervised_loss", |b| b.supervised_loss(&loss))?;
        let [scales, dscales] = self.floats(&[CLASSES])?;
        self.of(0.0, &[logits, dlogits]);
        self.run("scale_columns forward", |b| b.scale_columns_forward(logits, scales, dlogits))?;
        let dx = Some(Grad::write(dlogits));
        let tensors =
            scale_columns::Backward { x: logits, scales, dy: logits, dx, dscales: Some(Grad::write(dscales)) };
        self.run("scale_columns backward", |b| b.scale_columns_backward(&tensors))?;
        let log = self.float(&[1, LOSS_COLUMNS])?;
        let total = TotalLoss { cross_entropy: losses, cosine: Some(cosines), scalars, log, batch };
        self.of(0.0, &[losses, cosines]);
        self.run("total_loss", |b| b.total_loss(&total))?;
        let originals = self.indices(rows, rows)?;
        let ranks = self.indices(rows, rows)?;
        let [confidences, losses] = [self.tensor(&[rows], DType::F32)?, self.tensor(&[rows], DType::F32)?];
        let (second, scale) = (None, 1.0);
        let classify = Classify { logits, second, scale, labels, originals, scalars, ranks, confidences, losses };
        self.of(0.0, &[logits]);
        self.run("classify", |b| b.classify(&classify))?;
        self.free();
        Ok(())
    }

    fn ends(&mut self) -> Result<()> {
        let Sizes { batch, extent, parameters, .. } = self.sizes;
        let images = 4 * batch;
        let pixels: Vec<u8> = (0..images * extent * extent * 3).map(|i| (i * 31 % 256) as u8).collect();
        let pixels = self.place(&[images, extent, extent, 3], DType::U8, &pixels)?;
        let [originals, partners] = [self.indices(batch, images)?, self.indices(batch, images)?];
        let scalars = self.step()?;
        let out = self.compute(&[VIEWS * batch, extent, extent, self.backend.stem_channels()])?;
        let tensors = AugmentMix { pixels, originals, partners, scalars, out };
        let augmentation = Augmentation { mean: [0.5; 3], std: [0.25; 3], padding: extent / 8, flip: true };
        self.of(0.0, &[pixels.rows(0, 2 * batch), out]);
        self.run("augment_mix", |b| b.augment_mix(Mixing::GLMC, &augmentation, &tensors))?;
        let out = self.compute(&[batch, extent, extent, self.backend.stem_channels()])?;
        for view in [View::Plain, View::Mixup, View::Cutmix] {
            let images = 1 + usize::from(view != View::Plain);
            self.of(0.0, &[pixels.rows(0, images * batch), out]);
            let one = AugmentMix { out, ..tensors };
            let name = format!("augment_mix {view} alone");
            self.run(&name, |b| b.augment_mix(Mixing::One(view), &augmentation, &one))?;
        }
        let out = tensors.out;
        let views = self.float(&[4 * batch, extent, extent, 3])?;
        self.of(0.0, &[views, out]);
        self.run("mix_views", |b| b.mix_views(Mixing::GLMC, views, scalars, out))?;
        // The cursor moves on at every call: it starts again before each, so that a row is left.
        let words = row_words(batch);
        let table = Tensor { shape: Shape::new(&[1, words]), ..self.indices(words, images)? };
        let (cursor, shares) = (self.indices(1, 1)?, self.tensor(&[batch], DType::F32)?);
        self.of(0.0, &[table]);
        self.run("load_step, and a word set to zero", |b| {
            b.zero(cursor)?;
            b.load_step(&LoadStep { table, cursor, scalars, originals, partners, shares })
        })?;
        let [master, grad, momentum] = self.floats(&[parameters])?;
        let compute = (self.backend.precision() == Precision::Bf16).then(|| self.compute(&[parameters])).transpose()?;
        let tensors = Sgd { master, compute, grad, momentum, scalars };
        let config = SgdConfig::plain(0.9, 5e-3);
        let others: Vec<Tensor> = compute.into_iter().collect();
        self.of(0.0, &[&[master, master, momentum, momentum, grad], others.as_slice()].concat());
        self.run("sgd", |b| b.sgd(&config, &tensors))?;
        let (backup, parts, scale) =
            (self.float(&[parameters])?, self.float(&[parameters.div_ceil(PART)])?, self.float(&[1])?);
        let climb = Climb { master, compute, backup, grad, scale };
        // The gradient is read twice.
        self.of(0.0, &[&[master; 3][..], &[backup; 2], &[grad; 2], others.as_slice(), others.as_slice()].concat());
        self.run("sam, up and back", |b| {
            b.sam_squares(grad, parts)?;
            b.sam_scale(0.05, parts, scale)?;
            b.sam_perturb(&climb)?;
            b.sam_restore(&climb)
        })?;
        let rows = ProjectRows { master: self.float(&[CLASSES, 256])?, compute: None, limit: scale, exact: false };
        self.of(0.0, &[rows.master, rows.master]);
        self.run("project_rows", |b| b.project_rows(&rows))?;
        let compute = self.compute(&[parameters])?;
        self.of(0.0, &[master, compute]);
        self.run("cast_weights", |b| b.cast_weights(master, compute))?;
        self.free();
        Ok(())
    }
}
