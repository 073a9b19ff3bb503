//! `conv2d` on the CPU. Single precision: direct convolution, sixteen channels per vector, without a patch matrix, or
//! Winograd's method where that is faster. Double precision, the oracle: one patch matrix per image, and a matrix product.
//!
//! - `lanes`: the vectors;
//! - `tile`: the innermost loops of all products;
//! - `strip`: input rows as direct convolution reads them;
//! - `spans`: which of their channels go with which filters, in groups;
//! - `correlate`: direct forward and input gradient;
//! - `weight_grad`: direct weight gradient;
//! - `product`: the innermost loop of matrix products;
//! - `indirect`: forward and input gradient of wide layers as such products;
//! - `indirect_grad`: weight gradient of these;
//! - `transform`: Winograd's linear maps;
//! - `winograd`: forward and input gradient by these;
//! - `winograd_grad`: weight gradient by these;
//! - `stem`: large kernels, their sums in double;
//! - `patches`: double precision.

mod correlate;
mod indirect;
mod indirect_grad;
pub(super) mod lanes;
mod patches;
mod product;
mod spans;
mod stem;
mod strip;
#[cfg(test)]
mod tests;
mod tile;
mod transform;
mod weight_grad;
mod winograd;
mod winograd_grad;

use super::Native;
use super::cpu::Level;
use super::real::{Real, with_real};
use crate::error::{Error, Result};
use crate::ops::conv2d::{Conv2dKernels, Forward, Geometry, InputGrad, NAME, WeightGrad};
use crate::tensor::Tensor;

/// How a precision convolves, on slices that have the geometry's sizes, on the threads of the current pool.
trait Convolve: Real {
    /// Elements of scratch that the weight gradient wants.
    fn scratch(g: &Geometry) -> usize;
    /// See [`Conv2dKernels::conv2d_forward`].
    fn forward(g: &Geometry, x: &[Self], weight: &[Self], y: &mut [Self], sums: Option<&mut [Self]>);
    /// See [`Conv2dKernels::conv2d_input_grad`].
    fn input_grad(g: &Geometry, dy: &[Self], weight: &[Self], dx: &mut [Self], accumulate: bool);
    /// See [`Conv2dKernels::conv2d_weight_grad`].
    fn weight_grad(g: &Geometry, x: &[Self], dy: &[Self], dweight: &mut [Self], scratch: &mut [Self]);
}

/// A 1x1 convolution of stride 1 is a matrix product: rows of channels, one a pixel, however wide the image. Direct
/// convolution, which copies blocks of rows and keeps a block of results in registers, is just such a product; so each
/// image gets a width that whole tiles cover.
fn widened(g: &Geometry) -> Geometry {
    let pixels = g.height * g.width;
    if g.kernel > 1 || g.stride > 1 || g.padding > 0 {
        return *g;
    }
    match pixels {
        _ if pixels.is_multiple_of(16) => Geometry { height: pixels / 16, width: 16, ..*g },
        _ if pixels.is_multiple_of(4) => Geometry { height: pixels / 4, width: 4, ..*g },
        ..=64 => Geometry { height: 1, width: pixels, ..*g },
        _ => *g,
    }
}

/// Weight gradient of a layer, and the floats of scratch that it wants.
type Gradient = (fn(Level, &Geometry, &[f32], &[f32], &mut [f32], &mut [f32]), fn(&Geometry) -> usize);

/// The weight gradient that is fastest on this shape.
fn gradient(g: &Geometry) -> Gradient {
    if winograd::applies(g) {
        (winograd_grad::weight_grad, winograd_grad::scratch_floats)
    } else if indirect_grad::takes(g) {
        (indirect_grad::weight_grad, indirect_grad::scratch_floats)
    } else {
        (weight_grad::weight_grad, weight_grad::scratch_floats)
    }
}

impl Convolve for f32 {
    fn scratch(g: &Geometry) -> usize {
        let g = &widened(g);
        (gradient(g).1)(g)
    }

    fn forward(g: &Geometry, x: &[f32], weight: &[f32], y: &mut [f32], sums: Option<&mut [f32]>) {
        if stem::applies(g) {
            return stem::forward(g, x, weight, y, sums);
        }
        let g = &widened(g);
        let run = if winograd::applies(g) {
            winograd::forward
        } else if indirect::takes_forward(g) {
            indirect::forward
        } else {
            correlate::forward
        };
        run(Level::in_use(), g, x, weight, y, sums);
    }

