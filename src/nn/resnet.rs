//! The ResNets of ImageNet (He et al. 2016, table 1), with the stride in the 3x3 convolution and tensors named as torchvision's, and
//! ResNeXt-50 32x4d (Xie et al. 2017, table 1): four stages, shortcuts of a 1x1 convolution wherever the shape changes (option B).
//!
//! On small images the stem is a 3x3 convolution without a pool (as in GLMC's and weight balancing's code); parameters then start as
//! the framework draws them, and with the ImageNet stem as torchvision and GLMC's ImageNet code draw them.

use super::encoder::{Encoder, EncoderConfig, Family, Stem};
use super::layers::{ConvBn, ConvConfig, Recorder};
use super::parameters::{Specs, Start};
use crate::error::{Error, Result};
use crate::ops::global_avg_pool::global_avg_pool;
use crate::ops::max_pool::{self, max_pool};
use crate::tape::Var;

/// What distinguishes the networks.
struct Design {
    name: &'static str,
    /// Blocks of each stage.
    blocks: [usize; 4],
    /// Whether blocks are 1x1, 3x3, 1x1 with four times the planes, not two 3x3.
    bottleneck: bool,
    /// Groups of the 3x3 convolution.
    groups: usize,
    /// Channels of the 3x3 convolution over the planes.
    inner: usize,
}

const fn design(name: &'static str, blocks: [usize; 4], bottleneck: bool) -> Design {
    Design { name, blocks, bottleneck, groups: 1, inner: 1 }
}

const DESIGNS: [Design; 6] = [
    design("resnet18", [2, 2, 2, 2], false),
    design("resnet34", [3, 4, 6, 3], false),
    design("resnet50", [3, 4, 6, 3], true),
    design("resnet101", [3, 4, 23, 3], true),
    design("resnet152", [3, 8, 36, 3], true),
    Design { groups: 32, inner: 2, ..design("resnext50_32x4d", [3, 4, 6, 3], true) },
];

/// The family; h as in the models published with GLMC.
pub const FAMILY: Family = Family {
    names: &["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"],
    hidden: 256,
    stems: true,
    build,
};

/// Convolutions one after another, and the shortcut.
#[derive(Clone, Debug)]
struct Block {
    convolutions: Vec<ConvBn>,
    downsample: Option<ConvBn>,
}

impl Block {
    /// Declares a block of that name, from `channels` to what `planes` become; in torchvision's order.
    fn new(specs: &mut Specs, name: &str, design: &Design, channels: usize, planes: usize, stride: usize) -> Block {
        let inner = planes * design.inner;
        // Kernel, channels that come out, stride, groups.
        let layers = match design.bottleneck {
            true => vec![(1, inner, 1, 1), (3, inner, stride, design.groups), (1, 4 * planes, 1, 1)],
            false => vec![(3, planes, stride, 1), (3, planes, 1, 1)],
        };
        let mut from = channels;
        let mut convolutions = Vec::new();
        for (number, (kernel, filters, stride, groups)) in (1..).zip(layers) {
            let config = ConvConfig { channels: from, stored_channels: from, filters, kernel, stride, groups };
            convolutions.push(ConvBn::new(
                specs,
                &format!("{name}.conv{number}"),
                &format!("{name}.bn{number}"),
                config,
            ));
            from = filters;
        }
        let changes = stride != 1 || channels != from;
        let config = ConvConfig { channels, stored_channels: channels, filters: from, kernel: 1, stride, groups: 1 };
        let [conv, bn] = [0, 1].map(|part| format!("{name}.downsample.{part}"));
        let downsample = changes.then(|| ConvBn::new(specs, &conv, &bn, config));
        Block { convolutions, downsample }
    }

    fn record(&self, r: &mut Recorder<'_>, x: Var) -> Result<Var> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.record(r, x, None, false)?,
            None => x,
        };
        let mut y = x;
        for (at, convolution) in self.convolutions.iter().enumerate() {
            let added = (at + 1 == self.convolutions.len()).then_some(shortcut);
            y = convolution.record(r, y, added, true)?;
        }
        Ok(y)
    }
}

/// A ResNet or ResNeXt.
#[derive(Debug)]
struct ResNet {
    stem: ConvBn,
    pool: bool,
    blocks: Vec<Block>,
    features: usize,
}

