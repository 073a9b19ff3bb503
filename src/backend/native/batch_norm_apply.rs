//! `batch_norm_apply` on the CPU: per-channel coefficients, and the passes over whole tensors whose inner loops
//! `batch_norm_apply_rows` holds.
//!
//! A *row* is one pixel, or several where the channels are few, so that inner loops are long; per-channel coefficients
//! are repeated to a row's length. A *chunk* is what one thread does at a time: a number of rows given by the shape alone.

use super::Native;
use super::batch_norm_apply_rows::{self as rows, Coefficients};
use super::batch_norm_statistics::ROWS;
use super::memory::Access;
use super::parallel::{Rows, for_chunks};
use super::real::{Real, with_real};
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::ops::batch_norm_apply::{Backward, BatchNormApplyKernels, Forward, Geometry, Inference, NAME, Shortcut};
use crate::ops::batch_norm_statistics::EPSILON;
use crate::tensor::Grad;
use crate::tensor::Tensor;

/// Elements that a row has at least, if more than one pixel makes it.
const ROW: usize = 256;
/// Elements of a chunk, about: three such arrays fit into a core's second-level cache.
const CHUNK: usize = 16 << 10;

/// How a view is cut up.
#[derive(Clone, Copy)]
struct Layout {
    /// Channels.
    channels: usize,
    /// Pixels of a view.
    pixels: usize,
    /// Elements of a row: whole pixels.
    row: usize,
    /// Pixels of a chunk: whole rows.
    chunk: usize,
}

impl Layout {
    fn new(g: &Geometry, views: usize) -> Layout {
        Layout::with_rows_of(ROW.div_ceil(g.channels), g, views)
    }

    /// For the forward, where option A treats the pixels of a row differently.
    fn forward(g: &Geometry, views: usize) -> Layout {
        match g.shortcut {
            Shortcut::OptionA { .. } => Layout::with_rows_of(1, g, views),
            _ => Layout::new(g, views),
        }
    }

    fn with_rows_of(pixels_per_row: usize, g: &Geometry, views: usize) -> Layout {
        let row = pixels_per_row * g.channels;
        let chunk = (CHUNK / row).max(1) * pixels_per_row;
        Layout { channels: g.channels, pixels: g.batch / views * g.height * g.width, row, chunk }
    }

    /// Elements of a view.
    fn view(&self) -> usize {
        self.pixels * self.channels
    }

    /// Chunks of a view.
    fn parts(&self) -> usize {
        self.pixels.div_ceil(self.chunk)
    }

    /// `f64`s of the sums of one part: two per channel, and the accumulators of a row.
    fn part_words(&self) -> usize {
        2 * self.channels + 2 * self.row
    }

    /// The elements of the chunk that starts at pixel `first` of view `view`.
    fn elements(&self, view: usize, first: usize) -> std::ops::Range<usize> {
        let start = view * self.view() + first * self.channels;
        start..start + (self.pixels - first).min(self.chunk) * self.channels
    }
}

/// Where an output pixel's shortcut comes from under option A: `(source pixel, first channel)`.
#[derive(Clone, Copy)]
struct OptionA {
    height: usize,
    width: usize,
    channels: usize,
    front: usize,
    out_height: usize,
    out_width: usize,
}

impl OptionA {
    fn new(g: &Geometry) -> Option<OptionA> {
        let Shortcut::OptionA { height, width, channels } = g.shortcut else { return None };
        let front = (g.channels - channels) / 2;
        Some(OptionA { height, width, channels, front, out_height: g.height, out_width: g.width })
    }

    /// The source's elements that go to output pixel `pixel`, counted over the whole batch.
    fn source(&self, pixel: usize) -> std::ops::Range<usize> {
        let (x, y) = (pixel % self.out_width, pixel / self.out_width % self.out_height);
        let image = pixel / self.out_width / self.out_height;
        let start = ((image * self.height + 2 * y) * self.width + 2 * x) * self.channels;
        start..start + self.channels
    }

    /// The channels of an output pixel that the source reaches.
    fn channels(&self) -> std::ops::Range<usize> {
        self.front..self.front + self.channels
    }
}

