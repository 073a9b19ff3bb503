//! Parameters: declared by PyTorch's names and shapes, stored flat so that one kernel updates all of them.

use rand_distr::{Distribution, StandardNormal};

use super::groups::{Rule, Rules};
use crate::error::Result;
use crate::memory::{read_floats, write_floats};
use crate::ops::Backend;
use crate::ops::checksum::SCRATCH;
use crate::rng::philox::{Purpose, Stream};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Shape, Tensor};

/// Every parameter starts at a multiple of this many elements, so that vector loads of any element type are aligned.
const ALIGNMENT: usize = 128;

/// What a parameter is for: decides its layout, its start and whether it is learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Convolution weight; OIHW in PyTorch, OHWI here. Starts by the network's [`Start`].
    ConvWeight,
    /// Linear weight (out, in). Starts by the network's [`Start`].
    LinearWeight,
    /// Linear bias: uniform in ±1/sqrt(fan in), PyTorch's default.
    LinearBias {
        /// Inputs of the layer.
        fan_in: usize,
    },
    /// Linear bias that starts the same for every class.
    ConstantBias {
        /// Where it starts.
        value: f64,
    },
    /// Cosine head's weight (out, in): uniform in ±1, then each row divided by its length (LDAM-DRW's `NormedLinear`, whose
    /// weight is (in, out) with columns of length 1).
    CosineWeight,
    /// Scale of a class's logit: 1.
    HeadScale,
    /// Scale of a normalisation: 1.
    NormWeight,
    /// Shift of a normalisation: 0.
    NormBias,
    /// Running mean: 0; not learned.
    RunningMean,
    /// Running variance: 1; not learned.
    RunningVar,
}

impl Kind {
    /// Whether the optimiser updates it.
    pub fn is_learned(self) -> bool {
        !matches!(self, Kind::RunningMean | Kind::RunningVar)
    }
}

/// One declared parameter.
#[derive(Clone, Debug)]
pub struct Spec {
    /// PyTorch's name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: Kind,
    /// Input channels as stored: padded with zeros where a backend's stem wants it.
    stored_channels: usize,
}

impl Spec {
    /// The shape as stored: OHWI for convolutions.
    fn stored_shape(&self) -> Vec<usize> {
        match (self.kind, self.shape.as_slice()) {
            (Kind::ConvWeight, &[o, _, h, w]) => vec![o, h, w, self.stored_channels],
            (_, shape) => shape.to_vec(),
        }
    }

    fn stored_elements(&self) -> usize {
        self.stored_shape().iter().product()
    }

    /// Number of elements in PyTorch's shape.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where element (o, i, h, w) of PyTorch's layout lies in the stored one, for each in PyTorch's order.
    fn stored_indices(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match (self.kind, self.shape.as_slice()) {
            (Kind::ConvWeight, &[o, i, h, w]) => {
                let c = self.stored_channels;
                Box::new((0..o * i * h * w).map(move |at| {
                    let (x, y) = (at % w, at / w % h);
                    let (input, output) = (at / (w * h) % i, at / (w * h * i));
                    ((output * h + y) * w + x) * c + input
                }))
            }
            _ => Box::new(0..self.elements()),
        }
    }
}

/// Names a declared parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

/// How the weights of a network's convolutions and linear heads start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Kaiming-normal with fan in, convolutions and heads: GLMC's CIFAR ResNets.
    #[default]
    FanIn,
    /// Convolutions Kaiming-normal with fan out (torchvision, GLMC on ImageNet-LT), heads as [`Start::Framework`].
    FanOut,
    /// As PyTorch's layers by themselves: uniform in ±1/sqrt(fan in).
    Framework,
}

/// The parameters that a network declares, in PyTorch's order.
#[derive(Clone, Debug, Default)]
pub struct Specs {
    list: Vec<Spec>,
    /// How their weights start.
    pub start: Start,
}

