//! `total_loss`.

use super::{Launched, Operands, optional};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::total_loss::{LOSS_COLUMNS, NAME, TotalLoss, TotalLossKernels};

/// One block does it all, so that the order of the sums is always the same.
const BLOCK: u32 = 256;

impl TotalLossKernels for Launched {
    fn total_loss(&self, t: &TotalLoss) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [heads, count] = operands.two("the cross-entropy", t.cross_entropy)?;
        let [log_rows, _] = operands.two("the log", t.log)?;
        let cosines = t.cosine.map_or(0, |tensor| tensor.elements());
        let cosine = t.cosine.map(|tensor| operands.float("the cosine", tensor, cosines)).transpose()?;
        let args = [
            Arg::Ptr(operands.float("the cross-entropy", t.cross_entropy, heads * count)?),
            optional(cosine),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.float("the log", t.log, log_rows * LOSS_COLUMNS)?),
            operands.extent("heads", heads)?,
            operands.extent("rows", count)?,
            operands.extent("cosine rows", cosines)?,
            operands.extent("batch", t.batch)?,
            operands.extent("log rows", log_rows)?,
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        let terms = heads * count + cosines;
        let work = Work::over(&[heads, count]).moves(terms * size_of::<f32>()).floats(terms);
        self.launch(&spec, Launch::linear(1, BLOCK).shared(BLOCK * 4).does(work), &args)
    }
}
