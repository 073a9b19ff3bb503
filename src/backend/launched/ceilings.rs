//! `ceilings`: `ceilings_mma` in bf16, `ceilings_fma` in f32; `ceilings_copy`.

use super::{Launched, Operands, aligned};
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::ceilings::{CeilingKernels, NAME};
use crate::tensor::{DType, Precision, Tensor};
use crate::{Error, Result};

const BLOCK: u32 = 256;
/// Blocks on each multiprocessor: the threads and registers of any GPU hold them all at once, so that none waits and
/// leaves others idle at the end. The one grid that follows the device; no number of a training run depends on it.
const BLOCKS_EACH: usize = 4;
/// Products of 16 x 8 values of a warp.
const TILES: usize = 8;
/// Values of a thread: as many as its products have.
const CHAINS: usize = 4 * TILES;
/// Vectors that a thread copies.
const ITEMS: usize = 4;
const VECTOR_BYTES: usize = 16;

impl CeilingKernels for Launched {
    fn ceiling_values(&self) -> usize {
        self.driver.properties().multiprocessors as usize * BLOCKS_EACH * BLOCK as usize * CHAINS
    }

    fn ceiling_math(&self, values: Tensor, rounds: u32) -> Result<f64> {
        let (count, each) = (values.elements(), BLOCK as usize * CHAINS);
        if !count.is_multiple_of(each) {
            return Err(Error::op(NAME, format!("{count} values are no multiple of {each}")));
        }
        if !rounds.is_multiple_of(2) {
            return Err(Error::op(NAME, format!("{rounds} rounds; only an even number adds up")));
        }
        let operands = Operands::new(self, NAME);
        let args = [Arg::Ptr(operands.float("the values", values, count)?), Arg::F32(1.0), Arg::U32(rounds)];
        // A value of a product of depth 16 takes that many multiply-adds.
        let (spec, depth) = match self.precision {
            Precision::Bf16 => (KernelSpec::new("ceilings_mma").define("TILES", TILES), 16.0),
            _ => (KernelSpec::new("ceilings_fma").define("CHAINS", CHAINS), 1.0),
        };
        let blocks = operands.small("blocks", count / each)?;
        let flops = 2.0 * depth * count as f64 * f64::from(rounds);
        let work = Work::over(&[count]).puts(values.bytes(), true);
        let work = match self.precision {
            Precision::Bf16 => work.tensor_cores(flops as usize),
            _ => work.floats(flops as usize),
        };
        self.launch(&spec.define("BLOCK", BLOCK), Launch::linear(blocks, BLOCK).does(work), &args)?;
        Ok(flops)
    }

    fn ceilings_copy(&self, from: Tensor, to: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let bytes = from.bytes();
        let pointers = [
            operands.pointer("the source", from, DType::U8, bytes)?,
            operands.pointer("the copy", to, DType::U8, bytes)?,
        ];
        if !bytes.is_multiple_of(VECTOR_BYTES) || !aligned(&pointers) {
            return Err(Error::op(NAME, format!("a copy of {bytes} bytes is not one of whole aligned vectors")));
        }
        let vectors = bytes / VECTOR_BYTES;
        let spec = KernelSpec::new("ceilings_copy").define("BLOCK", BLOCK).define("ITEMS", ITEMS);
        let work = Work::over(&[bytes]).moves(bytes).moves(bytes);
        let launch = Launch::cover(vectors.div_ceil(ITEMS), BLOCK).does(work);
        self.launch(&spec, launch, &[Arg::Ptr(pointers[0]), Arg::Ptr(pointers[1]), Arg::U64(vectors as u64)])
    }
}