impl Specs {
    /// Declares a parameter of PyTorch's name and shape.
    pub fn declare(&mut self, name: String, shape: &[usize], kind: Kind) -> ParameterId {
        let stored_channels = if kind == Kind::ConvWeight { shape[1] } else { 0 };
        self.list.push(Spec { name, shape: shape.to_vec(), kind, stored_channels });
        ParameterId(self.list.len() - 1)
    }

    /// Declares a convolution weight whose input channels are stored padded to `channels`.
    pub fn declare_padded(&mut self, name: String, shape: &[usize], channels: usize) -> ParameterId {
        let id = self.declare(name, shape, Kind::ConvWeight);
        self.list[id.0].stored_channels = channels;
        id
    }

    /// All declared parameters.
    pub fn iter(&self) -> impl Iterator<Item = &Spec> {
        self.list.iter()
    }

    /// Elements that are learned, as papers count them.
    pub fn learned_elements(&self) -> usize {
        self.iter().filter(|s| s.kind.is_learned()).map(Spec::elements).sum()
    }
}

/// The flat arrays of a parameter store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Weights and running statistics.
    Value,
    /// Gradients of the last step.
    Grad,
    /// The optimiser's momentum.
    Momentum,
}

/// A network's parameters on a backend.
pub struct ParameterStore {
    specs: Specs,
    /// Offset of each parameter, in elements, in the learned arrays or in `statistics`.
    offsets: Vec<usize>,
    /// Accumulation type, all learned parameters.
    pub master: Tensor,
    /// Compute type, the copy of `master` that products read; `None` where the types agree.
    pub compute: Option<Tensor>,
    /// Accumulation type, like `master`.
    pub grad: Tensor,
    /// Accumulation type, like `master`.
    pub momentum: Tensor,
    statistics: Tensor,
    /// For the look at what is not finite.
    scratch: Tensor,
}

impl ParameterStore {
    /// Allocates the parameters that `specs` declares; all zero.
    ///
    /// # Errors
    /// When the backend has not that much memory.
    pub fn new(backend: &dyn Backend, specs: Specs) -> Result<ParameterStore> {
        let precision = backend.precision();
        let (offsets, learned, statistics) = layout(&specs);
        let (accumulate, compute) = (precision.accumulate(), precision.compute());
        let flat = |elements: usize, dtype: DType, what: &str| backend.tensor(&[elements], dtype, what);
        Ok(ParameterStore {
            offsets,
            master: flat(learned, accumulate, "parameters")?,
            compute: (compute != accumulate)
                .then(|| flat(learned, compute, "parameters in the compute type"))
                .transpose()?,
            grad: flat(learned, accumulate, "gradients")?,
            momentum: flat(learned, accumulate, "momentum")?,
            statistics: flat(statistics, accumulate, "running statistics")?,
            scratch: flat(SCRATCH, DType::U8, "parts of a checksum")?,
            specs,
        })
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        let arrays = [Some(self.master), self.compute, Some(self.grad), Some(self.momentum), Some(self.statistics)];
        arrays.iter().flatten().map(Tensor::bytes).sum()
    }

    /// The declared parameters.
    pub fn specs(&self) -> &Specs {
        &self.specs
    }

    /// The parameters that are trained, as few pieces as have one rule each: their first element and their number in the
    /// learned arrays, and the rule.
    pub fn runs(&self, rules: &Rules) -> Vec<(usize, usize, Rule)> {
        let mut runs: Vec<(usize, usize, Rule)> = Vec::new();
        for (index, (spec, &at)) in self.specs.iter().zip(&self.offsets).enumerate() {
            let rule = rules.get(index);
            if !spec.kind.is_learned() || rule.frozen {
                continue;
            }
            let elements = spec.stored_elements().next_multiple_of(ALIGNMENT);
            // What a batch normalisation uses is no matter of the optimiser's.
            let same = |other: &Rule| (other.lr_factor, other.weight_decay) == (rule.lr_factor, rule.weight_decay);
            match runs.last_mut() {
                Some((start, count, last)) if *start + *count == at && same(last) => *count += elements,
                _ => runs.push((at, elements, rule)),
            }
        }
        runs
    }

