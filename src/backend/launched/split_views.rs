//! `split_views_forward` and `split_views_backward`.

use super::{Launched, Operands, add_flag, aligned};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::split_views::{NAME, SplitViewsKernels};
use crate::tensor::{Grad, Tensor};

/// Threads of a block.
const BLOCK: u32 = 256;

impl Launched {
    /// Elements that a thread moves at a time: sixteen bytes where the size of a view and all addresses allow.
    fn split_vector(&self, half: usize, addresses: &[u64]) -> usize {
        let vector = self.storage_vector();
        if half.is_multiple_of(vector) && aligned(addresses) { vector } else { 1 }
    }

    fn split_spec(&self, entry: &'static str, vector: usize) -> KernelSpec {
        self.spec(entry).define("BLOCK", BLOCK).define("VECTOR", vector)
    }
}

impl SplitViewsKernels for Launched {
    fn split_views_forward(&self, x: Tensor, first: Tensor, second: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let half = first.elements();
        let from = operands.compute("x", x, 2 * half)?;
        let to = [operands.compute("the first view", first, half)?, operands.compute("the second view", second, half)?];
        let vector = self.split_vector(half, &[from, to[0], to[1]]);
        let args = [Arg::Ptr(from), Arg::Ptr(to[0]), Arg::Ptr(to[1]), operands.extent("a view", half / vector)?];
        let spec = self.split_spec("split_views_forward", vector);
        let work = Work::over(x.shape.dims()).moves(x.bytes()).moves(first.bytes()).moves(second.bytes());
        self.launch(&spec, Launch::cover(half / vector, BLOCK).does(work), &args)
    }

    fn split_views_backward(&self, dfirst: Tensor, dsecond: Tensor, dx: Grad) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let half = dfirst.elements();
        let from = [operands.compute("dfirst", dfirst, half)?, operands.compute("dsecond", dsecond, half)?];
        let to = operands.compute("dx", dx.tensor, 2 * half)?;
        let vector = self.split_vector(half, &[from[0], from[1], to]);
        let args = [
            Arg::Ptr(from[0]),
            Arg::Ptr(from[1]),
            Arg::Ptr(to),
            operands.extent("a view", half / vector)?,
            add_flag(Some(dx)),
        ];
        let spec = self.split_spec("split_views_backward", vector);
        let work = Work::over(dx.tensor.shape.dims())
            .moves(dfirst.bytes())
            .moves(dsecond.bytes())
            .puts(dx.tensor.bytes(), dx.accumulate);
        self.launch(&spec, Launch::cover(half / vector, BLOCK).does(work), &args)
    }
}
