//! `scale_columns_forward` and `scale_columns_backward`.

use super::{Launched, Operands, add_flag, optional};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::scale_columns::{Backward, NAME, ScaleColumnsKernels};
use crate::tensor::Tensor;

/// Threads of a block of the forward.
const BLOCK: u32 = 256;
/// Rows that a block of the backward takes at a time, of 32 columns.
const LANES: u32 = 8;

impl ScaleColumnsKernels for Launched {
    fn scale_columns_forward(&self, x: Tensor, scales: Tensor, y: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [rows, columns] = operands.two("x", x)?;
        let args = [
            Arg::Ptr(operands.float("x", x, rows * columns)?),
            Arg::Ptr(operands.float("the scales", scales, columns)?),
            Arg::Ptr(operands.float("y", y, rows * columns)?),
            operands.extent("rows", rows)?,
            operands.extent("columns", columns)?,
        ];
        let spec = KernelSpec::new("scale_columns_forward").define("BLOCK", BLOCK);
        let work = Work::over(&[rows, columns]).moves(x.bytes()).moves(y.bytes()).floats(rows * columns);
        self.launch(&spec, Launch::cover(rows * columns, BLOCK).does(work), &args)
    }

    fn scale_columns_backward(&self, t: &Backward) -> Result<()> {
        let Backward { x, scales, dy, dx, dscales } = *t;
        let operands = Operands::new(self, NAME);
        let [rows, columns] = operands.two("x", x)?;
        let to_x = dx.map(|dx| operands.float("dx", dx.tensor, rows * columns)).transpose()?;
        let to_scales = dscales.map(|d| operands.float("dscales", d.tensor, columns)).transpose()?;
        let args = [
            Arg::Ptr(operands.float("x", x, rows * columns)?),
            Arg::Ptr(operands.float("the scales", scales, columns)?),
            Arg::Ptr(operands.float("dy", dy, rows * columns)?),
            optional(to_x),
            optional(to_scales),
            operands.extent("rows", rows)?,
            operands.extent("columns", columns)?,
            add_flag(dx),
            add_flag(dscales),
        ];
        let spec = KernelSpec::new("scale_columns_backward").define("LANES", LANES);
        let launch = Launch::linear(columns.div_ceil(32) as u32, 32 * LANES).shared(32 * LANES * 4);
        let work = Work::over(&[rows, columns]).moves(x.bytes()).moves(dy.bytes()).floats(3 * rows * columns);
        let work = [dx, dscales].iter().flatten().fold(work, |w, d| w.puts(d.tensor.bytes(), d.accumulate));
        self.launch(&spec, launch.does(work), &args)
    }
}
