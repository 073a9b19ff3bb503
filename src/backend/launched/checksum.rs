//! `checksum`: compares device memory without moving it to the host.

use super::{Launched, Operands};
use crate::driver::{Arg, KernelSpec, Launch};
use crate::memory::Memory;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const NAME: &str = "checksum";
const BLOCK: u32 = 256;
const MOST_BLOCKS: usize = 256;

impl Launched {
    /// A 64-bit hash of the tensor's bytes, the same on every device: equal tensors have equal checksums, and two runs
    /// that should give the same bits can be compared by it. Not for adversaries.
    ///
    /// # Errors
    /// When the tensor does not start at a multiple of four bytes, or the device fails.
    pub fn checksum(&self, tensor: Tensor) -> Result<u64> {
        let data = self.pointer(tensor)?;
        if data % 4 != 0 {
            return Err(Error::op(NAME, format!("the tensor starts at byte {}, no multiple of 4", tensor.offset)));
        }
        let blocks = tensor.bytes().div_ceil(4 * BLOCK as usize).clamp(1, MOST_BLOCKS);
        let buffer = self.alloc(blocks * 8, "checksum")?;
        let parts = Tensor::at_start(buffer, &[blocks * 8], DType::U8);
        let sum = self.checksum_into(tensor, data, parts);
        self.free(buffer);
        sum
    }

    fn checksum_into(&self, tensor: Tensor, data: u64, parts: Tensor) -> Result<u64> {
        let blocks = parts.elements() / 8;
        let operands = Operands::new(self, NAME);
        let args = [
            Arg::Ptr(data),
            Arg::Ptr(operands.pointer("the parts", parts, DType::U8, parts.elements())?),
            Arg::U64(tensor.bytes() as u64),
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        self.launch(&spec, Launch::linear(blocks as u32, BLOCK).shared(BLOCK * 8), &args)?;
        let mut words = vec![0u64; blocks];
        self.download(parts, bytemuck::cast_slice_mut(&mut words))?;
        Ok(words.iter().fold(0, |sum, word| sum.wrapping_add(*word)))
    }
}