fn build(name: &str, specs: &mut Specs, config: EncoderConfig) -> Result<Box<dyn Encoder>> {
    let design = DESIGNS.iter().find(|design| design.name == name);
    let design = design.expect("the family's names are those of its designs, as a test looks");
    let EncoderConfig { width, stem_channels, branches, stem } = config;
    if branches {
        return Err(Error::Config(format!("{name} has no two branches, which only the CIFAR ResNets have")));
    }
    if (width * design.inner) % design.groups != 0 {
        let (groups, of) = (design.groups, design.groups / design.inner);
        return Err(Error::Config(format!("{name} has {groups} groups: its width is a multiple of {of}, not {width}")));
    }
    specs.start = match stem {
        Stem::Cifar => Start::Framework,
        Stem::Imagenet => Start::FanOut,
    };
    let (kernel, stride) = match stem {
        Stem::Cifar => (3, 1),
        Stem::Imagenet => (7, 2),
    };
    let first = ConvConfig { channels: 3, stored_channels: stem_channels, filters: width, kernel, stride, groups: 1 };
    let stem_layer = ConvBn::new(specs, "conv1", "bn1", first);
    let (mut channels, mut blocks) = (width, Vec::new());
    for (stage, &count) in design.blocks.iter().enumerate() {
        let planes = width << stage;
        for index in 0..count {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            blocks.push(Block::new(specs, &format!("layer{}.{index}", stage + 1), design, channels, planes, stride));
            channels = if design.bottleneck { 4 * planes } else { planes };
        }
    }
    Ok(Box::new(ResNet { stem: stem_layer, pool: stem == Stem::Imagenet, blocks, features: channels }))
}

impl Encoder for ResNet {
    fn features(&self) -> usize {
        self.features
    }

    fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var> {
        let mut x = self.stem.record(r, images, None, true)?;
        if self.pool {
            x = max_pool(&mut r.tape, r.backend, x, max_pool::Config::IMAGENET)?;
        }
        for block in &self.blocks {
            x = block.record(r, x)?;
        }
        global_avg_pool(&mut r.tape, r.backend, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(name: &str, width: usize, stem: Stem, branches: bool) -> Result<(usize, Specs)> {
        let mut specs = Specs::default();
        let encoder = build(name, &mut specs, EncoderConfig { width, stem_channels: 3, branches, stem })?;
        Ok((encoder.features(), specs))
    }

    /// torchvision's counts of learned parameters, less those of its classifier of 1000 classes.
    #[test]
    fn networks_have_torchvisions_parameters() {
        assert_eq!(FAMILY.names, DESIGNS.map(|design| design.name));
        for (name, parameters, features) in [
            ("resnet18", 11_689_512, 512),
            ("resnet34", 21_797_672, 512),
            ("resnet50", 25_557_032, 2048),
            ("resnet101", 44_549_160, 2048),
            ("resnet152", 60_192_808, 2048),
            ("resnext50_32x4d", 25_028_904, 2048),
        ] {
            let (found, specs) = built(name, 64, Stem::Imagenet, false).unwrap();
            assert_eq!((found, specs.learned_elements()), (features, parameters - 1000 * (features + 1)), "{name}");
        }
        let (_, specs) = built("resnet50", 64, Stem::Cifar, false).unwrap();
        let of = |name: &str| specs.iter().find(|spec| spec.name == name).map(|spec| spec.shape.clone());
        assert_eq!(of("conv1.weight"), Some(vec![64, 3, 3, 3]));
        assert_eq!(of("layer2.0.conv2.weight"), Some(vec![128, 128, 3, 3]));
        assert_eq!(of("layer1.0.downsample.0.weight"), Some(vec![256, 64, 1, 1]));
        assert_eq!(of("layer1.1.downsample.0.weight"), None);
    }

    #[test]
    fn what_a_network_cannot_be_is_said() {
        let message =
            |width, branches| built("resnext50_32x4d", width, Stem::Cifar, branches).map(drop).unwrap_err().to_string();
        assert!(message(24, false).contains("a multiple of 16, not 24"), "{}", message(24, false));
        assert!(message(16, true).contains("branches"), "{}", message(16, true));
    }
}
