//! What test programs share: host arrays and random ones, forged checkpoints, a naive convolution, devices, a rig that runs one op, the tolerance
//! policy, PyTorch's fixtures, Python, whole training steps.

#![allow(dead_code, reason = "no test program uses all of it")]

pub mod array;
pub mod checkpoints;
pub mod convolution;
pub mod devices;
pub mod fixtures;
pub mod python;
pub mod rig;
#[cfg(unix)]
pub mod signals;
pub mod suite;
pub mod tolerance;
pub mod training;
