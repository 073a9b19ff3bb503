//! `sgd` over parameters side by side, and `cast_weights`.

use super::{Launched, Operands, aligned, optional};
use crate::Result;
use crate::driver::{Arg, Launch, Work};
use crate::ops::sgd::{NAME, Sgd, SgdConfig, SgdKernels};
use crate::tensor::Tensor;

pub(super) const BLOCK: u32 = 256;
/// Blocks at most: what is left of a large network goes round again.
const MOST_BLOCKS: usize = 2048;
/// Elements of a thread at a time, where addresses allow: sixteen bytes of f32.
const VECTOR: usize = 4;

pub(super) fn launch(elements: usize, vector: usize) -> Launch {
    let blocks = elements.div_ceil(BLOCK as usize * vector).clamp(1, MOST_BLOCKS);
    Launch::linear(blocks as u32, BLOCK)
}

impl SgdKernels for Launched {
    fn sgd(&self, config: &SgdConfig, t: &Sgd) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let elements = t.master.elements();
        let master = operands.float("the master weights", t.master, elements)?;
        let grad = operands.float("the gradient", t.grad, elements)?;
        let momentum = operands.float("the momentum", t.momentum, elements)?;
        let compute = t.compute.map(|tensor| operands.compute("the weights", tensor, elements)).transpose()?;
        let fits = aligned(&[master, grad, momentum, compute.unwrap_or(0)]);
        let vector = if fits { VECTOR } else { 1 };
        let spec = self.spec("sgd").define("BLOCK", BLOCK).define("VECTOR", vector);
        let args = [
            Arg::Ptr(master),
            Arg::Ptr(grad),
            Arg::Ptr(momentum),
            optional(compute),
            Arg::Ptr(operands.scalars(t.scalars)?),
            Arg::U64(elements as u64),
            Arg::F32(config.momentum),
            Arg::F32(config.weight_decay),
            Arg::F32(config.lr_factor),
            Arg::U32(u32::from(config.nesterov)),
        ];
        let work = Work::over(&[elements])
            .puts(t.master.bytes(), true)
            .puts(t.momentum.bytes(), true)
            .moves(t.grad.bytes())
            .moves(t.compute.map_or(0, |compute| compute.bytes()))
            .floats(6 * elements);
        self.launch(&spec, launch(elements, vector).does(work), &args)
    }

    fn cast_weights(&self, master: Tensor, compute: Tensor) -> Result<()> {
        let operands = Operands::new(self, "cast_weights");
        let elements = master.elements();
        let from = operands.float("the master weights", master, elements)?;
        let to = operands.compute("the weights", compute, elements)?;
        let spec = self.spec("cast_weights").define("BLOCK", BLOCK);
        let work = Work::over(&[elements]).moves(master.bytes()).moves(compute.bytes());
        let args = [Arg::Ptr(from), Arg::Ptr(to), Arg::U64(elements as u64)];
        self.launch(&spec, launch(elements, 1).does(work), &args)
    }
}
