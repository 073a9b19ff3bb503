//! `glmc-engine verify`: the engine's own step against one that was computed elsewhere in double precision.

mod first_difference;
mod lockstep;
mod reference;
pub mod self_test;

pub use first_difference::first_op;
pub use reference::Reference;

use std::path::Path;

use serde::Serialize;

use crate::config::{OptimizerConfig, Sam};
use crate::error::{Error, Result};
use crate::memory::{read_floats, write_floats};
use crate::method::class_vectors;
use crate::nn::{Field, Mode, Model, ModelConfig, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::ops::augment_mix::Augmentation;
use crate::ops::load_step::StepParams;
use crate::ops::supervised_loss::ClassVector;
use crate::ops::total_loss::{LOSS_COLUMNS, TOTAL};
use crate::tensor::Precision;
use crate::train::step::{Source, StepConfig, TrainStep};
use crate::train::views::Views;
use reference::{to_nchw, to_nhwc};

/// How far one group of quantities is off, and how far it may be.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// What was compared.
    pub name: &'static str,
    /// Relative L2 error, or the absolute error of losses.
    pub error: f64,
    /// The largest error that passes.
    pub limit: f64,
    /// The tensor that is off the most, by the same measure.
    pub worst: String,
    /// In the order in which a step makes them, the first tensor that misses the limit by itself, or else the worst.
    pub first: String,
    /// Whether the error is within the limit.
    pub pass: bool,
}

/// The outcome for one file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The reference file.
    pub file: String,
    /// Where the engine computed.
    pub device: String,
    /// The arithmetic.
    pub precision: Precision,
    /// Group by group.
    pub groups: Vec<Group>,
    /// Where a step that fails goes wrong first: which op, or on the CPU which tensor.
    pub first_difference: Option<String>,
    /// Whether every group passes.
    pub pass: bool,
}

/// Group names and their limits in f32 (f64 as well) and bf16.
const LIMITS: [(&str, f64, f64); 7] = [
    ("mixtures and soft labels", 1e-6, 1e-2),
    ("first-step head outputs", 1e-5, 2e-2),
    ("first-step losses", 1e-4, 1e-1),
    ("first-step gradient", 5e-3, 3e-1),
    ("later losses", 1e-2, 2e-1),
    ("after", 2e-3, 5e-2),
    ("eval.logits", 2e-2, 2e-1),
];

/// Gathers comparisons into groups.
struct Comparison {
    precision: Precision,
    groups: Vec<Group>,
}

/// Sums of squares of a difference and of what it should be measured by.
#[derive(Clone, Copy, Default)]
struct Squares {
    difference: f64,
    expected: f64,
}

impl Squares {
    fn of(found: &[f64], expected: &[f64]) -> Squares {
        let difference = found.iter().zip(expected).map(|(f, e)| (f - e) * (f - e)).sum();
        Squares { difference, expected: expected.iter().map(|e| e * e).sum() }
    }

    fn relative(self) -> f64 {
        let scale = if self.expected > 0.0 { self.expected } else { 1.0 };
        (self.difference / scale).sqrt()
    }
}

impl Comparison {
    fn limit(&self, name: &str) -> (&'static str, f64) {
        // Every name is one of the constants above.
        let (name, single, half) = LIMITS.iter().find(|(n, ..)| *n == name).expect("a group of the table");
        (name, if self.precision == Precision::Bf16 { *half } else { *single })
    }

    fn push(&mut self, name: &str, error: f64, worst: String, tensors: impl Iterator<Item = (String, f64)>) {
        let (name, limit) = self.limit(name);
        let mut tensors = tensors;
        // A NaN is no pass.
        let missing = |(_, error): &(String, f64)| error.is_nan() || error.abs() > limit;
        let first = tensors.find(missing).map_or_else(|| worst.clone(), |(tensor, _)| tensor);
        self.groups.push(Group { name, error, limit, worst, first, pass: error <= limit });
    }

