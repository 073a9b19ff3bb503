//! Layers: a layer declares its parameters when it is built and records its ops when it is asked to.

use super::groups::{BatchNorm, Rules};
use super::model::{BiasStart, HeadShape, HeadSpec};
use super::parameters::{Kind, ParameterId, ParameterStore, Specs};
use crate::error::{Error, Result};
use crate::ops::Backend;
use crate::ops::batch_norm_apply::{Parameters, batch_norm_apply};
use crate::ops::batch_norm_statistics::batch_norm_statistics;
use crate::ops::conv2d::{self, conv2d};
use crate::ops::linear::linear;
use crate::ops::normalize_rows::normalize_rows;
use crate::ops::scale_columns::scale_columns;
use crate::tape::{Tape, Var};

/// For what a network is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, one set for each of the views that make up the batch.
    Train { views: usize },
    /// Running statistics.
    Inference,
}

/// Records layers: a tape, the parameters on it, and for what.
pub struct Recorder<'a> {
    pub tape: Tape,
    /// For which backend.
    pub backend: &'a dyn Backend,
    /// Training or inference.
    pub mode: Mode,
    /// F32 (batch): in training, by what a network of two branches weighs the first of them.
    pub shares: Option<Var>,
    parameters: Vec<Var>,
    /// Per parameter, what a batch normalisation uses whose scale it is.
    norms: Vec<BatchNorm>,
}

impl<'a> Recorder<'a> {
    /// A fresh tape with a store's parameters on it.
    pub fn new(backend: &'a dyn Backend, store: &ParameterStore, mode: Mode) -> Recorder<'a> {
        let mut tape = Tape::new();
        let parameters = store.bind(&mut tape, None);
        let norms = vec![BatchNorm::Train; parameters.len()];
        Recorder { tape, backend, mode, shares: None, parameters, norms }
    }

    /// As [`Recorder::new`], where parameters are trained by `rules`: those that are frozen get no gradient. Without
    /// `updates` all running statistics stay as they are.
    pub fn with_rules(
        backend: &'a dyn Backend,
        store: &ParameterStore,
        mode: Mode,
        rules: &Rules,
        updates: bool,
    ) -> Recorder<'a> {
        let mut tape = Tape::new();
        let parameters = store.bind(&mut tape, Some(rules));
        let norm = |index| match rules.get(index).batch_norm {
            BatchNorm::Train if !updates => BatchNorm::BatchStatistics,
            norm => norm,
        };
        let norms = (0..parameters.len()).map(norm).collect();
        Recorder { tape, backend, mode, shares: None, parameters, norms }
    }

    /// Every parameter's value on the tape, in the order of declaration.
    pub fn parameters(&self) -> &[Var] {
        &self.parameters
    }

    /// A parameter's value on the tape.
    pub fn parameter(&self, id: ParameterId) -> Var {
        self.parameters[id.index()]
    }
}

/// A convolution, its batch normalisation, and what follows them.
#[derive(Clone, Debug)]
pub struct ConvBn {
    weight: ParameterId,
    norm: [ParameterId; 4],
    /// The normalisation's name, for messages.
    name: String,
    stride: usize,
    padding: usize,
    groups: usize,
}

/// Extents of a [`ConvBn`].
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    /// Input channels.
    pub channels: usize,
    /// Input channels as stored, if a stem's input is padded.
    pub stored_channels: usize,
    /// Output channels.
    pub filters: usize,
    /// Kernel rows and columns; padding is half of it.
    pub kernel: usize,
    pub stride: usize,
    /// Groups, which divide all channels.
    pub groups: usize,
}

impl ConvBn {
    /// Declares `{conv}.weight` and `{bn}.{weight, bias, running_mean, running_var}`.
    pub fn new(specs: &mut Specs, conv: &str, bn: &str, c: ConvConfig) -> ConvBn {
        let shape = [c.filters, c.channels / c.groups, c.kernel, c.kernel];
        let weight = specs.declare_padded(format!("{conv}.weight"), &shape, c.stored_channels / c.groups);
        let mut norm = |name: &str, kind| specs.declare(format!("{bn}.{name}"), &[c.filters], kind);
        let norm = [
            norm("weight", Kind::NormWeight),
            norm("bias", Kind::NormBias),
            norm("running_mean", Kind::RunningMean),
            norm("running_var", Kind::RunningVar),
        ];
        ConvBn { weight, norm, name: bn.into(), stride: c.stride, padding: c.kernel / 2, groups: c.groups }
    }

