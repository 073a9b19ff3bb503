//! `load_step` on the CPU, and how other ops read the step's scalars and indices.

use super::Native;
use super::memory::Access;
use crate::error::{Error, Result};
use crate::ops::load_step::{LoadStepKernels, STEP_WORDS, StepParams};
use crate::tensor::Tensor;

/// The step's scalars.
pub fn params(a: &Access<'_>, step: Tensor) -> Result<StepParams> {
    let words = a.read::<i32>(step)?;
    bytemuck::try_pod_read_unaligned(bytemuck::cast_slice(words))
        .map_err(|_| Error::op("load_step", format!("a step of {} words, not {STEP_WORDS}", words.len())))
}

/// An index read from a tensor, checked against the number of things it counts.
pub fn index(op: &'static str, what: &str, index: i32, count: usize) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|&i| i < count)
        .ok_or_else(|| Error::op(op, format!("{what} {index} is not in 0..{count}")))
}

impl LoadStepKernels for Native {
    fn load_step(
        &self,
        table: Tensor,
        cursor: Tensor,
        step: Tensor,
        originals: Tensor,
        partners: Tensor,
    ) -> Result<()> {
        let a = self.memory.access()?;
        let words = a.read::<i32>(table)?;
        let (step, originals) = (a.write::<i32>(step)?, a.write::<i32>(originals)?);
        let (partners, cursor) = (a.write::<i32>(partners)?, a.write::<i32>(cursor)?);
        let width = step.len() + originals.len() + partners.len();
        let [cursor] = cursor else { return Err(Error::op("load_step", "the cursor is one number")) };
        let row = index("load_step", "row", *cursor, words.len() / width.max(1))?;
        let (for_step, indices) = words[row * width..(row + 1) * width].split_at(step.len());
        step.copy_from_slice(for_step);
        originals.copy_from_slice(&indices[..originals.len()]);
        partners.copy_from_slice(&indices[originals.len()..]);
        *cursor += 1;
        Ok(())
    }
}
