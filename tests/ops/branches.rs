//! `split_views` and `join_branches`, and what they are for: a whole step of BBN, against PyTorch.

use glmc_engine::memory::{read_floats, write_floats};
use glmc_engine::method::{Inputs, MethodSettings, Recipe, method};
use glmc_engine::nn::{Field, Mode, Model, ModelConfig, ParameterStore, Recorder, Stem};
use glmc_engine::ops::Backend;
use glmc_engine::ops::join_branches::join_branches;
use glmc_engine::ops::load_step::{STEP_WORDS, StepParams, StepVars};
use glmc_engine::ops::split_views::split_views;
use glmc_engine::ops::supervised_loss::ClassVector;
use glmc_engine::tape::Var;
use glmc_engine::tensor::{DType, Precision, Tensor};
use glmc_engine::{Error, Result};

use crate::common::array::{Array, Random};
use crate::common::fixtures::{self, Fixture};
use crate::common::suite::{Case, Suite};

/// Takes x apart; once more where there is a `dy3`, the gradient of the second view of that.
fn split(name: &str, x: Array, [dy, dy2]: [Array; 2], dy3: Option<Array>) -> Case {
    let mut inputs = vec![("x", x), ("dy", dy.clone()), ("dy2", dy2.clone())];
    inputs.extend(dy3.clone().map(|dy3| ("dy3", dy3)));
    let case = Case::new("split_views", name, inputs, |rig, i| {
        let x = rig.leaf("x", &i["x"], rig.compute());
        let views = split_views(&mut rig.tape, rig.backend, x)?;
        for (view, [y, dy]) in views.into_iter().zip([["y", "dy"], ["y2", "dy2"]]) {
            rig.output(y, view);
            rig.seed(view, &i[dy]);
        }
        if let Some(dy3) = i.get("dy3") {
            let [first, second] = split_views(&mut rig.tape, rig.backend, x)?;
            rig.seed(first, &Array::zeros(&dy3.shape));
            rig.output("y3", second);
            rig.seed(second, dy3);
        }
        Ok(())
    });
    let case = case.objective("y", dy).objective("y2", dy2);
    match dy3 {
        Some(dy3) => case.objective("y3", dy3),
        None => case,
    }
}

/// Joins two branches; once more, the other way round, where there is a `dy2`.
fn join(name: &str, branches: [Array; 2], shares: Option<Array>, dy: Array, dy2: Option<Array>) -> Case {
    let [first, second] = branches;
    let mut inputs = vec![("first", first), ("second", second), ("dy", dy.clone())];
    inputs.extend(shares.map(|shares| ("shares", shares)));
    inputs.extend(dy2.clone().map(|dy2| ("dy2", dy2)));
    let case = Case::new("join_branches", name, inputs, |rig, i| {
        let [first, second] = ["first", "second"].map(|name| rig.leaf(name, &i[name], rig.accumulate()));
        let shares = i.get("shares").map(|shares| rig.constant(shares, DType::F32)).transpose()?;
        for (branches, [y, dy]) in [([first, second], ["y", "dy"]), ([second, first], ["y2", "dy2"])] {
            let Some(dy) = i.get(dy) else { continue };
            let joined = join_branches(&mut rig.tape, rig.backend, branches, shares)?;
            rig.output(y, joined);
            rig.seed(joined, dy);
        }
        Ok(())
    })
    .objective("y", dy);
    match dy2 {
        Some(dy2) => case.objective("y2", dy2),
        None => case,
    }
}

/// Shares of eighths: 0, 1/8, ..., 1, 0, ...
fn eighths(count: usize) -> Array {
    Array::vector(&(0..count).map(|n| (n % 9) as f64 / 8.0).collect::<Vec<_>>())
}

