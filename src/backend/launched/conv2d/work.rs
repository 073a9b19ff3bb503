//! What the convolutions' kernels do, from the tiling and the grid that they are launched with.
//!
//! Operands pass L1 by (`cp.async.cg`): every tile asks L2 for its own rows and columns, a pixel once for each tap that it takes
//! part in, and for nothing outside the image. Kernels in groups read pixels through L1, where a block finds again what it
//! has met: there a block counts each pixel once.

use super::grouped::{BLOCK_PIXELS, Sides};
use super::{Layer, Tiling, size};
use crate::driver::{Launch, Work};

/// Bytes of a sum, a parameter's gradient, a weight in shared memory.
const F32: usize = size_of::<f32>();

impl Layer {
    /// Bytes of an element.
    fn element(&self) -> usize {
        if self.bf16 { 2 } else { F32 }
    }

    fn input_bytes(&self) -> usize {
        size(self.geometry.input()) * self.element()
    }

    fn output_bytes(&self) -> usize {
        size(self.geometry.output()) * self.element()
    }

    fn weight_bytes(&self) -> usize {
        self.weights() * self.element()
    }

    /// Pairs of an output pixel and a tap that lies inside the image, in all images.
    fn pairs(&self) -> usize {
        let g = &self.geometry;
        let along = |outputs: usize, inputs: usize| -> usize {
            let inside = |at: usize| at.checked_sub(g.padding).is_some_and(|at| at < inputs);
            (0..outputs).map(|o| (0..g.kernel).filter(|tap| inside(o * g.stride + tap)).count()).sum()
        };
        g.batch * along(g.out_height(), g.height) * along(g.out_width(), g.width)
    }

    /// Channels, or filters, filled up to whole chunks as the k of a product has them.
    fn filled(&self, channels: usize) -> usize {
        channels.next_multiple_of(if self.bf16 { 8 } else { 4 })
    }

    /// Taps of each phase of an input gradient (`kernels/conv2d/phases.cuh`).
    fn phase_taps(&self) -> Vec<usize> {
        let g = &self.geometry;
        let along = |phase: usize| g.kernel.saturating_sub((phase + g.padding) % g.stride).div_ceil(g.stride);
        (0..g.stride * g.stride).map(|phase| along(phase / g.stride) * along(phase % g.stride)).collect()
    }

    /// A product whose blocks run through `stages` stages of their pipelines, all together.
    fn product_work(&self, t: Tiling, launch: &Launch, stages: usize) -> Work {
        let ((block_m, block_n), (part_m, part_n)) = (t.block, t.part);
        let operations = 2 * block_m * block_n * t.block_k * stages;
        // A term's values: written once, and read by every warp that multiplies them. In f32 the threads of a warp lie
        // side by side along n, as far as that goes.
        let reads = if self.bf16 {
            block_m * (block_n / part_n) + block_n * (block_m / part_m)
        } else {
            let across = (block_n / part_n).min(32);
            t.threads(false).div_ceil(32) * (32 / across * part_m + across * part_n)
        };
        let staged = 2 * block_m * block_n * F32 * launch.blocks() as usize;
        let shared = stages * t.block_k * (block_m + block_n + reads) * self.element() + staged;
        let g = &self.geometry;
        let work = Work::over(&g.input()).shares(shared);
        match self.bf16 {
            true => work.tensor_cores(operations),
            // `Sum` in kernels/conv2d/product_f32.cuh.
            false if g.kernel > 3 || (g.kernel == 1 && g.channels < 64) => work.doubles(operations),
            false => work.floats(operations),
        }
    }

