//! The affine layer `y = x weightᵀ + bias`, with or without its bias (`torch.nn.functional.linear`), in the accumulation type: heads are a
//! thousandth of the arithmetic, and logits in single keep the losses exact.

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "linear";

/// The tensors of a forward, all of the accumulation type, as in the two passes of the backward.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// (batch, in).
    pub x: Tensor,
    /// (out, in).
    pub weight: Tensor,
    /// (out); `None` counts as zeros.
    pub bias: Option<Tensor>,
    /// (batch, out), written.
    pub y: Tensor,
}

/// The tensors of the input's gradient.
#[derive(Clone, Copy, Debug)]
pub struct InputGrad {
    /// (batch, out).
    pub dy: Tensor,
    /// (out, in).
    pub weight: Tensor,
    /// (batch, in).
    pub dx: Grad,
}

/// The tensors of the parameters' gradients.
#[derive(Clone, Copy, Debug)]
pub struct WeightGrad {
    /// (batch, in).
    pub x: Tensor,
    /// (batch, out).
    pub dy: Tensor,
    /// (out, in), written.
    pub dweight: Tensor,
    /// (out), written; `None` where the layer has no bias.
    pub dbias: Option<Tensor>,
}

/// What a backend provides for `linear`.
pub trait LinearKernels {
    /// y = x weightᵀ + bias.
    fn linear_forward(&self, t: &Forward) -> Result<()>;
    /// dx (+)= dy weight.
    fn linear_input_grad(&self, t: &InputGrad) -> Result<()>;
    /// dweight = dyᵀ x; dbias = sum over the batch of dy.
    fn linear_weight_grad(&self, t: &WeightGrad) -> Result<()>;
}

#[derive(Debug)]
struct Linear {
    extents: [usize; 3],
    x: Var,
    weight: Var,
    bias: Option<Var>,
    y: Var,
}

/// Records `y = x weightᵀ + bias`; x (batch, in), weight (out, in), bias (out) or none; returns y (batch, out). Weight and
/// bias are learned or not together.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn linear(tape: &mut Tape, backend: &dyn Backend, x: Var, weight: Var, bias: Option<Var>) -> Result<Var> {
    let [batch, inputs] = two(NAME, "the input", tape.shape(x))?;
    let [outputs, _] = two(NAME, "the weight", tape.shape(weight))?;
    expect(NAME, "the weight", tape.shape(weight), &[outputs, inputs])?;
    if let Some(bias) = bias {
        expect(NAME, "the bias", tape.shape(bias), &[outputs])?;
    }
    let y = tape.value(&[batch, outputs], backend.precision().accumulate());
    tape.record(Linear { extents: [batch, inputs, outputs], x, weight, bias, y });
    Ok(y)
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        [self.x, self.weight].into_iter().chain(self.bias).collect()
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn saves(&self) -> Vec<Var> {
        vec![self.x, self.weight]
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        self.reads()
    }

    fn label(&self) -> String {
        let [b, i, o] = self.extents;
        format!("{b}x{i} -> {o}")
    }

    fn flops(&self, pass: Pass, wanted: &[Var]) -> f64 {
        let [b, i, o] = self.extents.map(|e| e as f64);
        let products = match pass {
            Pass::Forward => 1,
            Pass::Backward => wanted.iter().filter(|&&v| Some(v) != self.bias).count(),
        };
        // The bias is added forward and summed backward.
        let bias = if self.bias.is_some() { b * o } else { 0.0 };
        products as f64 * 2.0 * b * i * o + bias
    }

    fn formula(&self) -> Option<Formula> {
        let Linear { x, weight, bias, y, .. } = *self;
        Some(Formula::Affine { x, weight, bias, y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.linear_forward(&Forward {
            x: run.value(self.x),
            weight: run.value(self.weight),
            bias: self.bias.map(|bias| run.value(bias)),
            y: run.value(self.y),
        })
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        let dy = run.grad(self.y);
        if let Some(Grad { tensor: dweight, .. }) = run.grad_target(self.weight) {
            let dbias = self.bias.and_then(|bias| run.grad_target(bias)).map(|grad| grad.tensor);
            run.backend.linear_weight_grad(&WeightGrad { x: run.value(self.x), dy, dweight, dbias })?;
        }
        if let Some(dx) = run.grad_target(self.x) {
            run.backend.linear_input_grad(&InputGrad { dy, weight: run.value(self.weight), dx })?;
        }
        Ok(())
    }
}
