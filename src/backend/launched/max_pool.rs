//! `max_pool_forward` and `max_pool_backward`.

use super::grid::ChannelGrid;
use super::{Launched, Operands, add_flag, aligned, optional};
use crate::driver::{Arg, KernelSpec, Work};
use crate::error::{Error, Result};
use crate::ops::max_pool::{Config, MaxPoolKernels, NAME};
use crate::tensor::{DType, Grad, Tensor};

/// Pixels of a thread, each of them some reads and a write.
const PIXELS_EACH: usize = 2;

impl Launched {
    /// Sixteen bytes of the image tensors at a time where channels and addresses allow.
    fn window_grid(&self, channels: usize, addresses: &[u64]) -> ChannelGrid {
        let vector = self.storage_vector();
        let fits = channels.is_multiple_of(vector) && aligned(addresses);
        ChannelGrid::new(channels, if fits { vector } else { 1 })
    }

    fn window_spec(&self, entry: &'static str, grid: &ChannelGrid, config: Config) -> KernelSpec {
        let Config { kernel, stride, padding } = config;
        let spec = grid.define(self.spec(entry));
        spec.define("KERNEL", kernel).define("STRIDE", stride).define("PADDING", padding)
    }
}

fn extents(x: Tensor, y: Tensor, config: Config) -> Result<[usize; 6]> {
    let wrong = || Error::op(NAME, format!("{} does not become {}", x.shape, y.shape));
    config.extents(x, y).ok_or_else(wrong)
}

impl MaxPoolKernels for Launched {
    fn max_pool_forward(&self, x: Tensor, y: Tensor, taps: Option<Tensor>, config: Config) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, height, width, rows, columns, channels] = extents(x, y, config)?;
        let from = operands.compute("x", x, x.elements())?;
        let to = operands.compute("y", y, y.elements())?;
        let taps = taps.map(|taps| operands.pointer("taps", taps, DType::U8, y.elements())).transpose()?;
        let grid = self.window_grid(channels, &[from, to, taps.unwrap_or(0)]);
        let spec = self.window_spec("max_pool_forward", &grid, config);
        let args = [
            Arg::Ptr(from),
            Arg::Ptr(to),
            optional(taps),
            operands.extent("height", height)?,
            operands.extent("width", width)?,
            operands.extent("rows", rows)?,
            operands.extent("columns of y", columns)?,
            operands.extent("channels", channels)?,
            Arg::U32(grid.columns as u32),
        ];
        let blocks = grid.blocks(rows * columns, PIXELS_EACH, u16::MAX as usize);
        // Windows overlap, in lines that a block finds in L1.
        let work = Work::over(&[batch, height, width, channels])
            .moves(x.bytes())
            .moves(y.bytes())
            .moves(taps.map_or(0, |_| y.elements()))
            .floats(config.kernel * config.kernel * y.elements());
        self.launch(&spec, grid.launch(blocks, batch).does(work), &args)
    }

    fn max_pool_backward(&self, dy: Tensor, taps: Tensor, dx: Grad, config: Config) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [batch, height, width, rows, columns, channels] = extents(dx.tensor, dy, config)?;
        let from = operands.compute("dy", dy, dy.elements())?;
        let taps = operands.pointer("taps", taps, DType::U8, dy.elements())?;
        let to = operands.compute("dx", dx.tensor, dx.tensor.elements())?;
        let grid = self.window_grid(channels, &[from, taps, to]);
        let spec = self.window_spec("max_pool_backward", &grid, config);
        let args = [
            Arg::Ptr(from),
            Arg::Ptr(taps),
            Arg::Ptr(to),
            operands.extent("height", height)?,
            operands.extent("width", width)?,
            operands.extent("rows", rows)?,
            operands.extent("columns of y", columns)?,
            operands.extent("channels", channels)?,
            Arg::U32(grid.columns as u32),
            add_flag(Some(dx)),
        ];
        let blocks = grid.blocks(height * width, PIXELS_EACH, u16::MAX as usize);
        let work = Work::over(&[batch, height, width, channels])
            .moves(dy.bytes())
            .moves(dy.elements())
            .puts(dx.tensor.bytes(), dx.accumulate)
            .floats(config.kernel * config.kernel * dy.elements());
        self.launch(&spec, grid.launch(blocks, batch).does(work), &args)
    }
}
