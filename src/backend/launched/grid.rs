//! Geometry that kernels share: (views, pixels, channels) cut as `kernels/channels.cuh` says.

use crate::driver::{KernelSpec, Launch, Work};

/// Threads of a block in kernels over channels.
pub(crate) const BLOCK: usize = 256;

/// How channels are laid over the threads of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelGrid {
    /// Channels that a thread moves at a time.
    pub(crate) vector: usize,
    /// Threads side by side along the channels.
    pub(crate) columns: usize,
    /// Blocks along the channels.
    pub(crate) chunks: usize,
}

impl ChannelGrid {
    /// For `channels`, moved `vector` at a time; `vector` must divide `channels`.
    pub(crate) fn new(channels: usize, vector: usize) -> ChannelGrid {
        let groups = channels / vector;
        let chunks = groups.div_ceil(BLOCK);
        ChannelGrid { vector, columns: groups.div_ceil(chunks), chunks }
    }

    /// Pixels that a block does at a time.
    pub(crate) fn rows(&self) -> usize {
        BLOCK / self.columns
    }

    /// Blocks along the pixels when each thread does about `each` of `pixels`, but no more than `most`.
    pub(crate) fn blocks(&self, pixels: usize, each: usize, most: usize) -> usize {
        pixels.div_ceil(self.rows() * each).clamp(1, most.max(1))
    }

    /// The knobs that `channels.cuh` wants.
    pub(crate) fn define(&self, spec: KernelSpec) -> KernelSpec {
        spec.define("BLOCK", BLOCK).define("VECTOR", self.vector)
    }

    /// A launch of `blocks` along the pixels for each of `views`.
    pub(crate) fn launch(&self, blocks: usize, views: usize) -> Launch {
        let grid = [blocks as u32, self.chunks as u32, views as u32];
        Launch { grid, block: [BLOCK as u32, 1, 1], shared_bytes: 0, work: Work::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_a_thread() {
        for vector in [1, 4, 8] {
            for groups in (1..600).chain([2048, 4096]) {
                let grid = ChannelGrid::new(groups * vector, vector);
                assert!(grid.columns * grid.chunks >= groups && grid.columns <= BLOCK && grid.rows() >= 1);
                assert!(grid.columns * (grid.chunks - 1) < groups, "no block is idle");
            }
        }
    }
}
