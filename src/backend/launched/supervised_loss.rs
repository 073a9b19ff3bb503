//! `supervised_loss`: all heads and rows in one launch.

use bytemuck::{Pod, Zeroable};

use super::{Launched, Operands};
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::supervised_loss::{
    ClassVector, Form, NAME, Reduction, SupervisedLoss, SupervisedLossKernels, ViewLabels,
};
use crate::tensor::DType;
use crate::{Error, Result};

/// Four warps, a row each: rows are few, and more blocks spread them over more multiprocessors.
const BLOCK: u32 = 128;

/// `Head` of the kernel.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct HeadPointers {
    logits: u64,
    vectors: u64,
    dlogits: u64,
    scale: f32,
    focal: f32,
    add: u32,
    sum_w: u32,
}

/// The kernel's number for a form, and its exponent.
fn form(form: Form) -> (u32, f32) {
    match form {
        // Plain cross-entropy, which most heads train on, does without the power.
        Form::Softmax { focal: 0.0 } => (0, 0.0),
        Form::Softmax { focal } => (1, focal),
        Form::BceOnSoftmax => (2, 0.0),
        Form::SigmoidFocal { focal } => (3, focal),
    }
}

/// ViewLabels as the kernel knows them.
fn code(labels: ViewLabels) -> u32 {
    match labels {
        ViewLabels::Mixed => 0,
        ViewLabels::Original => 1,
        ViewLabels::Partner => 2,
    }
}

impl SupervisedLossKernels for Launched {
    fn supervised_loss(&self, t: &SupervisedLoss) -> Result<()> {
        let SupervisedLoss { heads, labels, originals, partners, shares, views, scalars, rows } = *t;
        let operands = Operands::new(self, NAME);
        if !(1..=2).contains(&heads.len()) {
            return Err(Error::op(NAME, format!("one or two heads, not {}", heads.len())));
        }
        let [count, classes] = operands.two("the logits", heads[0].logits)?;
        let batch = originals.elements();
        let mut pointers = [HeadPointers::default(); 2];
        for (head, out) in heads.iter().zip(&mut pointers) {
            out.logits = operands.float("the logits", head.logits, count * classes)?;
            out.vectors = operands.float("the class vectors", head.vectors, ClassVector::COUNT * classes)?;
            out.scale = head.scale;
            out.focal = form(head.form).1;
            out.sum_w = u32::from(head.reduction == Reduction::SumW);
            if let Some(grad) = head.dlogits {
                out.dlogits = operands.float("dlogits", grad.tensor, count * classes)?;
                out.add = u32::from(grad.accumulate);
            }
        }
        let args = [
            Arg::Bytes(bytemuck::bytes_of(&pointers[0])),
            Arg::Bytes(bytemuck::bytes_of(&pointers[1])),
            Arg::Ptr(operands.int("the labels", labels, labels.elements())?),
            Arg::Ptr(operands.int("the originals", originals, batch)?),
            Arg::Ptr(operands.int("the partners", partners, batch)?),
            Arg::Ptr(operands.pointer("the shares", shares, DType::F32, batch)?),
            Arg::Ptr(operands.scalars(scalars)?),
            Arg::Ptr(operands.float("the rows", rows, heads.len() * count)?),
            operands.extent("rows", count)?,
            operands.extent("batch", batch)?,
            operands.extent("classes", classes)?,
            Arg::U32(code(views[0]) | code(views[1]) << 2),
        ];
        let [first, second] = [heads.first(), heads.last()].map(|head| head.map_or(0, |head| form(head.form).0));
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK).define("FIRST", first).define("SECOND", second);
        let blocks = count.div_ceil(BLOCK as usize / 32) as u32;
        // Three passes over the logits: the largest, the sum of the exponentials, the gradient.
        let work = heads.iter().fold(Work::over(&[heads.len(), count, classes]), |work, head| {
            let dlogits = head.dlogits.map_or(work, |grad| work.puts(grad.tensor.bytes(), grad.accumulate));
            dlogits.fetches(head.logits.bytes(), 3 * head.logits.bytes()).floats(16 * head.logits.elements())
        });
        let grid = [blocks, heads.len() as u32, 1];
        let launch = Launch { grid, block: [BLOCK, 1, 1], shared_bytes: 0, work };
        self.launch(&spec, launch, &args)
    }
}