fn ops(suite: &mut Suite) {
    let mut random = Random::new(23);
    for f in fixtures::of("split_views") {
        let wanted = vec![("y", f.get("first")), ("y2", f.get("second")), ("dx", f.get("dx"))];
        suite.close("pytorch", split(&f.name, f.get("x"), [f.get("dy"), f.get("dy2")], None), wanted);
    }
    for f in fixtures::of("join_branches") {
        let wanted = ["y", "dfirst", "dsecond"].map(|name| (name, f.get(name)));
        let branches = [f.get("first"), f.get("second")];
        suite.close("pytorch", join(&f.name, branches, f.maybe("shares"), f.get("dy"), None), wanted.to_vec());
    }
    for shape in [[1, 1, 1, 1], [3, 5, 3, 7], [2, 8, 8, 64], [5, 3, 3, 33], [7, 1, 9, 8]] {
        let [batch, height, width, channels] = shape;
        let both = [2 * batch, height, width, channels];
        let (x, dys) = (random.integers(&both, 9), [0; 2].map(|_| random.integers(&shape, 9)));
        let half = x.data.len() / 2;
        let part = |from: usize| Array::new(&shape, x.data[from..from + half].to_vec());
        let dx = Array::new(&both, dys.iter().flat_map(|dy| dy.data.clone()).collect());
        let wanted = vec![("y", part(0)), ("y2", part(half)), ("dx", dx)];
        suite.exact(split(&format!("{shape:?}"), x.clone(), dys, None), wanted);
        let [x, dy, dy2, dy3] = [both, shape, shape, shape].map(|shape| random.normal(&shape));
        suite.oracle(split(&format!("{shape:?}_twice"), x, [dy, dy2], Some(dy3)));
    }
    let [x, dy, dy2, dy3] = [[4, 2, 1, 3], [2, 2, 1, 3], [2, 2, 1, 3], [2, 2, 1, 3]].map(|shape| random.normal(&shape));
    suite.gradient(split("twice", x, [dy, dy2], Some(dy3)));

    for [rows, features] in [[1, 1], [5, 3], [9, 64], [33, 65], [128, 128], [2, 1000]] {
        let branches = [0; 2].map(|_| random.integers(&[rows, features], 8));
        let dy = random.integers(&[rows, 2 * features], 8);
        let shares = eighths(rows);
        let factor = |row: usize, branch: usize| {
            let share = shares.data[row];
            2.0 * if branch == 0 { share } else { 1.0 - share }
        };
        let at = |index: usize| (index / (2 * features), index / features % 2, index % features);
        let mut y = Array::zeros(&[rows, 2 * features]);
        let mut gradients = [0; 2].map(|_| Array::zeros(&[rows, features]));
        for index in 0..y.data.len() {
            let (row, branch, feature) = at(index);
            y.data[index] = factor(row, branch) * branches[branch].data[row * features + feature];
            gradients[branch].data[row * features + feature] = factor(row, branch) * dy.data[index];
        }
        let [dfirst, dsecond] = gradients;
        let wanted = vec![("y", y), ("dfirst", dfirst), ("dsecond", dsecond)];
        let name = format!("{rows}x{features}");
        suite.exact(join(&name, branches, Some(shares.clone()), dy, None), wanted);
        // As they are, without shares.
        let [first, second] = [0; 2].map(|_| random.integers(&[rows, features], 8));
        let rows_of = |a: &Array, n: usize| a.data[n * features..][..features].to_vec();
        let joined = (0..rows).flat_map(|n| [rows_of(&first, n), rows_of(&second, n)].concat()).collect();
        let wanted = vec![("y", Array::new(&[rows, 2 * features], joined))];
        let dy = random.integers(&[rows, 2 * features], 8);
        suite.exact(join(&format!("{name}_as_they_are"), [first, second], None, dy, None), wanted);
        let branches = [0; 2].map(|_| random.normal(&[rows, features]));
        let [dy, dy2] = [0; 2].map(|_| random.normal(&[rows, 2 * features]));
        suite.oracle(join(&format!("{name}_twice"), branches, Some(shares), dy, Some(dy2)));
    }
    for shares in [None, Some(eighths(4))] {
        let name = if shares.is_some() { "twice" } else { "as_they_are" };
        let branches = [0; 2].map(|_| random.normal(&[4, 3]));
        let [dy, dy2] = [0; 2].map(|_| random.normal(&[4, 6]));
        suite.gradient(join(name, branches, shares, dy, Some(dy2)));
    }
}

/// What a step computes.
struct Outcome {
    /// (batch, classes) in training.
    logits: Vec<f64>,
    /// The sum of the label terms with their shares.
    loss: f64,
    /// By the parameters' names.
    gradients: Vec<(String, Vec<f64>)>,
    /// Running statistics after the step, by their names.
    running: Vec<(String, Vec<f64>)>,
    /// (batch, classes) of the first view in evaluation, after the step.
    evaluated: Vec<f64>,
}

fn recipe() -> Recipe {
    method("bbn").expect("a method").recipe(&MethodSettings::default(), &[9, 7, 5, 3, 1])
}

fn floats(backend: &dyn Backend, array: &Array, dtype: DType) -> Result<Tensor> {
    let tensor = backend.tensor(&array.shape, dtype, "a test")?;
    match dtype {
        DType::I32 | DType::F32 => backend.upload(tensor, &array.bytes(dtype))?,
        _ => write_floats(backend, tensor, &array.data)?,
    }
    Ok(tensor)
}

