//! `conv2d`: which kernels, in which tiling, on which grid.
//!
//! All three products (see `kernels/conv2d/operands.cuh`) are matrix products of rows m, columns n and terms k. A
//! [`Tiling`] says how much of one a block, and within it a warp (bf16) or a thread (f32), computes. It is chosen here
//! from the layer's shape alone, never from the device, so that a run gives the same bits on every device of a kind.
//!
//! A 1x1 convolution of stride 1 is a matrix product already: rows of channels, one a pixel. Every pixel then counts as an
//! image of its own, which leaves kernels no window to find, and makes those of the same channels one, whatever the image.
//! Convolutions in groups have kernels of their own (`grouped.rs`).

mod grouped;
mod work;

use super::{Launched, Operands, aligned};
use crate::driver::{Arg, DevicePtr, KernelSpec, Launch, Work};
use crate::ops::conv2d::{Conv2dKernels, Forward, Geometry, InputGrad, NAME, WeightGrad};
use crate::tensor::Precision;
use crate::{Error, Result};

/// Blocks that fill a large GPU (132 multiprocessors) about twice: no split of the weight gradient makes more.
const FULL_GRID: usize = 264;
/// Fewer blocks than this leave multiprocessors idle, and smaller tiles pay.
const BUSY_GRID: usize = 120;
/// A split of the weight gradient sums at least this many tiles of terms; with fewer, its result costs more than its sum.
const SPLIT_TILES: usize = 8;
/// Columns that a thread writes at once (`WRITE` in knobs.cuh).
const WRITE: usize = 8;
/// Threads of `conv2d_weight_grad_reduce`.
const REDUCE_THREADS: u32 = 256;
/// Rows that a grid may have.
const GRID_ROWS: usize = 65_535;
/// Images must be smaller than this either way (`NOWHERE` in operands.cuh).
const NOWHERE: usize = 1 << 24;

/// How a product is cut up. See `kernels/conv2d/knobs.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows and columns that a block computes.
    pub block: (usize, usize),
    /// Terms that one stage of the pipeline holds.
    pub block_k: usize,
    /// Rows and columns of one warp (bf16) or thread (f32).
    pub part: (usize, usize),
    /// Stages of the pipeline.
    pub stages: usize,
}

const fn tiling(block_m: usize, block_n: usize, block_k: usize, part_m: usize, part_n: usize, stages: usize) -> Tiling {
    Tiling { block: (block_m, block_n), block_k, part: (part_m, part_n), stages }
}

impl Tiling {
    /// For the forward and the input gradient: many rows (pixels), as many columns as there are channels.
    fn of_pixels(bf16: bool, rows: usize, columns: usize) -> Tiling {
        if !bf16 {
            return match columns {
                ..=16 => tiling(64, 16, 16, 4, 4, 2),
                17..=32 => tiling(64, 32, 16, 4, 4, 2),
                _ => tiling(64, 64, 16, 4, 4, 2),
            };
        }
        let busy = |t: &Tiling| rows.div_ceil(t.block.0) * columns.div_ceil(t.block.1) >= BUSY_GRID;
        let largest_first: &[Tiling] = match columns {
            ..=16 => &[tiling(128, 16, 32, 32, 16, 4), tiling(64, 16, 32, 16, 16, 4)],
            17..=32 => &[tiling(128, 32, 32, 32, 32, 4), tiling(64, 32, 32, 32, 16, 4)],
            33..=64 => &[tiling(128, 64, 32, 64, 32, 4), tiling(64, 64, 32, 32, 32, 4)],
            _ => &[tiling(128, 128, 32, 64, 32, 4), tiling(128, 64, 32, 64, 32, 4), tiling(64, 64, 32, 32, 32, 4)],
        };
        *largest_first.iter().find(|t| busy(t)).unwrap_or(&largest_first[largest_first.len() - 1])
    }

    /// For the weight gradient: filters by taps and channels, few of both; the terms are pixels.
    fn of_weights(bf16: bool, rows: usize, columns: usize) -> Tiling {
        if !bf16 {
            return match rows {
                ..=16 => tiling(16, 64, 16, 4, 4, 2),
                17..=32 => tiling(32, 64, 16, 4, 4, 2),
                _ => tiling(64, 64, 16, 4, 4, 2),
            };
        }
        // Wide tiles read dy less often, if they are filled.
        let wide = columns.next_multiple_of(128) * 8 <= columns * 9;
        match (rows, wide) {
            (..=16, true) => tiling(16, 128, 64, 16, 32, 4),
            (..=16, false) => tiling(16, 64, 64, 16, 16, 4),
            (17..=32, true) => tiling(32, 128, 32, 32, 32, 4),
            (17..=32, false) => tiling(32, 64, 32, 16, 32, 4),
            (33..=64, true) => tiling(64, 128, 32, 32, 64, 4),
            (33..=64, false) => tiling(64, 64, 32, 32, 32, 4),
            (_, true) => tiling(128, 128, 32, 64, 32, 4),
            (_, false) => tiling(128, 64, 32, 64, 32, 4),
        }
    }

