//! Networks: what parameters they have, how they start, and how they are recorded on a tape.
//!
//! A network is built once as a description ([`Model::new`]) that declares its parameters by PyTorch's names, and then
//! recorded as often as needed: for training with one or two views, and for inference.

pub mod cifar_resnet;
pub mod encoder;
pub mod groups;
pub mod layers;
pub mod model;
pub mod parameters;
pub mod resnet;

pub use encoder::Stem;
pub use groups::{BatchNorm, Group, Rules};
pub use layers::{Mode, Recorder};
pub use model::{HeadKind, HeadShape, Model, ModelConfig};
pub use parameters::{Field, ParameterStore, Snapshot};