/// The images as the stem reads them.
fn stem(backend: &dyn Backend, images: &Array) -> Array {
    let channels = backend.stem_channels();
    let padded = images.data.chunks(3).flat_map(|pixel| {
        let mut pixel = pixel.to_vec();
        pixel.resize(channels, 0.0);
        pixel
    });
    let mut shape = images.shape.clone();
    shape[3] = channels;
    Array::new(&shape, padded.collect())
}

/// Runs the fixture's step with these shares of the originals.
fn run(backend: &dyn Backend, f: &Fixture, share: f64) -> Result<Outcome> {
    let (recipe, precision) = (recipe(), backend.precision());
    let (classes, batch) = (f.integer("classes"), f.get("label").data.len());
    let config = ModelConfig {
        name: f.attributes["arch"].as_str().unwrap_or_default().into(),
        width: f.integer("width"),
        classes,
        heads: recipe.head_specs(),
        hidden: None,
        branches: recipe.branches,
        stem: Stem::Cifar,
    };
    let model = Model::new(&config, backend.stem_channels())?;
    let store = ParameterStore::new(backend, model.specs().clone())?;
    let mut start = store.snapshot(backend, Field::Value)?;
    for (index, spec) in store.specs().iter().enumerate() {
        let value = f.get(&format!("param.{}", spec.name));
        assert_eq!(value.shape, spec.shape, "{}", spec.name);
        start.set(index, &value.data);
    }
    store.restore(backend, Field::Value, &start)?;
    drop(start);

    let (images, accumulate) = (stem(backend, &f.get("images")), precision.accumulate());
    let mut r = Recorder::new(backend, &store, Mode::Train { views: 2 });
    let scalars = StepParams { coefficients: recipe.coefficients(0, 1), ..StepParams::default() };
    let words: Vec<f64> =
        bytemuck::cast_slice::<_, i32>(std::slice::from_ref(&scalars)).iter().map(|&w| f64::from(w)).collect();
    assert_eq!(words.len(), STEP_WORDS);
    let indices = |from: usize| Array::vector(&(from..from + batch).map(|n| n as f64).collect::<Vec<_>>());
    let labels = Array::vector(&[f.get("label").data, f.get("label2").data].concat());
    let vectors = Array::new(&[ClassVector::COUNT, classes], recipe.vectors(&[9, 7, 5, 3, 1], 0)?);
    let log = floats(backend, &Array::zeros(&[1, 4]), accumulate)?;
    let mut external = |array: &Array, dtype: DType| -> Result<Var> {
        let tensor = floats(backend, array, dtype)?;
        Ok(r.tape.external(tensor))
    };
    let scalars = external(&Array::vector(&words), DType::I32)?;
    let vars = StepVars {
        scalars,
        logged: scalars,
        originals: external(&indices(0), DType::I32)?,
        partners: external(&indices(batch), DType::I32)?,
        shares: external(&Array::filled(&[batch], share), DType::F32)?,
    };
    let (input, labels) = (external(&images, precision.compute())?, external(&labels, DType::I32)?);
    let vectors = [external(&vectors, accumulate)?];
    let log_var = r.tape.external(log);
    let inputs = Inputs { images: input, labels, vectors: &vectors, vars, log: log_var, batch };
    let outputs = recipe.record(&mut r, &model, &inputs)?;
    let [("fc", logits)] = outputs[..] else {
        return Err(Error::Config(format!("{} outputs, not fc", outputs.len())));
    };
    r.tape.keep(logits);
    let program = r.tape.plan(backend, true)?;
    program.forward(backend)?;
    program.backward(backend)?;
    let logits = read_floats(backend, program.value(logits))?;

    let mut r = Recorder::new(backend, &store, Mode::Inference);
    let mut shape = images.shape.clone();
    shape[0] = batch;
    let half = Array::new(&shape, images.data[..images.data.len() / 2].to_vec());
    let half = floats(backend, &half, precision.compute())?;
    let half = r.tape.external(half);
    let features = model.record_features(&mut r, half)?;
    let evaluated = model.record_head(&mut r, "fc", features)?;
    r.tape.keep(evaluated);
    let evaluation = r.tape.plan(backend, false)?;
    evaluation.forward(backend)?;

    let named = |field: Field, learned: bool| -> Result<Vec<(String, Vec<f64>)>> {
        let snapshot = store.snapshot(backend, field)?;
        let specs = store.specs().iter().enumerate().filter(|(_, spec)| spec.kind.is_learned() == learned);
        Ok(specs.map(|(index, spec)| (spec.name.clone(), snapshot.get(index))).collect())
    };
    Ok(Outcome {
        logits,
        loss: read_floats(backend, log)?[3],
        gradients: named(Field::Grad, true)?,
        running: named(Field::Value, false)?,
        evaluated: read_floats(backend, evaluation.value(evaluated))?,
    })
}

