//! The kernels of a device against the CPU in double precision, each op by itself (`lockstep`): a training step of each
//! method, an evaluation, the optimiser, heads of every shape, and convolutions that get every tiling of the presets' networks.
//!
//! Small numbers of few bits, so that bf16 holds the inputs exactly, and small networks: on a GPU compiling takes most of the
//! time.

mod convolutions;
mod photos;

use std::sync::Arc;

use half::bf16;

pub use self::convolutions::CONVOLUTIONS;
use super::lockstep::{self, Difference, Side, lockstep};
use super::{Reference, verify_reference};
use crate::backend::launched::Launched;
use crate::backend::native::Native;
use crate::config::{Every, OptimizerConfig, Projection, Sam};
use crate::driver::watched::{Event, Launches, Watched};
use crate::error::{Error, Result};
use crate::memory::{Memory, read_floats, write_floats};
use crate::method::{Inputs, MethodSettings, Recipe, method};
use crate::nn::model::{Extent, HeadShape, HeadSpec};
use crate::nn::parameters::Kind;
use crate::nn::{Field, HeadKind, Mode, Model, ModelConfig, ParameterStore, Recorder, Rules, Stem};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing, View, augment_mix, mix_views};
use crate::ops::checksum::{Checksum, ChecksumKernels, SCRATCH};
use crate::ops::classify::classify;
use crate::ops::conv2d::{Config, Geometry, conv2d};
use crate::ops::load_step::{STEP_WORDS, StepParams, StepVars, load_step, row_words};
use crate::ops::supervised_loss::ClassVector;
use crate::ops::total_loss::LOSS_COLUMNS;
use crate::rng::philox;
use crate::tape::{Program, Tape, Var};
use crate::tensor::{DType, Precision, Tensor};
use crate::train::optimizer::Optimizer;

/// Methods that together have every kernel of a training step.
const METHODS: [&str; 6] = ["glmc", "ce", "cb-focal", "mixup", "cmo-ldam-drw", "bbn"];

const MODEL: (&str, Stem) = ("resnet20", Stem::Cifar);
/// What it has not: a stem with a pool, blocks of three convolutions, shortcuts with weights.
const DEEPER: (&str, Stem) = ("resnet50", Stem::Imagenet);
const WIDTH: usize = 8;
const HIDDEN: usize = 24;
const SIZE: usize = 12;
const BATCH: usize = 5;
/// Training images of each class.
const COUNTS: [usize; 7] = [40, 20, 11, 7, 3, 2, 1];
const IMAGES: usize = 9;
const AUGMENTATION: Augmentation =
    Augmentation { mean: [0.5, 0.25, 0.75], std: [0.25, 0.5, 0.25], padding: 2, flip: true };

/// A head of every shape.
pub(crate) const HEADS: &[HeadSpec] = &[
    HeadSpec::linear("linear", Extent::Hidden, Extent::Classes),
    HeadSpec { shape: HeadShape::Cosine, ..HeadSpec::linear("cosine", Extent::Hidden, Extent::Classes) },
    HeadSpec { shape: HeadShape::Scaled, ..HeadSpec::linear("scaled", Extent::Hidden, Extent::Classes) },
];

/// What agreed.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    /// Kernels that were launched, each form of one counted.
    pub kernels: usize,
    /// Outputs of ops that were compared.
    pub outputs: usize,
    /// The largest share of its limit that one of them used.
    pub share: f64,
}

/// What did not.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

/// A recording, planned for one backend.
struct Trial {
    program: Program,
    /// What follows the passes of a training step: the parameters, the optimiser, the step's scalars.
    update: Option<(ParameterStore, Optimizer, Tensor)>,
}