    /// A group measured by its worst tensor.
    fn worst_of(&mut self, name: &str, tensors: &[(String, f64)]) {
        // NaN sorts above everything else in the total order, as it should here.
        if let Some((tensor, error)) = tensors.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())) {
            self.push(name, *error, tensor.clone(), tensors.iter().cloned());
        }
    }

    /// A group measured as one concatenated vector.
    fn concatenated(&mut self, name: &str, tensors: &[(String, Squares)]) {
        let sum = tensors.iter().fold(Squares::default(), |sum, (_, s)| Squares {
            difference: sum.difference + s.difference,
            expected: sum.expected + s.expected,
        });
        // The tensor with the largest share of the error; a relative error per tensor would name those that are all but zero.
        let worst = tensors.iter().max_by(|a, b| a.1.difference.total_cmp(&b.1.difference));
        // A backward pass goes from the last parameters to the first.
        let order = tensors.iter().rev().map(|(tensor, squares)| (tensor.clone(), squares.relative()));
        self.push(name, sum.relative(), worst.map(|(tensor, _)| tensor.clone()).unwrap_or_default(), order);
    }
}

/// The training step over a file's views.
struct Step {
    step: TrainStep,
    views: Views,
}

impl Step {
    fn new(backend: &dyn Backend, f: &Reference, model: &Model, store: &ParameterStore) -> Result<Step> {
        let config = StepConfig {
            recipe: f.recipe.clone(),
            classes: f.classes,
            batch: f.batch,
            accumulate: 1,
            // The views are augmented and normalised already.
            augmentation: Augmentation { mean: [0.0; 3], std: [1.0; 3], padding: 0, flip: false },
            optimizer: OptimizerConfig {
                momentum: f.momentum,
                weight_decay: f.weight_decay,
                nesterov: f.nesterov,
                sam: f.sam.map(|rho| Sam { ascent: [1.0, 1.0, 0.0], ..Sam::new(rho) }),
                groups: Vec::new(),
                project: None,
            },
        };
        let views = Views::new(backend, f.recipe.views()?, f.batch, f.size, f.steps)?;
        let step = TrainStep::new(backend, model, store, Source::Views(&views), config)?;
        step.set_vectors(backend, &f.recipe.vectors(&f.counts, 0)?)?;
        Ok(Step { step, views })
    }

    /// Uploads step `index` of the file.
    fn load(&self, backend: &dyn Backend, f: &Reference, index: usize) -> Result<()> {
        let (n, size) = (f.batch, f.size);
        let key = |name: &str| format!("step{index}.{name}");
        let (each, sets) = (f.recipe.views.len(), f.recipe.views()?.image_sets());
        let mut views = Vec::with_capacity(sets * n * 3 * size * size);
        for name in ["original", "reversed"].into_iter().take(sets / each) {
            views.extend(f.floats(&key(name), &[each, n, 3, size, size])?);
        }
        write_floats(backend, self.views.pixels, &to_nhwc(&views, [sets * n, 3, size, size], 3))?;
        let classes = 0..=f.classes as i32 - 1;
        let mut labels = f.integers(&key("original_label"), &[n], classes.clone())?;
        labels.extend(f.integers(&key("reversed_label"), &[n], classes)?);
        backend.upload(self.views.labels, bytemuck::cast_slice(&labels))?;
        let lambda = f.lambda(index)? as f32;
        let cut = f.integers(&key("box"), &[4], 0..=size as i32)?;
        let params = StepParams {
            lambda,
            cut: [cut[0], cut[1], cut[2], cut[3]],
            lr: f.lr as f32,
            coefficients: f.recipe.coefficients(0, 1),
            row: index as u32,
            ..StepParams::default()
        };
        backend.upload(self.views.shares, bytemuck::cast_slice(&vec![lambda; n]))?;
        backend.upload(self.views.scalars, bytemuck::bytes_of(&params))
    }

    fn floats(&self, backend: &dyn Backend, output: &str) -> Result<Vec<f64>> {
        // Recipes record every value that reference steps name.
        read_floats(backend, self.step.output(output).expect("an output of the recipe"))
    }

    /// (batch, classes) each: the mixed labels of step `index` and the weighted ones, from the classes and shares that the step
    /// was given.
    fn labels(&self, backend: &dyn Backend, f: &Reference, index: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let shares = read_floats(backend, self.views.shares)?;
        let weights = f.recipe.heads.fc_cb.as_ref().and_then(|head| head.weight.as_ref());
        let weights = class_vectors::values(ClassVector::Weight, weights, &f.counts, 0)?;
        let mut label = vec![0.0; f.batch * f.classes];
        for (first, name) in [(true, "original_label"), (false, "reversed_label")] {
            let classes = f.integers(&format!("step{index}.{name}"), &[f.batch], 0..=f.classes as i32 - 1)?;
            for ((row, class), share) in label.chunks_exact_mut(f.classes).zip(classes).zip(&shares) {
                row[class as usize] += if first { *share } else { 1.0 - share };
            }
        }
        let weighted = label.iter().zip(weights.iter().cycle()).map(|(label, weight)| label * weight).collect();
        Ok((label, weighted))
    }

