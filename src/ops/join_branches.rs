//! The features of two branches side by side, each times twice its share of the step (BBN: Zhou et al., CVPR 2020, equation 1;
//! the factor 2 is of the authors' code). The shares are those of the labels, so that features and losses move from one branch to
//! the other together. In the accumulation type, as all of the heads.

use super::{Backend, expect, two};
use crate::error::{Error, Result};
use crate::tape::{Formula, Op, Pass, Run, Tape, Var};
use crate::tensor::{DType, Grad, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "join_branches";

/// The tensors of the backward.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// Accumulation type (batch, 2 * features).
    pub dy: Tensor,
    /// F32 (batch), as in the forward.
    pub shares: Option<Tensor>,
    /// Accumulation type (batch, features); `None` where it is not wanted.
    pub dfirst: Option<Grad>,
    /// Accumulation type (batch, features); `None` where it is not wanted.
    pub dsecond: Option<Grad>,
}

/// What a backend provides for `join_branches`.
pub trait JoinBranchesKernels {
    /// `y[n] = (2 s first[n], 2 (1 - s) second[n])` with s = shares\[n\]; without shares both factors are 1. first and second
    /// (batch, features), y (batch, 2 * features), accumulation type; shares F32 (batch), whatever the precision.
    fn join_branches_forward(&self, first: Tensor, second: Tensor, shares: Option<Tensor>, y: Tensor) -> Result<()>;
    /// dfirst (+)= 2 s dy\[..features\]; dsecond (+)= 2 (1 - s) dy\[features..\], for each row.
    fn join_branches_backward(&self, t: &Backward) -> Result<()>;
}

#[derive(Debug)]
struct JoinBranches {
    extents: [usize; 2],
    branches: [Var; 2],
    shares: Option<Var>,
    y: Var,
}

/// Records the joining of the features of two branches, (batch, features) each; returns (batch, 2 * features). In training
/// `shares`, F32 (batch), weigh the branches; evaluation has none, and takes the features as they are.
///
/// # Errors
/// When the shapes do not fit each other.
pub fn join_branches(tape: &mut Tape, backend: &dyn Backend, branches: [Var; 2], shares: Option<Var>) -> Result<Var> {
    let [first, second] = branches;
    let extents = two(NAME, "the first branch", tape.shape(first))?;
    expect(NAME, "the second branch", tape.shape(second), &extents)?;
    let [batch, features] = extents;
    if first == second {
        return Err(Error::op(NAME, "the two branches are one"));
    }
    if let Some(shares) = shares {
        expect(NAME, "the shares", tape.shape(shares), &[batch])?;
        if tape.dtype(shares) != DType::F32 {
            return Err(Error::op(NAME, format!("the shares are F32, not {:?}", tape.dtype(shares))));
        }
    }
    let y = tape.value(&[batch, 2 * features], backend.precision().accumulate());
    tape.record(JoinBranches { extents, branches, shares, y });
    Ok(y)
}

impl Op for JoinBranches {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        self.branches.into_iter().chain(self.shares).collect()
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn saves(&self) -> Vec<Var> {
        self.shares.into_iter().collect()
    }

    fn grads_read(&self) -> Vec<Var> {
        vec![self.y]
    }

    fn differentiates(&self) -> Vec<Var> {
        self.branches.to_vec()
    }

    fn label(&self) -> String {
        let [batch, features] = self.extents;
        format!("2x{batch}x{features}")
    }

    /// A product each.
    fn flops(&self, pass: Pass, wanted: &[Var]) -> f64 {
        let [batch, features] = self.extents;
        let branches = if pass == Pass::Forward { 2 } else { wanted.len() };
        (branches * batch * features) as f64
    }

    fn formula(&self) -> Option<Formula> {
        // In evaluation features are as they are.
        self.shares.is_none().then_some(Formula::SideBySide { parts: self.branches, y: self.y })
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let [first, second] = self.branches.map(|branch| run.value(branch));
        let shares = self.shares.map(|shares| run.value(shares));
        run.backend.join_branches_forward(first, second, shares, run.value(self.y))
    }

    fn backward(&self, run: &Run<'_>) -> Result<()> {
        let [dfirst, dsecond] = self.branches.map(|branch| run.grad_target(branch));
        run.backend.join_branches_backward(&Backward {
            dy: run.grad(self.y),
            shares: self.shares.map(|shares| run.value(shares)),
            dfirst,
            dsecond,
        })
    }
}
