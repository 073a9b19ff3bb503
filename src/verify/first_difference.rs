//! Where a step that misses its limits goes wrong first: the op of a device whose output is not the CPU's, or the first tensor
//! that is not the file's.

use half::bf16;

use super::lockstep::{Side, error, lockstep};
use super::{Group, Reference, Step, network};
use crate::backend;
use crate::error::{Error, Result};
use crate::nn::parameters::{Kind, Spec};
use crate::nn::{Field, ParameterStore};
use crate::ops::Backend;
use crate::tensor::Precision;

/// The largest error of parameters after an update from equal ones: of some roundings, as in [`super::lockstep`].
const LIMIT: f64 = 1e-4;

/// The first tensor of the first group that misses its limit, in words.
pub fn first_tensor(groups: &[Group]) -> Option<String> {
    let group = groups.iter().find(|group| !group.pass)?;
    Some(format!("{} ({}) is the first tensor that differs from the file's", group.first, group.name))
}

/// Runs the steps of a reference on a device and, in double precision, on the CPU, op by op from equal values, and names the
/// first output that differs; `None` where every op does what the CPU's does.
///
/// # Errors
/// When the file is damaged, or a device fails.
pub fn first_op(f: &Reference, device: &dyn Backend) -> Result<Option<String>> {
    let cpu = backend::open("cpu", Precision::F64, 0)?;
    let sides = [device, &*cpu];
    let networks = [network(device, f)?, network(&*cpu, f)?];
    let stores = [&networks[0].1, &networks[1].1];
    let mut steps = Vec::new();
    for (backend, (model, store)) in sides.into_iter().zip(&networks) {
        steps.push(Step::new(backend, f, model, store)?);
    }
    for index in 0..f.steps {
        let mut programs = Vec::new();
        for (step, backend) in steps.iter().zip(sides) {
            step.load(backend, f, index)?;
            let program = step.step.program().ok_or_else(|| Error::file(f.path(), "holds no step"))?;
            programs.push(Side { backend, program });
        }
        // Convolutions read their weights in the device's type, the optimiser as they are.
        let (master, momentum) =
            (values(stores[0], device, Field::Value)?, values(stores[0], device, Field::Momentum)?);
        set(stores[1], sides[1], Field::Value, &as_read(stores[0], &master, device.precision()))?;
        if let Some(difference) = lockstep(programs[0], programs[1], &mut |_, _| ())? {
            let (what, error, limit) = (difference.what, difference.error, difference.limit);
            return Ok(Some(told(index, &what, error, limit)));
        }
        let statistics = compare(stores, sides, Field::Value, |kind| !kind.is_learned())?;
        if let Some((name, error)) = statistics {
            return Ok(Some(told(index, &format!("batch_norm_statistics, {name}"), error, LIMIT)));
        }
        // The device's values as they are now: only its running statistics have changed, and no value by what was read.
        set(stores[1], sides[1], Field::Value, &values(stores[0], device, Field::Value)?)?;
        set(stores[1], sides[1], Field::Momentum, &momentum)?;
        for (step, backend) in steps.iter().zip(sides) {
            step.step.update(backend)?;
        }
        for field in [Field::Value, Field::Momentum] {
            if let Some((name, error)) = compare(stores, sides, field, Kind::is_learned)? {
                let what = if field == Field::Value { "" } else { "momentum of " };
                return Ok(Some(told(index, &format!("sgd, {what}{name}"), error, LIMIT)));
            }
        }
    }
    Ok(None)
}

fn told(step: usize, what: &str, error: f64, limit: f64) -> String {
    format!("{what}, in step {step} is the first that differs from the CPU's: error {error:.1e}, limit {limit:.0e}")
}

/// All parameters in PyTorch's layout, which is the same on all devices.
fn values(store: &ParameterStore, backend: &dyn Backend, field: Field) -> Result<Vec<Vec<f64>>> {
    let snapshot = store.snapshot(backend, field)?;
    Ok((0..store.specs().iter().count()).map(|index| snapshot.get(index)).collect())
}

fn set(store: &ParameterStore, backend: &dyn Backend, field: Field, values: &[Vec<f64>]) -> Result<()> {
    let mut snapshot = store.snapshot(backend, field)?;
    values.iter().enumerate().for_each(|(index, values)| snapshot.set(index, values));
    store.restore(backend, field, &snapshot)
}

/// What the ops of a device read of these parameters.
fn as_read(store: &ParameterStore, master: &[Vec<f64>], precision: Precision) -> Vec<Vec<f64>> {
    let round = |v: &f64| bf16::from_f32(*v as f32).to_f64();
    let read = |(spec, values): (&Spec, &Vec<f64>)| match (spec.kind, precision) {
        (Kind::ConvWeight, Precision::Bf16) => values.iter().map(round).collect(),
        _ => values.clone(),
    };
    store.specs().iter().zip(master).map(read).collect()
}

/// The first parameter of these kinds that differs, with its error.
fn compare(
    stores: [&ParameterStore; 2],
    sides: [&dyn Backend; 2],
    field: Field,
    wanted: impl Fn(Kind) -> bool,
) -> Result<Option<(String, f64)>> {
    let [found, expected] = [0, 1].map(|side| values(stores[side], sides[side], field));
    let (found, expected) = (found?, expected?);
    let specs = stores[0].specs().iter().zip(found.iter().zip(&expected)).filter(|(spec, _)| wanted(spec.kind));
    let mut errors = specs.map(|(spec, (found, expected))| (spec.name.clone(), error(found, expected)));
    Ok(errors.find(|(_, error)| error.is_nan() || *error > LIMIT))
}