/// Writes one view's coefficients, one slice each, repeated to a row's length; `value(channel)` gives them all.
fn expand<T: Real, const N: usize>(out: &mut [T], layout: &Layout, mut value: impl FnMut(usize) -> [f64; N]) {
    for c in 0..layout.channels {
        for (k, v) in value(c).into_iter().enumerate() {
            out[k * layout.row + c] = T::from_f64(v);
        }
    }
    for coefficient in out.chunks_exact_mut(layout.row) {
        let (once, again) = coefficient.split_at_mut(layout.channels);
        again.chunks_exact_mut(layout.channels).for_each(|to| to.copy_from_slice(once));
    }
}

/// `z = relu(bn(x) + shortcut)` for all views, given each view's coefficients (mean, scale, shift).
fn apply<T: Real>(
    native: &Native,
    g: &Geometry,
    layout: &Layout,
    coefficients: &[T],
    (x, shortcut, z): (&[T], Option<&[T]>, &mut [T]),
) {
    let option_a = OptionA::new(g);
    native.pool.install(|| {
        for (view, (z, c)) in z.chunks_mut(layout.view()).zip(coefficients.chunks_exact(3 * layout.row)).enumerate() {
            let c = Coefficients::new(c, layout.row, layout.channels);
            for_chunks(Rows(z, layout.channels), layout.pixels, layout.chunk, &|first, z| {
                let range = layout.elements(view, first);
                let x = &x[range.clone()];
                match (option_a, shortcut) {
                    (Some(a), Some(source)) => {
                        let first = view * layout.pixels + first;
                        let source = |pixel: usize| &source[a.source(first + pixel)];
                        rows::forward_option_a(x, source, a.channels(), z.0, c, g.relu);
                    }
                    (_, shortcut) => rows::forward(x, shortcut.map(|s| &s[range]), z.0, c, g.relu),
                }
            });
        }
    });
}

fn forward<T: Real>(native: &Native, g: &Geometry, t: &Forward) -> Result<()> {
    let a = native.memory.access()?;
    let (x, z, shortcut) = (a.read::<T>(t.x)?, a.write::<T>(t.z)?, a.read_maybe::<T>(t.shortcut)?);
    let (statistics, bias) = (a.read::<T>(t.statistics)?, a.read::<T>(t.bias)?);
    check(g, t.x, t.z, t.shortcut)?;
    let layout = Layout::forward(g, g.views);
    let mut coefficients = Workspace::<T>::take(g.views * 3 * layout.row);
    for (s, coefficients) in per_view(g, statistics)?.zip(coefficients.chunks_exact_mut(3 * layout.row)) {
        expand(coefficients, &layout, |c| [s[c], s[2 * g.channels + c], bias[c]].map(Real::to_f64));
    }
    apply(native, g, &layout, &coefficients, (x, shortcut, z));
    Ok(())
}

fn inference<T: Real>(native: &Native, g: &Geometry, t: &Inference) -> Result<()> {
    let a = native.memory.access()?;
    let (x, z, shortcut) = (a.read::<T>(t.x)?, a.write::<T>(t.z)?, a.read_maybe::<T>(t.shortcut)?);
    let (weight, bias) = (a.read::<T>(t.weight)?, a.read::<T>(t.bias)?);
    let (mean, var) = (a.read::<T>(t.running_mean)?, a.read::<T>(t.running_var)?);
    check(g, t.x, t.z, t.shortcut)?;
    let layout = Layout::forward(g, 1);
    let mut coefficients = Workspace::<T>::take(3 * layout.row);
    expand(&mut coefficients, &layout, |c| {
        let invstd = (var[c].to_f64() + EPSILON).sqrt().recip();
        [mean[c].to_f64(), weight[c].to_f64() * invstd, bias[c].to_f64()]
    });
    apply(native, g, &layout, &coefficients, (x, shortcut, z));
    Ok(())
}

