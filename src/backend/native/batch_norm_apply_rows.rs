//! The inner loops of `batch_norm_apply`: one chunk of pixels each, walked row by row so that the channels' coefficients, as
//! long as a row, stay in the first-level cache. All are compiled for the widest vectors of the machine.

use super::cpu::vectorize;
use super::real::Real;

/// Rows whose sums are kept in the compute type before they are added up in double.
const TILE: usize = 32;

/// Per element of a row: `z = (x - mean) * scale + shift`.
#[derive(Clone, Copy)]
pub struct Coefficients<'a, T> {
    mean: &'a [T],
    scale: &'a [T],
    shift: &'a [T],
    /// Of a layer of few channels.
    narrow: bool,
}

/// Layers of fewer channels round a normalised value once: what the first layers of a deep, narrow network lose, those that
/// follow multiply (see `conv2d/stem.rs`). In wider ones errors average out, and the double arithmetic would be seen.
const NARROW: usize = 16;

impl<'a, T> Coefficients<'a, T> {
    /// Three times `row` values, of a layer of so many channels.
    pub fn new(values: &'a [T], row: usize, channels: usize) -> Coefficients<'a, T> {
        let [mean, scale, shift] = [0, 1, 2].map(|at| &values[at * row..][..row]);
        Coefficients { mean, scale, shift, narrow: channels < NARROW }
    }
}

/// max(v, 0), but NaN stays NaN, so that a run that went wrong is seen.
#[inline(always)]
fn relu<T: Real>(v: T) -> T {
    if v < T::ZERO { T::ZERO } else { v }
}

/// `(x - mean) * scale + shift`; of a narrow layer rounded once.
#[inline(always)]
fn normalised<T: Real, const NARROW: bool>(x: T, mean: T, scale: T, shift: T) -> T {
    match NARROW {
        true => T::from_f64((x.to_f64() - mean.to_f64()) * scale.to_f64() + shift.to_f64()),
        false => (x - mean) * scale + shift,
    }
}

/// The gradient past the ReLU whose output is `z`.
#[inline(always)]
fn masked<T: Real, const RELU: bool>(dz: T, z: T) -> T {
    if RELU && z <= T::ZERO { T::ZERO } else { dz }
}

#[inline(always)]
fn forward_row<T: Real, const RELU: bool, const NARROW: bool>(x: &[T], z: &mut [T], c: Coefficients<'_, T>) {
    let n = z.len();
    let (x, mean, scale, shift) = (&x[..n], &c.mean[..n], &c.scale[..n], &c.shift[..n]);
    for i in 0..n {
        let v = normalised::<T, NARROW>(x[i], mean[i], scale[i], shift[i]);
        z[i] = if RELU { relu(v) } else { v };
    }
}

#[inline(always)]
fn forward_row_plus<T: Real, const RELU: bool, const NARROW: bool>(
    x: &[T],
    shortcut: &[T],
    z: &mut [T],
    c: Coefficients<'_, T>,
) {
    let n = z.len();
    let (x, shortcut, mean, scale, shift) = (&x[..n], &shortcut[..n], &c.mean[..n], &c.scale[..n], &c.shift[..n]);
    for i in 0..n {
        let v = normalised::<T, NARROW>(x[i], mean[i], scale[i], shift[i]) + shortcut[i];
        z[i] = if RELU { relu(v) } else { v };
    }
}

/// `z = relu(bn(x) + shortcut)` over whole pixels.
pub fn forward<T: Real>(x: &[T], shortcut: Option<&[T]>, z: &mut [T], c: Coefficients<'_, T>, relu: bool) {
    #[inline(always)]
    fn run<T: Real, const RELU: bool, const NARROW: bool>(
        x: &[T],
        shortcut: Option<&[T]>,
        z: &mut [T],
        c: Coefficients<'_, T>,
    ) {
        let row = c.mean.len();
        // Loops, not `for_each`: that would be called, not inlined, and so miss the wide vectors.
        match shortcut {
            None => {
                for (x, z) in x.chunks(row).zip(z.chunks_mut(row)) {
                    forward_row::<T, RELU, NARROW>(x, z, c);
                }
            }
            Some(shortcut) => {
                for ((x, z), shortcut) in x.chunks(row).zip(z.chunks_mut(row)).zip(shortcut.chunks(row)) {
                    forward_row_plus::<T, RELU, NARROW>(x, shortcut, z, c);
                }
            }
        }
    }
    vectorize(
        #[inline(always)]
        || match (relu, c.narrow) {
            (true, false) => run::<T, true, false>(x, shortcut, z, c),
            (false, false) => run::<T, false, false>(x, shortcut, z, c),
            (true, true) => run::<T, true, true>(x, shortcut, z, c),
            (false, true) => run::<T, false, true>(x, shortcut, z, c),
        },
    );
}

/// [`forward`] with option A, which deep, narrow networks do not have: `source(pixel)` is added to the channels `reached`. Rows
/// are pixels.
pub fn forward_option_a<'a, T: Real>(
    x: &[T],
    source: impl Fn(usize) -> &'a [T],
    reached: std::ops::Range<usize>,
    z: &mut [T],
    c: Coefficients<'_, T>,
    relu: bool,
) {
    let channels = c.mean.len();
    let part = |from: usize, to: usize| Coefficients {
        mean: &c.mean[from..to],
        scale: &c.scale[from..to],
        shift: &c.shift[from..to],
        narrow: false,
    };
    let (front, middle, back) = (part(0, reached.start), part(reached.start, reached.end), part(reached.end, channels));
    vectorize(
        #[inline(always)]
        || {
            for (pixel, (x, z)) in x.chunks_exact(channels).zip(z.chunks_exact_mut(channels)).enumerate() {
                let (z_front, z) = z.split_at_mut(reached.start);
                let (z_middle, z_back) = z.split_at_mut(reached.len());
                let (x_front, x_middle, x_back) = (&x[..reached.start], &x[reached.clone()], &x[reached.end..]);
                let shortcut = source(pixel);
                if relu {
                    forward_row::<T, true, false>(x_front, z_front, front);
                    forward_row_plus::<T, true, false>(x_middle, shortcut, z_middle, middle);
                    forward_row::<T, true, false>(x_back, z_back, back);
                } else {
                    forward_row::<T, false, false>(x_front, z_front, front);
                    forward_row_plus::<T, false, false>(x_middle, shortcut, z_middle, middle);
                    forward_row::<T, false, false>(x_back, z_back, back);
                }
            }
        },
    );
}

