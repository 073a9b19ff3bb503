//! The tape: a network and its losses recorded once, planned once, run many times.
//!
//! Ops (see [`crate::ops`]) append themselves with their inputs and outputs; every op declares which values its
//! backward reads, so that nothing else is kept. [`Tape::plan`] then knows the life of every value and every gradient
//! over one forward and one backward pass, and packs them all into a single arena. After that a step allocates
//! nothing, peak memory is known before the first step, and a device can capture the whole step as a graph, since
//! addresses never change.

mod formula;
mod outline;
mod plan;
mod rotation;
mod timing;

pub use formula::Formula;
pub use plan::{Arena, Pass, Program};
pub(crate) use rotation::{Operands, Place, Room};
pub use timing::OpTime;
pub(crate) use timing::time_repeated;

use std::fmt;

use crate::error::Result;
use crate::ops::Backend;
use crate::tensor::{DType, Grad, Shape, Tensor};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(u32);

impl Var {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug)]
enum Storage {
    /// In the arena, at a place that the plan chooses.
    Planned,
    /// In memory that outlives the tape's steps: parameters, running statistics, the data set, the step's scalars.
    External(Tensor),
    /// Where another value lies, but without a gradient.
    StopGradient(Var),
}

#[derive(Clone, Copy, Debug)]
struct Value {
    shape: Shape,
    dtype: DType,
    storage: Storage,
    /// Where a parameter's gradient goes; `None` for values whose gradient lies in the arena or does not exist.
    parameter_grad: Option<Tensor>,
    requires_grad: bool,
    keep: bool,
}

/// Arithmetic and least memory traffic of one pass of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations of the formula; a multiply-add counts as two. An implementation may need fewer (Winograd's
    /// convolutions).
    pub flops: f64,
    /// Bytes, in the types that tensors are stored in: each tensor read once or written once, one that is added to both.
    pub bytes: f64,
}

/// Bytes of memory that an op needs while it runs and not after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    /// During the forward.
    pub forward: usize,
    /// During the backward.
    pub backward: usize,
}

/// One recorded operation.
///
/// Shapes were checked when it was recorded: `forward` and `backward` only look tensors up and call the backend.
pub trait Op: fmt::Debug + Send {
    /// The op's one name, the same at every layer.
    fn name(&self) -> &'static str;
    /// Values that the forward reads.
    fn reads(&self) -> Vec<Var>;
    /// Values that the forward writes.
    fn writes(&self) -> Vec<Var>;
    /// Values, read or written by the forward, that the backward reads again.
    fn saves(&self) -> Vec<Var> {
        Vec::new()
    }
    /// Outputs whose gradient the backward reads.
    fn grads_read(&self) -> Vec<Var> {
        Vec::new()
    }
    /// Inputs that get a gradient.
    fn differentiates(&self) -> Vec<Var> {
        Vec::new()
    }
    /// True for losses: the forward itself writes the gradients of [`Op::differentiates`], in the same kernel as the
    /// loss, and there is no backward.
    fn is_loss(&self) -> bool {
        false
    }
    /// Whether its passes may run several times in one step, as they do when they are timed.
    fn repeats(&self) -> bool {
        true
    }
    /// Memory needed while running.
    fn scratch(&self, _backend: &dyn Backend) -> Scratch {
        Scratch::default()
    }
    /// Shapes and options in a few words, for tables.
    fn label(&self) -> String {
        String::new()
    }
    /// Floating-point operations of a pass, a multiply-add as two. `wanted` are the inputs of which the pass makes the
    /// gradient.
    fn flops(&self, _pass: Pass, _wanted: &[Var]) -> f64 {
        0.0
    }
    /// Bytes of a value that a pass looks at, or of its gradient that it adds to, if it is not all of it: some images of the
    /// data set, a row of a table.
    fn touches(&self, _var: Var) -> Option<usize> {
        None
    }
    /// What it computes in inference; `None` of ops that have no part in it. Whoever writes a network for another program
    /// knows it by this alone.
    fn formula(&self) -> Option<Formula> {
        None
    }
    /// Computes the outputs.
    fn forward(&self, run: &Run<'_>) -> Result<()>;
    /// Computes the inputs' gradients from the outputs'.
    fn backward(&self, _run: &Run<'_>) -> Result<()> {
        Ok(())
    }
}

/// What a running op sees: its backend and where its values and gradients lie.
pub struct Run<'a> {
    /// Who computes.
    pub backend: &'a dyn Backend,
    program: &'a Program,
    node: usize,
    scratch: Option<Tensor>,
    /// Where the operands lie, if not where they were planned.
    place: Option<&'a Place>,
}

