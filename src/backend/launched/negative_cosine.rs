//! `negative_cosine`.

use super::{Launched, Operands, add_flag, optional};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::negative_cosine::{EPSILON, NAME, NegativeCosine, NegativeCosineKernels};

/// Four warps, one row each.
const BLOCK: u32 = 128;

impl NegativeCosineKernels for Launched {
    fn negative_cosine(&self, t: &NegativeCosine) -> Result<()> {
        let NegativeCosine { u, target, scalars, rows, du, dtarget } = *t;
        let operands = Operands::new(self, NAME);
        let [count, features] = operands.two("u", u)?;
        let du_at = du.map(|grad| operands.float("du", grad.tensor, count * features)).transpose()?;
        let dtarget_at = dtarget.map(|grad| operands.float("dtarget", grad.tensor, count * features)).transpose()?;
        let args = [
            Arg::Ptr(operands.float("u", u, count * features)?),
            Arg::Ptr(operands.float("the target", target, count * features)?),
            Arg::Ptr(operands.scalars(scalars)?),
            Arg::Ptr(operands.float("the rows", rows, count)?),
            optional(du_at),
            optional(dtarget_at),
            operands.extent("rows", count)?,
            operands.extent("features", features)?,
            Arg::F32(EPSILON as f32),
            add_flag(du),
            add_flag(dtarget),
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        // The lengths and the product first, then the gradients from the same rows.
        let work = Work::over(&[count, features])
            .fetches(u.bytes(), 2 * u.bytes())
            .fetches(target.bytes(), 2 * target.bytes())
            .floats(12 * u.elements());
        let work = [du, dtarget].iter().flatten().fold(work, |w, d| w.puts(d.tensor.bytes(), d.accumulate));
        self.launch(&spec, Launch::cover(count * 32, BLOCK).does(work), &args)
    }
}
