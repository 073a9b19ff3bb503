//! `project_rows`.

use super::{Launched, Operands, optional};
use crate::driver::{Arg, DevicePtr, Launch, Work};
use crate::ops::project_rows::{NAME, ProjectRows, ProjectRowsKernels};
use crate::tensor::Tensor;
use crate::{Error, Result};

const BLOCK: u32 = 128;

/// One warp for each row.
fn launch(backend: &Launched, pointers: [Arg<'_>; 4], master: Tensor, exact: bool, work: Work) -> Result<()> {
    let operands = Operands::new(backend, NAME);
    let rows = master.shape.dims().first().copied().unwrap_or(0);
    if rows == 0 || master.elements() == 0 {
        return Err(Error::op(NAME, format!("weights of shape {} have no rows", master.shape)));
    }
    let [weights, compute, limit, norms] = pointers;
    let args = [
        weights,
        compute,
        limit,
        norms,
        operands.extent("rows", rows)?,
        operands.extent("columns", master.elements() / rows)?,
        Arg::U32(u32::from(exact)),
    ];
    let blocks = operands.small("rows", rows)?.div_ceil(BLOCK / 32);
    backend.launch(&backend.spec(NAME).define("BLOCK", BLOCK), Launch::linear(blocks, BLOCK).does(work), &args)
}

impl ProjectRowsKernels for Launched {
    fn project_rows(&self, t: &ProjectRows) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let elements = t.master.elements();
        let compute: Option<DevicePtr> =
            t.compute.map(|tensor| operands.compute("the weights", tensor, elements)).transpose()?;
        let master = Arg::Ptr(operands.float("the master weights", t.master, elements)?);
        let limit = Arg::Ptr(operands.float("the limit", t.limit, 1)?);
        // At most: only rows that are too long are written.
        let bytes = t.master.bytes();
        let work = Work::over(t.master.shape.dims())
            .fetches(bytes, 2 * bytes)
            .moves(bytes)
            .moves(t.compute.map_or(0, |compute| compute.bytes()))
            .floats(3 * elements);
        launch(self, [master, optional(compute), limit, Arg::Ptr(0)], t.master, t.exact, work)
    }

    fn row_norms(&self, master: Tensor, norms: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let rows = master.shape.dims().first().copied().unwrap_or(0);
        let weights = Arg::Ptr(operands.float("the master weights", master, master.elements())?);
        let norms = Arg::Ptr(operands.float("the norms", norms, rows)?);
        let work = Work::over(master.shape.dims()).moves(master.bytes()).floats(2 * master.elements());
        launch(self, [weights, Arg::Ptr(0), Arg::Ptr(0), norms], master, false, work)
    }
}
