//! `normalize_rows_forward` and `normalize_rows_backward`.

use super::{Launched, Operands, add_flag};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::normalize_rows::{EPSILON, NAME, NormalizeRowsKernels};
use crate::tensor::{Grad, Tensor};

/// Four warps, one row each.
const BLOCK: u32 = 128;

impl NormalizeRowsKernels for Launched {
    fn normalize_rows_forward(&self, x: Tensor, y: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [rows, features] = operands.two("x", x)?;
        let args = [
            Arg::Ptr(operands.float("x", x, rows * features)?),
            Arg::Ptr(operands.float("y", y, rows * features)?),
            operands.extent("rows", rows)?,
            operands.extent("features", features)?,
            Arg::F32(EPSILON as f32),
        ];
        let spec = KernelSpec::new("normalize_rows_forward").define("BLOCK", BLOCK);
        let work =
            Work::over(&[rows, features]).fetches(x.bytes(), 2 * x.bytes()).moves(y.bytes()).floats(3 * x.elements());
        self.launch(&spec, Launch::cover(rows * 32, BLOCK).does(work), &args)
    }

    fn normalize_rows_backward(&self, x: Tensor, dy: Tensor, dx: Grad) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [rows, features] = operands.two("x", x)?;
        let args = [
            Arg::Ptr(operands.float("x", x, rows * features)?),
            Arg::Ptr(operands.float("dy", dy, rows * features)?),
            Arg::Ptr(operands.float("dx", dx.tensor, rows * features)?),
            operands.extent("rows", rows)?,
            operands.extent("features", features)?,
            Arg::F32(EPSILON as f32),
            add_flag(Some(dx)),
        ];
        let spec = KernelSpec::new("normalize_rows_backward").define("BLOCK", BLOCK);
        let work = Work::over(&[rows, features])
            .fetches(x.bytes(), 2 * x.bytes())
            .fetches(dy.bytes(), 2 * dy.bytes())
            .puts(dx.tensor.bytes(), dx.accumulate)
            .floats(8 * x.elements());
        self.launch(&spec, Launch::cover(rows * 32, BLOCK).does(work), &args)
    }
}