/// Sums over pixels of dy and of dy * (x - mean), dy the gradient past the ReLU (`z` absent: there is none).
///
/// `totals` (2 * channels) is written. A tile's sums are built in `accumulators` (2 * row), in the compute type, and
/// added to the totals in double: fast, and no sum in single gets long.
pub fn sums<T: Real>(dz: &[T], z: Option<&[T]>, x: &[T], mean: &[T], totals: &mut [f64], accumulators: &mut [T]) {
    #[inline(always)]
    fn row_sums<T: Real, const RELU: bool>(dz: &[T], z: &[T], x: &[T], mean: &[T], sum: &mut [T], product: &mut [T]) {
        let n = dz.len();
        let (z, x, mean, sum, product) = (&z[..n], &x[..n], &mean[..n], &mut sum[..n], &mut product[..n]);
        for i in 0..n {
            let dy = masked::<T, RELU>(dz[i], z[i]);
            sum[i] += dy;
            product[i] += dy * (x[i] - mean[i]);
        }
    }
    #[inline(always)]
    fn run<T: Real, const RELU: bool>(
        (dz, z, x, mean): (&[T], &[T], &[T], &[T]),
        totals: &mut [f64],
        accumulators: &mut [T],
    ) {
        let row = mean.len();
        let (totals_sum, totals_product) = totals.split_at_mut(totals.len() / 2);
        let (sum, product) = accumulators.split_at_mut(row);
        totals_sum.fill(0.0);
        totals_product.fill(0.0);
        for ((dz, z), x) in dz.chunks(TILE * row).zip(z.chunks(TILE * row)).zip(x.chunks(TILE * row)) {
            sum.fill(T::ZERO);
            product.fill(T::ZERO);
            for ((dz, z), x) in dz.chunks(row).zip(z.chunks(row)).zip(x.chunks(row)) {
                row_sums::<T, RELU>(dz, z, x, mean, sum, product);
            }
            for (totals, sums) in [(&mut *totals_sum, &*sum), (&mut *totals_product, &*product)] {
                for pixel in sums.chunks_exact(totals.len()) {
                    for (total, &sum) in totals.iter_mut().zip(pixel) {
                        *total += sum.to_f64();
                    }
                }
            }
        }
    }
    vectorize(
        #[inline(always)]
        || match z {
            Some(z) => run::<T, true>((dz, z, x, mean), totals, accumulators),
            // Any slice of that length will do in z's place: it is not read.
            None => run::<T, false>((dz, dz, x, mean), totals, accumulators),
        },
    );
}

