//! Data sets: what `prepare` writes and the trainer reads.
//!
//! [`store`] is the format, [`cifar`], [`images`] and [`synthetic`] are the ways into it, [`longtail`] and [`shots`] are the
//! definitions that make a set long-tailed.

mod budget;
pub mod cifar;
pub mod decode;
pub mod images;
pub mod inputs;
pub mod listing;
pub mod loader;
pub mod longtail;
pub mod meta;
pub mod npy;
pub mod pickle;
pub mod pixels;
mod place;
pub mod published;
pub mod resize;
pub mod shots;
pub mod sizes;
pub mod store;
pub mod summary;
mod sums;
pub mod synthetic;
pub mod writer;

pub use meta::Meta;
pub use place::recover;
pub use shots::Shot;
pub use store::{ImageSet, Store, Subset};
pub use summary::Summary;
pub use writer::StoreWriter;
