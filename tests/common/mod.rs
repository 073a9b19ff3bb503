//! What tests of ops share: host arrays, devices, a rig that runs one op, the tolerance policy, PyTorch's fixtures.

pub mod array;
pub mod devices;
pub mod fixtures;
pub mod rig;
pub mod suite;
pub mod tolerance;
