//! Two backends through one program, op by op and from the same values, so that the first op whose output differs is found and
//! no op answers for what another did.
//!
//! After each pass of an op the oracle takes over what the device made: rounding does not add up over a network, a ReLU that
//! went the other way is the same one on both sides, and what is compared is the arithmetic of a single op.

use crate::error::{Error, Result};
use crate::memory::{Memory, read_floats, write_floats};
use crate::ops::Backend;
use crate::ops::conv2d;
use crate::tape::{Pass, Program};
use crate::tensor::{DType, Precision, Shape, Tensor};

/// A program and who computes it.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub backend: &'a dyn Backend,
    pub program: &'a Program,
}

/// An output that is not what it should be.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The op with its shapes, the pass, and the output.
    pub what: String,
    /// The largest absolute difference over the largest absolute value expected; infinite for a NaN.
    pub error: f64,
    /// The largest error that passes.
    pub limit: f64,
}

/// Runs a recording, planned for each of two backends, on both at once; `None` when all outputs agree. Inputs, parameters and
/// what else lies outside the programs' arenas must be equal at the start; `agreed` hears of each output's error
/// and its limit when all of a pass agree.
///
/// # Errors
/// When a backend fails, or the programs are not of one recording.
pub fn lockstep(device: Side<'_>, oracle: Side<'_>, agreed: &mut dyn FnMut(f64, f64)) -> Result<Option<Difference>> {
    for (node, pass) in device.program.passes() {
        device.program.run_op(device.backend, node, pass)?;
        oracle.program.run_op(oracle.backend, node, pass)?;
        let op = device.program.op(node);
        let mut errors = Vec::new();
        let written = [device, oracle].map(|side| side.program.written(node, pass));
        for (number, (&found, &expected)) in written[0].iter().zip(&written[1]).enumerate() {
            let what = || {
                let pass = if pass == Pass::Forward { "forward" } else { "backward" };
                format!("{} ({}), {pass}, output {number} of shape {}", op.name(), op.label(), found.shape)
            };
            // A convolution's second output.
            let sums = op.name() == conv2d::NAME && pass == Pass::Forward && number == 1;
            let error = take_over((device.backend, found), (oracle.backend, expected), sums)
                .map_err(|error| Error::op(op.name(), format!("{}: {error}", what())))?;
            let limit = limit((op.name(), pass), found.dtype, device.backend.precision());
            if error > limit {
                return Ok(Some(Difference { what: what(), error, limit }));
            }
            errors.push((error, limit));
        }
        errors.into_iter().for_each(|(error, limit)| agreed(error, limit));
    }
    Ok(None)
}

/// The largest error of an output that passes. From equal inputs a result that is stored in bf16 is off by its own rounding and
/// perhaps one before it, of eight bits each; others are off by some roundings of 24 bits.
fn limit(op: (&str, Pass), dtype: DType, precision: Precision) -> f64 {
    match dtype {
        DType::U8 | DType::I32 => 0.0,
        DType::Bf16 => 1.6e-2,
        // The sums are of values as they are stored, which the oracle does not round.
        _ if op == (conv2d::NAME, Pass::Forward) && precision == Precision::Bf16 => 1.6e-2,
        _ => 2e-5,
    }
}

/// Compares an output with the oracle's, and puts it in its place there.
fn take_over(device: (&dyn Backend, Tensor), oracle: (&dyn Backend, Tensor), sums: bool) -> Result<f64> {
    let found = read(device.0, device.1)?;
    let own = read(oracle.0, oracle.1)?;
    let (from, to) = (device.1.shape, oracle.1.shape);
    let wrong = || Error::op("lockstep", format!("shapes {from} and {to} are not of one recording"));
    let (found, own) = translate(&found, from, own, to, sums).ok_or_else(wrong)?;
    match oracle.1.dtype {
        // Exact: integers that came from such tensors.
        DType::I32 => {
            let words: Vec<i32> = found.iter().map(|&v| v as i32).collect();
            oracle.0.upload(oracle.1, bytemuck::cast_slice(&words))?;
        }
        DType::U8 => oracle.0.upload(oracle.1, &found.iter().map(|&v| v as u8).collect::<Vec<_>>())?,
        _ => write_floats(oracle.0, oracle.1, &found)?,
    }
    Ok(error(&found, &own))
}