    /// Parameter `index` as stored, its master weights and the copy that products read.
    pub fn weights(&self, index: usize) -> (Tensor, Option<Tensor>) {
        let (at, shape) = (self.offsets[index], self.specs.list[index].stored_shape());
        (part(self.master, at, &shape), self.compute.map(|compute| part(compute, at, &shape)))
    }

    /// Puts every parameter on a tape, in the order of declaration; those whose gradient `rules` do not want, without one.
    pub fn bind(&self, tape: &mut Tape, rules: Option<&Rules>) -> Vec<Var> {
        self.specs
            .iter()
            .zip(&self.offsets)
            .enumerate()
            .map(|(index, (spec, &at))| {
                let shape = spec.stored_shape();
                if !spec.kind.is_learned() {
                    return tape.external(part(self.statistics, at, &shape));
                }
                // Convolutions read the compute type; heads and normalisations run in the accumulation type.
                let weights = match (spec.kind, self.compute) {
                    (Kind::ConvWeight, Some(compute)) => compute,
                    _ => self.master,
                };
                match rules {
                    Some(rules) if !rules.is_differentiated(index) => tape.external(part(weights, at, &shape)),
                    _ => tape.parameter(part(weights, at, &shape), part(self.grad, at, &shape)),
                }
            })
            .collect()
    }

    /// Draws the start that PyTorch's model draws: weights by the network's [`Start`], default biases, and what [`Kind`] says of
    /// others.
    pub fn initialise(&self, backend: &dyn Backend, seed: u64) -> Result<()> {
        let mut snapshot = self.snapshot(backend, Field::Value)?;
        for (index, spec) in self.specs.iter().enumerate() {
            let mut words = Stream::new(seed, 0, index as u32, Purpose::Initialise);
            let normal = |words: &mut Stream, fan: usize| -> Vec<f64> {
                let std = (2.0 / fan as f64).sqrt();
                let mut draw = |_| {
                    let unit: f64 = StandardNormal.sample(words);
                    f64::from((std * unit) as f32)
                };
                (0..spec.elements()).map(&mut draw).collect()
            };
            let uniform = |words: &mut Stream, fan_in: usize| -> Vec<f64> {
                let bound = 1.0 / (fan_in as f64).sqrt();
                (0..spec.elements()).map(|_| f64::from((bound * (2.0 * words.unit() - 1.0)) as f32)).collect()
            };
            let fan_in = spec.shape.iter().skip(1).product();
            let values = match (spec.kind, self.specs.start) {
                (Kind::ConvWeight, Start::FanOut) => {
                    // As PyTorch counts, whatever the groups: filters times the kernel's taps.
                    normal(&mut words, spec.shape[0] * spec.shape[2] * spec.shape[3])
                }
                (Kind::ConvWeight | Kind::LinearWeight, Start::FanIn) => normal(&mut words, fan_in),
                (Kind::ConvWeight | Kind::LinearWeight, _) => uniform(&mut words, fan_in),
                (Kind::LinearBias { fan_in }, _) => uniform(&mut words, fan_in),
                (Kind::CosineWeight, _) => {
                    let drawn: Vec<f64> = (0..spec.elements()).map(|_| 2.0 * words.unit() - 1.0).collect();
                    let rows = drawn.chunks_exact(spec.shape[1].max(1));
                    rows.flat_map(|row| {
                        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                        row.iter().map(move |v| f64::from((v / length) as f32))
                    })
                    .collect()
                }
                (Kind::ConstantBias { value }, _) => vec![f64::from(value as f32); spec.elements()],
                (Kind::NormWeight | Kind::RunningVar | Kind::HeadScale, _) => vec![1.0; spec.elements()],
                (Kind::NormBias | Kind::RunningMean, _) => vec![0.0; spec.elements()],
            };
            snapshot.set(index, &values);
        }
        self.restore(backend, Field::Value, &snapshot)
    }