impl Run<'_> {
    fn at(&self, tensor: Tensor) -> Tensor {
        self.place.map_or(tensor, |place| place.at(tensor))
    }

    /// Where a value lies.
    pub fn value(&self, var: Var) -> Tensor {
        self.at(self.program.value(var))
    }

    /// The gradient of one of the op's outputs.
    ///
    /// # Panics
    /// If the op did not declare that it reads it.
    pub fn grad(&self, var: Var) -> Tensor {
        let grad = self.program.grad(var).expect("an op reads only gradients that it declared; the plan placed those");
        self.at(grad)
    }

    /// Where to write the gradient of one of the op's inputs; `None` when it is not wanted.
    pub fn grad_target(&self, var: Var) -> Option<Grad> {
        let grad = self.program.grad_target(self.node, var)?;
        Some(Grad { tensor: self.at(grad.tensor), ..grad })
    }

    /// The op's scratch memory, as bytes.
    pub fn scratch(&self) -> Option<Tensor> {
        self.scratch.map(|scratch| self.at(scratch))
    }
}

/// The recording.
#[derive(Default)]
pub struct Tape {
    values: Vec<Value>,
    ops: Vec<Box<dyn Op>>,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Tape {
        Tape::default()
    }

    fn push(&mut self, value: Value) -> Var {
        let var = Var(u32::try_from(self.values.len()).expect("a tape has far fewer than 2^32 values"));
        self.values.push(value);
        var
    }

    /// A value that lies outside the arena and has no gradient: data, running statistics, the step's scalars.
    pub fn external(&mut self, tensor: Tensor) -> Var {
        self.push(Value {
            shape: tensor.shape,
            dtype: tensor.dtype,
            storage: Storage::External(tensor),
            parameter_grad: None,
            requires_grad: false,
            keep: false,
        })
    }

    /// A parameter: a value outside the arena whose gradient is written to `grad`.
    pub fn parameter(&mut self, tensor: Tensor, grad: Tensor) -> Var {
        let var = self.external(tensor);
        let value = &mut self.values[var.index()];
        value.parameter_grad = Some(grad);
        value.requires_grad = true;
        var
    }

    /// A new value in the arena.
    pub fn value(&mut self, shape: &[usize], dtype: DType) -> Var {
        self.push(Value {
            shape: Shape::new(shape),
            dtype,
            storage: Storage::Planned,
            parameter_grad: None,
            requires_grad: false,
            keep: false,
        })
    }

    /// A value in the arena that is an input with a gradient of its own, which the caller fills and reads; both are
    /// kept. For tests of ops.
    pub fn leaf(&mut self, shape: &[usize], dtype: DType) -> Var {
        let var = self.value(shape, dtype);
        self.values[var.index()].requires_grad = true;
        self.keep(var);
        var
    }

    /// The value without its gradient: `sg` of the similarity loss. No copy is made.
    pub fn stop_gradient(&mut self, var: Var) -> Var {
        let value = self.values[var.index()];
        self.push(Value {
            storage: Storage::StopGradient(var),
            requires_grad: false,
            parameter_grad: None,
            keep: false,
            ..value
        })
    }

    /// Keeps a value, and its gradient if it has one, from being overwritten until the next step.
    pub fn keep(&mut self, var: Var) {
        let root = self.root(var);
        self.values[root.index()].keep = true;
    }

    /// A value's shape.
    pub fn shape(&self, var: Var) -> Shape {
        self.values[var.index()].shape
    }

    /// Whether a value gets a gradient.
    pub fn requires_grad(&self, var: Var) -> bool {
        self.values[var.index()].requires_grad
    }

    /// A value's element type.
    pub fn dtype(&self, var: Var) -> DType {
        self.values[var.index()].dtype
    }

    /// Appends an op whose shapes have been checked. Its outputs require a gradient if one of the inputs that it
    /// differentiates does.
    pub fn record(&mut self, op: impl Op + 'static) {
        let requires_grad = op.differentiates().iter().any(|v| self.values[v.index()].requires_grad);
        if requires_grad {
            for var in op.grads_read() {
                self.values[var.index()].requires_grad = true;
            }
        }
        self.ops.push(Box::new(op));
    }

    fn root(&self, mut var: Var) -> Var {
        while let Storage::StopGradient(of) = self.values[var.index()].storage {
            var = of;
        }
        var
    }
}
