//! `checksum`: compares device memory, and looks for what is not finite, without moving it to the host.

use super::{Launched, Operands};
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::memory::Memory;
use crate::ops::checksum::{Checksum, ChecksumKernels, NAME, SCRATCH};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

const BLOCK: u32 = 256;
/// Of a block: hash and count.
const PART: usize = 16;
const MOST_BLOCKS: usize = SCRATCH / PART;

impl ChecksumKernels for Launched {
    fn checksum(&self, tensor: Tensor, scratch: Tensor) -> Result<Checksum> {
        let data = self.pointer(tensor)?;
        if data % 4 != 0 {
            return Err(Error::op(NAME, format!("the tensor starts at byte {}, no multiple of 4", tensor.offset)));
        }
        let blocks = tensor.bytes().div_ceil(4 * BLOCK as usize).clamp(1, MOST_BLOCKS);
        let parts = Tensor { shape: Shape::new(&[blocks * PART]), ..scratch };
        // The exponents of the lower and the upper half of a word.
        let (low, high) = match tensor.dtype {
            DType::U8 | DType::I32 => (0, 0),
            DType::Bf16 => (0x7f80, 0x7f80_0000),
            DType::F32 => (0, 0x7f80_0000),
            DType::F64 => return Err(Error::op(NAME, "kernels have no numbers in double precision")),
        };
        let operands = Operands::new(self, NAME);
        let args = [
            Arg::Ptr(data),
            Arg::Ptr(operands.pointer("the scratch", scratch, DType::U8, SCRATCH)?),
            Arg::U64(tensor.bytes() as u64),
            Arg::U32(low),
            Arg::U32(high),
        ];
        let spec = KernelSpec::new(NAME).define("BLOCK", BLOCK);
        let launch = Launch::linear(blocks as u32, BLOCK).shared(BLOCK * PART as u32);
        let work = Work::over(tensor.shape.dims()).moves(tensor.bytes()).moves(parts.bytes());
        self.launch(&spec, launch.does(work), &args)?;
        let mut words = vec![[0u64; 2]; blocks];
        self.download(parts, bytemuck::cast_slice_mut(&mut words))?;
        Ok(words.iter().fold(Checksum::default(), |all, [sum, count]| Checksum {
            sum: all.sum.wrapping_add(*sum),
            not_finite: all.not_finite + count,
        }))
    }
}