    /// Records `relu(bn(conv(x)) + shortcut)`.
    pub fn record(&self, r: &mut Recorder<'_>, x: Var, shortcut: Option<Var>, relu: bool) -> Result<Var> {
        let [weight, bias, running_mean, running_var] = self.norm.map(|id| r.parameter(id));
        let parameters = Parameters { weight, bias, running_mean, running_var };
        let norm = r.norms[self.norm[0].index()];
        let kernel = r.parameter(self.weight);
        let (views, sums) = match r.mode {
            Mode::Train { views } if norm != BatchNorm::Running => (views, true),
            Mode::Train { .. } => {
                let trained = [Some(x), Some(kernel), Some(weight), Some(bias), shortcut];
                if trained.into_iter().flatten().any(|var| r.tape.requires_grad(var)) {
                    return Err(Error::Config(format!(
                        "batch_norm = \"running\" for {}: it and all before it must be frozen; take \"batch\" or \"train\"",
                        self.name
                    )));
                }
                (1, false)
            }
            Mode::Inference => (1, false),
        };
        let updates = norm == BatchNorm::Train;
        let config = conv2d::Config { stride: self.stride, padding: self.padding, views, groups: self.groups, sums };
        let (y, sums) = conv2d(&mut r.tape, r.backend, x, kernel, config)?;
        let statistics =
            sums.map(|sums| batch_norm_statistics(&mut r.tape, r.backend, y, sums, parameters, updates)).transpose()?;
        batch_norm_apply(&mut r.tape, r.backend, y, parameters, statistics, shortcut, relu)
    }
}

/// A head: an affine layer, or one of its relatives. Its logits are (batch, outputs).
#[derive(Clone, Debug)]
pub enum Head {
    /// `x weightᵀ + bias`.
    Linear { weight: ParameterId, bias: ParameterId },
    /// The cosine of x and each row of the weight.
    Cosine { weight: ParameterId },
    /// `scales ∘ (x weightᵀ + bias)`.
    Scaled { weight: ParameterId, bias: ParameterId, scales: ParameterId },
}

impl Head {
    /// Declares `{name}.weight` (outputs, inputs), and by its shape `{name}.bias` and `{name}.scales` (outputs).
    pub fn new(specs: &mut Specs, spec: &HeadSpec, inputs: usize, outputs: usize) -> Head {
        let mut declare =
            |what: &str, shape: &[usize], kind| specs.declare(format!("{}.{what}", spec.name), shape, kind);
        let matrix = [outputs, inputs];
        let start = match spec.bias {
            BiasStart::Default => Kind::LinearBias { fan_in: inputs },
            BiasStart::Constant(value) => Kind::ConstantBias { value },
        };
        match spec.shape {
            HeadShape::Linear => Head::Linear {
                weight: declare("weight", &matrix, Kind::LinearWeight),
                bias: declare("bias", &[outputs], start),
            },
            HeadShape::Cosine => Head::Cosine { weight: declare("weight", &matrix, Kind::CosineWeight) },
            HeadShape::Scaled => Head::Scaled {
                weight: declare("weight", &matrix, Kind::LinearWeight),
                bias: declare("bias", &[outputs], start),
                scales: declare("scales", &[outputs], Kind::HeadScale),
            },
        }
    }

    /// Records the head on x (batch, inputs).
    pub fn record(&self, r: &mut Recorder<'_>, x: Var) -> Result<Var> {
        match *self {
            Head::Linear { weight, bias } => {
                let (weight, bias) = (r.parameter(weight), r.parameter(bias));
                linear(&mut r.tape, r.backend, x, weight, Some(bias))
            }
            Head::Cosine { weight } => {
                let weight = r.parameter(weight);
                let x = normalize_rows(&mut r.tape, r.backend, x)?;
                let weight = normalize_rows(&mut r.tape, r.backend, weight)?;
                linear(&mut r.tape, r.backend, x, weight, None)
            }
            Head::Scaled { weight, bias, scales } => {
                let logits = Head::Linear { weight, bias }.record(r, x)?;
                let scales = r.parameter(scales);
                scale_columns(&mut r.tape, r.backend, logits, scales)
            }
        }
    }
}