    pub(super) fn forward_work(&self, t: Tiling, launch: &Launch, sums: bool) -> Work {
        let (g, blocks) = (&self.geometry, launch.blocks() as usize);
        let (k, tiles_n) = (g.kernel * g.kernel * self.filled(g.channels), g.filters.div_ceil(t.block.1));
        self.product_work(t, launch, blocks * k.div_ceil(t.block_k))
            .fetches(self.input_bytes(), self.pairs() * g.channels * self.element() * tiles_n)
            .fetches(self.weight_bytes(), blocks / tiles_n * self.weight_bytes())
            .moves(self.output_bytes())
            .moves(self.sums_bytes(sums))
    }

    fn sums_bytes(&self, sums: bool) -> usize {
        if sums { self.geometry.views * self.sum_parts() * 2 * self.geometry.filters * F32 } else { 0 }
    }

    pub(super) fn input_grad_work(&self, t: Tiling, launch: &Launch, accumulate: bool) -> Work {
        let g = &self.geometry;
        let (taps, tiles_n) = (self.phase_taps(), g.channels.div_ceil(t.block.1));
        // Blocks of one phase.
        let blocks = launch.blocks() as usize / taps.len();
        let stages = taps.iter().map(|taps| (taps * self.filled(g.filters)).div_ceil(t.block_k)).sum::<usize>();
        self.product_work(t, launch, blocks * stages)
            .fetches(self.output_bytes(), self.pairs() * g.filters * self.element() * tiles_n)
            .fetches(self.weight_bytes(), blocks / tiles_n * self.weight_bytes())
            .puts(self.input_bytes(), accumulate)
    }

    pub(super) fn weight_grad_work(&self, t: Tiling, launch: &Launch) -> Work {
        let (g, (split, splits)) = (&self.geometry, self.splits());
        let (tiles_m, tiles_n) = (g.filters.div_ceil(t.block.0), self.weight_columns().div_ceil(t.block.1));
        let pixels = self.view_pixels() * g.views;
        let stages = (splits - 1) * split.div_ceil(t.block_k) + (pixels - (splits - 1) * split).div_ceil(t.block_k);
        self.product_work(t, launch, tiles_m * tiles_n * stages)
            .fetches(self.output_bytes(), tiles_n * self.output_bytes())
            .fetches(self.input_bytes(), self.pairs() * g.channels * self.element() * tiles_m)
            .moves(splits * self.weights() * F32)
    }

    pub(super) fn weight_grad_reduce_work(&self) -> Work {
        let (g, splits) = (&self.geometry, self.splits().1);
        Work::over(&[splits, g.filters, g.kernel * g.kernel, g.group_channels()])
            .moves(splits * self.weights() * F32)
            .moves(self.weights() * F32)
            .floats(splits * self.weights())
    }

    /// What the forward and the input gradient in groups read and compute: `block` channels of groups that read and make `sides`
    /// channels, from a tensor of `from` bytes, in blocks that have `taps` taps all together.
    fn direct_work(&self, [read, made]: Sides, block: usize, launch: &Launch, from: usize, taps: usize) -> Work {
        let groups = self.geometry.groups;
        // A block meets the channels of its groups in the pixels under its own.
        let (columns, met) = ((groups * made).div_ceil(block), block.div_ceil(made) * read);
        let (terms, warps) = (taps * block * read, launch.threads() as usize / 32);
        Work::over(&self.geometry.input())
            .fetches(from, from / (groups * read) * met * columns)
            .fetches(self.weight_bytes(), terms * self.element())
            .floats(2 * BLOCK_PIXELS * terms)
            .shares(terms * F32 * (1 + warps))
    }

    pub(super) fn grouped_forward_work(&self, sides: Sides, block: usize, launch: &Launch, sums: bool) -> Work {
        let taps = launch.blocks() as usize * self.geometry.kernel * self.geometry.kernel;
        self.direct_work(sides, block, launch, self.input_bytes(), taps)
            .moves(self.output_bytes())
            .moves(self.sums_bytes(sums))
    }