/// The length of the difference over that of what is expected.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(f, e)| f - e));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

/// Limits in f64, f32 and bf16, those of `verify` and in f64 what rounding leaves.
const LIMITS: [(&str, [f64; 3]); 5] = [
    ("logits", [1e-11, 1e-5, 2e-2]),
    ("loss", [1e-11, 1e-5, 1e-1]),
    ("gradient", [1e-9, 5e-3, 3e-1]),
    ("running statistics", [1e-11, 2e-3, 5e-2]),
    ("evaluation", [1e-10, 1e-4, 2e-1]),
];

/// The alpha of the step file is 5/8, which a single holds.
fn follows_pytorch(backend: &dyn Backend) -> Result<(), String> {
    let f = fixtures::of("bbn").remove(0);
    let outcome = run(backend, &f, f.number("alpha")).map_err(|e| e.to_string())?;
    let wanted = |prefix: &str, names: &[(String, Vec<f64>)]| -> Vec<f64> {
        names.iter().flat_map(|(name, _)| f.get(&format!("{prefix}.{name}")).data).collect()
    };
    let flat = |values: &[(String, Vec<f64>)]| values.iter().flat_map(|(_, v)| v.clone()).collect::<Vec<f64>>();
    assert!(["cb_block.conv1.weight", "rb_block.bn2.bias", "fc.weight", "layer3.1.conv2.weight"].iter().all(|name| {
        outcome.gradients.iter().any(|(found, values)| found == name && values.iter().any(|v| *v != 0.0))
    }));
    assert!(!outcome.gradients.iter().any(|(name, _)| name.starts_with("layer3.2")));
    let errors = [
        error(&outcome.logits, &f.get("logits").data),
        error(&[outcome.loss], &f.get("loss").data),
        error(&flat(&outcome.gradients), &wanted("grad", &outcome.gradients)),
        error(&flat(&outcome.running), &wanted("after", &outcome.running)),
        error(&outcome.evaluated, &f.get("eval_logits").data),
    ];
    let column = match backend.precision() {
        Precision::F64 => 0,
        Precision::F32 => 1,
        Precision::Bf16 => 2,
    };
    for ((what, limits), error) in LIMITS.iter().zip(errors) {
        if error.is_nan() || error > limits[column] {
            return Err(format!("{what} is off by {error:.1e}, limit {:.0e}", limits[column]));
        }
    }
    Ok(())
}

/// With alpha 1 the step is plain cross-entropy of the originals through `cb_block`: nothing of `rb_block` is trained, and what
/// the partners are does not matter but to the shared running statistics. With alpha 0 it is the other way round.
fn ends_are_one_branch(backend: &dyn Backend) -> Result<(), String> {
    let f = fixtures::of("bbn").remove(0);
    let cross_entropy = |logits: &[f64], labels: &[f64]| {
        let rows = logits.chunks(f.integer("classes")).zip(labels);
        let losses = rows.map(|(row, &label)| {
            let most = row.iter().fold(f64::MIN, |a, &b| a.max(b));
            most + row.iter().map(|v| (v - most).exp()).sum::<f64>().ln() - row[label as usize]
        });
        losses.sum::<f64>() / labels.len() as f64
    };
    for (share, labels, trained, idle) in
        [(1.0, "label", "cb_block", "rb_block"), (0.0, "label2", "rb_block", "cb_block")]
    {
        let outcome = run(backend, &f, share).map_err(|e| e.to_string())?;
        let expected = cross_entropy(&outcome.logits, &f.get(labels).data);
        if (outcome.loss - expected).abs() > 1e-5 * expected {
            return Err(format!("share {share}: the loss is {}, cross-entropy {expected}", outcome.loss));
        }
        for (name, values) in &outcome.gradients {
            let moves = values.iter().any(|v| *v != 0.0);
            if name.starts_with(idle) && moves || name.starts_with(trained) && !moves {
                return Err(format!("share {share}: {name} has a gradient: {moves}"));
            }
        }
    }
    Ok(())
}

pub fn add(suite: &mut Suite) {
    ops(suite);
    suite.device("bbn", "pytorch::step", |backend| Ok(follows_pytorch(backend)?));
    suite.device("bbn", "ends_are_one_branch", |backend| Ok(ends_are_one_branch(backend)?));
}