    fn threads(&self, bf16: bool) -> usize {
        self.block.0 / self.part.0 * (self.block.1 / self.part.1) * if bf16 { 32 } else { 1 }
    }

    /// The pipeline's stages; later, in the same place, the results on their way out, and the threads' channel sums.
    fn shared_bytes(&self, bf16: bool) -> usize {
        let (block_m, block_n) = self.block;
        let stages = self.stages * (block_m + block_n) * self.block_k * if bf16 { 2 } else { 4 };
        let staged = block_m * (block_n + 8) * 4;
        let sums = self.threads(bf16) * 2 * WRITE * 4;
        stages.max(staged).max(sums)
    }

    fn tiles(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.block.0) * columns.div_ceil(self.block.1)
    }
}

/// A kernel and how it is launched.
#[derive(Clone, Debug)]
pub struct Call {
    /// The kernel with its knobs.
    pub spec: KernelSpec,
    /// Grid, block, shared memory.
    pub launch: Launch,
}

/// A layer in one precision, and where its rows of channels are whole aligned 16-byte chunks.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    geometry: Geometry,
    bf16: bool,
    /// Elements of an image before the layer or after it, whichever are more.
    image: usize,
    images: usize,
    vector_channels: bool,
    vector_filters: bool,
}

impl Layer {
    /// The layer with all its tensors aligned to 16 bytes.
    pub fn new(geometry: &Geometry, precision: Precision) -> Layer {
        let g = geometry;
        let (pixels, product) = (g.height * g.width, g.kernel == 1 && g.stride == 1 && g.padding == 0);
        let geometry = if product { Geometry { batch: g.batch * pixels, height: 1, width: 1, ..*g } } else { *g };
        let bf16 = precision == Precision::Bf16;
        let chunk = if bf16 { 8 } else { 4 };
        Layer {
            geometry,
            bf16,
            image: size(g.input()).max(size(g.output())) / g.batch,
            images: g.batch,
            vector_channels: geometry.channels.is_multiple_of(chunk),
            vector_filters: geometry.filters.is_multiple_of(chunk),
        }
    }

    /// The layer with its tensors of input channels (`by_channels`) and of filters as they lie: chunks are loaded and
    /// stored whole only where every address allows it.
    fn at(geometry: &Geometry, precision: Precision, by_channels: &[DevicePtr], by_filters: &[DevicePtr]) -> Layer {
        let mut layer = Layer::new(geometry, precision);
        layer.vector_channels &= aligned(by_channels);
        layer.vector_filters &= aligned(by_filters);
        layer
    }

    /// Images of a view, as kernels count them.
    pub fn view_images(&self) -> usize {
        self.geometry.batch / self.geometry.views
    }

    /// Input pixels of the largest phase of an input gradient, in all images.
    fn phase_pixels(&self) -> usize {
        let g = &self.geometry;
        g.batch * g.height.div_ceil(g.stride) * g.width.div_ceil(g.stride)
    }

    /// Output pixels of one view.
    fn view_pixels(&self) -> usize {
        self.view_images() * self.geometry.out_height() * self.geometry.out_width()
    }

    /// Columns of the weight gradient: each tap's channels are filled up to what a thread writes at once.
    fn weight_columns(&self) -> usize {
        let g = &self.geometry;
        g.kernel * g.kernel * g.channels.next_multiple_of(WRITE)
    }

    fn forward_tiling(&self) -> Tiling {
        Tiling::of_pixels(self.bf16, self.view_pixels() * self.geometry.views, self.geometry.filters)
    }

    fn weight_grad_tiling(&self) -> Tiling {
        Tiling::of_weights(self.bf16, self.geometry.filters, self.weight_columns())
    }

    /// Pixels of one part of a view, of which the forward gives channel sums.
    pub fn part_pixels(&self) -> usize {
        if self.geometry.groups > 1 { grouped::BLOCK_PIXELS } else { self.forward_tiling().block.0 }
    }

    /// Parts of a view.
    pub fn sum_parts(&self) -> usize {
        self.view_pixels().div_ceil(self.part_pixels())
    }

    /// Pixels of one split of the weight gradient, and the number of splits.
    pub fn splits(&self) -> (usize, usize) {
        let pixels = self.view_pixels() * self.geometry.views;
        if self.geometry.groups > 1 {
            return self.grouped_splits(pixels);
        }
        let tiling = self.weight_grad_tiling();
        let k_tiles = pixels.div_ceil(tiling.block_k);
        let wanted = FULL_GRID / tiling.tiles(self.geometry.filters, self.weight_columns());
        let splits = wanted.min(k_tiles / SPLIT_TILES).max(1);
        let split = k_tiles.div_ceil(splits) * tiling.block_k;
        (split, pixels.div_ceil(split))
    }