/// `dx (+)= scale * (dy - mean_dy - (x - mean) * slope)` and `dshortcut (+)= dy` over whole pixels; `c` holds mean,
/// scale, mean_dy and slope, `row` values each.
pub fn backward<T: Real>(
    inputs: (&[T], Option<&[T]>, &[T]),
    dx: Option<&mut [T]>,
    dshortcut: Option<&mut [T]>,
    (add_dx, add_shortcut): (bool, bool),
    c: &[T],
    row: usize,
) {
    let (dz, z, x) = inputs;
    let relu = z.is_some();
    let z = z.unwrap_or(dz);
    if let Some(dx) = dx {
        match (relu, add_dx) {
            (true, true) => input_grad::<T, true, true>((dz, z, x), dx, c, row),
            (true, false) => input_grad::<T, true, false>((dz, z, x), dx, c, row),
            (false, true) => input_grad::<T, false, true>((dz, z, x), dx, c, row),
            (false, false) => input_grad::<T, false, false>((dz, z, x), dx, c, row),
        }
    }
    // A second loop over the chunk, whose inputs are in the cache by now.
    if let Some(out) = dshortcut {
        match (relu, add_shortcut) {
            (true, true) => shortcut_grad::<T, true, true>(dz, z, out),
            (true, false) => shortcut_grad::<T, true, false>(dz, z, out),
            (false, true) => shortcut_grad::<T, false, true>(dz, z, out),
            (false, false) => out.copy_from_slice(dz),
        }
    }
}

fn input_grad<T: Real, const RELU: bool, const ADD: bool>(
    (dz, z, x): (&[T], &[T], &[T]),
    dx: &mut [T],
    c: &[T],
    row: usize,
) {
    #[inline(always)]
    fn one_row<T: Real, const RELU: bool, const ADD: bool>(
        (dz, z, x): (&[T], &[T], &[T]),
        dx: &mut [T],
        [mean, scale, mean_dy, slope]: [&[T]; 4],
    ) {
        let n = dx.len();
        let (dz, z, x) = (&dz[..n], &z[..n], &x[..n]);
        let (mean, scale, mean_dy, slope) = (&mean[..n], &scale[..n], &mean_dy[..n], &slope[..n]);
        for i in 0..n {
            let dy = masked::<T, RELU>(dz[i], z[i]);
            let v = scale[i] * (dy - mean_dy[i] - (x[i] - mean[i]) * slope[i]);
            dx[i] = if ADD { dx[i] + v } else { v };
        }
    }
    let coefficients = [0, 1, 2, 3].map(|k| &c[k * row..(k + 1) * row]);
    vectorize(
        #[inline(always)]
        || {
            for (((dz, z), x), dx) in dz.chunks(row).zip(z.chunks(row)).zip(x.chunks(row)).zip(dx.chunks_mut(row)) {
                one_row::<T, RELU, ADD>((dz, z, x), dx, coefficients);
            }
        },
    );
}

fn shortcut_grad<T: Real, const RELU: bool, const ADD: bool>(dz: &[T], z: &[T], out: &mut [T]) {
    vectorize(
        #[inline(always)]
        || {
            let n = out.len();
            let (dz, z) = (&dz[..n], &z[..n]);
            for i in 0..n {
                let dy = masked::<T, RELU>(dz[i], z[i]);
                out[i] = if ADD { out[i] + dy } else { dy };
            }
        },
    );
}

/// `out += dy`, dy the gradient past the ReLU.
pub fn add_masked<T: Real>(dz: &[T], z: Option<&[T]>, out: &mut [T]) {
    match z {
        Some(z) => {
            for ((out, &dz), &z) in out.iter_mut().zip(dz).zip(z) {
                *out += masked::<T, true>(dz, z);
            }
        }
        None => {
            for (out, &dz) in out.iter_mut().zip(dz) {
                *out += dz;
            }
        }
    }
}
