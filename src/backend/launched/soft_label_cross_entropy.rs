//! `soft_label_cross_entropy`: all heads and rows in one launch.

use bytemuck::{Pod, Zeroable};

use super::{Launched, Operands};
use crate::driver::{Arg, KernelSpec, Launch};
use crate::ops::soft_label_cross_entropy::{NAME, SoftLabelCrossEntropy, SoftLabelCrossEntropyKernels};
use crate::{Error, Result};

/// Four warps, a row each: rows are few, and more blocks spread them over more multiprocessors.
const BLOCK: u32 = 128;

/// `Head` of the kernel.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct HeadPointers {
    logits: u64,
    label: u64,
    dlogits: u64,
    add: u32,
    unused: u32,
}

impl SoftLabelCrossEntropyKernels for Launched {
    fn soft_label_cross_entropy(&self, t: &SoftLabelCrossEntropy) -> Result<()> {
        let SoftLabelCrossEntropy { heads, scalars, rows } = *t;
        let operands = Operands::new(self, NAME);
        if !(1..=2).contains(&heads.len()) {
            return Err(Error::op(NAME, format!("one or two heads, not {}", heads.len())));
        }
        let [count, classes] = operands.two("the logits", heads[0].logits)?;
        let [batch, _] = operands.two("the label", heads[0].label)?;
        let mut pointers = [HeadPointers::default(); 2];
        for (head, out) in heads.iter().zip(&mut pointers) {
            out.logits = operands.float("the logits", head.logits, count * classes)?;
            out.label = operands.float("the label", head.label, batch * classes)?;
            if let Some(grad) = head.dlogits {
                out.dlogits = operands.float("dlogits", grad.tensor, count * classes)?;
                out.add = u32::from(grad.accumulate);
            }
        }
        let args = [
            Arg::Bytes(bytemuck::bytes_of(&pointers[0])),
            Arg::Bytes(bytemuck::bytes_of(&pointers[1])),
            Arg::Ptr(operands.scalars(scalars)?),
            Arg::Ptr(operands.float("the rows", rows, heads.len() * count)?),
            operands.extent("rows", count)?,
            operands.extent("batch", batch)?,
            operands.extent("classes", classes)?,
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        let blocks = count.div_ceil(BLOCK as usize / 32) as u32;
        let launch = Launch { grid: [blocks, heads.len() as u32, 1], block: [BLOCK, 1, 1], shared_bytes: 0 };
        self.launch(&spec, launch, &args)
    }
}
