//! The training step as one program: fetch the step's row, augment and mix, network, losses, gradients, update.

use super::feed::Feed;
use crate::error::Result;
use crate::glmc::{EpochPlan, Objective, record_objective};
use crate::memory::Replay;
use crate::memory::write_floats;
use crate::nn::{Mode, Model, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, Mixing, augment_mix};
use crate::ops::load_step::{STEP_WORDS, StepVars, load_step};
use crate::ops::sgd::{Sgd, SgdConfig};
use crate::ops::soft_labels::soft_labels;
use crate::ops::total_loss::LOSS_COLUMNS;
use crate::tape::{Arena, OpTime, Program, Tape, Var};
use crate::tensor::{BufferId, DType, Tensor};

/// What training needs besides the model.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// Samples a step.
    pub batch: usize,
    /// GLMC's mixtures, or single views.
    pub mixing: Mixing,
    /// Crops, flips, normalisation.
    pub augmentation: Augmentation,
    /// The optimiser's constants.
    pub sgd: SgdConfig,
    /// w, one a class.
    pub class_weights: Vec<f64>,
}

/// A step of one batch size, planned and, where the device can, captured.
struct SizedStep {
    program: Program,
    sgd: Sgd,
    /// Where the step's scalars lie.
    scalars: Var,
    /// I32 (rows, 16 + 2 * batch).
    table: Tensor,
    /// I32 (1): rows taken.
    cursor: Tensor,
    replay: Option<Box<dyn Replay>>,
}

/// All steps of an epoch: those of a full batch, and the smaller one at the end.
pub struct TrainStep {
    full: Option<SizedStep>,
    tail: Option<SizedStep>,
    full_steps: usize,
    config: StepConfig,
    class_weights: Tensor,
    arena: Arena,
    /// Accumulation type (steps, 4): L_c, L_cb, L_sim, total of every step of the epoch.
    pub log: Tensor,
}

/// The device memory that a step reads besides values of its own.
struct Sources {
    pixels: Tensor,
    labels: Tensor,
    class_weights: Tensor,
    log: Tensor,
}

/// Records a step of `batch` samples; returns the tape and where the step's scalars lie on it.
fn record(
    backend: &dyn Backend,
    model: &Model,
    store: &ParameterStore,
    config: &StepConfig,
    sources: &Sources,
    (table, cursor): (Tensor, Tensor),
    batch: usize,
) -> Result<(Tape, StepVars)> {
    let mut r = Recorder::new(backend, store, Mode::Train { views: config.mixing.views() });
    let table = r.tape.external(table);
    let cursor = r.tape.external(cursor);
    let vars = load_step(&mut r.tape, table, cursor, batch)?;
    let pixels = r.tape.external(sources.pixels);
    let images = augment_mix(&mut r.tape, backend, pixels, vars, config.mixing, config.augmentation)?;
    let labels = r.tape.external(sources.labels);
    let class_weights = r.tape.external(sources.class_weights);
    let (label, label_weighted) = soft_labels(&mut r.tape, backend, labels, vars, class_weights)?;
    let outputs = model.record(&mut r, images)?;
    let log = r.tape.external(sources.log);
    record_objective(&mut r, outputs, Objective { label, label_weighted, step: vars.step, log, batch })?;
    Ok((r.tape, vars))
}

impl SizedStep {
    /// Plans a step without placing it: see [`SizedStep::place`].
    fn new(
        backend: &dyn Backend,
        model: &Model,
        store: &ParameterStore,
        config: &StepConfig,
        sources: &Sources,
        (rows, batch): (usize, usize),
    ) -> Result<SizedStep> {
        let words = STEP_WORDS + 2 * batch;
        let table = Tensor::at_start(backend.alloc(4 * rows * words, "step table")?, &[rows, words], DType::I32);
        let cursor = Tensor::at_start(backend.alloc(4, "step cursor")?, &[1], DType::I32);
        let (tape, vars) = record(backend, model, store, config, sources, (table, cursor), batch)?;
        let program = tape.layout(backend, true);
        let sgd = Sgd {
            master: store.master,
            compute: store.compute,
            grad: store.grad,
            momentum: store.momentum,
            step: program.value(vars.step),
        };
        Ok(SizedStep { program, sgd, scalars: vars.step, table, cursor, replay: None })
    }

    /// Puts the step into its arena and captures it.
    fn place(&mut self, backend: &dyn Backend, sgd: &SgdConfig, arena: BufferId) -> Result<()> {
        self.program.place(arena);
        self.sgd.step = self.program.value(self.scalars);
        self.replay = backend.capture(&mut || self.execute(backend, sgd))?;
        Ok(())
    }

