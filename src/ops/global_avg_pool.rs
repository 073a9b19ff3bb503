//! Mean over all pixels of an image (`torch.nn.functional.adaptive_avg_pool2d(x, 1)`).

use super::{Backend, four};
use crate::error::Result;
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "global_avg_pool";

/// What a backend provides for `global_avg_pool`. x has the compute type, y the accumulation type.
pub trait GlobalAvgPoolKernels {
    /// y (batch, channels) = mean over rows and columns of x (batch, height, width, channels).
    fn global_avg_pool_forward(&self, x: Tensor, y: Tensor) -> Result<()>;
    /// dx (+)= dy / (height * width), for every pixel.
    fn global_avg_pool_backward(&self, dy: Tensor, dx: Grad) -> Result<()>;
}

#[derive(Debug)]
struct GlobalAvgPool {
    extents: [usize; 4],
    x: Var,
    y: Var,
}

/// Records the mean over rows and columns: (batch, height, width, channels) -> (batch, channels), in the accumulation
/// type, since the heads that follow run in it.
///
/// # Errors
/// When x is no image tensor.
pub fn global_avg_pool(tape: &mut Tape, backend: &dyn Backend, x: Var) -> Result<Var> {
    let extents = four(NAME, "the input", tape.shape(x))?;
    let y = tape.value(&[extents[0], extents[3]], backend.precision().accumulate());
    tape.record(GlobalAvgPool { extents, x, y });
    Ok(y)
}

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x]
    }

    fn label(&self) -> String {
        let [b, h, w, c] = self.extents;
        format!("{b}x{h}x{w}x{c}")
    }

    /// Forward, one addition per value; backward, one division per channel.
    fn flops(&self, pass: Pass, _wanted: &[Var]) -> f64 {
        let [b, h, w, c] = self.extents;
        (b * c * if pass == Pass::Forward { h * w } else { 1 }) as f64
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::MeanOfPixels { x: self.x, y: self.y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.global_avg_pool_forward(run.value(self.x), run.value(self.y))
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        match run.grad_target(self.x) {
            Some(dx) => run.backend.global_avg_pool_backward(run.grad(self.y), dx),
            None => Ok(()),
        }
    }
}
