//! `load_step` on the CPU, and how other ops read the step's scalars and indices.

use super::Native;
use super::memory::Access;
use crate::error::{Error, Result};
use crate::ops::load_step::{LoadStep, LoadStepKernels, NAME, STEP_WORDS, StepParams};
use crate::tensor::Tensor;

/// The step's scalars.
pub fn params(a: &Access<'_>, scalars: Tensor) -> Result<StepParams> {
    let words = a.read::<i32>(scalars)?;
    bytemuck::try_pod_read_unaligned(bytemuck::cast_slice(words))
        .map_err(|_| Error::op(NAME, format!("scalars of {} words, not {STEP_WORDS}", words.len())))
}

/// An index read from a tensor, checked against the number of things it counts.
pub fn index(op: &'static str, what: &str, index: i32, count: usize) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|&i| i < count)
        .ok_or_else(|| Error::op(op, format!("{what} {index} is not in 0..{count}")))
}

impl LoadStepKernels for Native {
    fn load_step(&self, t: &LoadStep) -> Result<()> {
        let a = self.memory.access()?;
        let words = a.read::<i32>(t.table)?;
        let (scalars, originals) = (a.write::<i32>(t.scalars)?, a.write::<i32>(t.originals)?);
        let (partners, shares) = (a.write::<i32>(t.partners)?, a.write::<f32>(t.shares)?);
        let cursor = a.write::<i32>(t.cursor)?;
        let width = scalars.len() + originals.len() + partners.len() + shares.len();
        let [cursor] = cursor else { return Err(Error::op(NAME, "the cursor is one number")) };
        let row = index(NAME, "row", *cursor, words.len() / width.max(1))?;
        let (words, indices) = words[row * width..(row + 1) * width].split_at(scalars.len());
        scalars.copy_from_slice(words);
        originals.copy_from_slice(&indices[..originals.len()]);
        let (indices, words) = indices[originals.len()..].split_at(partners.len());
        partners.copy_from_slice(indices);
        shares.copy_from_slice(bytemuck::cast_slice(words));
        *cursor += 1;
        Ok(())
    }
}
