//! Trials: each case of an op becomes one trial per device, so that an absent device is seen.

use std::sync::Arc;

use glmc_engine::Result;
use libtest_mimic::{Failed, Trial};

use super::array::Array;
use super::devices::{self, Device, ORACLE};
use super::rig::{Arrays, Rig};
use super::tolerance;

type Body = Arc<dyn Fn(&mut Rig<'_>, &Arrays) -> Result<()> + Send + Sync>;

/// One op (or a few) with its inputs.
#[derive(Clone)]
pub struct Case {
    pub op: &'static str,
    pub name: String,
    pub inputs: Arrays,
    /// Records the ops on the rig's tape and names outputs.
    body: Body,
    /// What a gradient check differentiates: the sum of these outputs, weighted.
    objective: Vec<(&'static str, Array)>,
}

impl Case {
    pub fn new(
        op: &'static str,
        name: impl Into<String>,
        inputs: impl IntoIterator<Item = (&'static str, Array)>,
        body: impl Fn(&mut Rig<'_>, &Arrays) -> Result<()> + Send + Sync + 'static,
    ) -> Case {
        let inputs = inputs.into_iter().map(|(name, array)| (name.to_owned(), array)).collect();
        Case { op, name: name.into(), inputs, body: Arc::new(body), objective: Vec::new() }
    }

    /// Adds an output to the objective.
    pub fn objective(mut self, output: &'static str, weights: Array) -> Case {
        self.objective.push((output, weights));
        self
    }

    /// All outputs.
    pub fn run(&self, backend: &dyn glmc_engine::ops::Backend) -> Result<Arrays> {
        let mut rig = Rig::new(backend);
        (self.body)(&mut rig, &self.inputs)?;
        rig.run()
    }

    /// With inputs that the device's types can hold, so that only its arithmetic differs from the oracle's.
    fn rounded(&self, device: &Device) -> Case {
        let dtype = device.precision.compute();
        let inputs = self.inputs.iter().map(|(name, array)| (name.clone(), array.rounded(dtype))).collect();
        Case { inputs, ..self.clone() }
    }
}

/// All trials.
#[derive(Default)]
pub struct Suite {
    pub trials: Vec<Trial>,
}

fn fail(what: impl std::fmt::Display) -> Failed {
    Failed::from(what.to_string())
}

impl Suite {
    fn on_every_device(
        &mut self,
        kind: &str,
        case: &Case,
        trial: impl Fn(&Case, &Device) -> Result<(), Failed> + Send + Clone + 'static,
    ) {
        for device in devices::all() {
            let name = format!("{}::{kind}::{} on {}", case.op, case.name, device.label());
            let (trial, case, absent) = (trial.clone(), case.clone(), device.absent.is_some());
            self.trials.push(Trial::test(name, move || trial(&case, &device)).with_ignored_flag(absent));
        }
    }

    /// The named outputs must be just these numbers, on every device.
    pub fn exact(&mut self, case: Case, wanted: Vec<(&'static str, Array)>) {
        self.on_every_device("exact", &case, move |case, device| {
            let got = case.run(&*devices::open(device)).map_err(fail)?;
            for (name, want) in &wanted {
                let got = got.get(*name).ok_or_else(|| fail(format!("no output {name}")))?;
                tolerance::exact(got, want).map_err(|e| fail(format!("{name}: {e}")))?;
            }
            Ok(())
        });
    }

    /// The named outputs must be close to these, on every device: PyTorch's, or those of a plain loop in the test.
    pub fn close(&mut self, kind: &str, case: Case, wanted: Vec<(&'static str, Array)>) {
        self.on_every_device(kind, &case, move |case, device| {
            let got = case.run(&*devices::open(device)).map_err(fail)?;
            for (name, want) in &wanted {
                let got = got.get(*name).ok_or_else(|| fail(format!("no output {name}")))?;
                tolerance::close(case.op, name, &case.name, device.precision, got, want).map_err(fail)?;
            }
            Ok(())
        });
    }

    /// Every output must be close to what the oracle makes of the same inputs, and the same bits when run again.
    pub fn oracle(&mut self, case: Case) {
        self.on_every_device("oracle", &case, |case, device| {
            let case = case.rounded(device);
            let got = case.run(&*devices::open(device)).map_err(fail)?;
            if device.name != ORACLE.name || device.precision != ORACLE.precision {
                let wanted = case.run(&*devices::open(&ORACLE)).map_err(fail)?;
                for (name, want) in &wanted {
                    let got = got.get(name).ok_or_else(|| fail(format!("no output {name}")))?;
                    tolerance::close(case.op, name, &case.name, device.precision, got, want).map_err(fail)?;
                }
            }
            for threads in [2, 1, 3] {
                let again = case.run(&*devices::open_with_threads(device, threads)).map_err(fail)?;
                for (name, got) in &got {
                    tolerance::exact(&again[name], got)
                        .map_err(|e| fail(format!("{name}, run again with {threads} threads: {e}")))?;
                }
                if device.name != "cpu" {
                    break; // threads are the CPU's affair
                }
            }
            Ok(())
        });
    }

    /// On the oracle: every gradient `dX` must be the central difference of the objective by X.
    pub fn gradient(&mut self, case: Case) {
        const STEP: f64 = 1e-5;
        const LIMIT: f64 = 2e-7;
        assert!(!case.objective.is_empty(), "{} {} has no objective", case.op, case.name);
        let name = format!("{}::gradient::{} on {}", case.op, case.name, ORACLE.label());
        let trial = move || {
            let backend = devices::open(&ORACLE);
            let objective = |case: &Case| -> Result<f64, Failed> {
                let outputs = case.run(&*backend).map_err(fail)?;
                let dot = |(name, weights): &(&str, Array)| -> f64 {
                    outputs[*name].data.iter().zip(&weights.data).map(|(a, b)| a * b).sum()
                };
                Ok(case.objective.iter().map(dot).sum())
            };
            let outputs = case.run(&*backend).map_err(fail)?;
            let mut checked = 0;
            for (name, array) in &case.inputs {
                let Some(gradient) = outputs.get(&format!("d{name}")) else { continue };
                let scale = gradient.data.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
                for i in 0..array.data.len() {
                    let mut moved = case.clone();
                    let mut at = |offset: f64| {
                        moved.inputs.get_mut(name).expect("its own input").data[i] = array.data[i] + offset;
                        objective(&moved)
                    };
                    let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
                    let error = (gradient.data[i] - numeric).abs() / scale;
                    if error.is_nan() || error > LIMIT {
                        let what = format!("d{name}[{i}] is {}, differences say {numeric}", gradient.data[i]);
                        return Err(fail(what));
                    }
                    checked += 1;
                }
            }
            if checked == 0 {
                return Err(fail("no gradient was checked"));
            }
            Ok(())
        };
        self.trials.push(Trial::test(name, trial));
    }

    /// A check of what is no op on the tape, on every device.
    pub fn device(
        &mut self,
        op: &'static str,
        name: &str,
        trial: impl Fn(&dyn glmc_engine::ops::Backend) -> Result<(), Failed> + Send + Clone + 'static,
    ) {
        for device in devices::all() {
            let name = format!("{op}::{name} on {}", device.label());
            let (trial, absent) = (trial.clone(), device.absent.is_some());
            self.trials.push(Trial::test(name, move || trial(&*devices::open(&device))).with_ignored_flag(absent));
        }
    }

    /// Any other check.
    pub fn check(&mut self, name: impl Into<String>, trial: impl FnOnce() -> Result<(), String> + Send + 'static) {
        self.trials.push(Trial::test(name, move || trial().map_err(fail)));
    }
}