/// Slices are cut by the geometry: tensors of another size are refused, not half processed.
fn check(g: &Geometry, x: Tensor, z: Tensor, shortcut: Option<Tensor>) -> Result<()> {
    let source = match g.shortcut {
        Shortcut::None => None,
        Shortcut::Identity => Some(g.shape()),
        Shortcut::OptionA { height, width, channels } => Some([g.batch, height, width, channels]),
    };
    let fits = |t: Tensor, shape: [usize; 4]| t.elements() == shape.iter().product::<usize>();
    let shortcuts = match (shortcut, source) {
        (Some(t), Some(shape)) => fits(t, shape),
        (None, _) => true,
        (Some(_), None) => false,
    };
    if fits(x, g.shape()) && fits(z, g.shape()) && shortcuts {
        return Ok(());
    }
    Err(Error::op(NAME, format!("tensors of {} and {} do not fit the geometry {:?}", x.shape, z.shape, g.shape())))
}

/// Each view's statistics: `ROWS` rows of channels.
fn per_view<'a, T>(g: &Geometry, statistics: &'a [T]) -> Result<std::slice::ChunksExact<'a, T>> {
    if statistics.len() != g.views * ROWS * g.channels {
        return Err(Error::op(NAME, format!("statistics of {} elements do not fit {g:?}", statistics.len())));
    }
    Ok(statistics.chunks_exact(ROWS * g.channels))
}

/// A gradient's slice and whether to add to it.
fn target<'a, T: Real>(a: &'a Access<'_>, grad: Option<Grad>) -> Result<Option<(&'a mut [T], bool)>> {
    grad.map(|g| Ok((a.write::<T>(g.tensor)?, g.accumulate))).transpose()
}

fn backward<T: Real>(native: &Native, g: &Geometry, t: &Backward) -> Result<()> {
    let a = native.memory.access()?;
    let (x, dz, weight) = (a.read::<T>(t.x)?, a.read::<T>(t.dz)?, a.read::<T>(t.weight)?);
    // Without a ReLU z is not read, and the plan may have given its place to another.
    let z = if g.relu { Some(a.read::<T>(t.z)?) } else { None };
    let statistics = a.read::<T>(t.statistics)?;
    let (dx, dshortcut) = (target::<T>(&a, t.dx)?, target::<T>(&a, t.dshortcut)?);
    let (dweight, dbias) = (target::<T>(&a, t.dweight)?, target::<T>(&a, t.dbias)?);
    check(g, t.x, t.dz, t.dshortcut.map(|d| d.tensor))?;
    let scratch = t.scratch.ok_or_else(|| Error::op(NAME, "the backward needs scratch memory"))?;
    let scratch = a.scratch::<f64>(scratch)?;
    let layout = Layout::new(g, g.views);
    let (channels, words, parts) = (g.channels, layout.part_words(), layout.parts());
    let per_view = per_view(g, statistics)?;

    // Sums over each view of dy and of dy * (x - mean), dy the gradient past the ReLU.
    let mut workspace = Workspace::<T>::take(g.views * 4 * layout.row);
    for (view, s) in per_view.clone().enumerate() {
        expand(&mut workspace[view * 4 * layout.row..][..layout.row], &layout, |c| [s[c].to_f64()]);
    }
    let means = &workspace[..];
    let summed = &mut scratch[..g.views * parts * words];
    native.pool.install(|| {
        for_chunks(Rows(summed, words), g.views * parts, 1, &|part, sums| {
            let (view, first) = (part / parts, part % parts * layout.chunk);
            let range = layout.elements(view, first);
            let (totals, accumulators) = sums.0.split_at_mut(2 * channels);
            let accumulators = &mut bytemuck::cast_slice_mut::<f64, T>(accumulators)[..2 * layout.row];
            let mean = &means[view * 4 * layout.row..][..layout.row];
            rows::sums(&dz[range.clone()], z.map(|z| &z[range.clone()]), &x[range], mean, totals, accumulators);
        });
    });
    let total = |view: usize, k: usize| -> f64 {
        summed[view * parts * words..].iter().skip(k).step_by(words).take(parts).sum()
    };
    let write = |(out, accumulate): (&mut [T], bool), value: &dyn Fn(usize) -> f64| {
        for (c, out) in out.iter_mut().enumerate() {
            *out = T::from_f64(value(c) + if accumulate { out.to_f64() } else { 0.0 });
        }
    };
    if let Some(dbias) = dbias {
        write(dbias, &|c| (0..g.views).map(|v| total(v, c)).sum());
    }
    if let Some(dweight) = dweight {
        let invstd = |view: usize, c: usize| statistics[(ROWS * view + 1) * channels + c].to_f64();
        write(dweight, &|c| (0..g.views).map(|v| total(v, channels + c) * invstd(v, c)).sum());
    }

    // dx = weight * invstd * (dy - mean(dy) - (x - mean) * invstd² * mean(dy * (x - mean))).
    let count = g.pixels() as f64;
    for (view, s) in per_view.enumerate() {
        expand(&mut workspace[view * 4 * layout.row..][..4 * layout.row], &layout, |c| {
            let invstd = s[channels + c].to_f64();
            let scale = weight[c].to_f64() * invstd;
            let mean_product = total(view, channels + c) / count;
            [s[c].to_f64(), scale, total(view, c) / count, invstd * invstd * mean_product]
        });
    }
    let coefficients = &workspace[..];
    let (identity, other) = match g.shortcut {
        Shortcut::Identity => (dshortcut, None),
        _ => (None, dshortcut),
    };
    let accumulate = (t.dx.is_some_and(|d| d.accumulate), t.dshortcut.is_some_and(|d| d.accumulate));
    native.pool.install(|| {
        let (mut dx, mut identity) = (dx.map(|d| d.0), identity.map(|d| d.0));
        for view in 0..g.views {
            let c = &coefficients[view * 4 * layout.row..][..4 * layout.row];
            let data = (next(&mut dx, &layout), next(&mut identity, &layout));
            for_chunks(data, layout.pixels, layout.chunk, &|first, (dx, dshortcut)| {
                let range = layout.elements(view, first);
                let inputs = (&dz[range.clone()], z.map(|z| &z[range.clone()]), &x[range]);
                rows::backward(inputs, dx.map(|d| d.0), dshortcut.map(|d| d.0), accumulate, c, layout.row);
            });
        }
        if let (Some((out, accumulate)), Some(option_a)) = (other, OptionA::new(g)) {
            option_a_backward(g, option_a, (dz, z), out, accumulate);
        }
    });
    Ok(())
}

