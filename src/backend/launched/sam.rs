//! `sam`.

use super::sgd::{BLOCK, launch};
use super::{Launched, Operands};
use crate::Result;
use crate::driver::{Arg, DevicePtr, KernelSpec, Launch, Work};
use crate::ops::sam::{Climb, EPSILON, NAME, PART, SamKernels};
use crate::tensor::Tensor;

/// Master weights, their backup and their rounded copy, checked.
fn weights(operands: &Operands<'_>, t: &Climb) -> Result<[DevicePtr; 3]> {
    let elements = t.master.elements();
    let compute = t.compute.map(|tensor| operands.compute("the weights", tensor, elements)).transpose()?;
    let master = operands.float("the master weights", t.master, elements)?;
    Ok([master, operands.float("the backup", t.backup, elements)?, compute.unwrap_or(0)])
}

/// Weights and backup, one read and the other written, and the rounded copy.
fn climb_work(t: &Climb) -> Work {
    let rounded = t.compute.map_or(0, |compute| compute.bytes());
    Work::over(&[t.master.elements()]).moves(t.master.bytes()).moves(t.backup.bytes()).moves(rounded)
}

impl SamKernels for Launched {
    fn sam_squares(&self, grad: Tensor, parts: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let elements = grad.elements();
        let blocks = elements.div_ceil(PART);
        let args = [
            Arg::Ptr(operands.float("the gradient", grad, elements)?),
            Arg::Ptr(operands.float("the parts", parts, blocks)?),
            Arg::U64(elements as u64),
        ];
        let spec = KernelSpec::new("sam_squares").define("BLOCK", BLOCK).define("PART", PART);
        let blocks = operands.small("parts", blocks)?;
        let work = Work::over(&[elements]).moves(grad.bytes()).moves(parts.bytes()).floats(2 * elements);
        self.launch(&spec, Launch::linear(blocks, BLOCK).shared(BLOCK * 4).does(work), &args)
    }

    fn sam_scale(&self, rho: f32, parts: Tensor, scale: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let count = parts.elements();
        let args = [
            Arg::Ptr(operands.float("the parts", parts, count)?),
            Arg::Ptr(operands.float("the scale", scale, 1)?),
            operands.extent("parts", count)?,
            Arg::F32(rho),
            Arg::F32(EPSILON),
        ];
        let spec = KernelSpec::new("sam_scale").define("BLOCK", BLOCK);
        let work = Work::over(&[count]).moves(parts.bytes()).floats(count);
        self.launch(&spec, Launch::linear(1, BLOCK).shared(BLOCK * 4).does(work), &args)
    }

    fn sam_perturb(&self, t: &Climb) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let elements = t.master.elements();
        let [master, backup, compute] = weights(&operands, t)?;
        let args = [
            Arg::Ptr(master),
            Arg::Ptr(backup),
            Arg::Ptr(compute),
            Arg::Ptr(operands.float("the gradient", t.grad, elements)?),
            Arg::Ptr(operands.float("the scale", t.scale, 1)?),
            Arg::U64(elements as u64),
        ];
        let work = climb_work(t).moves(t.grad.bytes()).moves(t.master.bytes()).floats(2 * elements);
        self.launch(&self.spec("sam_perturb").define("BLOCK", BLOCK), launch(elements, 1).does(work), &args)
    }

    fn sam_restore(&self, t: &Climb) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let elements = t.master.elements();
        let args = weights(&operands, t)?.map(Arg::Ptr);
        let args = [args[0], args[1], args[2], Arg::U64(elements as u64)];
        self.launch(&self.spec("sam_restore").define("BLOCK", BLOCK), launch(elements, 1).does(climb_work(t)), &args)
    }

    fn sam_scalars(&self, factors: [f32; 3], scalars: Tensor, ascent: Tensor) -> Result<()> {
        let operands = Operands::new(self, NAME);
        let [first, second, third] = factors.map(Arg::F32);
        let args = [Arg::Ptr(operands.scalars(scalars)?), Arg::Ptr(operands.scalars(ascent)?), first, second, third];
        let work = Work::over(&[scalars.elements()]).moves(scalars.bytes()).moves(ascent.bytes());
        self.launch(&KernelSpec::new("sam_scalars"), Launch::linear(1, 32).does(work), &args)
    }
}
