//! Two-dimensional convolution without bias, in groups, NHWC activations, OHWI weights (`torch.nn.functional.conv2d`).

use super::{Backend, expect, four};
use crate::error::{Error, Result};
use crate::tape::{Formula, Op, Pass, Run, Scratch, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "conv2d";

/// Everything about a convolution but its data. Square kernels, the same stride and padding both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Images, all views together.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub filters: usize,
    /// Kernel rows and columns.
    pub kernel: usize,
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Views: the batch is this many equal parts, each with statistics of its own.
    pub views: usize,
    /// Input and output channels are this many equal, separate parts: the i-th filters see only the i-th channels.
    pub groups: usize,
}

impl Geometry {
    fn out(&self, extent: usize) -> usize {
        (extent + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Output rows.
    pub fn out_height(&self) -> usize {
        self.out(self.height)
    }

    /// Output columns.
    pub fn out_width(&self) -> usize {
        self.out(self.width)
    }

    /// Shape of the input: (batch, height, width, channels).
    pub fn input(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.channels]
    }

    /// Input channels of one group.
    pub fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Output channels of one group.
    pub fn group_filters(&self) -> usize {
        self.filters / self.groups
    }

    /// Shape of the weight: (filters, kernel, kernel, channels / groups).
    pub fn weight(&self) -> [usize; 4] {
        [self.filters, self.kernel, self.kernel, self.group_channels()]
    }

    /// Shape of the output: (batch, out height, out width, filters).
    pub fn output(&self) -> [usize; 4] {
        [self.batch, self.out_height(), self.out_width(), self.filters]
    }

    /// Floating-point operations of the forward, or of one of the two gradients.
    pub fn flops(&self) -> f64 {
        let outputs: usize = self.output().iter().product();
        2.0 * outputs as f64 * (self.kernel * self.kernel * self.group_channels()) as f64
    }

    /// Checks that the extents make a convolution.
    fn check(&self) -> Result<()> {
        let shortest = self.height.min(self.width) + 2 * self.padding;
        if self.kernel == 0 || self.stride == 0 || self.kernel > shortest || self.input().contains(&0) {
            return Err(Error::op(
                NAME,
                format!("a {0}x{0} kernel does not fit input {1:?}", self.kernel, self.input()),
            ));
        }
        if self.filters == 0 || self.views == 0 || !self.batch.is_multiple_of(self.views) {
            return Err(Error::op(NAME, format!("{} views do not divide a batch of {}", self.views, self.batch)));
        }
        Ok(())
    }
}

/// Checks that groups divide channels and filters: without that, a weight has no shape.
fn check_groups(groups: usize, channels: usize, filters: usize) -> Result<()> {
    if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
        return Err(Error::op(
            NAME,
            format!("{groups} groups do not divide {channels} channels and {filters} filters"),
        ));
    }
    Ok(())
}

/// The tensors of a forward.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// [`Geometry::input`].
    pub x: Tensor,
    /// [`Geometry::weight`].
    pub weight: Tensor,
    /// [`Geometry::output`], written.
    pub y: Tensor,
    /// Accumulation type (views, parts, 2, filters), written: per view, part and channel, the sum over the part's pixels of y
    /// and of y².
    pub sums: Option<Tensor>,
}

/// The tensors of the input's gradient.
#[derive(Clone, Copy, Debug)]
pub struct InputGrad {
    /// Like y.
    pub dy: Tensor,
    /// As in the forward.
    pub weight: Tensor,
    /// Like x.
    pub dx: Grad,
}

/// The tensors of the weight's gradient.
#[derive(Clone, Copy, Debug)]
pub struct WeightGrad {
    /// As in the forward.
    pub x: Tensor,
    /// Like y.
    pub dy: Tensor,
    /// Like the weight, but of the accumulation type; written.
    pub dweight: Tensor,
    /// [`Conv2dKernels::conv2d_backward_scratch`] bytes.
    pub scratch: Option<Tensor>,
}

/// What a backend provides for `conv2d`. Tensors have the compute type unless they say otherwise.
pub trait Conv2dKernels {
    /// Into how many parts a view's channel sums are split: each part is summed by one worker, in a fixed order.
    fn conv2d_sum_parts(&self, geometry: &Geometry) -> usize;

    /// `y = conv(x, weight)`, and the channel sums.
    fn conv2d_forward(&self, geometry: &Geometry, t: &Forward) -> Result<()>;

