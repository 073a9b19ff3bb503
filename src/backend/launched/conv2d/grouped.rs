//! Convolutions in groups: their own kernels, bound by memory, without tensor cores. See `kernels/conv2d/grouped.cuh`.

use super::{Call, FULL_GRID, Layer, NAME};
use crate::driver::KernelSpec;
use crate::{Error, Result};

/// Pixels of a block, and of a thread.
pub(super) const BLOCK_PIXELS: usize = 128;
const THREAD_PIXELS: usize = 4;
/// Threads side by side along the channels.
const COLUMNS: usize = 8;
/// Most bytes of weights in shared memory: four blocks a multiprocessor on the largest GPUs, one on the smallest.
const WEIGHT_BYTES: usize = 52 * 1024;
/// Items of a block of the weight gradient, and threads that share the pixels of one.
const ITEMS: usize = 64;
const LANES: usize = 4;
/// Fewest pixels of a split.
const SPLIT_PIXELS: usize = 256;

/// How a kernel takes channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channels {
    /// Neighbours that a thread has: sixteen bytes, or one.
    vector: usize,
    /// Channels of a group whose weights are in shared memory at a time.
    slice: usize,
}

/// Channels of a group on both sides: those read, those made.
pub(super) type Sides = [usize; 2];

impl Layer {
    /// Sixteen bytes at a time where they lie inside groups, or hold several whole ones that are as wide on both sides.
    fn vector(&self, [read, made]: Sides) -> usize {
        let vector = if self.bf16 { 8 } else { 4 };
        let inside = read.is_multiple_of(vector) && made.is_multiple_of(vector);
        let several = read == made && vector.is_multiple_of(made);
        if self.vector_channels && self.vector_filters && (inside || several) { vector } else { 1 }
    }

    /// For the forward and the input gradient.
    fn channels(&self, sides: Sides) -> Result<Channels> {
        let g = &self.geometry;
        let [read, made] = sides;
        let room = |vector: usize| WEIGHT_BYTES / (g.kernel * g.kernel * COLUMNS * vector * size_of::<f32>());
        let vector = self.vector(sides);
        let slice = match made.is_multiple_of(vector) {
            true => read.min(room(vector) / vector * vector),
            false if room(vector) >= read => read,
            false => 0,
        };
        let channels =
            if slice > 0 { Channels { vector, slice } } else { Channels { vector: 1, slice: read.min(room(1)) } };
        if channels.slice == 0 {
            return Err(Error::op(
                NAME,
                format!("kernels of {0}x{0} taps in groups are too large for a GPU", g.kernel),
            ));
        }
        Ok(channels)
    }

    /// A kernel that makes `made` channels of `pixels` pixels in each of `parts` parts.
    fn direct(&self, entry: &'static str, sides: Sides, made: usize, pixels: usize, parts: usize) -> Result<Call> {
        let Channels { vector, slice } = self.channels(sides)?;
        let (block, taps) = (COLUMNS * vector, self.geometry.kernel * self.geometry.kernel);
        let grid = [pixels.div_ceil(BLOCK_PIXELS) * made.div_ceil(block), parts];
        let runs = BLOCK_PIXELS / THREAD_PIXELS;
        let spec = self
            .grouped(entry, vector)
            .define("BLOCK_M", BLOCK_PIXELS)
            .define("BLOCK_N", block)
            .define("PART_M", THREAD_PIXELS)
            .define("SLICE", slice);
        // The weights; later, in the same place, the channel sums of each run.
        let shared = (taps * slice * block).max(runs * 2 * block) * size_of::<f32>();
        self.launch(spec, grid, runs * COLUMNS, shared)
    }

    fn grouped(&self, entry: &'static str, vector: usize) -> KernelSpec {
        self.shape(entry).define("GROUPS", self.geometry.groups).define("VECTOR", vector)
    }

    /// `conv2d_grouped_forward`; with `sums`, it emits channel sums. Grid: tiles of a view's pixels and of filters, by views.
    pub(super) fn grouped_forward(&self, sums: bool) -> Result<Call> {
        let g = &self.geometry;
        let sides = [g.group_channels(), g.group_filters()];
        let mut call = self.direct("conv2d_grouped_forward", sides, g.filters, self.view_pixels(), g.views)?;
        call.spec = call.spec.define("SUMS", u8::from(sums));
        let block = COLUMNS * self.channels(sides)?.vector;
        call.launch.work = self.grouped_forward_work(sides, block, &call.launch, sums);
        Ok(call)
    }

    /// `conv2d_grouped_input_grad`, written or added. Grid: tiles of a phase's pixels and of channels, by phases.
    pub(super) fn grouped_input_grad(&self, accumulate: bool) -> Result<Call> {
        let g = &self.geometry;
        let sides = [g.group_filters(), g.group_channels()];
        let pixels = self.phase_pixels();
        let mut call = self.direct("conv2d_grouped_input_grad", sides, g.channels, pixels, g.stride * g.stride)?;
        call.spec = call.spec.define("ADD", u8::from(accumulate));
        let block = COLUMNS * self.channels(sides)?.vector;
        call.launch.work = self.grouped_input_grad_work(sides, block, &call.launch, accumulate);
        Ok(call)
    }

    /// Blocks of items of the weight gradient.
    fn item_blocks(&self) -> (usize, usize) {
        let g = &self.geometry;
        let vector = self.vector([g.group_channels(), g.group_filters()]);
        let chunks = (g.group_channels() / vector).max(1);
        (vector, (g.filters / vector * chunks * g.kernel * g.kernel).div_ceil(ITEMS))
    }

    /// See [`Layer::splits`].
    pub(super) fn grouped_splits(&self, pixels: usize) -> (usize, usize) {
        let splits = (FULL_GRID / self.item_blocks().1).min(pixels / SPLIT_PIXELS).max(1);
        let split = pixels.div_ceil(splits);
        (split, pixels.div_ceil(split))
    }

    /// `conv2d_grouped_weight_grad`, in that many splits. Grid: blocks of items, by splits.
    pub(super) fn grouped_weight_grad(&self, splits: usize) -> Result<Call> {
        let (vector, blocks) = self.item_blocks();
        let spec = self.grouped("conv2d_grouped_weight_grad", vector).define("ITEMS", ITEMS).define("LANES", LANES);
        let wide = if self.geometry.group_filters() < vector { self.geometry.group_channels() } else { vector };
        let mut call = self.launch(spec, [blocks, splits], ITEMS * LANES, ITEMS * LANES * wide * size_of::<f32>())?;
        call.launch.work = self.grouped_weight_grad_work(vector);
        Ok(call)
    }
}
