//! The step's scalars and indices, on the device: an epoch's worth is uploaded as one table, and each step takes the
//! next row, so that the host neither sends nor waits for anything between steps.

use super::expect;
use crate::error::Result;
use crate::tape::{Op, Run, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "load_step";

/// 32-bit words of a [`StepParams`].
pub const STEP_WORDS: usize = 16;

/// 32-bit words of a row of a step table: a [`StepParams`], then of every sample original, partner and share.
pub fn row_words(batch: usize) -> usize {
    STEP_WORDS + 3 * batch
}

/// One step's scalars, as kernels read them: sixteen 32-bit words. `kernels/step.cuh` has the same layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StepParams {
    /// The run's seed, low word first.
    pub seed: [u32; 2],
    /// 0-based epoch.
    pub epoch: u32,
    /// 0-based step in the epoch.
    pub step: u32,
    /// The mixtures' lambda.
    pub lambda: f32,
    /// Where this step's results go: the row of the loss log, or the first row of the evaluation's results.
    pub row: u32,
    /// CutMix box: rows `[0]..[1]`, columns `[2]..[3]`.
    pub cut: [i32; 4],
    /// Learning rate.
    pub lr: f32,
    /// Factors of L_c, L_cb and L_sim in the total.
    pub coefficients: [f32; 3],
    /// The step's number of the batch's first sample, where a step is made in parts.
    pub first: u32,
    /// Zero.
    pub reserved: u32,
}

/// The tensors of `load_step`, `I32` but for the shares.
#[derive(Clone, Copy, Debug)]
pub struct LoadStep {
    /// (rows, 16 + 3 * batch): see [`row_words`].
    pub table: Tensor,
    /// (1), updated: the row to take.
    pub cursor: Tensor,
    /// (16), written: a [`StepParams`].
    pub scalars: Tensor,
    /// (batch), written.
    pub originals: Tensor,
    /// (batch), written.
    pub partners: Tensor,
    /// F32 (batch), written.
    pub shares: Tensor,
}

/// What a backend provides for `load_step`.
pub trait LoadStepKernels {
    /// Takes row `cursor` of `table` apart into scalars, originals, partners and shares, and adds 1 to `cursor`.
    fn load_step(&self, t: &LoadStep) -> Result<()>;
}

/// The values of a step that ops read.
#[derive(Clone, Copy, Debug)]
pub struct StepVars {
    /// (16): a [`StepParams`].
    pub scalars: Var,
    /// (16): the same, with the coefficients of the total that is logged. Other ones than `scalars` only where SAM climbs along
    /// some of the losses.
    pub logged: Var,
    /// (batch): indices of the originals in the data set.
    pub originals: Var,
    /// (batch): indices of their partners.
    pub partners: Var,
    /// F32 (batch), whatever the precision: the original's share in 0..=1 of a sample's label.
    pub shares: Var,
}

#[derive(Debug)]
struct Record {
    table: Var,
    cursor: Var,
    out: StepVars,
    row_bytes: usize,
}

/// Records the fetching of the next row of `table` (rows, 16 + 3 * batch); `cursor` (1) counts the rows taken.
///
/// # Errors
/// When the table's rows do not hold a step of `batch`.
pub fn load_step(tape: &mut Tape, table: Var, cursor: Var, batch: usize) -> Result<StepVars> {
    let rows = tape.shape(table).dims()[0];
    expect(NAME, "the table", tape.shape(table), &[rows, row_words(batch)])?;
    let scalars = tape.value(&[STEP_WORDS], DType::I32);
    let out = StepVars {
        scalars,
        logged: scalars,
        originals: tape.value(&[batch], DType::I32),
        partners: tape.value(&[batch], DType::I32),
        shares: tape.value(&[batch], DType::F32),
    };
    // The optimiser reads the learning rate after the backward pass.
    tape.keep(out.scalars);
    tape.record(Record { table, cursor, out, row_bytes: 4 * row_words(batch) });
    Ok(out)
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        vec![self.table, self.cursor]
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.out.scalars, self.out.originals, self.out.partners, self.out.shares]
    }

    fn touches(&self, var: Var) -> Option<usize> {
        (var == self.table).then_some(self.row_bytes)
    }

    /// Each run takes the next row of the table.
    fn repeats(&self) -> bool {
        false
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        let StepVars { scalars, originals, partners, shares, .. } = self.out;
        run.backend.load_step(&LoadStep {
            table: run.value(self.table),
            cursor: run.value(self.cursor),
            scalars: run.value(scalars),
            originals: run.value(originals),
            partners: run.value(partners),
            shares: run.value(shares),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_params_are_sixteen_words() {
        assert_eq!(size_of::<StepParams>(), 4 * STEP_WORDS);
    }
}
