//! The CIFAR ResNets (He et al. 2016, section 4.2): 6n + 2 layers in three stages of `width`, 2 `width`, 4 `width`
//! channels, option-A shortcuts. With branches as in BBN's repository (Megvii-Nanjing/BBN, `BBN_ResNet_Cifar`): the last block
//! exists twice, as `cb_block` and `rb_block`.

use super::encoder::{Encoder, EncoderConfig, Family};
use super::layers::{ConvBn, ConvConfig, Mode, Recorder};
use super::parameters::Specs;
use crate::error::{Error, Result};
use crate::ops::global_avg_pool::global_avg_pool;
use crate::ops::join_branches::join_branches;
use crate::ops::split_views::split_views;
use crate::tape::Var;

/// A basic block: two 3x3 convolutions and a shortcut.
#[derive(Clone, Debug)]
struct Block {
    conv1: ConvBn,
    conv2: ConvBn,
}

impl Block {
    /// Declares a block of that name from `channels` to `filters`.
    fn new(specs: &mut Specs, name: &str, channels: usize, filters: usize, stride: usize) -> Block {
        let mut conv = |number: usize, channels: usize, stride: usize| {
            let config = ConvConfig { channels, stored_channels: channels, filters, kernel: 3, stride, groups: 1 };
            ConvBn::new(specs, &format!("{name}.conv{number}"), &format!("{name}.bn{number}"), config)
        };
        Block { conv1: conv(1, channels, stride), conv2: conv(2, filters, 1) }
    }

    fn record(&self, r: &mut Recorder<'_>, x: Var) -> Result<Var> {
        let inner = self.conv1.record(r, x, None, true)?;
        self.conv2.record(r, inner, Some(x), true)
    }
}

/// A CIFAR ResNet.
#[derive(Clone, Debug)]
struct CifarResNet {
    stem: ConvBn,
    blocks: Vec<Block>,
    /// What follows them: `cb_block` and `rb_block`.
    branches: Option<[Block; 2]>,
    features: usize,
}

/// The family; h as in the published CIFAR models.
pub const FAMILY: Family =
    Family { names: &["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"], hidden: 128, stems: false, build };

fn build(name: &str, specs: &mut Specs, config: EncoderConfig) -> Result<Box<dyn Encoder>> {
    let layers: usize = name["resnet".len()..].parse().expect("the family's names end in their number of layers");
    Ok(Box::new(CifarResNet::new(specs, (layers - 2) / 6, config)))
}

impl CifarResNet {
    /// Declares the parameters of a network with `blocks` blocks per stage.
    fn new(specs: &mut Specs, blocks: usize, config: EncoderConfig) -> CifarResNet {
        let EncoderConfig { width, stem_channels, branches, .. } = config;
        let config =
            ConvConfig { channels: 3, stored_channels: stem_channels, filters: width, kernel: 3, stride: 1, groups: 1 };
        let stem = ConvBn::new(specs, "conv1", "bn1", config);
        let mut channels = width;
        let mut list = Vec::new();
        let mut last = None;
        for stage in 0..3 {
            let filters = width << stage;
            for index in 0..blocks {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                if branches && stage == 2 && index == blocks - 1 {
                    last =
                        Some(["cb_block", "rb_block"].map(|name| Block::new(specs, name, channels, filters, stride)));
                } else {
                    let name = format!("layer{}.{index}", stage + 1);
                    list.push(Block::new(specs, &name, channels, filters, stride));
                }
                channels = filters;
            }
        }
        CifarResNet { stem, blocks: list, branches: last, features: if branches { 2 * channels } else { channels } }
    }

    /// Records the two branches on what they share, and their features side by side.
    fn record_branches(&self, r: &mut Recorder<'_>, branches: &[Block; 2], x: Var) -> Result<Var> {
        let shared = r.mode;
        let (views, shares) = match shared {
            Mode::Inference => ([x; 2], None),
            Mode::Train { views: 2 } => {
                let shares = r.shares.ok_or_else(|| Error::Config("branches: no shares to weigh them by".into()))?;
                (split_views(&mut r.tape, r.backend, x)?, Some(shares))
            }
            Mode::Train { views } => {
                return Err(Error::Config(format!("branches: two views are needed, one for each, not {views}")));
            }
        };
        if shares.is_some() {
            r.mode = Mode::Train { views: 1 };
        }
        let mut pooled = [x; 2];
        for ((to, block), view) in pooled.iter_mut().zip(branches).zip(views) {
            let y = block.record(r, view)?;
            *to = global_avg_pool(&mut r.tape, r.backend, y)?;
        }
        r.mode = shared;
        join_branches(&mut r.tape, r.backend, pooled, shares)
    }
}

impl Encoder for CifarResNet {
    fn features(&self) -> usize {
        self.features
    }

    fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        let mut x = self.stem.record(r, images, None, true)?;
        for block in &self.blocks {
            x = block.record(r, x)?;
        }
        match &self.branches {
            Some(branches) => self.record_branches(r, branches, x),
            None => global_avg_pool(&mut r.tape, r.backend, x),
        }
    }
}