    /// How many numbers of parameters, running statistics and momentum are not finite, counted where they lie.
    ///
    /// # Errors
    /// When the device fails.
    pub fn not_finite(&self, backend: &dyn Backend) -> Result<u64> {
        [self.master, self.statistics, self.momentum]
            .into_iter()
            .try_fold(0, |all, flat| Ok(all + backend.checksum(flat, self.scratch)?.not_finite))
    }

    /// Copies one field to the host. Parameters that the field does not have (gradients of running statistics) are zero.
    pub fn snapshot(&self, backend: &dyn Backend, field: Field) -> Result<Snapshot<'_>> {
        let flat = match field {
            Field::Value => self.master,
            Field::Grad => self.grad,
            Field::Momentum => self.momentum,
        };
        let statistics = match field {
            Field::Value => read_floats(backend, self.statistics)?,
            _ => vec![0.0; self.statistics.elements()],
        };
        Ok(Snapshot { store: self, learned: read_floats(backend, flat)?, statistics })
    }

    /// Writes a snapshot back.
    pub fn restore(&self, backend: &dyn Backend, field: Field, snapshot: &Snapshot<'_>) -> Result<()> {
        match field {
            Field::Grad => write_floats(backend, self.grad, &snapshot.learned),
            Field::Momentum => write_floats(backend, self.momentum, &snapshot.learned),
            Field::Value => {
                write_floats(backend, self.master, &snapshot.learned)?;
                write_floats(backend, self.statistics, &snapshot.statistics)?;
                match self.compute {
                    Some(compute) => backend.cast_weights(self.master, compute),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A piece of a flat array, from element `at` on.
pub fn part(flat: Tensor, at: usize, shape: &[usize]) -> Tensor {
    Tensor { offset: flat.offset + at * flat.dtype.bytes(), shape: Shape::new(shape), ..flat }
}

/// Offsets of all parameters and the sizes of the two flat arrays, in elements.
fn layout(specs: &Specs) -> (Vec<usize>, usize, usize) {
    let (mut learned, mut statistics) = (0, 0);
    let offsets = specs
        .iter()
        .map(|spec| {
            let end = if spec.kind.is_learned() { &mut learned } else { &mut statistics };
            let at = *end;
            *end += spec.stored_elements().next_multiple_of(ALIGNMENT);
            at
        })
        .collect();
    (offsets, learned, statistics)
}

/// One field of all parameters on the host, read and written in PyTorch's layout. Doubles hold every type exactly.
pub struct Snapshot<'a> {
    store: &'a ParameterStore,
    learned: Vec<f64>,
    statistics: Vec<f64>,
}

impl Snapshot<'_> {
    /// Parameter `index` (order of declaration) in PyTorch's layout.
    pub fn get(&self, index: usize) -> Vec<f64> {
        let spec = &self.store.specs.list[index];
        let flat = if spec.kind.is_learned() { &self.learned } else { &self.statistics };
        let base = self.store.offsets[index];
        spec.stored_indices().map(|i| flat[base + i]).collect()
    }

    /// Replaces parameter `index` by `values` in PyTorch's layout.
    ///
    /// # Panics
    /// When the number of values differs: callers check shapes with a message of their own.
    pub fn set(&mut self, index: usize, values: &[f64]) {
        let spec = &self.store.specs.list[index];
        assert_eq!(values.len(), spec.elements(), "{}", spec.name);
        let flat = if spec.kind.is_learned() { &mut self.learned } else { &mut self.statistics };
        let base = self.store.offsets[index];
        spec.stored_indices().zip(values).for_each(|(i, &v)| flat[base + i] = v);
    }
}

impl ParameterId {
    /// Place in the order of declaration.
    pub fn index(self) -> usize {
        self.0
    }
}
