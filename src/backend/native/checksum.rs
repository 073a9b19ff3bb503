//! `checksum` on the CPU: the numbers of `kernels/checksum.cu`.

use rayon::prelude::*;

use super::Native;
use crate::error::{Error, Result};
use crate::ops::checksum::{Checksum, ChecksumKernels, NAME};
use crate::tensor::{DType, Tensor};

/// Bytes of a word.
const WORD: usize = 4;
/// Words that a thread takes at a time, an even number: no double is split.
const CHUNK: usize = 1 << 16;

/// The finaliser of MurmurHash3 on a word and its position.
fn mix_word(word: u64, position: u64) -> u64 {
    let mut h = (position + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ word;
    h = (h ^ (h >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    h = (h ^ (h >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    h ^ (h >> 33)
}

/// The word in up to four bytes, filled up with zeros.
fn word(bytes: &[u8]) -> u32 {
    let mut all = [0; WORD];
    all[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(all)
}

/// How many numbers that end in this word, which is at `position`, are not finite: their exponents have all bits set.
fn not_finite(dtype: DType, word: u32, position: usize) -> u64 {
    let all_set = |bits: u32| u64::from(word & bits == bits);
    match dtype {
        DType::U8 | DType::I32 => 0,
        DType::Bf16 => all_set(0x7f80) + all_set(0x7f80_0000),
        DType::F32 => all_set(0x7f80_0000),
        // Little-endian: the exponent is in the second word.
        DType::F64 => u64::from(position % 2 == 1) * all_set(0x7ff0_0000),
    }
}

impl ChecksumKernels for Native {
    fn checksum(&self, tensor: Tensor, _scratch: Tensor) -> Result<Checksum> {
        if !tensor.offset.is_multiple_of(WORD) {
            return Err(Error::op(NAME, format!("the tensor starts at byte {}, no multiple of 4", tensor.offset)));
        }
        let access = self.memory.access()?;
        let bytes: &[u8] = access.bytes(tensor)?;
        let chunk = |(number, chunk): (usize, &[u8])| {
            chunk.chunks(WORD).enumerate().fold(Checksum::default(), |all, (at, bytes)| {
                let (word, position) = (word(bytes), number * CHUNK + at);
                Checksum {
                    sum: all.sum.wrapping_add(mix_word(word.into(), position as u64)),
                    not_finite: all.not_finite + not_finite(tensor.dtype, word, position),
                }
            })
        };
        let add = |a: Checksum, b: Checksum| Checksum {
            sum: a.sum.wrapping_add(b.sum),
            not_finite: a.not_finite + b.not_finite,
        };
        let chunks = || bytes.par_chunks(WORD * CHUNK).enumerate().map(chunk).reduce(Checksum::default, add);
        Ok(self.pool.install(chunks))
    }
}
