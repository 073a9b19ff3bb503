//! Columns times learned scales, `y[n][c] = s[c] * x[n][c]`: learnable weight scaling, which a head trains while its weight
//! stays as it is (LWS: Kang et al., "Decoupling representation and classifier for long-tailed recognition", 2020,
//! section 4.2). In the accumulation type, as all of the heads.

use super::{Backend, expect, two};
use crate::error::Result;
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "scale_columns";

/// The tensors of the backward, all of the accumulation type, as in the forward.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// (rows, columns).
    pub x: Tensor,
    /// (columns).
    pub scales: Tensor,
    /// (rows, columns).
    pub dy: Tensor,
    /// (rows, columns); `None` where it is not wanted.
    pub dx: Option<Grad>,
    /// (columns); `None` where it is not wanted.
    pub dscales: Option<Grad>,
}

/// What a backend provides for `scale_columns`.
pub trait ScaleColumnsKernels {
    /// y = s ∘ x, for x and y (rows, columns) and scales (columns).
    fn scale_columns_forward(&self, x: Tensor, scales: Tensor, y: Tensor) -> Result<()>;
    /// dx (+)= s ∘ dy; dscales (+)= sum over the rows of x ∘ dy, in an order that the shape alone decides.
    fn scale_columns_backward(&self, t: &Backward) -> Result<()>;
}

#[derive(Debug)]
struct ScaleColumns {
    extents: [usize; 2],
    x: Var,
    scales: Var,
    y: Var,
}

/// Records `y = s ∘ x` for each row of x (rows, columns), scales (columns); returns y, of x's shape.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn scale_columns(tape: &mut Tape, backend: &dyn Backend, x: Var, scales: Var) -> Result<Var> {
    let extents = two(NAME, "the input", tape.shape(x))?;
    expect(NAME, "the scales", tape.shape(scales), &extents[1..])?;
    let y = tape.value(&extents, backend.precision().accumulate());
    tape.record(ScaleColumns { extents, x, scales, y });
    Ok(y)
}

impl Op for ScaleColumns {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.x, self.scales]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn saves(&self) -> Vec<Var> {
        vec![self.x, self.scales]
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        vec![self.x, self.scales]
    }

    fn label(&self) -> String {
        let [rows, columns] = self.extents;
        format!("{rows}x{columns}")
    }

    /// A product each; for the scales a product and a sum.
    fn flops(&self, pass: Pass, wanted: &[Var]) -> f64 {
        let [rows, columns] = self.extents.map(|extent| extent as f64);
        let each = match pass {
            Pass::Forward => 1.0,
            Pass::Backward => wanted.iter().map(|&var| if var == self.scales { 2.0 } else { 1.0 }).sum(),
        };
        rows * columns * each
    }

    fn formula(&self) -> Option<Formula> {
        let ScaleColumns { x, scales, y, .. } = *self;
        Some(Formula::ScaledColumns { x, scales, y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.scale_columns_forward(run.value(self.x), run.value(self.scales), run.value(self.y))
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.scale_columns_backward(&Backward {
            x: run.value(self.x),
            scales: run.value(self.scales),
            dy: run.grad(self.y),
            dx: run.grad_target(self.x),
            dscales: run.grad_target(self.scales),
        })
    }
}
