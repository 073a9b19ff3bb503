//! `batch_norm_apply`; for inference `batch_norm_inference`; backward `batch_norm_backward_sums`, `_totals` and `_apply`.

use bytemuck::{Pod, Zeroable};

use super::batch_norm_statistics::{PART_CHANNELS, parts_launch};
use super::grid::{BLOCK, ChannelGrid};
use super::{Launched, Operands, add_flag, aligned, optional};
use crate::driver::{Arg, DevicePtr, KernelSpec, Work};
use crate::ops::batch_norm_apply::{Backward, BatchNormApplyKernels, Forward, Geometry, Inference, NAME, Shortcut};
use crate::ops::batch_norm_statistics::EPSILON;
use crate::tensor::{Grad, Tensor};
use crate::{Error, Result};

/// Pixels that a thread loads before it computes.
const ITEMS: usize = 2;
/// Pixels of a thread where nothing is reduced: enough to repay the loading of its channels' numbers.
const PIXELS_EACH: usize = 8;
/// Blocks that sum for the backward: about what a large GPU holds at once.
const SUM_BLOCKS: usize = 512;
/// Blocks in x where nothing is reduced.
const APPLY_BLOCKS: usize = 1 << 20;

/// `OptionA` of `kernels/option_a.cuh`.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct OptionA {
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    pad: u32,
}

impl OptionA {
    fn new(g: &Geometry) -> OptionA {
        match g.shortcut {
            Shortcut::OptionA { height, width, channels } => OptionA {
                height: height as u32,
                width: width as u32,
                channels: channels as u32,
                out_height: g.height as u32,
                out_width: g.width as u32,
                pad: ((g.channels - channels) / 2) as u32,
            },
            _ => OptionA::default(),
        }
    }
}

fn shortcut_knob(shortcut: Shortcut) -> u32 {
    match shortcut {
        Shortcut::None => 0,
        Shortcut::Identity => 1,
        Shortcut::OptionA { .. } => 2,
    }
}

fn elements(g: &Geometry) -> usize {
    g.shape().iter().product()
}

/// Elements of the shortcut's source.
fn shortcut_elements(g: &Geometry) -> usize {
    match g.shortcut {
        Shortcut::None => 0,
        Shortcut::Identity => elements(g),
        Shortcut::OptionA { height, width, channels } => g.batch * height * width * channels,
    }
}

/// Elements of the shortcut's source that are read: option A skips three pixels of four.
fn shortcut_reads(g: &Geometry) -> usize {
    match g.shortcut {
        Shortcut::OptionA { channels, .. } => g.batch * g.height * g.width * channels,
        _ => shortcut_elements(g),
    }
}

impl Launched {
    /// What a pass does that reads or writes `tensors` of x's size once each, with `operations` on every element.
    fn batch_norm_work(&self, g: &Geometry, tensors: usize, operations: usize) -> Work {
        let (count, bytes) = (elements(g), self.precision.compute().bytes());
        let work = Work::over(&g.shape()).floats(operations * count);
        (0..tensors).fold(work, |work, _| work.moves(count * bytes))
    }

    /// Sixteen bytes at a time where every row of channels starts at a multiple of that, else one element.
    fn batch_norm_grid(&self, g: &Geometry, pointers: &[DevicePtr]) -> ChannelGrid {
        let vector = self.storage_vector();
        let source_fits = match g.shortcut {
            Shortcut::OptionA { channels, .. } => {
                channels % vector == 0 && ((g.channels - channels) / 2).is_multiple_of(vector)
            }
            _ => true,
        };
        let fits = g.channels.is_multiple_of(vector) && source_fits && aligned(pointers);
        ChannelGrid::new(g.channels, if fits { vector } else { 1 })
    }

    /// Parts into which the backward's sums of a view are split. Independent of addresses: the plan asks before there
    /// are any.
    fn batch_norm_parts(&self, g: &Geometry) -> usize {
        let grid = self.batch_norm_grid(g, &[]);
        grid.blocks(g.pixels(), PIXELS_EACH, SUM_BLOCKS / (g.views * grid.chunks))
    }

    fn batch_norm_shortcut(
        &self,
        operands: &Operands,
        g: &Geometry,
        shortcut: Option<Tensor>,
    ) -> Result<Option<DevicePtr>> {
        match (g.shortcut, shortcut) {
            (Shortcut::None, _) => Ok(None),
            (_, Some(source)) => operands.compute("the shortcut", source, shortcut_elements(g)).map(Some),
            (_, None) => Err(Error::op(NAME, "the shortcut's source is missing")),
        }
    }

