//! `classify`.

use super::{Launched, Operands, optional};
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::classify::{Classify, ClassifyKernels, NAME};
use crate::tensor::DType;
use crate::{Error, Result};

/// Four warps, a sample each.
const BLOCK: u32 = 128;

impl ClassifyKernels for Launched {
    fn classify(&self, t: &Classify) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [rows, classes] = operands.two("the logits", t.logits)?;
        let (batch, results) = (t.originals.elements(), t.ranks.elements());
        if batch == 0 || !rows.is_multiple_of(batch) {
            return Err(Error::op(NAME, format!("{rows} rows of logits are not views of {batch} samples")));
        }
        let second = t.second.map(|second| operands.float("the second head's logits", second, rows * classes));
        let args = [
            Arg::Ptr(operands.float("the logits", t.logits, rows * classes)?),
            optional(second.transpose()?),
            Arg::Ptr(operands.int("the labels", t.labels, t.labels.elements())?),
            Arg::Ptr(operands.int("the originals", t.originals, batch)?),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.int("the ranks", t.ranks, results)?),
            Arg::Ptr(operands.pointer("the confidences", t.confidences, DType::F32, results)?),
            Arg::Ptr(operands.pointer("the losses", t.losses, DType::F32, results)?),
            operands.extent("views", rows / batch)?,
            operands.extent("batch", batch)?,
            operands.extent("classes", classes)?,
            operands.extent("results", results)?,
            Arg::F32(t.scale),
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        // Three passes over the logits: the largest, the sum of the exponentials, the rank.
        let heads = 1 + usize::from(t.second.is_some());
        let bytes = heads * t.logits.bytes();
        let work = Work::over(&[rows, classes]).fetches(bytes, 3 * bytes).floats(8 * heads * rows * classes);
        self.launch(&spec, Launch::cover(batch * 32, BLOCK).does(work), &args)
    }
}