    /// `dx (+)= conv_transposed(dy, weight)`.
    fn conv2d_input_grad(&self, geometry: &Geometry, t: &InputGrad) -> Result<()>;

    /// `dweight = sum over pixels of dy ⊗ x`, in a fixed order.
    fn conv2d_weight_grad(&self, geometry: &Geometry, t: &WeightGrad) -> Result<()>;

    /// Bytes of scratch that [`Conv2dKernels::conv2d_weight_grad`] wants.
    fn conv2d_backward_scratch(&self, geometry: &Geometry) -> usize;
}

#[derive(Debug)]
struct Conv2d {
    geometry: Geometry,
    x: Var,
    weight: Var,
    y: Var,
    sums: Option<Var>,
}

/// How a convolution is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Views: the batch is this many equal parts.
    pub views: usize,
    /// See [`Geometry::groups`].
    pub groups: usize,
    /// Whether the channel sums are wanted, too.
    pub sums: bool,
}

/// Records `y = conv(x, weight)`; x (batch, height, width, channels), weight (filters, kernel, kernel, channels / groups).
///
/// With `sums`, also the per-view channel sums that a following batch normalisation needs (see
/// [`Forward`]). Returns y and the sums.
///
/// # Errors
/// When the shapes do not fit each other, or groups do not divide the channels.
pub fn conv2d(
    tape: &mut Tape,
    backend: &dyn Backend,
    x: Var,
    weight: Var,
    Config { stride, padding, views, groups, sums }: Config,
) -> Result<(Var, Option<Var>)> {
    let [batch, height, width, channels] = four(NAME, "the input", tape.shape(x))?;
    let [filters, kernel, _, _] = four(NAME, "the weight", tape.shape(weight))?;
    check_groups(groups, channels, filters)?;
    let geometry = Geometry { batch, height, width, channels, filters, kernel, stride, padding, views, groups };
    expect(NAME, "the weight", tape.shape(weight), &geometry.weight())?;
    geometry.check()?;
    let y = tape.value(&geometry.output(), tape.dtype(x));
    let sums = sums.then(|| {
        let parts = backend.conv2d_sum_parts(&geometry);
        tape.value(&[views, parts, 2, filters], backend.precision().accumulate())
    });
    tape.record(Conv2d { geometry, x, weight, y, sums });
    Ok((y, sums))
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x, self.weight]
    }

    fn writes(&self) -> Vec<Var> {
        [Some(self.y), self.sums].into_iter().flatten().collect()
    }

    fn saves(&self) -> Vec<Var> {
        vec![self.x, self.weight]
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x, self.weight]
    }

    fn scratch(&self, backend: &dyn Backend) -> Scratch {
        Scratch { forward: 0, backward: backend.conv2d_backward_scratch(&self.geometry) }
    }

    fn label(&self) -> String {
        let g = &self.geometry;
        let groups = if g.groups > 1 { format!(", {} groups", g.groups) } else { String::new() };
        format!(
            "{0}x{1}x{2}x{3} -> {4}, {5}x{5}/{6}{groups}",
            g.batch, g.height, g.width, g.channels, g.filters, g.kernel, g.stride
        )
    }

    fn flops(&self, pass: Pass, wanted: &[Var]) -> f64 {
        let products = if pass == Pass::Forward { 1 } else { wanted.len() };
        products as f64 * self.geometry.flops()
    }

    fn formula(&self) -> Option<Formula> {
        let Conv2d { geometry, x, weight, y, .. } = *self;
        Some(Formula::Convolution { x, weight, y, geometry })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let (x, weight, y) = (run.value(self.x), run.value(self.weight), run.value(self.y));
        let sums = self.sums.map(|v| run.value(v));
        run.backend.conv2d_forward(&self.geometry, &Forward { x, weight, y, sums })
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        let dy = run.grad(self.y);
        if let Some(dweight) = run.grad_target(self.weight) {
            let t = WeightGrad { x: run.value(self.x), dy, dweight: dweight.tensor, scratch: run.scratch() };
            run.backend.conv2d_weight_grad(&self.geometry, &t)?;
        }
        if let Some(dx) = run.grad_target(self.x) {
            let t = InputGrad { dy, weight: run.value(self.weight), dx };
            run.backend.conv2d_input_grad(&self.geometry, &t)?;
        }
        Ok(())
    }
}