    /// Checks what all three passes need: sizes that kernels can count, and pixels in whole views.
    fn batch_norm_pixels(&self, operands: &Operands, g: &Geometry) -> Result<u32> {
        operands.small("pixels of the batch", g.views * g.pixels())?;
        operands.small("pixels of a view", g.pixels())
    }
}

impl BatchNormApplyKernels for Launched {
    fn batch_norm_apply(&self, g: &Geometry, t: &Forward) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let (count, c) = (elements(g), g.channels);
        let (x, z) = (operands.compute("x", t.x, count)?, operands.compute("z", t.z, count)?);
        let statistics = operands.float("the statistics", t.statistics, g.views * 2 * c)?;
        let weight = operands.float("the weight", t.weight, c)?;
        let bias = operands.float("the bias", t.bias, c)?;
        let shortcut = self.batch_norm_shortcut(&operands, g, t.shortcut)?;
        let pixels = self.batch_norm_pixels(&operands, g)?;

        let grid = self.batch_norm_grid(g, &[x, z, shortcut.unwrap_or(0)]);
        let spec = grid
            .define(self.spec("batch_norm_apply"))
            .define("ITEMS", ITEMS)
            .define("RELU", u32::from(g.relu))
            .define("SHORTCUT", shortcut_knob(g.shortcut));
        let option_a = OptionA::new(g);
        let args = [
            Arg::Ptr(x),
            Arg::Ptr(statistics),
            Arg::Ptr(weight),
            Arg::Ptr(bias),
            optional(shortcut),
            Arg::Ptr(z),
            Arg::U32(pixels),
            operands.extent("channels", c)?,
            Arg::U32(grid.columns as u32),
            Arg::Bytes(bytemuck::bytes_of(&option_a)),
        ];
        let blocks = grid.blocks(g.pixels(), PIXELS_EACH, APPLY_BLOCKS);
        let work = self.batch_norm_work(g, 2, 4).moves(shortcut_reads(g) * t.x.dtype.bytes());
        self.launch(&spec, grid.launch(blocks, g.views).does(work), &args)
    }

    fn batch_norm_inference(&self, g: &Geometry, t: &Inference) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let (count, c) = (elements(g), g.channels);
        let (x, z) = (operands.compute("x", t.x, count)?, operands.compute("z", t.z, count)?);
        let weight = operands.float("the weight", t.weight, c)?;
        let bias = operands.float("the bias", t.bias, c)?;
        let mean = operands.float("the running mean", t.running_mean, c)?;
        let var = operands.float("the running variance", t.running_var, c)?;
        let shortcut = self.batch_norm_shortcut(&operands, g, t.shortcut)?;
        self.batch_norm_pixels(&operands, g)?;

        let grid = self.batch_norm_grid(g, &[x, z, shortcut.unwrap_or(0)]);
        let spec = grid
            .define(self.spec("batch_norm_inference"))
            .define("ITEMS", ITEMS)
            .define("RELU", u32::from(g.relu))
            .define("SHORTCUT", shortcut_knob(g.shortcut));
        let pixels = g.views * g.pixels();
        let option_a = OptionA::new(g);
        let args = [
            Arg::Ptr(x),
            Arg::Ptr(mean),
            Arg::Ptr(var),
            Arg::Ptr(weight),
            Arg::Ptr(bias),
            optional(shortcut),
            Arg::Ptr(z),
            Arg::U32(pixels as u32),
            operands.extent("channels", c)?,
            Arg::U32(grid.columns as u32),
            Arg::F32(EPSILON as f32),
            Arg::Bytes(bytemuck::bytes_of(&option_a)),
        ];
        let work = self.batch_norm_work(g, 2, 4).moves(shortcut_reads(g) * t.x.dtype.bytes());
        self.launch(&spec, grid.launch(grid.blocks(pixels, PIXELS_EACH, APPLY_BLOCKS), 1).does(work), &args)
    }

    fn batch_norm_backward(&self, g: &Geometry, t: &Backward) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let (count, c) = (elements(g), g.channels);
        let x = operands.compute("x", t.x, count)?;
        // Without a ReLU z is not kept: its address may serve something else by now, and no kernel reads it.
        let z = if g.relu { operands.compute("z", t.z, count)? } else { 0 };
        let dz = operands.compute("dz", t.dz, count)?;
        let statistics = operands.float("the statistics", t.statistics, g.views * 2 * c)?;
        let weight = operands.float("the weight", t.weight, c)?;
        let dx = t.dx.map(|grad| operands.compute("dx", grad.tensor, count)).transpose()?;
        let dweight = t.dweight.map(|grad| operands.float("dweight", grad.tensor, c)).transpose()?;
        let dbias = t.dbias.map(|grad| operands.float("dbias", grad.tensor, c)).transpose()?;
        let dshortcut =
            t.dshortcut.map(|grad| operands.compute("dshortcut", grad.tensor, shortcut_elements(g))).transpose()?;
        let pixels = self.batch_norm_pixels(&operands, g)?;
        let scratch = t.scratch.ok_or_else(|| Error::op(NAME, "the backward's scratch memory is missing"))?;
        if scratch.bytes() < self.batch_norm_backward_scratch(g) {
            return Err(Error::op(NAME, format!("scratch of {} bytes is too small", scratch.bytes())));
        }
        let parts = self.batch_norm_parts(g);
        let totals = self.pointer(scratch)?;
        let sums = totals + (g.views * 2 * c * size_of::<f32>()) as u64;

        let grid = self.batch_norm_grid(g, &[x, z, dz, dx.unwrap_or(0), dshortcut.unwrap_or(0)]);
        let channels = operands.extent("channels", c)?;
        let columns = Arg::U32(grid.columns as u32);
        let spec = grid.define(self.spec("batch_norm_backward_sums")).define("RELU", u32::from(g.relu));
        let shared = 2 * grid.vector * BLOCK * size_of::<f32>();
        let args = [
            Arg::Ptr(x),
            Arg::Ptr(z),
            Arg::Ptr(dz),
            Arg::Ptr(statistics),
            Arg::Ptr(sums),
            Arg::U32(pixels),
            channels,
            columns,
        ];
        let launch = grid.launch(parts, g.views).shared(shared as u32);
        let work = self
            .batch_norm_work(g, 2 + usize::from(g.relu), 6)
            .moves(g.views * parts * 2 * c * size_of::<f32>())
            .shares(2 * shared * launch.blocks() as usize);
        self.launch(&spec, launch.does(work), &args)?;

        let spec =
            KernelSpec::new("batch_norm_backward_totals").define("BLOCK", BLOCK).define("CHANNELS", PART_CHANNELS);
        let args = [
            Arg::Ptr(sums),
            Arg::Ptr(totals),
            optional(dweight),
            optional(dbias),
            operands.extent("views", g.views)?,
            operands.extent("parts", parts)?,
            channels,
            add_flag(t.dweight),
            add_flag(t.dbias),
        ];
        let added = g.views * parts * 2 * c;
        let work = Work::over(&[g.views, parts, c]).moves(added * size_of::<f32>()).doubles(added);
        self.launch(&spec, parts_launch(c).does(work), &args)?;

        if dx.is_none() && dshortcut.is_none() {
            return Ok(());
        }
        let spec = grid
            .define(self.spec("batch_norm_backward_apply"))
            .define("RELU", u32::from(g.relu))
            .define("SHORTCUT", shortcut_knob(g.shortcut));
        let option_a = OptionA::new(g);
        let args = [
            Arg::Ptr(x),
            Arg::Ptr(z),
            Arg::Ptr(dz),
            Arg::Ptr(statistics),
            Arg::Ptr(totals),
            Arg::Ptr(weight),
            optional(dx),
            optional(dshortcut),
            add_flag(t.dx),
            add_flag(t.dshortcut),
            Arg::U32(pixels),
            channels,
            columns,
            Arg::Bytes(bytemuck::bytes_of(&option_a)),
        ];
        let blocks = grid.blocks(g.pixels(), PIXELS_EACH, APPLY_BLOCKS);
        // Of dx: x as well. Of a shortcut that is added to: only what the forward read.
        let of_dx = t.dx.map_or(0, |grad| 2 + usize::from(grad.accumulate));
        let work = self.batch_norm_work(g, 1 + usize::from(g.relu) + of_dx, 8);
        let work = match t.dshortcut {
            None => work,
            Some(Grad { accumulate: true, .. }) => work.puts(shortcut_reads(g) * t.x.dtype.bytes(), true),
            Some(_) => work.moves(shortcut_elements(g) * t.x.dtype.bytes()),
        };
        self.launch(&spec, grid.launch(blocks, g.views).does(work), &args)
    }

    /// Totals (views, 2, channels), then sums (views, parts, 2, channels).
    fn batch_norm_backward_scratch(&self, g: &Geometry) -> usize {
        g.views * 2 * g.channels * (1 + self.batch_norm_parts(g)) * size_of::<f32>()
    }
}
