//! `linear_forward`, `linear_input_grad` and `linear_weight_grad`: one tiled product in three layouts
//! (`kernels/linear.cuh`).

use super::{Launched, Operands, add_flag, optional};
use crate::Result;
use crate::driver::{Arg, KernelSpec, Launch, Work};
use crate::ops::linear::{Forward, InputGrad, LinearKernels, NAME, WeightGrad};

/// Threads along each side of a tile.
const SIDE: usize = 16;
/// Elements of the inner extent staged at a time.
const DEPTH: usize = 32;
/// Blocks that keep a GPU busy; larger tiles, which read less, are taken only if that leaves as many.
const ENOUGH_BLOCKS: usize = 256;

/// Elements of a thread along each side of the (rows, columns) product's tiles.
fn micro(rows: usize, columns: usize) -> usize {
    let blocks = |micro: usize| rows.div_ceil(SIDE * micro) * columns.div_ceil(SIDE * micro);
    [4, 2].into_iter().find(|&micro| blocks(micro) >= ENOUGH_BLOCKS).unwrap_or(1)
}

/// A kernel of `linear.cuh` for a product of (rows, columns) with `inner` terms, and its launch.
fn product(entry: &'static str, rows: usize, columns: usize, inner: usize) -> (KernelSpec, Launch) {
    let micro = micro(rows, columns);
    let tile = SIDE * micro;
    let spec = KernelSpec::new(entry).define("MICRO", micro).define("DEPTH", DEPTH);
    let (across, down) = (columns.div_ceil(tile), rows.div_ceil(tile));
    // Each factor is fetched once for every tile along the other. A term costs a block the staging of both tiles' sides, and each
    // of its warps, which are two rows of threads, the values of 2 rows and 16 columns, times MICRO.
    let [left, right, product] = [rows * inner, columns * inner, rows * columns].map(|n| n * size_of::<f32>());
    let warps = SIDE * SIDE / 32;
    let work = Work::over(&[rows, inner, columns])
        .fetches(left, across * left)
        .fetches(right, down * right)
        .moves(product)
        .floats(across * down * tile * tile * inner * 2)
        .shares(across * down * inner * (2 * tile + warps * (2 + SIDE) * micro) * size_of::<f32>());
    let launch = Launch {
        grid: [across as u32, down as u32, 1],
        block: [(SIDE * SIDE) as u32, 1, 1],
        shared_bytes: (2 * DEPTH * (tile + 1) * size_of::<f32>()) as u32,
        work,
    };
    (spec, launch)
}

impl LinearKernels for Launched {
    fn linear_forward(&self, t: &Forward) -> Result<()> {
        let Forward { x, weight, bias, y } = *t;
        let operands = Operands::new(self, NAME);
        let [batch, inputs] = operands.two("x", x)?;
        let [outputs, _] = operands.two("the weight", weight)?;
        let (spec, launch) = product("linear_forward", batch, outputs, inputs);
        let bias = bias.map(|bias| operands.float("the bias", bias, outputs)).transpose()?;
        let args = [
            Arg::Ptr(operands.float("x", x, batch * inputs)?),
            Arg::Ptr(operands.float("the weight", weight, outputs * inputs)?),
            optional(bias),
            Arg::Ptr(operands.float("y", y, batch * outputs)?),
            operands.extent("batch", batch)?,
            operands.extent("inputs", inputs)?,
            operands.extent("outputs", outputs)?,
        ];
        self.launch(&spec, launch, &args)
    }

    fn linear_input_grad(&self, t: &InputGrad) -> Result<()> {
        let InputGrad { dy, weight, dx } = *t;
        let operands = Operands::new(self, NAME);
        let [batch, outputs] = operands.two("dy", dy)?;
        let [_, inputs] = operands.two("the weight", weight)?;
        let (spec, launch) = product("linear_input_grad", batch, inputs, outputs);
        let args = [
            Arg::Ptr(operands.float("dy", dy, batch * outputs)?),
            Arg::Ptr(operands.float("the weight", weight, outputs * inputs)?),
            Arg::Ptr(operands.float("dx", dx.tensor, batch * inputs)?),
            operands.extent("batch", batch)?,
            operands.extent("inputs", inputs)?,
            operands.extent("outputs", outputs)?,
            add_flag(Some(dx)),
        ];
        self.launch(&spec, launch, &args)
    }

    fn linear_weight_grad(&self, t: &WeightGrad) -> Result<()> {
        let WeightGrad { x, dy, dweight, dbias } = *t;
        let operands = Operands::new(self, NAME);
        let [batch, inputs] = operands.two("x", x)?;
        let [_, outputs] = operands.two("dy", dy)?;
        let (spec, launch) = product("linear_weight_grad", outputs, inputs, batch);
        let dbias = dbias.map(|dbias| operands.float("dbias", dbias, outputs)).transpose()?;
        let args = [
            Arg::Ptr(operands.float("x", x, batch * inputs)?),
            Arg::Ptr(operands.float("dy", dy, batch * outputs)?),
            Arg::Ptr(operands.float("dweight", dweight, outputs * inputs)?),
            optional(dbias),
            operands.extent("batch", batch)?,
            operands.extent("inputs", inputs)?,
            operands.extent("outputs", outputs)?,
        ];
        self.launch(&spec, launch, &args)
    }
}
