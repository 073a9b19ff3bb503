//! The second half of a batch normalisation, with its neighbours: `z = relu(bn(x) + shortcut)` (`torch.nn.BatchNorm2d`,
//! momentum 0.1, epsilon 1e-5), by each view's own statistics from `batch_norm_statistics` or by the running ones. The
//! backward is that of both halves.

use super::batch_norm_statistics::EPSILON;
use super::{Backend, expect, four};
use crate::error::{Error, Result};
use crate::tape::{Formula, Op, Pass, Run, Scratch, Tape, Var};
use crate::tensor::{DType, Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "batch_norm_apply";

/// What is added after the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shortcut {
    /// Nothing.
    None,
    /// A tensor of the output's shape.
    Identity,
    /// Option A of the CIFAR ResNets (He et al. 2016, section 4.2): the source has twice the rows and columns and fewer
    /// channels; even rows and columns are taken, C - C_source zero channels are put around them, half of them (rounded
    /// down) in front.
    OptionA {
        /// Source rows.
        height: usize,
        /// Source columns.
        width: usize,
        /// Source channels.
        channels: usize,
    },
}

/// Everything about a batch normalisation but its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Equal parts of the batch with statistics of their own.
    pub views: usize,
    /// Images, all views together.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// What is added after the normalisation.
    pub shortcut: Shortcut,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl Geometry {
    /// Pixels of one view.
    pub fn pixels(&self) -> usize {
        self.batch / self.views * self.height * self.width
    }

    /// (batch, height, width, channels).
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.channels]
    }
}

/// The tensors of a training forward. Types: x, shortcut, z compute; the others accumulation.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// (batch, height, width, channels).
    pub x: Tensor,
    /// (views, rows, channels), from `batch_norm_statistics`.
    pub statistics: Tensor,
    /// (channels): scale.
    pub weight: Tensor,
    /// (channels): shift.
    pub bias: Tensor,
    /// The shortcut's source.
    pub shortcut: Option<Tensor>,
    /// Written: like x.
    pub z: Tensor,
}

/// The tensors of an inference forward.
#[derive(Clone, Copy, Debug)]
pub struct Inference {
    /// (batch, height, width, channels).
    pub x: Tensor,
    /// (channels): scale.
    pub weight: Tensor,
    /// (channels): shift.
    pub bias: Tensor,
    /// (channels).
    pub running_mean: Tensor,
    /// (channels).
    pub running_var: Tensor,
    /// The shortcut's source.
    pub shortcut: Option<Tensor>,
    /// Written: like x.
    pub z: Tensor,
}

/// The tensors of a backward.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// The forward's input.
    pub x: Tensor,
    /// The forward's output: where it is 0, the ReLU stopped the gradient.
    pub z: Tensor,
    /// The forward's.
    pub statistics: Tensor,
    /// (channels): scale.
    pub weight: Tensor,
    /// Gradient of z.
    pub dz: Tensor,
    /// Gradient of x, if wanted.
    pub dx: Option<Grad>,
    /// (channels).
    pub dweight: Option<Grad>,
    /// (channels).
    pub dbias: Option<Grad>,
    /// Gradient of the shortcut's source.
    pub dshortcut: Option<Grad>,
    /// [`BatchNormApplyKernels::batch_norm_backward_scratch`] bytes.
    pub scratch: Option<Tensor>,
}

/// What a backend provides for `batch_norm_apply`.
pub trait BatchNormApplyKernels {
    /// `z = relu(bn(x) + shortcut)` with each view's statistics.
    fn batch_norm_apply(&self, geometry: &Geometry, t: &Forward) -> Result<()>;
    /// `z = relu(bn(x) + shortcut)` with the running statistics.
    fn batch_norm_inference(&self, geometry: &Geometry, t: &Inference) -> Result<()>;
    /// All gradients. `dweight` and `dbias` are sums over both views.
    fn batch_norm_backward(&self, geometry: &Geometry, t: &Backward) -> Result<()>;
    /// Bytes of scratch that the backward wants.
    fn batch_norm_backward_scratch(&self, geometry: &Geometry) -> usize;
}

/// The four per-channel tensors of a batch normalisation, (channels) each.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Scale.
    pub weight: Var,
    /// Shift.
    pub bias: Var,
    /// Running mean.
    pub running_mean: Var,
    /// Running variance.
    pub running_var: Var,
}

impl Parameters {
    /// Checks that all four are (channels).
    pub(super) fn check(&self, op: &'static str, tape: &Tape, channels: usize) -> Result<()> {
        let all = [self.weight, self.bias, self.running_mean, self.running_var];
        all.into_iter().try_for_each(|var| expect(op, "a parameter", tape.shape(var), &[channels]))
    }
}

#[derive(Debug)]
struct Record {
    geometry: Geometry,
    compute: DType,
    parameters: Parameters,
    x: Var,
    shortcut: Option<Var>,
    z: Var,
    /// `None` for inference.
    statistics: Option<Var>,
}