/// The next view of a tensor whose views lie one after the other.
fn next<'a, T: Real>(rest: &mut Option<&'a mut [T]>, layout: &Layout) -> Option<Rows<'a, T>> {
    let (view, after) = rest.take()?.split_at_mut(layout.view());
    *rest = Some(after);
    Some(Rows(view, layout.channels))
}

/// The gradient of option A's source: that of the pixels and channels it was copied to, zero elsewhere.
fn option_a_backward<T: Real>(
    g: &Geometry,
    a: OptionA,
    (dz, z): (&[T], Option<&[T]>),
    out: &mut [T],
    accumulate: bool,
) {
    let (image, pixels) = (a.height * a.width * a.channels, g.height * g.width);
    for_chunks(Rows(out, image), g.batch, 1, &|n, rows| {
        if !accumulate {
            rows.0.fill(T::ZERO);
        }
        for pixel in n * pixels..(n + 1) * pixels {
            let start = pixel * g.channels;
            let range = start + a.channels().start..start + a.channels().end;
            let source = a.source(pixel);
            let out = &mut rows.0[source.start - n * image..source.end - n * image];
            rows::add_masked(&dz[range.clone()], z.map(|z| &z[range]), out);
        }
    });
}

impl BatchNormApplyKernels for Native {
    fn batch_norm_apply(&self, geometry: &Geometry, t: &Forward) -> Result<()> {
        with_real!(self, T => forward::<T>(self, geometry, t))
    }

    fn batch_norm_inference(&self, geometry: &Geometry, t: &Inference) -> Result<()> {
        with_real!(self, T => inference::<T>(self, geometry, t))
    }

    fn batch_norm_backward(&self, geometry: &Geometry, t: &Backward) -> Result<()> {
        with_real!(self, T => backward::<T>(self, geometry, t))
    }

    fn batch_norm_backward_scratch(&self, g: &Geometry) -> usize {
        let layout = Layout::new(g, g.views);
        g.views * layout.parts() * layout.part_words() * size_of::<f64>()
    }
}