    /// Relative errors of the mixtures and labels of step `index`.
    fn compare_inputs(&self, backend: &dyn Backend, f: &Reference, index: usize) -> Result<Vec<(String, f64)>> {
        let (n, size) = (f.batch, f.size);
        let shape = [n, 3, size, size];
        let images = self.floats(backend, "images")?;
        let channels = backend.stem_channels();
        let mut found: Vec<(String, Vec<f64>, &[usize])> = Vec::new();
        for (view, images) in images.chunks(images.len() / f.recipe.views.len()).enumerate() {
            found.push((f.view("", view), to_nchw(images, shape, channels), &shape[..]));
        }
        let of_labels = [n, f.classes];
        if !f.has_own_heads {
            let (label, weighted) = self.labels(backend, f, index)?;
            found
                .extend([("label".into(), label, &of_labels[..]), ("label_weighted".into(), weighted, &of_labels[..])]);
        }
        let relative = |(name, found, shape): &(String, Vec<f64>, &[usize])| {
            let key = format!("step{index}.{name}");
            let expected = f.floats(&key, shape)?;
            Ok((key, Squares::of(found, &expected).relative()))
        };
        found.iter().map(relative).collect()
    }

    /// Relative errors of the first step's head outputs.
    fn compare_heads(&self, backend: &dyn Backend, f: &Reference) -> Result<Vec<(String, f64)>> {
        let mut errors = Vec::new();
        let views = f.recipe.views.len();
        let classifiers = f.recipe.classifiers().into_iter().map(|(kind, _)| kind.name());
        let names = classifiers.chain(f.recipe.similarity.iter().flat_map(|_| ["h", "u"]));
        for name in names {
            let found = self.floats(backend, name)?;
            let shape = [f.batch, found.len() / (views * f.batch)];
            for (view, rows) in found.chunks(found.len() / views).enumerate() {
                let key = format!("step0.{}", f.view(name, view));
                let expected = f.floats(&key, &shape)?;
                errors.push((key, Squares::of(rows, &expected).relative()));
            }
        }
        Ok(errors)
    }
}

/// Errors of all tensors of one field of the parameters against the file's `PREFIX.NAME`.
fn compare_parameters(
    backend: &dyn Backend,
    f: &Reference,
    store: &ParameterStore,
    (field, prefix): (Field, &str),
) -> Result<Vec<(String, Squares)>> {
    let snapshot = store.snapshot(backend, field)?;
    let mut errors = Vec::new();
    for (index, spec) in store.specs().iter().enumerate() {
        if field == Field::Grad && !spec.kind.is_learned() {
            continue;
        }
        let expected = f.floats(&format!("{prefix}.{}", spec.name), &spec.shape)?;
        errors.push((spec.name.clone(), Squares::of(&snapshot.get(index), &expected)));
    }
    Ok(errors)
}

/// The network of a reference, as it is before the first step.
fn network(backend: &dyn Backend, f: &Reference) -> Result<(Model, ParameterStore)> {
    let description = ModelConfig {
        name: f.arch.clone(),
        width: f.width,
        classes: f.classes,
        heads: f.recipe.head_specs(),
        hidden: f.hidden,
        branches: f.recipe.branches,
        stem: f.stem,
    };
    let model = Model::new(&description, backend.stem_channels()).map_err(|e| Error::file(f.path(), e.to_string()))?;
    // Read before anything is allocated: what the metadata claims must be what the file holds.
    let values = model.specs().iter().map(|spec| f.floats(&format!("param.{}", spec.name), &spec.shape));
    let values = values.collect::<Result<Vec<_>>>()?;
    let store = ParameterStore::new(backend, model.specs().clone())?;
    let mut start = store.snapshot(backend, Field::Value)?;
    values.iter().enumerate().for_each(|(index, values)| start.set(index, values));
    store.restore(backend, Field::Value, &start)?;
    drop(start);
    Ok((model, store))
}

