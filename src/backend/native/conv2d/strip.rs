//! Image rows copied into the order in which the kernels read them: zeros around, channels in blocks.

use super::lanes::LANES;

/// Shape of a strip: (channel block, row, column, channel in the block). Pixels and channels beyond the image are
/// zero, so the kernels need no branch, and the (kernel column, channel) pairs of a tap row lie in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    /// Channels in a block: [`LANES`], or 4 for images of few channels.
    pub block: usize,
    /// The first of the image's channel blocks in the strip.
    pub first: usize,
    /// Channel blocks.
    pub blocks: usize,
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// An image, or a gradient of one, as the network stores it: (row, column, channel).
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    pub rows: usize,
    pub cols: usize,
    pub channels: usize,
}

impl Image {
    pub(super) fn floats(&self) -> usize {
        self.rows * self.cols * self.channels
    }
}

impl Strip {
    /// A strip for images of that many channels.
    pub(super) fn new(channels: usize, rows: usize, cols: usize) -> Strip {
        let block = if channels <= 4 { 4 } else { LANES };
        Strip { block, first: 0, blocks: channels.div_ceil(block), rows, cols }
    }

    pub(super) fn row_pitch(&self) -> usize {
        self.cols * self.block
    }

    pub(super) fn block_pitch(&self) -> usize {
        self.rows * self.row_pitch()
    }

    pub(super) fn floats(&self) -> usize {
        self.blocks * self.block_pitch()
    }

    /// Fills the strip: its pixel (0, 0) is the image's (`top`, `left`), which may lie outside. Channel blocks lie
    /// `block_pitch` floats apart in `to`.
    pub(super) fn fill(
        &self,
        to: &mut [f32],
        block_pitch: usize,
        image: &Image,
        from: &[f32],
        (top, left): (isize, isize),
    ) {
        // Columns of zeros, of pixels, and of zeros again.
        let before = (-left).clamp(0, self.cols as isize) as usize;
        let first = left.max(0) as usize;
        let count = image.cols.saturating_sub(first).min(self.cols - before);
        for block in 0..self.blocks {
            let channel = (self.first + block) * self.block;
            let width = self.block.min(image.channels - channel);
            for row in 0..self.rows {
                let line = &mut to[block * block_pitch + row * self.row_pitch()..][..self.row_pitch()];
                let y = top + row as isize;
                if y < 0 || y >= image.rows as isize {
                    line.fill(0.0);
                    continue;
                }
                let (zeros, rest) = line.split_at_mut(before * self.block);
                let (pixels, more_zeros) = rest.split_at_mut(count * self.block);
                zeros.fill(0.0);
                more_zeros.fill(0.0);
                let start = (y as usize * image.cols + first) * image.channels;
                let from = &from[start..start + count * image.channels];
                if image.channels == self.block {
                    pixels.copy_from_slice(from);
                } else if self.block == LANES && width == LANES {
                    let (to, _) = pixels.as_chunks_mut::<LANES>();
                    for (to, from) in to.iter_mut().zip(from.chunks_exact(image.channels)) {
                        to.copy_from_slice(&from[channel..channel + LANES]);
                    }
                } else {
                    for (to, from) in pixels.chunks_exact_mut(self.block).zip(from.chunks_exact(image.channels)) {
                        to[..width].copy_from_slice(&from[channel..channel + width]);
                        to[width..].fill(0.0);
                    }
                }
            }
        }
    }
}
