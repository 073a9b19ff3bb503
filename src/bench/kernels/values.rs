//! The tensors that kernels are timed on.

use super::Bench;
use crate::error::Result;
use crate::memory::write_floats;
use crate::ops::load_step::{STEP_WORDS, StepParams};
use crate::tensor::{DType, Tensor};

impl Bench<'_> {
    /// Memory for a tensor, zeroed.
    pub(super) fn alloc(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = self.backend.tensor(shape, dtype, "a tensor of the bench")?;
        self.tensors.borrow_mut().push(tensor);
        Ok(tensor)
    }

    /// Values of both signs, no two neighbours alike, of any floating-point type.
    pub(super) fn tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = self.alloc(shape, dtype)?;
        let values: Vec<f64> = (0..tensor.elements()).map(|i| (i * 37 % 251) as f64 / 125.0 - 1.0).collect();
        write_floats(self.backend, tensor, &values)?;
        Ok(tensor)
    }

    pub(super) fn place(&self, shape: &[usize], dtype: DType, bytes: &[u8]) -> Result<Tensor> {
        let tensor = self.alloc(shape, dtype)?;
        self.backend.upload(tensor, bytes)?;
        Ok(tensor)
    }

    pub(super) fn compute(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor(shape, self.backend.precision().compute())
    }

    pub(super) fn computes<const N: usize>(&self, shape: &[usize]) -> Result<[Tensor; N]> {
        let mut made = [self.compute(shape)?; N];
        made[1..].iter_mut().try_for_each(|tensor| self.compute(shape).map(|new| *tensor = new))?;
        Ok(made)
    }

    pub(super) fn float(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor(shape, self.backend.precision().accumulate())
    }

    pub(super) fn floats<const N: usize>(&self, shape: &[usize]) -> Result<[Tensor; N]> {
        let mut made = [self.float(shape)?; N];
        made[1..].iter_mut().try_for_each(|tensor| self.float(shape).map(|new| *tensor = new))?;
        Ok(made)
    }

    pub(super) fn scratch(&self, bytes: usize) -> Result<Tensor> {
        self.alloc(&[bytes], DType::U8)
    }

    /// Indices below `limit`.
    pub(super) fn indices(&self, count: usize, limit: usize) -> Result<Tensor> {
        let values: Vec<i32> = (0..count).map(|i| (i * 97 % limit) as i32).collect();
        self.place(&[count], DType::I32, bytemuck::cast_slice(&values))
    }

    /// A step's scalars.
    pub(super) fn step(&self) -> Result<Tensor> {
        let cut = [4, 24, 8, 28].map(|edge| edge * self.sizes.extent as i32 / 32);
        let params = StepParams { lambda: 0.4, cut, lr: 1e-6, coefficients: [0.5; 3], ..Default::default() };
        self.place(&[STEP_WORDS], DType::I32, bytemuck::bytes_of(&params))
    }
}
