//! The losses of a step from the losses of its rows, written into a log that the host reads back now and again.

use super::{Backend, expect};
use crate::error::Result;
use crate::tape::{Op, Pass, Run, Tape, Var};
use crate::tensor::{DType, Tensor};

/// The op's name at every layer.
pub const NAME: &str = "total_loss";

/// Columns of the loss log: those of up to three losses, then the total.
pub const LOSS_COLUMNS: usize = 4;
/// The total's column.
pub const TOTAL: usize = LOSS_COLUMNS - 1;

/// The tensors of `total_loss`.
#[derive(Clone, Copy, Debug)]
pub struct TotalLoss {
    /// Accumulation type (heads, views * batch).
    pub cross_entropy: Tensor,
    /// Accumulation type (2 * batch).
    pub cosine: Option<Tensor>,
    /// A `StepParams`.
    pub scalars: Tensor,
    /// Accumulation type (rows, 4).
    pub log: Tensor,
    /// Samples of a view.
    pub batch: usize,
}

/// What a backend provides for `total_loss`.
pub trait TotalLossKernels {
    /// `log[scalars.row] = (L_c, L_cb, L_sim, total)`: each loss is the sum of its rows, in a fixed order, over `batch`
    /// (so views add up and samples are averaged); an absent one is 0; total = coefficients · losses.
    fn total_loss(&self, t: &TotalLoss) -> Result<()>;
}

#[derive(Debug)]
struct Record {
    cross_entropy: Var,
    cosine: Option<Var>,
    scalars: Var,
    log: Var,
    batch: usize,
    rows: usize,
    log_row_bytes: usize,
}

/// Records the summing-up of a step of `batch` samples into `log` (rows, 4).
///
/// # Errors
/// When the log does not have four columns.
pub fn total_loss(
    tape: &mut Tape,
    _backend: &dyn Backend,
    cross_entropy: Var,
    cosine: Option<Var>,
    scalars: Var,
    log: Var,
    batch: usize,
) -> Result<()> {
    let log_rows = tape.shape(log).dims()[0];
    expect(NAME, "the log", tape.shape(log), &[log_rows, LOSS_COLUMNS])?;
    debug_assert_ne!(tape.dtype(log), DType::I32);
    let rows = [Some(cross_entropy), cosine].into_iter().flatten().map(|v| tape.shape(v).elements()).sum();
    let log_row_bytes = LOSS_COLUMNS * tape.dtype(log).bytes();
    tape.record(Record { cross_entropy, cosine, scalars, log, batch, rows, log_row_bytes });
    Ok(())
}

impl Op for Record {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reads(&self) -> Vec<Var> {
        [Some(self.cross_entropy), self.cosine, Some(self.scalars)].into_iter().flatten().collect()
    }

    fn writes(&self) -> Vec<Var> {
        vec![self.log]
    }

    /// One addition per row.
    fn flops(&self, _pass: Pass, _wanted: &[Var]) -> f64 {
        self.rows as f64
    }

    /// One row.
    fn touches(&self, var: Var) -> Option<usize> {
        (var == self.log).then_some(self.log_row_bytes)
    }

    fn forward(&self, run: &Run<'_>) -> Result<()> {
        run.backend.total_loss(&TotalLoss {
            cross_entropy: run.value(self.cross_entropy),
            cosine: self.cosine.map(|v| run.value(v)),
            scalars: run.value(self.scalars),
            log: run.value(self.log),
            batch: self.batch,
        })
    }
}
