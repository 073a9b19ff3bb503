//! `classify`.

use super::{Launched, Operands};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch};
use crate::ops::classify::{Classify, ClassifyKernels, NAME};
use crate::tensor::DType;

/// Four warps, a sample each.
const BLOCK: u32 = 128;

impl ClassifyKernels for Launched {
    fn classify(&self, t: &Classify) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, classes] = operands.two("the logits", t.logits)?;
        let results = t.ranks.elements();
        let args = [
            Arg::Ptr(operands.float("the logits", t.logits, batch * classes)?),
            Arg::Ptr(operands.int("the labels", t.labels, t.labels.elements())?),
            Arg::Ptr(operands.int("the originals", t.originals, batch)?),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.int("the ranks", t.ranks, results)?),
            Arg::Ptr(operands.pointer("the confidences", t.confidences, DType::F32, results)?),
            operands.extent("batch", batch)?,
            operands.extent("classes", classes)?,
            operands.extent("results", results)?,
            Arg::F32(t.scale),
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        self.launch(&spec, Launch::cover(batch * 32, BLOCK), &args)
    }
}
