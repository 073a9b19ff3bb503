//! `load_step`.

use super::{Launched, Operands};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::load_step::{LoadStep, LoadStepKernels, NAME, row_words};
use crate::tensor::DType;

const BLOCK: u32 = 256;

impl LoadStepKernels for Launched {
    fn load_step(&self, t: &LoadStep) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let LoadStep { table, cursor, scalars, originals, partners, shares } = *t;
        let batch = originals.elements();
        let [rows, _] = operands.two("the table", table)?;
        let args = [
            Arg::Ptr(operands.int("the table", table, rows * row_words(batch))?),
            Arg::Ptr(operands.int("the cursor", cursor, 1)?),
            Arg::Ptr(operands.scalars(scalars)?),
            Arg::Ptr(operands.int("the originals", originals, batch)?),
            Arg::Ptr(operands.int("the partners", partners, batch)?),
            Arg::Ptr(operands.pointer("the shares", shares, DType::F32, batch)?),
            operands.extent("rows", rows)?,
            operands.extent("batch", batch)?,
        ];
        // One block: every thread reads the cursor before it moves.
        let row = row_words(batch) * size_of::<u32>();
        let launch = Launch::linear(1, BLOCK).does(Work::over(&[batch]).moves(row).moves(row));
        self.launch(&KernelSpec::new("load_step").define("BLOCK", BLOCK), launch, &args)
    }
}