/// What the optimiser can do after the passes, by the op that does it.
type Move = (&'static str, fn(&Optimizer, &dyn Backend, Tensor) -> Result<()>);
const MOVES: [Move; 4] = [
    ("sam", |optimizer, backend, scalars| {
        optimizer.prepare(backend, scalars)?;
        optimizer.climb(backend)
    }),
    ("sam", |optimizer, backend, _| optimizer.restore(backend)),
    ("sgd", |optimizer, backend, scalars| optimizer.update(backend, scalars)),
    ("project_rows", |optimizer, backend, _| optimizer.end_epoch(backend)),
];

/// The optimiser of the trials, with all that it may have; its numbers are of few bits.
fn optimizer() -> OptimizerConfig {
    OptimizerConfig {
        momentum: 0.875,
        weight_decay: 0.015625,
        nesterov: true,
        groups: Vec::new(),
        project: Some(Projection {
            max_norm: Some(0.25),
            l2_norm: None,
            pattern: "fc.weight".into(),
            every: Every::Epoch,
        }),
        sam: Some(Sam { ascent: [1.0, 1.0, 0.0], ..Sam::new(0.5) }),
    }
}

impl Trial {
    fn after(&self, backend: &dyn Backend, (_, work): Move) -> Result<()> {
        self.update.as_ref().map_or(Ok(()), |(_, optimizer, scalars)| work(optimizer, backend, *scalars))
    }
}

type Build<'a> = Box<dyn Fn(&dyn Backend) -> Result<Trial> + 'a>;

/// Compares the kernels of `device` (not the CPU), each of which `tell` hears of before it is launched. The inner `Err` is what
/// one of them did wrong.
///
/// # Errors
/// When the device cannot be opened, has too little memory, or a kernel does not compile.
pub fn self_test(
    device: &str,
    precision: Precision,
    tell: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> Result<Result<Proof, Failure>> {
    let launches = Launches::new(tell);
    let driver = Watched::new(crate::backend::driver(device)?, launches.clone());
    let device = Launched::new(Box::new(driver), precision)?;
    match trials(&device, &launches) {
        Err(Error::Device { what, .. }) if launches.failed() => Ok(Err(Failure(what))),
        Err(error) if launches.failed() => Ok(Err(Failure(error.to_string()))),
        outcome => outcome,
    }
}

fn trials(device: &Launched, launches: &Arc<Launches>) -> Result<Result<Proof, Failure>> {
    let oracle = Native::new(Precision::F64, 0)?;
    let mut builds: Vec<Build<'_>> = Vec::new();
    for name in METHODS {
        builds.push(Box::new(move |backend| training(backend, name, MODEL)));
    }
    builds.push(Box::new(|backend| training(backend, "ce", DEEPER)));
    for (name, flip) in [("glmc", false), ("glmc", true), ("bbn", false)] {
        builds.push(Box::new(move |backend| evaluation(backend, name, flip)));
    }
    builds.push(Box::new(heads));
    for mixing in [Mixing::GLMC, Mixing::One(View::Cutmix)] {
        builds.push(Box::new(move |backend| views(backend, mixing)));
    }
    for mixing in [Mixing::GLMC, Mixing::EvaluateFlip] {
        builds.push(Box::new(move |backend| photos::views(backend, mixing)));
    }
    builds.extend(CONVOLUTIONS.iter().map(|g| -> Build<'_> { Box::new(move |backend| product(backend, g)) }));
    let planned = builds.iter().map(|build| build(device)).collect::<Result<Vec<Trial>>>()?;
    // All kernels at once: they are compiled in parallel.
    device.driver().prepare(&mut || {
        planned.iter().try_for_each(|trial| {
            trial.program.forward(device)?;
            trial.program.backward(device)?;
            MOVES.iter().try_for_each(|&work| trial.after(device, work))
        })
    })?;
    launches.take();
    let mut proof = Proof { kernels: 0, outputs: 0, share: 0.0 };
    for (trial, build) in planned.iter().zip(&builds) {
        let expected = build(&oracle)?;
        let sides =
            [Side { backend: device, program: &trial.program }, Side { backend: &oracle, program: &expected.program }];
        let mut agreed = |error: f64, limit: f64| {
            launches.take();
            proof.outputs += 1;
            // Where numbers must be exact, none is used.
            proof.share = proof.share.max(if limit > 0.0 { error / limit } else { 0.0 });
        };
        let mut difference = lockstep(sides[0], sides[1], &mut agreed)?;
        for work in MOVES {
            if difference.is_none() {
                trial.after(device, work)?;
                expected.after(&oracle, work)?;
                difference = updated(work.0, (device, trial), (&oracle, &expected), &mut agreed)?;
            }
        }
        if let Some(difference) = difference {
            return Ok(Err(named(&difference, &launches.take())));
        }
    }
    if let Some(failure) = checksums(device, &oracle)? {
        return Ok(Err(failure));
    }
    proof.outputs += 2;
    proof.kernels = launches.kernels();
    Ok(graphs(device)?.map(|()| proof))
}

/// The checksum of numbers of both types, two of which are not finite: no op records it.
fn checksums(device: &Launched, oracle: &Native) -> Result<Option<Failure>> {
    // Not a multiple of anything.
    let mut values: Vec<f64> = noise(8, 5003).collect();
    (values[17], values[5002]) = (f64::NAN, f64::INFINITY);
    for dtype in [device.precision().compute(), DType::F32] {
        let tensor = device.tensor(&[values.len()], dtype, "self-test")?;
        write_floats(device, tensor, &values)?;
        let mut bytes = vec![0; tensor.bytes()];
        device.download(tensor, &mut bytes)?;
        let copy = oracle.tensor(&[bytes.len()], DType::U8, "self-test")?;
        oracle.upload(copy, &bytes)?;
        let scratch = device.tensor(&[SCRATCH], DType::U8, "self-test")?;
        let expected = Checksum { not_finite: 2, ..oracle.checksum(copy, copy)? };
        let found = device.checksum(tensor, scratch)?;
        if found != expected {
            return Ok(Some(Failure(format!("kernel checksum: {found:?} of {dtype:?}, but it is {expected:?}"))));
        }
    }
    Ok(None)
}

/// What a difference comes from: the kernels of the pass, of which the last one that wrote the output is most likely wrong.
fn named(difference: &Difference, kernels: &[String]) -> Failure {
    let Difference { what, error, limit } = difference;
    let kernels = match kernels {
        [] => "no kernel".to_string(),
        [one] => format!("kernel {one}"),
        several => {
            let entries: Vec<&str> = several.iter().map(|k| k.split('<').next().unwrap_or(k)).collect();
            format!("one of the kernels {}", entries.join(", "))
        }
    };
    Failure(format!("{kernels}: {what} is off by {error:.1e} of its largest value, limit {limit:.1e}"))
}

/// A whole step as it is trained: captured as a graph, where the device has them.
fn graphs(device: &Launched) -> Result<Result<(), Failure>> {
    // The first is the smallest.
    let Some(reference) = Reference::built_in().next().transpose()? else { return Ok(Ok(())) };
    let report = verify_reference(&reference, device)?;
    let failed = report.groups.iter().find(|group| !group.pass);
    Ok(failed.map_or(Ok(()), |group| {
        let (name, error, limit) = (group.name, group.error, group.limit);
        Err(Failure(format!("the graph of the step {}: {name} is off by {error:.1e}, limit {limit:.1e}", report.file)))
    }))
}

/// Parameters, running statistics and momentum after what an op did with them, and the copy that products read.
fn updated(
    op: &str,
    (device, found): (&dyn Backend, &Trial),
    (oracle, expected): (&dyn Backend, &Trial),
    agreed: &mut dyn FnMut(f64, f64),
) -> Result<Option<Difference>> {
    let (Some((found, ..)), Some((expected, ..))) = (&found.update, &expected.update) else { return Ok(None) };
    let mut differs = |what: String, error: f64, limit: f64| -> Option<Difference> {
        if error > limit {
            return Some(Difference { what, error, limit });
        }
        agreed(error, limit);
        None
    };
    if let Some(compute) = found.compute {
        let rounded = |device: &dyn Backend| -> Result<f64> {
            let master = read_floats(device, found.master)?;
            let master: Vec<f64> = master.iter().map(|&v| f64::from(bf16::from_f32(v as f32))).collect();
            Ok(lockstep::error(&read_floats(device, compute)?, &master))
        };
        if let Some(difference) = differs(format!("{op}, the rounded weights"), rounded(device)?, 0.0) {
            return Ok(Some(difference));
        }
        write_floats(device, compute, &vec![0.0; compute.elements()])?;
        device.cast_weights(found.master, compute)?;
        if let Some(difference) = differs("cast_weights, the rounded weights".into(), rounded(device)?, 0.0) {
            return Ok(Some(difference));
        }
    }
    for (field, what) in [(Field::Value, "value"), (Field::Momentum, "momentum")] {
        let (values, wanted) = (found.snapshot(device, field)?, expected.snapshot(oracle, field)?);
        for (index, spec) in found.specs().iter().enumerate() {
            let op = if spec.kind.is_learned() { op } else { "batch_norm_statistics" };
            let error = lockstep::error(&values.get(index), &wanted.get(index));
            if let Some(difference) = differs(format!("{op}, {what} of {}", spec.name), error, 2e-5) {
                return Ok(Some(difference));
            }
        }
    }
    Ok(None)
}

/// Numbers in -1..=1 of seven bits, the same for the same `salt`.
fn noise(salt: u32, count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |at| (f64::from(philox::draw(5, 0, salt, 0, at as u32)[0] % 129) - 64.0) / 64.0)
}

/// Memory for a tensor of floats, with numbers in it.
fn filled(backend: &dyn Backend, shape: &[usize], dtype: DType, salt: u32) -> Result<Tensor> {
    let tensor = backend.tensor(shape, dtype, "self-test")?;
    write_floats(backend, tensor, &noise(salt, tensor.elements()).collect::<Vec<_>>())?;
    Ok(tensor)
}

/// Memory for integers.
fn integers(backend: &dyn Backend, shape: &[usize], values: &[i32]) -> Result<Tensor> {
    let tensor = backend.tensor(shape, DType::I32, "self-test")?;
    backend.upload(tensor, bytemuck::cast_slice(values))?;
    Ok(tensor)
}

/// A network in the middle of its training.
fn network(
    backend: &dyn Backend,
    (name, stem): (&str, Stem),
    heads: Vec<HeadSpec>,
    branches: bool,
) -> Result<(Model, ParameterStore)> {
    let (name, classes, hidden) = (name.into(), COUNTS.len(), Some(HIDDEN));
    let config = ModelConfig { name, width: WIDTH, classes, heads, hidden, branches, stem };
    let model = Model::new(&config, backend.stem_channels())?;
    let store = ParameterStore::new(backend, model.specs().clone())?;
    for field in [Field::Value, Field::Momentum] {
        let mut snapshot = store.snapshot(backend, field)?;
        for (index, spec) in store.specs().iter().enumerate() {
            let noise = noise(index as u32, spec.elements());
            let values: Vec<f64> = match spec.kind {
                // Scaled by a power of two, which bf16 holds as well.
                Kind::ConvWeight | Kind::LinearWeight | Kind::CosineWeight => {
                    let inputs: usize = spec.shape[1..].iter().product();
                    let scale = (-(inputs as f64).sqrt().log2().round()).exp2();
                    noise.map(|v| v * scale).collect()
                }
                Kind::NormWeight | Kind::HeadScale => noise.map(|v| 1.0 + v / 4.0).collect(),
                Kind::RunningVar => noise.map(|v| 1.0 + v / 2.0).collect(),
                Kind::NormBias | Kind::RunningMean | Kind::LinearBias { .. } | Kind::ConstantBias { .. } => {
                    noise.map(|v| v / 4.0).collect()
                }
            };
            if field == Field::Value || spec.kind.is_learned() {
                snapshot.set(index, &values);
            }
        }
        store.restore(backend, field, &snapshot)?;
    }
    Ok((model, store))
}

fn step() -> StepParams {
    StepParams {
        seed: [7, 1],
        epoch: 2,
        step: 3,
        lambda: 0.75,
        cut: [2, 7, 3, 11],
        lr: 0.125,
        coefficients: [0.25, 0.75, 1.0],
        ..StepParams::default()
    }
}

/// What the program of a step starts from: its scalars and indices, labels, mixtures.
fn inputs(backend: &dyn Backend, tape: &mut Tape, mixing: Mixing) -> Result<(StepVars, Var, Var)> {
    let mut row: Vec<i32> = bytemuck::cast_slice(std::slice::from_ref(&step())).to_vec();
    row.extend([0, 3, 8, 3, 5]); // originals
    row.extend([1, 8, 0, 7, 5]); // partners
    row.extend([0.625f32, 0.25, 1.0, 0.0, 0.5].map(|share| share.to_bits() as i32));
    let table = integers(backend, &[1, row_words(BATCH)], &row)?;
    let cursor = integers(backend, &[1], &[0])?;
    let labels: Vec<i32> = (0..IMAGES).map(|image| (image * 3 % COUNTS.len()) as i32).collect();
    let labels = integers(backend, &[IMAGES], &labels)?;
    let pixels = backend.tensor(&[IMAGES, SIZE, SIZE, 3], DType::U8, "self-test")?;
    let bytes = (0..pixels.elements()).map(|at| philox::draw(5, 1, 0, 0, at as u32)[0] as u8);
    backend.upload(pixels, &bytes.collect::<Vec<_>>())?;
    let [table, cursor, labels, pixels] = [table, cursor, labels, pixels].map(|tensor| tape.external(tensor));
    let vars = load_step(tape, table, cursor, BATCH)?;
    let images = augment_mix(tape, backend, pixels, vars, mixing, AUGMENTATION)?;
    Ok((vars, labels, images))
}

/// A method's recipe, whatever it defers in force.
fn recipe(name: &str) -> Result<Recipe> {
    let settings = MethodSettings { epochs: 1, k: 1.0, ..MethodSettings::default() };
    Ok(method(name).map_err(Error::Config)?.recipe(&settings, &COUNTS))
}

fn training(backend: &dyn Backend, name: &str, model: (&str, Stem)) -> Result<Trial> {
    let recipe = recipe(name)?;
    let (model, store) = network(backend, model, recipe.head_specs(), recipe.branches)?;
    let mixing = recipe.views()?;
    let mut r = Recorder::new(backend, &store, Mode::Train { views: mixing.views() });
    let (vars, labels, images) = inputs(backend, &mut r.tape, mixing)?;
    let float = backend.precision().accumulate();
    let log = backend.tensor(&[1, LOSS_COLUMNS], float, "self-test")?;
    let mut vectors = Vec::new();
    for values in recipe.vectors(&COUNTS, 0)?.chunks(ClassVector::COUNT * COUNTS.len()) {
        let tensor = backend.tensor(&[ClassVector::COUNT, COUNTS.len()], float, "self-test")?;
        write_floats(backend, tensor, values)?;
        vectors.push(r.tape.external(tensor));
    }
    let log = r.tape.external(log);
    recipe.record(&mut r, &model, &Inputs { images, labels, vectors: &vectors, vars, log, batch: BATCH })?;
    let program = r.tape.plan(backend, true)?;
    let settings = optimizer();
    let rules = Rules::new(store.specs(), settings.weight_decay, &settings.groups)?;
    let optimizer = Optimizer::new(backend, &store, &rules, &settings)?;
    optimizer.begin(backend)?;
    let scalars = program.value(vars.scalars);
    Ok(Trial { program, update: Some((store, optimizer, scalars)) })
}

/// One head as it is; or the mean of two, over images and their mirror images.
fn evaluation(backend: &dyn Backend, name: &str, flip: bool) -> Result<Trial> {
    let recipe = recipe(name)?;
    let (model, store) = network(backend, MODEL, recipe.head_specs(), recipe.branches)?;
    let mut r = Recorder::new(backend, &store, Mode::Inference);
    let (mixing, head) =
        if flip { (Mixing::EvaluateFlip, HeadKind::Mean) } else { (Mixing::Evaluate, recipe.evaluate) };
    let (vars, labels, images) = inputs(backend, &mut r.tape, mixing)?;
    let ranks = integers(backend, &[IMAGES], &[-1; IMAGES])?;
    let [confidences, losses] = ["confidences", "losses"].map(|name| backend.tensor(&[IMAGES], DType::F32, name));
    let results = [ranks, confidences?, losses?].map(|tensor| r.tape.external(tensor));
    let features = model.record_features(&mut r, images)?;
    let (logits, scale) = model.record_classifier(&mut r, head, features)?;
    classify(&mut r.tape, backend, (&logits, scale), labels, vars, results)?;
    Ok(Trial { program: r.tape.plan(backend, false)?, update: None })
}

/// The views of given images, as reference steps have them.
fn views(backend: &dyn Backend, mixing: Mixing) -> Result<Trial> {
    let views = filled(backend, &[mixing.image_sets() * BATCH, SIZE, SIZE, 3], backend.precision().accumulate(), 1)?;
    let scalars = integers(backend, &[STEP_WORDS], bytemuck::cast_slice(std::slice::from_ref(&step())))?;
    let mut tape = Tape::new();
    let [views, scalars] = [views, scalars].map(|tensor| tape.external(tensor));
    mix_views(&mut tape, backend, mixing, views, scalars)?;
    Ok(Trial { program: tape.plan(backend, false)?, update: None })
}

/// Heads of every shape on the same vectors: which of them a run trains, its settings say.
fn heads(backend: &dyn Backend) -> Result<Trial> {
    let (model, store) = network(backend, MODEL, HEADS.to_vec(), false)?;
    let float = backend.precision().accumulate();
    let mut r = Recorder::new(backend, &store, Mode::Train { views: 1 });
    let [x, dx] = [7, 8].map(|salt| filled(backend, &[BATCH, HIDDEN], float, salt));
    let x = r.tape.parameter(x?, dx?);
    let outputs = HEADS.iter().map(|head| model.record_head(&mut r, head.name, x)).collect::<Result<Vec<_>>>()?;
    outputs.iter().for_each(|&output| r.tape.keep(output));
    let program = r.tape.plan(backend, true)?;
    for (salt, output) in (9..).zip(outputs) {
        if let Some(dy) = program.grad(output) {
            write_floats(backend, dy, &noise(salt, dy.elements()).collect::<Vec<_>>())?;
        }
    }
    Ok(Trial { program, update: None })
}

/// The three products of a convolution, by themselves.
fn product(backend: &dyn Backend, g: &Geometry) -> Result<Trial> {
    let (compute, float) = (backend.precision().compute(), backend.precision().accumulate());
    let mut tape = Tape::new();
    let filled = |shape: &[usize], dtype, salt| filled(backend, shape, dtype, salt);
    let (x, dx) = (filled(&g.input(), compute, 2)?, filled(&g.input(), compute, 3)?);
    let (weight, dweight) = (filled(&g.weight(), compute, 4)?, filled(&g.weight(), float, 5)?);
    let (x, weight) = (tape.parameter(x, dx), tape.parameter(weight, dweight));
    let config = Config { stride: g.stride, padding: g.padding, views: g.views, groups: g.groups, sums: true };
    let (y, _) = conv2d(&mut tape, backend, x, weight, config)?;
    tape.keep(y);
    let program = tape.plan(backend, true)?;
    if let Some(dy) = program.grad(y) {
        write_floats(backend, dy, &noise(6, dy.elements()).collect::<Vec<_>>())?;
    }
    Ok(Trial { program, update: None })
}
