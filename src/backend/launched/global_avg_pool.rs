//! `global_avg_pool_forward` and `global_avg_pool_backward`.

use super::grid::{BLOCK, ChannelGrid};
use super::{Launched, Operands, add_flag, aligned};
use crate::Result;
use crate::driver::{Arg, Work};
use crate::ops::global_avg_pool::{GlobalAvgPoolKernels, NAME};
use crate::tensor::Grad;
use crate::tensor::Tensor;

/// Pixels of a thread in the backward.
const PIXELS_EACH: usize = 8;

impl Launched {
    /// Sixteen bytes of the image tensor at a time where channels and address allow.
    fn pool_grid(&self, channels: usize, image: u64) -> ChannelGrid {
        let vector = self.storage_vector();
        let fits = channels.is_multiple_of(vector) && aligned(&[image]);
        ChannelGrid::new(channels, if fits { vector } else { 1 })
    }
}

impl GlobalAvgPoolKernels for Launched {
    fn global_avg_pool_forward(&self, x: Tensor, y: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, height, width, channels] = operands.four("x", x)?;
        let from = operands.compute("x", x, x.elements())?;
        let to = operands.float("y", y, batch * channels)?;
        let grid = self.pool_grid(channels, from);
        let spec = grid.define(self.spec("global_avg_pool_forward"));
        let shared = grid.vector * BLOCK * size_of::<f32>();
        let args = [
            Arg::Ptr(from),
            Arg::Ptr(to),
            operands.extent("pixels", height * width)?,
            operands.extent("channels", channels)?,
            Arg::U32(grid.columns as u32),
        ];
        let launch = grid.launch(1, batch).shared(shared as u32);
        let work = Work::over(&[batch, height, width, channels])
            .moves(x.bytes())
            .moves(y.bytes())
            .floats(x.elements())
            .shares(2 * shared * launch.blocks() as usize);
        self.launch(&spec, launch.does(work), &args)
    }

    fn global_avg_pool_backward(&self, dy: Tensor, dx: Grad) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, height, width, channels] = operands.four("dx", dx.tensor)?;
        let from = operands.float("dy", dy, batch * channels)?;
        let to = operands.compute("dx", dx.tensor, dx.tensor.elements())?;
        let grid = self.pool_grid(channels, to);
        let spec = grid.define(self.spec("global_avg_pool_backward"));
        let args = [
            Arg::Ptr(from),
            Arg::Ptr(to),
            operands.extent("pixels", height * width)?,
            operands.extent("channels", channels)?,
            Arg::U32(grid.columns as u32),
            add_flag(Some(dx)),
        ];
        let blocks = grid.blocks(height * width, PIXELS_EACH, u16::MAX as usize);
        let work = Work::over(&[batch, height, width, channels])
            .moves(dy.bytes())
            .puts(dx.tensor.bytes(), dx.accumulate)
            .floats(dx.tensor.elements());
        self.launch(&spec, grid.launch(blocks, batch).does(work), &args)
    }
}
