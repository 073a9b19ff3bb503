//! `ceilings` on the CPU: chains of multiply-adds in as many registers as the convolutions use, and a copy that does not
//! pass through the caches on its way out.

use super::Native;
use super::conv2d::lanes::{self, LANES, Lanes, instantiate};
use super::cpu::{Level, vectorize};
use super::parallel::{Rows, for_chunks};
use crate::error::{Error, Result};
use crate::ops::ceilings::{CeilingKernels, NAME};
use crate::tensor::{DType, Precision, Tensor};

/// Values that a thread holds in registers at a time, or a divisor of this: 12 vectors of 16 floats.
const TILE: usize = 12 * LANES;
/// Tiles of a thread: work is handed out tile by tile, so that a thread which is held up leaves its share to others.
const TILES: usize = 16;
/// Bytes that a thread copies at a time.
const COPY: usize = 1 << 20;

/// Some values in single precision on their way through the chains.
pub(super) struct Chains {
    values: *mut f32,
    count: usize,
    rounds: u32,
    /// The number of the first value: each vector multiplies by others.
    first: usize,
}

/// What the values are multiplied by, for random integers x of up to 8 bits: two rounds add `(x + 1)(x + 2)` and `-x (x + 3)`,
/// which is 2, exactly, as no sum needs more than 20 bits. As in `kernels/ceilings_fma.cu`.
fn factors(number: usize) -> [i16; 4] {
    let bits = (number as u32).wrapping_add(1).wrapping_mul(0x9e37_79b9);
    let bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    let x = ((bits >> 16) & 511) as i16 - 255;
    [x + 1, x + 2, -x, x + 3]
}

/// `N` vectors at a time: independent chains, since a multiply-add's result takes several cycles.
///
/// # Safety
/// The features of `L` are present, and `count` floats at `values` are ours.
#[inline(always)]
unsafe fn keep_going<L: Lanes, const N: usize>(c: &Chains) {
    let mut at = 0;
    while at + N * LANES <= c.count {
        let mut lanes = [[0.0f32; LANES]; 4];
        for lane in 0..LANES {
            for (all, factor) in lanes.iter_mut().zip(factors(c.first + at + lane)) {
                all[lane] = f32::from(factor);
            }
        }
        // SAFETY: the caller's contract: the features are there and floats `at..at + N * LANES` are ours.
        unsafe {
            let mut chains = [L::zero(); N];
            for (i, chain) in chains.iter_mut().enumerate() {
                *chain = L::load(c.values.add(at + i * LANES));
            }
            for _ in 0..c.rounds / 2 {
                // Where a multiply-add is two instructions, the product would otherwise be made once, before the loop.
                let [a, b, d, e] = std::hint::black_box(&lanes);
                let [a, b, d, e] = [a, b, d, e].map(|factor| L::load(factor.as_ptr()));
                for chain in &mut chains {
                    *chain = L::mul_add(a, b, *chain);
                }
                for chain in &mut chains {
                    *chain = L::mul_add(d, e, *chain);
                }
            }
            for (i, chain) in chains.iter().enumerate() {
                L::store(c.values.add(at + i * LANES), *chain);
            }
        }
        at += N * LANES;
    }
}

/// As many chains as fit into the registers of the level with what to multiply by, where that is possible.
///
/// # Safety
/// As [`keep_going`].
#[inline(always)]
unsafe fn chains_of_level<L: Lanes>(c: &Chains) {
    // SAFETY: the caller's contract, which is the same.
    unsafe {
        match L::REGISTERS {
            16.. => keep_going::<L, 12>(c),
            8.. => keep_going::<L, 4>(c),
            _ => keep_going::<L, 3>(c),
        }
    }
}

instantiate!(chains, chains_of_level, Chains);

/// The same in double precision, `N` vectors of `W` values at a time, of which the first is number `first`.
#[inline(always)]
fn doubles<const W: usize, const N: usize>(values: &mut [f64], rounds: u32, first: usize, fused: bool) {
    for (number, tile) in values.chunks_exact_mut(N * W).enumerate() {
        let mut lanes = [[0.0f64; W]; 4];
        for lane in 0..W {
            for (all, factor) in lanes.iter_mut().zip(factors(first + number * N * W + lane)) {
                all[lane] = f64::from(factor);
            }
        }
        let mut chains = [[0.0; W]; N];
        chains.iter_mut().zip(tile.chunks_exact(W)).for_each(|(chain, values)| chain.copy_from_slice(values));
        for _ in 0..rounds / 2 {
            let [a, b, d, e] = std::hint::black_box(&lanes);
            add_products(&mut chains, a, b, fused);
            add_products(&mut chains, d, e, fused);
        }
        chains.iter().zip(tile.chunks_exact_mut(W)).for_each(|(chain, values)| values.copy_from_slice(chain));
    }
}

/// One round.
#[inline(always)]
fn add_products<const W: usize, const N: usize>(chains: &mut [[f64; W]; N], a: &[f64; W], b: &[f64; W], fused: bool) {
    for chain in chains {
        for lane in 0..W {
            let (a, b, c) = (a[lane], b[lane], chain[lane]);
            chain[lane] = if fused { a.mul_add(b, c) } else { a * b + c };
        }
    }
}