    pub(super) fn grouped_input_grad_work(
        &self,
        sides: Sides,
        block: usize,
        launch: &Launch,
        accumulate: bool,
    ) -> Work {
        let phases = self.phase_taps();
        let taps = launch.blocks() as usize / phases.len() * phases.iter().sum::<usize>();
        self.direct_work(sides, block, launch, self.output_bytes(), taps).puts(self.input_bytes(), accumulate)
    }

    pub(super) fn grouped_weight_grad_work(&self, vector: usize) -> Work {
        let (g, splits) = (&self.geometry, self.splits().1);
        let pixels = self.view_pixels() * g.views;
        let again = (g.group_filters() / vector).max(1);
        Work::over(&g.input())
            .moves(self.output_bytes())
            .fetches(self.input_bytes(), again * self.input_bytes())
            .moves(splits * self.weights() * F32)
            .floats(2 * pixels * self.weights())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv2d::Geometry;
    use crate::tensor::Precision;

    fn geometry(side: usize, kernel: usize, stride: usize) -> Geometry {
        let (channels, filters, padding) = (16, 32, kernel / 2);
        Geometry {
            batch: 4,
            height: side,
            width: side,
            channels,
            filters,
            kernel,
            stride,
            padding,
            views: 2,
            groups: 1,
        }
    }

    #[test]
    fn taps_outside_of_the_image_are_not_fetched() {
        for (side, kernel, stride) in [(8, 3, 1), (9, 3, 2), (8, 3, 2), (7, 1, 2), (12, 7, 2), (3, 5, 1)] {
            let g = geometry(side, kernel, stride);
            let layer = Layer::new(&g, Precision::Bf16);
            let mut pairs = 0;
            for (row, column) in (0..g.out_height()).flat_map(|row| (0..g.out_width()).map(move |column| (row, column)))
            {
                for (u, v) in (0..kernel).flat_map(|u| (0..kernel).map(move |v| (u, v))) {
                    let inside = |out: usize, tap: usize| (g.padding..side + g.padding).contains(&(out * stride + tap));
                    pairs += usize::from(inside(row, u) && inside(column, v));
                }
            }
            assert_eq!(layer.pairs(), g.batch * pairs, "{g:?}");
            assert_eq!(layer.phase_taps().iter().sum::<usize>(), kernel * kernel, "{g:?}");
        }
    }

    #[test]
    fn tiles_count_whole_and_fetch_their_own() {
        // 64 pixels a view and 32 filters: a block of 64 x 32 for each view; 9 * 16 terms in stages of 32 are 160.
        let g = geometry(8, 3, 1);
        let layer = Layer::new(&Geometry { batch: 2, ..g }, Precision::Bf16);
        let call = layer.forward(true).unwrap();
        let work = call.launch.work;
        assert_eq!(call.launch.blocks(), 2);
        assert_eq!((work.tensor, work.float, work.double), (2 * 128 * 32 * 160, 0, 0));
        // Of 8 x 8 pixels with a border, 22 * 22 of 24 * 24 taps lie inside.
        let (x, weight, y, sums) = (2 * 64 * 16 * 2, 32 * 9 * 16 * 2, 2 * 64 * 32 * 2, 2 * 2 * 32 * 4);
        assert_eq!(work.l2, 2 * 22 * 22 * 16 * 2 + 2 * weight + y + sums);
        assert_eq!(work.memory, x + weight + y + sums);
        // Both gradients do as much, and each fetches what it needs at least once.
        let whole = layer.input_grad(false).unwrap().launch.work;
        assert!(whole.tensor >= work.tensor * 9 / 10 && whole.l2 >= whole.memory);
        let added = layer.input_grad(true).unwrap().launch.work;
        assert_eq!(added.memory - whole.memory, x, "dx is read as well");
        let f32 = Layer::new(&Geometry { batch: 2, ..g }, Precision::F32).forward(true).unwrap().launch.work;
        assert!(f32.tensor == 0 && f32.float > 0 && f32.memory > 3 * work.memory / 2);
    }
}
