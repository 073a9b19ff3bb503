//! Kernels against the CPU in double precision, on random odd shapes, in the emulator with all its checks: any number of
//! channels, any batch, whole vectors and ragged ends, `=` and `+=`.

use glmc_engine::backend::launched::Launched;
use glmc_engine::backend::native::Native;
use glmc_engine::driver::emulator::{Emulator, Options};
use glmc_engine::memory::Memory;
use glmc_engine::ops::load_step::{STEP_WORDS, StepParams};
use glmc_engine::tensor::{DType, Precision, Tensor};
use half::bf16;

use crate::common::array::{Array, Random};
use crate::common::tolerance;

mod batch_norm;
mod heads;
mod inputs;

/// One side of the comparison: tensors of host values in its own types.
trait Side: Memory {
    fn put(&self, values: &[f64], shape: &[usize], dtype: DType) -> Tensor {
        let tensor = Tensor::at_start(self.alloc(values.len() * dtype.bytes(), "test").unwrap(), shape, dtype);
        assert_eq!(tensor.elements(), values.len());
        let bytes: Vec<u8> = match dtype {
            DType::U8 => values.iter().map(|&v| v as u8).collect(),
            DType::I32 => values.iter().flat_map(|&v| (v as i32).to_ne_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v as f32).to_ne_bytes()).collect(),
            DType::F32 => values.iter().flat_map(|&v| (v as f32).to_ne_bytes()).collect(),
            DType::F64 => values.iter().flat_map(|&v| v.to_ne_bytes()).collect(),
        };
        self.upload(tensor, &bytes).unwrap();
        tensor
    }

    /// A tensor of the compute type.
    fn compute(&self, values: &[f64], shape: &[usize]) -> Tensor {
        self.put(values, shape, self.precision().compute())
    }

    /// A tensor of the accumulation type.
    fn float(&self, values: &[f64], shape: &[usize]) -> Tensor {
        self.put(values, shape, self.precision().accumulate())
    }

    fn int(&self, values: &[usize], shape: &[usize]) -> Tensor {
        self.put(&values.iter().map(|&v| v as f64).collect::<Vec<_>>(), shape, DType::I32)
    }

    fn step(&self, scalars: &StepParams) -> Tensor {
        let tensor = Tensor::at_start(self.alloc(4 * STEP_WORDS, "step").unwrap(), &[STEP_WORDS], DType::I32);
        self.upload(tensor, bytemuck::bytes_of(scalars)).unwrap();
        tensor
    }

    fn get(&self, tensor: Tensor) -> Vec<f64> {
        let mut bytes = vec![0u8; tensor.bytes()];
        self.download(tensor, &mut bytes).unwrap();
        let wide = |chunk: &[u8]| match tensor.dtype {
            DType::U8 => f64::from(chunk[0]),
            DType::I32 => f64::from(i32::from_ne_bytes(chunk.try_into().unwrap())),
            DType::Bf16 => bf16::from_ne_bytes(chunk.try_into().unwrap()).to_f64(),
            DType::F32 => f64::from(f32::from_ne_bytes(chunk.try_into().unwrap())),
            DType::F64 => f64::from_ne_bytes(chunk.try_into().unwrap()),
        };
        bytes.chunks(tensor.dtype.bytes()).map(wide).collect()
    }
}

impl<T: Memory> Side for T {}

/// Named results of one side.
type Results = Vec<(&'static str, Vec<f64>)>;

fn emulator(precision: Precision) -> Launched {
    Launched::new(Box::new(Emulator::new(Options::default()).unwrap()), precision).unwrap()
}

/// Compares each result with the CPU's, within the op's tolerance.
fn compare(op: &'static str, case: &str, precision: Precision, got: &Results, want: &Results) {
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let close = tolerance::close(op, name, case, precision, &Array::vector(got), &Array::vector(want));
        close.unwrap_or_else(|what| panic!("{op} {case}, {precision}: {what}"));
    }
}

/// Runs a body on the CPU in double and in the emulator in both precisions.
macro_rules! sweep {
    ($op:expr, $case:expr, $body:expr) => {{
        let native = Native::new(Precision::F64, 1).unwrap();
        let want = $body(&native);
        for precision in [Precision::F32, Precision::Bf16] {
            let got = $body(&emulator(precision));
            compare($op, $case, precision, &got, &want);
        }
    }};
}
pub(crate) use sweep;

fn some_step() -> StepParams {
    StepParams {
        seed: [0x1234_5678, 0x9abc_def0],
        epoch: 3,
        step: 17,
        lambda: 0.375,
        cut: [1, 4, 2, 6],
        lr: 0.125,
        coefficients: [0.75, 0.25, 4.0],
        row: 2,
        first: 0,
        reserved: 0,
    }
}
