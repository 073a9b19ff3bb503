//! `batch_norm_statistics`.

use super::grid::BLOCK;
use super::{Launched, Operands, optional};
use crate::Result;
use crate::driver::{Arg, Launch, Work};
use crate::ops::batch_norm_statistics::{
    BatchNormStatistics, BatchNormStatisticsKernels, EPSILON, FEW, Geometry, MOMENTUM, NAME,
};

/// Channels of a block in the kernels that add up parts: 32 bytes of each part are then read together.
pub const PART_CHANNELS: usize = 8;

/// A launch with `PART_CHANNELS` channels per block.
pub fn parts_launch(channels: usize) -> Launch {
    Launch::linear(channels.div_ceil(PART_CHANNELS) as u32, BLOCK as u32).shared((2 * BLOCK * size_of::<f64>()) as u32)
}

impl BatchNormStatisticsKernels for Launched {
    fn batch_norm_statistics(&self, g: &Geometry, t: &BatchNormStatistics) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let c = g.channels;
        operands.small("pixels of the batch", g.views * g.pixels)?;
        let args = [
            Arg::Ptr(operands.compute("x", t.x, g.views * g.pixels * c)?),
            Arg::Ptr(operands.float("the sums", t.sums, g.views * g.parts * 2 * c)?),
            Arg::Ptr(operands.float("the statistics", t.statistics, g.views * 2 * c)?),
            optional(t.running_mean.map(|tensor| operands.float("the running mean", tensor, c)).transpose()?),
            optional(t.running_var.map(|tensor| operands.float("the running variance", tensor, c)).transpose()?),
            operands.extent("views", g.views)?,
            operands.extent("parts", g.parts)?,
            operands.extent("channels", c)?,
            operands.extent("pixels of a view", g.pixels)?,
            Arg::F32(EPSILON as f32),
            Arg::F32(MOMENTUM as f32),
        ];
        let spec = self.spec(NAME).define("BLOCK", BLOCK).define("CHANNELS", PART_CHANNELS).define("FEW", FEW);
        // Either the parts are added up, or x is read once for each of the two moments.
        let work = Work::over(&[g.views, g.parts, c]).moves(t.statistics.bytes());
        let work = match g.pixels <= FEW {
            true => work.fetches(t.x.bytes(), 2 * t.x.bytes()).doubles(6 * t.x.elements()),
            false => work.moves(t.sums.bytes()).doubles(t.sums.elements()),
        };
        self.launch(&spec, parts_launch(c).does(work), &args)
    }
}