    fn weights(&self) -> usize {
        self.geometry.weight().iter().product()
    }

    /// A kernel of this element type and shape.
    fn shape(&self, entry: &'static str) -> KernelSpec {
        let g = &self.geometry;
        KernelSpec::new(entry)
            .define("STORAGE_BF16", u8::from(self.bf16))
            .define("HEIGHT", g.height)
            .define("WIDTH", g.width)
            .define("CHANNELS", g.channels)
            .define("FILTERS", g.filters)
            .define("KERNEL", g.kernel)
            .define("STRIDE", g.stride)
            .define("PADDING", g.padding)
    }

    fn launch(&self, spec: KernelSpec, grid: [usize; 2], threads: usize, shared_bytes: usize) -> Result<Call> {
        let g = &self.geometry;
        let most = i32::MAX as usize;
        if self.image * self.images > most {
            let fit = most / self.image / g.views;
            let what = format!("a tensor of {} images has more than 2^31 elements: ", self.images);
            let advice = match fit {
                0 => "no batch fits: take smaller images".to_owned(),
                _ if g.views > 1 => {
                    format!("take a smaller batch, of at most {fit} images in each of {} views", g.views)
                }
                _ => format!("take a smaller batch, of at most {fit} images"),
            };
            return Err(Error::op(NAME, what + &advice));
        }
        let weights = self.weights();
        if weights > most || grid[1] > GRID_ROWS || g.height.max(g.width) + g.padding >= NOWHERE {
            return Err(Error::op(NAME, format!("{g:?} is more than kernels can count")));
        }
        let launch = Launch {
            grid: [int(grid[0], "blocks")? as u32, grid[1] as u32, 1],
            block: [threads as u32, 1, 1],
            shared_bytes: shared_bytes as u32,
            work: Work::default(),
        };
        Ok(Call { spec, launch })
    }

    fn call(&self, entry: &'static str, t: Tiling, grid: [usize; 2]) -> Result<Call> {
        let spec = self
            .shape(entry)
            .define("BLOCK_M", t.block.0)
            .define("BLOCK_N", t.block.1)
            .define("BLOCK_K", t.block_k)
            .define("PART_M", t.part.0)
            .define("PART_N", t.part.1)
            .define("STAGES", t.stages)
            .define("VECTOR_CHANNELS", u8::from(self.vector_channels))
            .define("VECTOR_FILTERS", u8::from(self.vector_filters));
        self.launch(spec, grid, t.threads(self.bf16), t.shared_bytes(self.bf16))
    }

    /// `conv2d_forward`; with `sums`, it emits channel sums. Grid: tiles of a view's pixels and of filters, by views.
    pub fn forward(&self, sums: bool) -> Result<Call> {
        if self.geometry.groups > 1 {
            return self.grouped_forward(sums);
        }
        let t = self.forward_tiling();
        let grid = [t.tiles(self.view_pixels(), self.geometry.filters), self.geometry.views];
        let mut call = self.call("conv2d_forward", t, grid)?;
        call.spec = call.spec.define("SUMS", u8::from(sums));
        call.launch.work = self.forward_work(t, &call.launch, sums);
        Ok(call)
    }

    /// `conv2d_input_grad`, written or added. Grid: tiles of a phase's pixels and of channels, by phases.
    pub fn input_grad(&self, accumulate: bool) -> Result<Call> {
        let g = &self.geometry;
        if g.groups > 1 {
            return self.grouped_input_grad(accumulate);
        }
        let (phase_pixels, phases) = (self.phase_pixels(), g.stride * g.stride);
        let t = Tiling::of_pixels(self.bf16, phase_pixels * phases, g.channels);
        let grid = [t.tiles(phase_pixels, g.channels), phases];
        let mut call = self.call("conv2d_input_grad", t, grid)?;
        call.spec = call.spec.define("ADD", u8::from(accumulate));
        call.launch.work = self.input_grad_work(t, &call.launch, accumulate);
        Ok(call)
    }

    /// `conv2d_weight_grad`. Grid: tiles of filters and of taps and channels, by splits.
    pub fn weight_grad(&self) -> Result<Call> {
        if self.geometry.groups > 1 {
            return self.grouped_weight_grad(self.splits().1);
        }
        let t = self.weight_grad_tiling();
        let grid = [t.tiles(self.geometry.filters, self.weight_columns()), self.splits().1];
        let mut call = self.call("conv2d_weight_grad", t, grid)?;
        call.launch.work = self.weight_grad_work(t, &call.launch);
        Ok(call)
    }