/// Records `z = relu(bn(x) + shortcut)` and returns z. Training takes x's `statistics` from `batch_norm_statistics`;
/// inference has none, and takes the running ones.
///
/// `shortcut` is the source of the residual connection: of x's shape it is added as it is; with twice the rows and
/// columns (rounded up) it goes through option A.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn batch_norm_apply(
    tape: &mut Tape,
    backend: &dyn Backend,
    x: Var,
    parameters: Parameters,
    statistics: Option<Var>,
    shortcut: Option<Var>,
    relu: bool,
) -> Result<Var> {
    let shape = four(NAME, "the input", tape.shape(x))?;
    let [batch, height, width, channels] = shape;
    parameters.check(NAME, tape, channels)?;
    let kind = match shortcut.map(|v| four(NAME, "the shortcut", tape.shape(v))).transpose()? {
        None => Shortcut::None,
        Some(source) if source == shape => Shortcut::Identity,
        Some([b, h, w, c]) if b == batch && h.div_ceil(2) == height && w.div_ceil(2) == width && c <= channels => {
            Shortcut::OptionA { height: h, width: w, channels: c }
        }
        Some(source) => {
            return Err(Error::op(NAME, format!("a shortcut of shape {source:?} does not fit an output of {shape:?}")));
        }
    };
    let views = match statistics {
        None => 1,
        Some(var) => {
            let views = tape.shape(var).dims()[0];
            expect(NAME, "the statistics", tape.shape(var), &[views, backend.batch_norm_statistics_rows(), channels])?;
            if views == 0 || batch % views != 0 {
                return Err(Error::op(NAME, format!("{views} views do not divide a batch of {batch}")));
            }
            views
        }
    };
    let compute = tape.dtype(x);
    let z = tape.value(&shape, compute);
    let geometry = Geometry { views, batch, height, width, channels, shortcut: kind, relu };
    tape.record(Record { geometry, compute, parameters, x, shortcut, z, statistics });
    Ok(z)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        let mut vars = vec![self.x, self.parameters.weight, self.parameters.bias];
        vars.extend(self.shortcut);
        vars.extend(self.statistics);
        vars
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.z]
    }

    fn saves(&self) -> Vec<Var> {
        let mut vars = vec![self.x, self.parameters.weight];
        vars.extend(self.geometry.relu.then_some(self.z));
        vars.extend(self.statistics);
        vars
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.z]
    }

    fn differentiates(&self) -> Vec<Var> {
        let mut vars = vec![self.x, self.parameters.weight, self.parameters.bias];
        vars.extend(self.shortcut);
        vars
    }

    fn scratch(&self, backend: &dyn Backend) -> Scratch {
        Scratch { forward: 0, backward: backend.batch_norm_backward_scratch(&self.geometry) }
    }

    fn label(&self) -> String {
        let g = &self.geometry;
        let shortcut = match g.shortcut {
            Shortcut::None => "",
            Shortcut::Identity => " + shortcut",
            Shortcut::OptionA { .. } => " + option A",
        };
        format!("{}x{}x{}x{}{shortcut}{}", g.batch, g.height, g.width, g.channels, if g.relu { ", relu" } else { "" })
    }

    /// Forward: scale, shift, shortcut. Backward: two sums with the normalised input (5), and the input's gradient from
    /// them (5).
    fn flops(&self, pass: Pass, _wanted: &[Var]) -> f64 {
        let elements = self.geometry.shape().iter().product::<usize>() as f64;
        let each = match (pass, self.geometry.shortcut) {
            (Pass::Forward, Shortcut::None) => 2.0,
            (Pass::Forward, _) => 3.0,
            (Pass::Backward, _) => 10.0,
        };
        elements * each
    }

    /// Option A takes every second row and column of its source; its gradient is written whole.
    fn touches(&self, var: Var) -> Option<usize> {
        match self.geometry.shortcut {
            Shortcut::OptionA { channels, .. } if self.shortcut == Some(var) => {
                let g = &self.geometry;
                Some(g.batch * g.height * g.width * channels * self.compute.bytes())
            }
            _ => None,
        }
    }

    fn formula(&self) -> Option<Formula> {
        let Record { parameters, x, shortcut, z: y, .. } = *self;
        let shortcut = shortcut.map(|source| (source, self.geometry.shortcut));
        let inference =
            Formula::Normalisation { x, parameters, epsilon: EPSILON, shortcut, relu: self.geometry.relu, y };
        self.statistics.is_none().then_some(inference)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let p = &self.parameters;
        let (x, z, shortcut) = (run.value(self.x), run.value(self.z), self.shortcut.map(|v| run.value(v)));
        let (weight, bias) = (run.value(p.weight), run.value(p.bias));
        match self.statistics.map(|v| run.value(v)) {
            None => {
                let (running_mean, running_var) = (run.value(p.running_mean), run.value(p.running_var));
                let tensors = Inference { x, weight, bias, running_mean, running_var, shortcut, z };
                run.backend.batch_norm_inference(&self.geometry, &tensors)
            }
            Some(statistics) => {
                let tensors = Forward { x, statistics, weight, bias, shortcut, z };
                run.backend.batch_norm_apply(&self.geometry, &tensors)
            }
        }
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        let Some(statistics) = self.statistics else {
            return Err(Error::op(NAME, "inference statistics have no backward"));
        };
        let tensors = Backward {
            x: run.value(self.x),
            z: run.value(self.z),
            statistics: run.value(statistics),
            weight: run.value(self.parameters.weight),
            dz: run.grad(self.z),
            dx: run.grad_target(self.x),
            dweight: run.grad_target(self.parameters.weight),
            dbias: run.grad_target(self.parameters.bias),
            dshortcut: self.shortcut.and_then(|v| run.grad_target(v)),
            scratch: run.scratch(),
        };
        run.backend.batch_norm_backward(&self.geometry, &tensors)
    }
}
