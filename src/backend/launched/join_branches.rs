//! `join_branches_forward` and `join_branches_backward`.

use super::{Launched, Operands, add_flag, optional};
use crate::driver::{Arg, DevicePtr, KernelSpec, Launch, Work};
use crate::ops::join_branches::{Backward, JoinBranchesKernels, NAME};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Threads of a block.
const BLOCK: u32 = 256;

/// Rows, and features of a branch, which is what a row of y has twice.
fn extents(operands: &Operands<'_>, what: &str, y: Tensor) -> Result<[usize; 2]> {
    let [rows, columns] = operands.two(what, y)?;
    match columns % 2 {
        0 => Ok([rows, columns / 2]),
        _ => Err(Error::op(NAME, format!("{what} of {} has no two branches", y.shape))),
    }
}

fn shares(operands: &Operands<'_>, shares: Option<Tensor>, rows: usize) -> Result<Option<DevicePtr>> {
    shares.map(|shares| operands.pointer("the shares", shares, DType::F32, rows)).transpose()
}

impl JoinBranchesKernels for Launched {
    fn join_branches_forward(&self, first: Tensor, second: Tensor, weights: Option<Tensor>, y: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [rows, features] = extents(&operands, "y", y)?;
        let args = [
            Arg::Ptr(operands.float("the first branch", first, rows * features)?),
            Arg::Ptr(operands.float("the second branch", second, rows * features)?),
            optional(shares(&operands, weights, rows)?),
            Arg::Ptr(operands.float("y", y, 2 * rows * features)?),
            operands.extent("rows", rows)?,
            operands.extent("features", features)?,
        ];
        let spec = KernelSpec::new("join_branches_forward").define("BLOCK", BLOCK);
        let work = Work::over(&[rows, 2 * features]).moves(y.bytes()).moves(y.bytes()).floats(y.elements());
        self.launch(&spec, Launch::cover(2 * rows * features, BLOCK).does(work), &args)
    }

    fn join_branches_backward(&self, t: &Backward) -> Result<()> {
        let Backward { dy, shares: weights, dfirst, dsecond } = *t;
        let operands = Operands::new(self, NAME);
        let [rows, features] = extents(&operands, "dy", dy)?;
        let to = |what, grad: Option<crate::tensor::Grad>| {
            grad.map(|grad| operands.float(what, grad.tensor, rows * features)).transpose()
        };
        let args = [
            Arg::Ptr(operands.float("dy", dy, 2 * rows * features)?),
            optional(shares(&operands, weights, rows)?),
            optional(to("dfirst", dfirst)?),
            optional(to("dsecond", dsecond)?),
            operands.extent("rows", rows)?,
            operands.extent("features", features)?,
            add_flag(dfirst),
            add_flag(dsecond),
        ];
        let spec = KernelSpec::new("join_branches_backward").define("BLOCK", BLOCK);
        let work = Work::over(&[rows, 2 * features]).moves(dy.bytes()).floats(dy.elements());
        let work = [dfirst, dsecond].iter().flatten().fold(work, |w, d| w.puts(d.tensor.bytes(), d.accumulate));
        self.launch(&spec, Launch::cover(2 * rows * features, BLOCK).does(work), &args)
    }
}
