//! Encoders: networks without their heads, as descriptions that declare parameters and record themselves.

use super::cifar_resnet;
use super::layers::Recorder;
use super::parameters::Specs;
use crate::error::{Error, Result};
use crate::tape::Var;

/// From images to features.
pub trait Encoder: std::fmt::Debug + Send + Sync {
    /// Features that come out.
    fn features(&self) -> usize;

    /// Records the network on images (batch, height, width, stem channels); returns features (batch, features), in the
    /// accumulation type; of a network with two branches in training a row for both views of a sample.
    ///
    /// # Errors
    /// When the images do not fit the network.
    fn record(&self, r: &mut Recorder<'_>, images: Var) -> Result<Var>;
}

/// What an encoder is built from.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    /// Channels of the first stage.
    pub width: usize,
    /// Channels of the images as stored: 3, or more where a backend's stem wants padding.
    pub stem_channels: usize,
    /// Whether the last block exists twice: one sees the first view, the other the second, and their features, weighed by the
    /// step's shares, lie side by side (BBN). In evaluation both see every image, and features are as they are.
    pub branches: bool,
}

/// Networks of one design. A new design is one file, and one row in [`FAMILIES`].
pub struct Family {
    /// Their names.
    pub names: &'static [&'static str],
    /// Width h of the projection and prediction vectors that the published model has on such an encoder.
    pub hidden: usize,
    /// Declares the parameters of one of them.
    pub build: fn(&str, &mut Specs, EncoderConfig) -> Box<dyn Encoder>,
}

/// All designs.
pub const FAMILIES: &[Family] = &[cifar_resnet::FAMILY];

/// The names of all networks, for messages and help.
pub fn names() -> String {
    FAMILIES.iter().flat_map(|family| family.names).copied().collect::<Vec<_>>().join(", ")
}

/// The design that a network belongs to.
///
/// # Errors
/// When no design has a network of that name; the message lists those that there are.
pub fn family(name: &str) -> Result<&'static Family> {
    let family = FAMILIES.iter().find(|family| family.names.contains(&name));
    family.ok_or_else(|| Error::Config(format!("unknown model {name:?}: known are {}", names())))
}