/// Copies past the caches: a store that passes through them first reads what it overwrites, which is a third more
/// traffic than a copy is counted as.
fn stream(from: &[u8], to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        let bytes = from.len().min(to.len());
        if to.as_ptr().cast::<__m128i>().is_aligned() && bytes.is_multiple_of(size_of::<__m128i>()) {
            for at in (0..bytes).step_by(size_of::<__m128i>()) {
                // SAFETY: 16 bytes at `at` lie inside both slices, whose common length is a multiple of 16, and `to` is
                // aligned to 16. SSE2 is part of x86-64.
                unsafe {
                    let value = _mm_loadu_si128(from.as_ptr().add(at).cast());
                    _mm_stream_si128(to.as_mut_ptr().add(at).cast(), value);
                }
            }
            // Streamed stores are not ordered with what tells other threads that this one is done.
            // SAFETY: SSE is part of x86-64.
            unsafe { _mm_sfence() };
            return;
        }
    }
    to.copy_from_slice(from);
}

impl CeilingKernels for Native {
    fn ceiling_values(&self) -> usize {
        self.pool.current_num_threads() * TILES * TILE
    }

    fn ceiling_math(&self, values: Tensor, rounds: u32) -> Result<f64> {
        let count = values.elements();
        if !count.is_multiple_of(TILE) {
            return Err(Error::op(NAME, format!("{count} values are no multiple of {TILE}")));
        }
        if !rounds.is_multiple_of(2) {
            return Err(Error::op(NAME, format!("{rounds} rounds; only an even number adds up")));
        }
        let level = Level::in_use();
        let access = self.memory.access()?;
        if self.precision == Precision::F64 {
            let values = access.write::<f64>(values)?;
            let work = |first: usize, tile: Rows<'_, f64>| {
                // Vectors of the width that the level has, as many as leave registers to multiply by.
                vectorize(
                    #[inline(always)]
                    || match level {
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx512 => doubles::<8, 12>(tile.0, rounds, first, true),
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx2 => doubles::<4, 8>(tile.0, rounds, first, true),
                        Level::Portable => doubles::<2, 8>(tile.0, rounds, first, false),
                    },
                );
            };
            self.pool.install(|| for_chunks(Rows(values, 1), count, TILE, &work));
        } else {
            let values = access.write::<f32>(values)?;
            let run = chains(level);
            let work = |first: usize, tile: Rows<'_, f32>| {
                let args = Chains { values: tile.0.as_mut_ptr(), count: tile.0.len(), rounds, first };
                // SAFETY: the level in use is available, and the slice is this call's own.
                unsafe { run(&args) }
            };
            self.pool.install(|| for_chunks(Rows(values, 1), count, TILE, &work));
        }
        Ok(2.0 * count as f64 * f64::from(rounds))
    }

    fn ceilings_copy(&self, from: Tensor, to: Tensor) -> Result<()> {
        if from.bytes() != to.bytes() || from.dtype != DType::U8 {
            return Err(Error::op(NAME, format!("a copy from {} to {} bytes", from.bytes(), to.bytes())));
        }
        let access = self.memory.access()?;
        let (from, to) = (access.read::<u8>(from)?, access.write::<u8>(to)?);
        let bytes = from.len();
        let work = |first: usize, to: Rows<'_, u8>| stream(&from[first..][..to.0.len()], to.0);
        self.pool.install(|| for_chunks(Rows(to, 1), bytes, COPY, &work));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    #[test]
    fn every_value_goes_through_every_round_at_every_level() {
        for level in Level::available() {
            let mut values: Vec<f32> = (0..TILE).map(|i| i as f32).collect();
            let args = Chains { values: values.as_mut_ptr(), count: TILE, rounds: 1002, first: 960 };
            // SAFETY: the level is available, and the values are ours.
            unsafe { chains(level)(&args) };
            assert!(values.iter().enumerate().all(|(i, &v)| v == (i + 1002) as f32), "{level:?}");
        }
    }

    #[test]
    fn vectors_multiply_by_numbers_of_many_bits_and_of_their_own() {
        let all: std::collections::BTreeSet<[i16; 4]> = (0..TILE).map(factors).collect();
        assert!(all.len() > TILE / 2, "{}", all.len());
        assert!(all.iter().all(|&[a, b, c, d]| i32::from(a) * i32::from(b) + i32::from(c) * i32::from(d) == 2));
    }

    #[test]
    fn copies_are_whole_wherever_they_start() {
        let native = Native::new(Precision::F32, 2).unwrap();
        for (offset, bytes) in [(0, COPY + 48), (1, 4096), (16, 100), (0, 0)] {
            let buffers = [(); 2].map(|()| native.alloc(offset + COPY + 64, "test").unwrap());
            let [from, to] = buffers.map(|b| Tensor { offset, ..Tensor::at_start(b, &[bytes], DType::U8) });
            let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
            native.upload(from, &data).unwrap();
            native.ceilings_copy(from, to).unwrap();
            let mut copied = vec![0; bytes];
            native.download(to, &mut copied).unwrap();
            assert_eq!(copied, data, "{bytes} bytes at {offset}");
        }
    }
}
