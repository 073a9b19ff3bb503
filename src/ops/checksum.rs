//! A tensor's checksum, and how many of its numbers are not finite, in one pass over it where it lies: a checkpoint asks before it
//! is written. Not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "checksum";

/// Bytes that a pass over a tensor of any size needs beside it.
pub const SCRATCH: usize = 4096;

/// What a pass over a tensor finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// A hash of the bytes, the same on every device: equal tensors have equal ones, and two runs that should give the same bits
    /// can be compared by it. Not for adversaries.
    pub sum: u64,
    /// Infinities and NaNs; none in a tensor of integers.
    pub not_finite: u64,
}

/// What a backend provides for checksums.
pub trait ChecksumKernels {
    /// The checksum of a tensor of any type. `scratch`, U8 ([`SCRATCH`]), is overwritten: nothing is allocated.
    ///
    /// # Errors
    /// When the tensor does not start at a multiple of four bytes, or the device fails.
    fn checksum(&self, tensor: Tensor, scratch: Tensor) -> Result<Checksum>;
}
