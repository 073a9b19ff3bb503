//! The affine layer `y = x weightᵀ + bias` (`torch.nn.functional.linear`), in the accumulation type: heads are a
//! thousandth of the arithmetic, and logits in single keep the losses exact.

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

const NAME: &str = "linear";

/// What a backend provides for `linear`. All tensors have the accumulation type.
pub trait LinearKernels {
    /// y (batch, out) = x (batch, in) weightᵀ + bias; weight (out, in), bias (out).
    fn linear_forward(&self, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> Result<()>;
    /// dx (+)= dy weight.
    fn linear_input_grad(&self, dy: Tensor, weight: Tensor, dx: Grad) -> Result<()>;
    /// dweight = dyᵀ x; dbias = sum over the batch of dy.
    fn linear_weight_grad(&self, x: Tensor, dy: Tensor, dweight: Tensor, dbias: Tensor) -> Result<()>;
}

#[derive(Debug)]
struct Linear {
    extents: [usize; 3],
    x: Var,
    weight: Var,
    bias: Var,
    y: Var,
}

/// Records `y = x weightᵀ + bias`; x (batch, in), weight (out, in), bias (out); returns y (batch, out).
///
/// # Errors
/// When the shapes do not fit each other.
pub fn linear(tape: &mut Tape, backend: &dyn Backend, x: Var, weight: Var, bias: Var) -> Result<Var> {
    let [batch, inputs] = two(NAME, "the input", tape.shape(x))?;
    let [outputs, _] = two(NAME, "the weight", tape.shape(weight))?;
    expect(NAME, "the weight", tape.shape(weight), &[outputs, inputs])?;
    expect(NAME, "the bias", tape.shape(bias), &[outputs])?;
    let y = tape.value(&[batch, outputs], backend.precision().accumulate());
    tape.record(Linear { extents: [batch, inputs, outputs], x, weight, bias, y });
    Ok(y)
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x, self.weight, self.bias]
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
        vec![self.x, self.weight, self.bias]
    }

    fn label(&self) -> String {
        let [b, i, o] = self.extents;
        format!("{b}x{i} -> {o}")
    }

    fn flops(&self, pass: Pass, wanted: &[Var]) -> f64 {
        let [b, i, o] = self.extents.map(|e| e as f64);
        let products = match pass {
            Pass::Forward => 1,
            Pass::Backward => wanted.iter().filter(|&&v| v != self.bias).count(),
        };
        // The bias is added forward and summed backward.
        products as f64 * 2.0 * b * i * o + b * o
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.linear_forward(run.value(self.x), run.value(self.weight), run.value(self.bias), run.value(self.y))
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        let dy = run.grad(self.y);
        if let (Some(dweight), Some(dbias)) = (run.grad_target(self.weight), run.grad_target(self.bias)) {
            run.backend.linear_weight_grad(run.value(self.x), dy, dweight.tensor, dbias.tensor)?;
        }
        if let Some(dx) = run.grad_target(self.x) {
            run.backend.linear_input_grad(dy, run.value(self.weight), dx)?;
        }
        Ok(())
    }
}