/// A tensor of any type; doubles hold every value.
fn read(memory: &(impl Memory + ?Sized), tensor: Tensor) -> Result<Vec<f64>> {
    let mut bytes = vec![0; if matches!(tensor.dtype, DType::I32 | DType::U8) { tensor.bytes() } else { 0 }];
    match tensor.dtype {
        DType::I32 => {
            memory.download(tensor, &mut bytes)?;
            Ok(bytemuck::pod_collect_to_vec::<u8, i32>(&bytes).into_iter().map(f64::from).collect())
        }
        DType::U8 => {
            memory.download(tensor, &mut bytes)?;
            Ok(bytes.into_iter().map(f64::from).collect())
        }
        _ => read_floats(memory, tensor),
    }
}

/// Both sides' values in the oracle's layout. Where backends store a value differently, they differ in one extent: channel sums
/// (`sums`) are split into other parts, of which only the totals mean something, images and weights of the stem have channels of
/// zeros at the end, statistics further rows (each side keeps its own).
fn translate(found: &[f64], from: Shape, own: Vec<f64>, to: Shape, sums: bool) -> Option<(Vec<f64>, Vec<f64>)> {
    let (from, to) = (from.dims(), to.dims());
    let differing: Vec<usize> = (0..to.len()).filter(|&axis| from.get(axis) != to.get(axis)).collect();
    if from.len() != to.len() || differing.len() > 1 {
        return None;
    }
    if let (true, &[views, parts, two, channels]) = (sums, to) {
        let row = two * channels;
        // All in the first part.
        let totals = |values: &[f64], its_parts: usize| {
            let mut totals = vec![0.0; views * parts * row];
            for (at, value) in values.iter().enumerate() {
                totals[at / (its_parts * row) * parts * row + at % row] += value;
            }
            totals
        };
        return (differing.is_empty() || differing == [1]).then(|| (totals(found, from[1]), totals(&own, parts)));
    }
    let Some(&axis) = differing.first() else { return Some((found.to_vec(), own)) };
    let inner: usize = to[axis + 1..].iter().product();
    let (row, own_row) = (from[axis] * inner, to[axis] * inner);
    let both = row.min(own_row);
    let mut taken = own.clone();
    for (found, taken) in found.chunks(row).zip(taken.chunks_mut(own_row)) {
        taken[..both].copy_from_slice(&found[..both]);
        // Padding that is not zero is wrong whatever the rest is.
        if found[both..].iter().any(|v| *v != 0.0) {
            taken[0] = f64::NAN;
        }
    }
    Some((taken, own))
}

/// The largest absolute difference over the largest absolute value expected; infinite for a NaN.
pub fn error(found: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let worse = |worst: f64, off: f64| if off.is_nan() { f64::INFINITY } else { worst.max(off) };
    found.iter().zip(expected).map(|(f, e)| (f - e).abs() / scale).fold(0.0, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_meet_where_backends_differ() {
        let shape = Shape::new;
        // Two parts of one view, three channels, against one part.
        let parts: Vec<f64> = (0..12).map(f64::from).collect();
        let totals = vec![6.0, 8.0, 10.0, 12.0, 14.0, 16.0];
        let (found, own) = translate(&parts, shape(&[1, 2, 2, 3]), totals.clone(), shape(&[1, 1, 2, 3]), true).unwrap();
        assert_eq!((&found, &own), (&totals, &totals));
        // Four channels of which the last is padding, against three.
        let (from, to) = (shape(&[1, 1, 1, 4]), shape(&[1, 1, 1, 3]));
        let (found, _) = translate(&[1.0, 2.0, 3.0, 0.0], from, vec![9.0; 3], to, false).unwrap();
        assert_eq!(found, [1.0, 2.0, 3.0]);
        let (found, own) = translate(&[1.0, 2.0, 3.0, 4.0], from, vec![1.0, 2.0, 3.0], to, false).unwrap();
        assert_eq!(error(&found, &own), f64::INFINITY, "padding that is not zero");
        // Two rows of statistics against three: the third is the oracle's own.
        let (found, _) =
            translate(&[1.0, 2.0], shape(&[1, 2, 1]), vec![7.0, 8.0, 9.0], shape(&[1, 3, 1]), false).unwrap();
        assert_eq!(found, [1.0, 2.0, 9.0]);
        assert!(translate(&[1.0], shape(&[1]), vec![1.0; 4], shape(&[2, 2]), false).is_none());
    }

    #[test]
    fn errors_are_measured_by_the_largest_value() {
        assert_eq!(error(&[1.0, 4.5], &[1.0, 5.0]), 0.1);
        assert_eq!(error(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(error(&[0.0], &[0.0]), 0.0);
    }
}
