//! Which channels go with which in a convolution of groups, in blocks as the kernels take them.

use std::ops::Range;

use super::lanes::LANES;
use super::strip::Strip;

/// The channel blocks that each sixteen output channels read: those that their groups span. All of them, if there is one
/// group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    /// Input and output channels of a group.
    group: [usize; 2],
    /// Input channels in a block.
    block: usize,
    /// Blocks of input channels, and output channels.
    all: [usize; 2],
    /// Channel blocks of each span: as many as the widest one needs, so that all are packed alike.
    pub blocks: usize,
}

impl Spans {
    /// For strips of that kind, which hold all channels.
    pub(super) fn new(groups: usize, from: usize, to: usize, strip: &Strip) -> Spans {
        let group = [from / groups, to / groups];
        let mut spans = Spans { group, block: strip.block, all: [from.div_ceil(strip.block), to], blocks: 0 };
        spans.blocks = (0..to.div_ceil(LANES)).map(|block| spans.needed(block).len()).max().unwrap_or(0);
        spans
    }

    /// The channel blocks with a channel that one of these output channels reads.
    fn needed(&self, out_block: usize) -> Range<usize> {
        let last = self.all[1].min((out_block + 1) * LANES) - 1;
        self.inputs(out_block * LANES).start / self.block..self.inputs(last).end.div_ceil(self.block)
    }

    /// The first channel block for sixteen output channels.
    pub(super) fn first(&self, out_block: usize) -> usize {
        self.needed(out_block).start.min(self.all[0] - self.blocks)
    }

    /// The input channels that an output channel reads.
    pub(super) fn inputs(&self, output: usize) -> Range<usize> {
        let group = output / self.group[1];
        group * self.group[0]..(group + 1) * self.group[0]
    }

    /// The output channels that read an input channel.
    pub(super) fn outputs(&self, input: usize) -> Range<usize> {
        let group = input / self.group[0];
        group * self.group[1]..(group + 1) * self.group[1]
    }
}
