//! The CIFAR ResNets (He et al. 2016, section 4.2): 6n + 2 layers in three stages of `width`, 2 `width`, 4 `width`
//! channels, option-A shortcuts.

use super::encoder::{Encoder, EncoderConfig, Family};
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

/// A CIFAR ResNet.
#[derive(Clone, Debug)]
struct CifarResNet {
    stem: ConvBn,
    blocks: Vec<Block>,
    features: usize,
}

/// The family; h as in the published CIFAR models.
pub const FAMILY: Family =
    Family { names: &["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"], hidden: 128, build };

fn build(name: &str, specs: &mut Specs, config: EncoderConfig) -> Box<dyn Encoder> {
    let layers: usize = name["resnet".len()..].parse().expect("the family's names end in their number of layers");
    Box::new(CifarResNet::new(specs, (layers - 2) / 6, config))
}

impl CifarResNet {
    /// Declares the parameters of a network with `blocks` blocks per stage.
    fn new(specs: &mut Specs, blocks: usize, EncoderConfig { width, stem_channels }: EncoderConfig) -> CifarResNet {
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
}

impl Encoder for CifarResNet {
    fn features(&self) -> usize {
        self.features
    }

    fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        let mut x = self.stem.record(r, images, None, true)?;
        for block in &self.blocks {
            let inner = block.conv1.record(r, x, None, true)?;
            x = block.conv2.record(r, inner, Some(x), true)?;
        }
        global_avg_pool(&mut r.tape, r.backend, x)
    }
}