    fn input_grad(g: &Geometry, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
        let g = &widened(g);
        let run = if winograd::applies(g) {
            winograd::input_grad
        } else if indirect::takes_input_grad(g) {
            indirect::input_grad
        } else {
            correlate::input_grad
        };
        run(Level::in_use(), g, dy, weight, dx, accumulate);
    }

    fn weight_grad(g: &Geometry, x: &[f32], dy: &[f32], dweight: &mut [f32], scratch: &mut [f32]) {
        let g = &widened(g);
        (gradient(g).0)(Level::in_use(), g, x, dy, dweight, scratch);
    }
}

impl Convolve for f64 {
    fn scratch(_g: &Geometry) -> usize {
        0
    }

    fn forward(g: &Geometry, x: &[f64], weight: &[f64], y: &mut [f64], sums: Option<&mut [f64]>) {
        patches::forward(g, x, weight, y, sums);
    }

    fn input_grad(g: &Geometry, dy: &[f64], weight: &[f64], dx: &mut [f64], accumulate: bool) {
        patches::input_grad(g, dy, weight, dx, accumulate);
    }

    fn weight_grad(g: &Geometry, x: &[f64], dy: &[f64], dweight: &mut [f64], _scratch: &mut [f64]) {
        patches::weight_grad(g, x, dy, dweight);
    }
}

/// Tensors are borrowed under the shapes that the geometry gives them, so that no kernel gets a slice of another size.
fn shaped(tensor: Tensor, shape: [usize; 4]) -> Result<Tensor> {
    if tensor.elements() == shape.iter().product::<usize>() {
        return Ok(tensor);
    }
    Err(Error::op(NAME, format!("a tensor of shape {} where {shape:?} is needed", tensor.shape)))
}

impl Conv2dKernels for Native {
    fn conv2d_sum_parts(&self, g: &Geometry) -> usize {
        g.batch / g.views
    }

    fn conv2d_forward(&self, g: &Geometry, t: &Forward) -> Result<()> {
        let a = self.memory.access()?;
        let sums = t.sums.map(|s| shaped(s, [g.views, g.batch / g.views, 2, g.filters])).transpose()?;
        let (x, weight, y) = (shaped(t.x, g.input())?, shaped(t.weight, g.weight())?, shaped(t.y, g.output())?);
        with_real!(self, T => {
            let (x, weight, y, sums) = (a.read::<T>(x)?, a.read(weight)?, a.write(y)?, a.write_maybe(sums)?);
            self.pool.install(|| T::forward(g, x, weight, y, sums));
        });
        Ok(())
    }

    fn conv2d_input_grad(&self, g: &Geometry, t: &InputGrad) -> Result<()> {
        let a = self.memory.access()?;
        let (dy, weight) = (shaped(t.dy, g.output())?, shaped(t.weight, g.weight())?);
        let to = shaped(t.dx.tensor, g.input())?;
        with_real!(self, T => {
            let (dy, weight, to) = (a.read::<T>(dy)?, a.read(weight)?, a.write(to)?);
            self.pool.install(|| T::input_grad(g, dy, weight, to, t.dx.accumulate));
        });
        Ok(())
    }

    fn conv2d_weight_grad(&self, g: &Geometry, t: &WeightGrad) -> Result<()> {
        let a = self.memory.access()?;
        let (x, dy, dweight) = (shaped(t.x, g.input())?, shaped(t.dy, g.output())?, shaped(t.dweight, g.weight())?);
        with_real!(self, T => {
            let (x, dy, dweight) = (a.read::<T>(x)?, a.read(dy)?, a.write(dweight)?);
            let scratch = t.scratch.map(|s| a.scratch(s)).transpose()?.unwrap_or_default();
            let wanted = T::scratch(g);
            if scratch.len() < wanted {
                return Err(Error::op(NAME, format!("the weight gradient wants {wanted} elements of scratch")));
            }
            self.pool.install(|| T::weight_grad(g, x, dy, dweight, scratch));
        });
        Ok(())
    }

    fn conv2d_backward_scratch(&self, g: &Geometry) -> usize {
        with_real!(self, T => T::scratch(g) * size_of::<T>())
    }
}
