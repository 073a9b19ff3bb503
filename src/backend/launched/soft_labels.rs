//! `soft_labels`.

use super::{Launched, Operands};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch};
use crate::ops::soft_labels::{NAME, SoftLabels, SoftLabelsKernels};

const BLOCK: u32 = 256;

impl SoftLabelsKernels for Launched {
    fn soft_labels(&self, t: &SoftLabels) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, classes] = operands.two("the label", t.label)?;
        operands.small("elements of the label", batch * classes)?;
        let args = [
            Arg::Ptr(operands.int("the labels", t.labels, t.labels.elements())?),
            Arg::Ptr(operands.int("the originals", t.originals, batch)?),
            Arg::Ptr(operands.int("the partners", t.partners, batch)?),
            Arg::Ptr(operands.float("the class weights", t.class_weights, classes)?),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::Ptr(operands.float("the label", t.label, batch * classes)?),
            Arg::Ptr(operands.float("the weighted label", t.label_weighted, batch * classes)?),
            operands.extent("batch", batch)?,
            operands.extent("classes", classes)?,
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        self.launch(&spec, Launch::cover(batch * classes, BLOCK), &args)
    }
}
