//! Random numbers: counter-based Philox for training, NumPy's legacy MT19937 for the published splits.

pub mod mt19937;
pub mod philox;
