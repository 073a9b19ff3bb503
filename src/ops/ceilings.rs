//! What a device reaches at most: two loops that do nothing but arithmetic in registers, and nothing but copying. `bench
//! ops` holds the ops against them. Not on the tape.

use crate::error::Result;
use crate::tensor::Tensor;

/// The op's name at every layer.
pub const NAME: &str = "ceilings";

/// What a backend provides for measuring its ceilings.
pub trait CeilingKernels {
    /// How many values [`CeilingKernels::ceiling_math`] works on, so that every core has the same number of them and
    /// enough that are independent of each other.
    fn ceiling_values(&self) -> usize;

    /// Adds `rounds`, an even number, to each of `values` (a multiple of [`CeilingKernels::ceiling_values`]), accumulation
    /// type: on average every round adds 1 by the multiply-adds that convolutions are made of in this backend's precision, all of them in registers.
    /// Exact as long as sums stay below 2^19. Returns the number of floating-point operations, a multiply-add as two.
    ///
    /// # Errors
    /// When the number of values is no such multiple, the number of rounds odd, or the device fails.
    fn ceiling_math(&self, values: Tensor, rounds: u32) -> Result<f64>;

    /// `to = from`, both U8 (bytes) of the same size, a multiple of 16.
    ///
    /// # Errors
    /// When the sizes do not fit, or the device fails.
    fn ceilings_copy(&self, from: Tensor, to: Tensor) -> Result<()>;
}