    /// `conv2d_weight_grad_reduce`: one thread per weight.
    pub fn weight_grad_reduce(&self) -> Call {
        Call {
            spec: KernelSpec::new("conv2d_weight_grad_reduce"),
            launch: Launch::cover(self.weights(), REDUCE_THREADS).does(self.weight_grad_reduce_work()),
        }
    }
}

/// A count as kernels take it.
fn int(count: usize, what: &str) -> Result<i32> {
    i32::try_from(count).map_err(|_| Error::op(NAME, format!("{count} {what} are more than a kernel can count")))
}

fn size(extents: [usize; 4]) -> usize {
    extents.iter().product()
}

impl Conv2dKernels for Launched {
    fn conv2d_sum_parts(&self, geometry: &Geometry) -> usize {
        Layer::new(geometry, self.precision).sum_parts()
    }

    fn conv2d_forward(&self, g: &Geometry, t: &Forward) -> Result<()> {
        let Forward { x, weight, y, sums } = *t;
        let operands = Operands::new(self, NAME);
        let x = operands.compute("x", x, size(g.input()))?;
        let weight = operands.compute("the weight", weight, size(g.weight()))?;
        let y = operands.compute("y", y, size(g.output()))?;
        let layer = Layer::at(g, self.precision, &[x, weight], &[y]);
        let sums = sums
            .map(|sums| operands.float("the sums", sums, g.views * layer.sum_parts() * 2 * g.filters))
            .transpose()?;
        let images = int(layer.view_images(), "images")?;
        // Without sums the kernel does not look at the pointer.
        let args = [Arg::Ptr(x), Arg::Ptr(weight), Arg::Ptr(y), Arg::Ptr(sums.unwrap_or_default()), Arg::I32(images)];
        let call = layer.forward(sums.is_some())?;
        self.launch(&call.spec, call.launch, &args)
    }

    fn conv2d_input_grad(&self, g: &Geometry, t: &InputGrad) -> Result<()> {
        let InputGrad { dy, weight, dx } = *t;
        let operands = Operands::new(self, NAME);
        let dy = operands.compute("dy", dy, size(g.output()))?;
        let weight = operands.compute("the weight", weight, size(g.weight()))?;
        let to = operands.compute("dx", dx.tensor, size(g.input()))?;
        let layer = Layer::at(g, self.precision, &[weight, to], &[dy]);
        let call = layer.input_grad(dx.accumulate)?;
        let images = int(layer.view_images() * g.views, "images")?;
        let args = [Arg::Ptr(dy), Arg::Ptr(weight), Arg::Ptr(to), Arg::I32(images)];
        self.launch(&call.spec, call.launch, &args)
    }

    fn conv2d_weight_grad(&self, g: &Geometry, t: &WeightGrad) -> Result<()> {
        let WeightGrad { x, dy, dweight, scratch } = *t;
        let operands = Operands::new(self, NAME);
        let x = operands.compute("x", x, size(g.input()))?;
        let dy = operands.compute("dy", dy, size(g.output()))?;
        let dweight = operands.float("dweight", dweight, size(g.weight()))?;
        let (split, splits) = Layer::new(g, self.precision).splits();
        let partials = match scratch {
            _ if splits == 1 => dweight,
            Some(scratch) if scratch.bytes() >= self.conv2d_backward_scratch(g) => self.pointer(scratch)?,
            _ => {
                let what = format!("the weight gradient needs {} bytes of scratch", self.conv2d_backward_scratch(g));
                return Err(Error::op(NAME, what));
            }
        };
        let layer = Layer::at(g, self.precision, &[x, partials], &[dy]);
        let call = layer.weight_grad()?;
        let pixels = g.batch * g.out_height() * g.out_width();
        let args = [
            Arg::Ptr(x),
            Arg::Ptr(dy),
            Arg::Ptr(partials),
            Arg::I32(int(pixels, "pixels")?),
            Arg::I32(int(split, "pixels of a split")?),
        ];
        self.launch(&call.spec, call.launch, &args)?;
        if splits == 1 {
            return Ok(());
        }
        let call = layer.weight_grad_reduce();
        let args = [
            Arg::Ptr(partials),
            Arg::Ptr(dweight),
            Arg::I32(int(layer.weights(), "weights")?),
            Arg::I32(int(splits, "splits")?),
        ];
        self.launch(&call.spec, call.launch, &args)
    }

    fn conv2d_backward_scratch(&self, geometry: &Geometry) -> usize {
        let layer = Layer::new(geometry, self.precision);
        match layer.splits().1 {
            1 => 0,
            splits => splits * layer.weights() * size_of::<f32>(),
        }
    }
}
