//! The CIFAR ResNets (He et al. 2016, section 4.2): 6n + 2 layers in three stages of `width`, 2 `width`, 4 `width`
//! channels, option-A shortcuts.

use super::layers::{ConvBn, ConvConfig, Recorder};
use super::parameters::Specs;
use crate::error::Result;
use crate::ops::global_avg_pool::global_avg_pool;
use crate::tape::Var;

/// A basic block: two 3x3 convolutions and a shortcut.
#[derive(Clone, Debug)]
struct Block {
    conv1: ConvBn,
    conv2: ConvBn,
}

/// A CIFAR ResNet without its heads.
#[derive(Clone, Debug)]
pub struct CifarResNet {
    stem: ConvBn,
    blocks: Vec<Block>,
    /// Features that come out: 4 `width`.
    pub features: usize,
}

/// Blocks a stage of the named network, such as 5 for `resnet32`; `None` for names that are not of this family.
pub fn blocks_per_stage(name: &str) -> Option<usize> {
    match name {
        "resnet20" => Some(3),
        "resnet32" => Some(5),
        "resnet44" => Some(7),
        "resnet56" => Some(9),
        "resnet110" => Some(18),
        _ => None,
    }
}

/// Names of the family, for messages.
pub const NAMES: &str = "resnet20, resnet32, resnet44, resnet56, resnet110";

impl CifarResNet {
    /// Declares the parameters of a network with `blocks` blocks a stage, its first stage `width` channels wide.
    pub fn new(specs: &mut Specs, blocks: usize, width: usize, stem_channels: usize) -> CifarResNet {
        let config = ConvConfig { channels: 3, stored_channels: stem_channels, filters: width, kernel: 3, stride: 1 };
        let stem = ConvBn::new(specs, "conv1", "bn1", config);
        let mut channels = width;
        let mut list = Vec::new();
        for stage in 0..3 {
            let filters = width << stage;
            for index in 0..blocks {
                let name = format!("layer{}.{index}", stage + 1);
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let mut conv = |number: usize, channels: usize, stride: usize| {
                    let config = ConvConfig { channels, stored_channels: channels, filters, kernel: 3, stride };
                    ConvBn::new(specs, &format!("{name}.conv{number}"), &format!("{name}.bn{number}"), config)
                };
                list.push(Block { conv1: conv(1, channels, stride), conv2: conv(2, filters, 1) });
                channels = filters;
            }
        }
        CifarResNet { stem, blocks: list, features: channels }
    }

    /// Records the network on images (batch, height, width, stem channels); returns features (batch, 4 `width`).
    pub fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        let mut x = self.stem.record(r, images, None, true)?;
        for block in &self.blocks {
            let inner = block.conv1.record(r, x, None, true)?;
            x = block.conv2.record(r, inner, Some(x), true)?;
        }
        global_avg_pool(&mut r.tape, r.backend, x)
    }
}