/// Recomputes the steps of a reference file on `backend` and compares.
///
/// # Errors
/// When the file is damaged or incomplete, or the device fails. A comparison that fails is no error: see [`Report::pass`].
pub fn verify(path: &Path, backend: &dyn Backend) -> Result<Report> {
    verify_reference(&Reference::open(path)?, backend)
}

/// As [`verify`], of a reference that is open.
///
/// # Errors
/// As for [`verify`].
pub fn verify_reference(f: &Reference, backend: &dyn Backend) -> Result<Report> {
    let (model, store) = network(backend, f)?;
    let step = Step::new(backend, f, &model, &store)?;
    let mut comparison = Comparison { precision: backend.precision(), groups: Vec::new() };
    let (mut inputs, mut heads, mut gradient) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..f.steps {
        step.load(backend, f, index)?;
        step.step.run(backend, 0)?;
        inputs.extend(step.compare_inputs(backend, f, index)?);
        if index == 0 {
            heads = step.compare_heads(backend, f)?;
            gradient = compare_parameters(backend, f, &store, (Field::Grad, "grad"))?;
        }
    }
    let errors = compare_losses(f, &read_floats(backend, step.step.log)?)?;
    let columns = errors.len() / f.steps;

    comparison.worst_of("mixtures and soft labels", &inputs);
    comparison.worst_of("first-step head outputs", &heads);
    comparison.worst_of("first-step losses", &errors[..columns]);
    comparison.concatenated("first-step gradient", &gradient);
    comparison.worst_of("later losses", &errors[columns..]);
    comparison.concatenated("after", &compare_parameters(backend, f, &store, (Field::Value, "after"))?);
    let evaluation = compare_evaluation(backend, f, &model, &store)?;
    comparison.worst_of("eval.logits", &[("eval.logits".into(), evaluation)]);

    let pass = comparison.groups.iter().all(|g| g.pass);
    let tensor = first_difference::first_tensor(&comparison.groups);
    let op = if pass || backend.name() == "cpu" { None } else { Some(first_op(f, backend)?) };
    let first_difference = match op {
        None => tensor,
        Some(Some(op)) => Some(op),
        Some(None) => tensor.map(|tensor| format!("{tensor}; each op by itself does what the CPU's does")),
    };
    Ok(Report {
        file: f.path().display().to_string(),
        device: backend.name(),
        precision: backend.precision(),
        groups: comparison.groups,
        first_difference,
        pass,
    })
}

/// Absolute errors of the losses of all steps: those of the recipe, then the total.
fn compare_losses(f: &Reference, log: &[f64]) -> Result<Vec<(String, f64)>> {
    let mut names: Vec<(String, usize)> =
        f.recipe.losses().iter().map(|&(name, column)| (format!("L_{name}"), column)).collect();
    names.push(("total".into(), TOTAL));
    let expected = f.floats("losses", &[f.steps, names.len()])?;
    let mut errors = Vec::new();
    for (step, (found, expected)) in log.chunks(LOSS_COLUMNS).zip(expected.chunks(names.len())).enumerate() {
        let losses = names.iter().zip(expected);
        errors
            .extend(losses.map(|((name, at), expected)| (format!("step{step}.{name}"), (found[*at] - expected).abs())));
    }
    Ok(errors)
}

/// Relative error of the inference with the classifier to evaluate with after the last step.
fn compare_evaluation(backend: &dyn Backend, f: &Reference, model: &Model, store: &ParameterStore) -> Result<f64> {
    let shape = [f.batch, 3, f.size, f.size];
    let input = f.floats("eval.input", &shape)?;
    let channels = backend.stem_channels();
    let (extents, dtype) = ([f.batch, f.size, f.size, channels], backend.precision().compute());
    let images = backend.tensor(&extents, dtype, "evaluation input")?;
    write_floats(backend, images, &to_nhwc(&input, shape, channels))?;
    let mut r = Recorder::new(backend, store, Mode::Inference);
    let images = r.tape.external(images);
    let features = model.record_features(&mut r, images)?;
    let logits = model.record_head(&mut r, f.recipe.evaluate.name(), features)?;
    r.tape.keep(logits);
    let program = r.tape.plan(backend, false)?;
    program.forward(backend)?;
    let found = read_floats(backend, program.value(logits))?;
    Ok(Squares::of(&found, &f.floats("eval.logits", &[f.batch, f.classes])?).relative())
}