    fn execute(&self, backend: &dyn Backend, sgd: &SgdConfig) -> Result<()> {
        self.program.forward(backend)?;
        self.program.backward(backend)?;
        backend.sgd(sgd, &self.sgd)
    }

    fn load(&self, backend: &dyn Backend, table: &[u32], start: usize) -> Result<()> {
        backend.upload(self.table, bytemuck::cast_slice(table))?;
        backend.upload(self.cursor, &(start as u32).to_ne_bytes())
    }
}

impl TrainStep {
    /// Plans the steps of an epoch over the feed's images, captures them where the device can, and allocates all that
    /// they need: no step allocates afterwards.
    ///
    /// # Errors
    /// When shapes do not fit, a kernel does not compile, or the device has too little memory.
    pub fn new(
        backend: &dyn Backend,
        model: &Model,
        store: &ParameterStore,
        feed: &Feed<'_>,
        config: StepConfig,
    ) -> Result<TrainStep> {
        let images = feed.images().len();
        let (full_steps, tail) = (images / config.batch, images % config.batch);
        let accumulate = backend.precision().accumulate();
        let float = |shape: &[usize], what: &str| -> Result<Tensor> {
            let bytes = shape.iter().product::<usize>() * accumulate.bytes();
            Ok(Tensor::at_start(backend.alloc(bytes, what)?, shape, accumulate))
        };
        let class_weights = float(&[config.class_weights.len()], "class weights")?;
        write_floats(backend, class_weights, &config.class_weights)?;
        let log = float(&[full_steps + usize::from(tail > 0), LOSS_COLUMNS], "loss log")?;
        let sources = Sources { pixels: feed.pixels, labels: feed.labels, class_weights, log };
        let sized = |rows: usize, batch: usize| -> Result<Option<SizedStep>> {
            (rows > 0 && batch > 0)
                .then(|| SizedStep::new(backend, model, store, &config, &sources, (rows, batch)))
                .transpose()
        };
        let (mut full, mut tail) = (sized(full_steps, config.batch)?, sized(1, tail)?);
        // The two never run at the same time: one arena serves both.
        let needed = [&full, &tail].into_iter().flatten().map(|s| s.program.arena_bytes());
        let bytes = needed.max().unwrap_or(0);
        let arena = Arena { buffer: backend.alloc(bytes, "activations")?, bytes };
        for step in [&mut full, &mut tail].into_iter().flatten() {
            step.place(backend, &config.sgd, arena.buffer)?;
        }
        Ok(TrainStep { full, tail, full_steps, config, class_weights, arena, log })
    }

    /// Loads an epoch's plan, to go on at step `start`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn load(&self, backend: &dyn Backend, feed: &Feed<'_>, plan: &EpochPlan, start: usize) -> Result<()> {
        if let Some(full) = &self.full {
            full.load(backend, &feed.table(plan, 0..self.full_steps), start)?;
        }
        if let Some(tail) = &self.tail {
            tail.load(backend, &feed.table(plan, self.full_steps..plan.steps()), 0)?;
        }
        Ok(())
    }

    /// Starts step `step` of the loaded plan; steps are run in order.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(&self, backend: &dyn Backend, step: usize) -> Result<()> {
        let sized = if step < self.full_steps { &self.full } else { &self.tail };
        match sized {
            Some(SizedStep { replay: Some(replay), .. }) => replay.replay(),
            Some(eager) => eager.execute(backend, &self.config.sgd),
            None => Ok(()),
        }
    }

    /// Runs one full step op by op, each timed by itself.
    ///
    /// # Errors
    /// When the device fails.
    pub fn timed(&self, backend: &dyn Backend) -> Result<Vec<OpTime>> {
        let Some(full) = &self.full else { return Ok(Vec::new()) };
        let mut times = full.program.timed(backend)?;
        let time = backend.time(&mut || backend.sgd(&self.config.sgd, &full.sgd))?;
        // Master and momentum are read and written, the gradient read, the compute copy written.
        let bytes = 5 * full.sgd.master.bytes() + full.sgd.compute.map_or(0, |compute| compute.bytes());
        times.push(OpTime {
            name: "sgd",
            label: format!("{} parameters", full.sgd.master.elements()),
            pass: crate::tape::Pass::Backward,
            cost: crate::tape::Cost { flops: full.sgd.master.elements() as f64 * 6.0, bytes: bytes as f64 },
            time,
        });
        Ok(times)
    }

    /// Where the activations, gradients and scratch of a step lie: anybody's between two steps.
    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Gives all memory back.
    pub fn release(self, backend: &dyn Backend) {
        for step in [self.full, self.tail].into_iter().flatten() {
            backend.free(step.table.buffer);
            backend.free(step.cursor.buffer);
        }
        backend.free(self.arena.buffer);
        backend.free(self.class_weights.buffer);
        backend.free(self.log.buffer);
    }
}
