//! The training step as one program: fetch the step's row, augment and mix, network, losses, gradients, update.

use super::feed::Feed;
use super::views::Views;
use crate::error::Result;
use crate::memory::{Replay, write_floats};
use crate::method::{EpochPlan, Inputs, Method};
use crate::nn::{Mode, Model, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, augment_mix, mix_views};
use crate::ops::load_step::{STEP_WORDS, StepVars, load_step};
use crate::ops::sgd::{Sgd, SgdConfig};
use crate::ops::total_loss::LOSS_COLUMNS;
use crate::tape::{Arena, OpTime, Operands, Program, Room, Tape, Var};
use crate::tensor::{BufferId, DType, Tensor};

/// What training needs besides the model.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// What is recorded.
    pub method: &'static dyn Method,
    /// Samples per step.
    pub batch: usize,
    /// Crops, flips, normalisation.
    pub augmentation: Augmentation,
    /// The optimiser's constants.
    pub sgd: SgdConfig,
    /// w, one per class.
    pub class_weights: Vec<f64>,
}

/// Where a step's images come from.
#[derive(Clone, Copy)]
pub enum Source<'s> {
    /// A data set, by a table of steps.
    Feed(&'s Feed<'s>),
    /// Views made elsewhere.
    Views(&'s Views),
}

/// The rows of an epoch's steps of one size.
struct Table {
    /// I32 (rows, 16 + 2 * batch).
    rows: Tensor,
    /// I32 (1): rows taken.
    cursor: Tensor,
}

/// A step of one batch size, planned and, where the device can, captured.
struct SizedStep {
    program: Program,
    sgd: Sgd,
    /// Where the step's scalars lie.
    scalars: Var,
    /// `None` where views come from elsewhere.
    table: Option<Table>,
    /// What the method recorded, by the names of reference steps.
    outputs: Vec<(&'static str, Var)>,
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

/// What all steps of an epoch share.
struct Shared<'s> {
    backend: &'s dyn Backend,
    model: &'s Model,
    store: &'s ParameterStore,
    source: Source<'s>,
    config: &'s StepConfig,
    class_weights: Tensor,
    log: Tensor,
}

/// A step on a tape.
struct Recorded {
    tape: Tape,
    scalars: Var,
    outputs: Vec<(&'static str, Var)>,
}

impl Shared<'_> {
    /// Records a step of `batch` samples. Views from elsewhere are compared, so that outputs outlive their step.
    fn record(&self, table: Option<&Table>, batch: usize) -> Result<Recorded> {
        let Shared { backend, model, store, source, config, class_weights, log } = *self;
        let mixing = config.method.mixing();
        let mut r = Recorder::new(backend, store, Mode::Train { views: mixing.views() });
        let (vars, images, labels) = match (source, table) {
            (Source::Feed(feed), Some(table)) => {
                let [rows, cursor] = [table.rows, table.cursor].map(|t| r.tape.external(t));
                let vars = load_step(&mut r.tape, rows, cursor, batch)?;
                let pixels = r.tape.external(feed.pixels);
                (vars, augment_mix(&mut r.tape, backend, pixels, vars, mixing, config.augmentation)?, feed.labels)
            }
            (Source::Feed(_), None) => return Err(crate::Error::op("load_step", "a feed's steps need a table")),
            (Source::Views(v), _) => {
                let on_tape = [v.scalars, v.originals, v.partners, v.pixels];
                let [scalars, originals, partners, pixels] = on_tape.map(|t| r.tape.external(t));
                let images = mix_views(&mut r.tape, backend, pixels, scalars)?;
                (StepVars { scalars, originals, partners }, images, v.labels)
            }
        };
        let [labels, class_weights, log] = [labels, class_weights, log].map(|t| r.tape.external(t));
        let inputs = Inputs { images, labels, class_weights, vars, log, batch };
        let mut outputs = config.method.record(&mut r, model, &inputs)?;
        if let Source::Views(_) = source {
            outputs.push(("images", images));
            outputs.iter().for_each(|&(_, var)| r.tape.keep(var));
        }
        Ok(Recorded { tape: r.tape, scalars: vars.scalars, outputs })
    }

    /// Plans a step of `batch` samples without placing it: see [`SizedStep::place`].
    fn plan(&self, rows: usize, batch: usize) -> Result<SizedStep> {
        let (backend, store) = (self.backend, self.store);
        let words = STEP_WORDS + 2 * batch;
        let table = match self.source {
            Source::Feed(_) => Some(Table {
                rows: backend.tensor(&[rows, words], DType::I32, "step table")?,
                cursor: backend.tensor(&[1], DType::I32, "step cursor")?,
            }),
            Source::Views(_) => None,
        };
        let Recorded { tape, scalars, outputs } = self.record(table.as_ref(), batch)?;
        let program = tape.layout(backend, true);
        let sgd = Sgd {
            master: store.master,
            compute: store.compute,
            grad: store.grad,
            momentum: store.momentum,
            scalars: program.value(scalars),
        };
        Ok(SizedStep { program, sgd, scalars, table, outputs, replay: None })
    }
}

impl SizedStep {
    /// Puts the step into its arena and captures it.
    fn place(&mut self, backend: &dyn Backend, sgd: &SgdConfig, arena: BufferId) -> Result<()> {
        self.program.place(arena);
        self.sgd.scalars = self.program.value(self.scalars);
        self.replay = backend.capture(&mut || self.execute(backend, sgd))?;
        Ok(())
    }

    fn execute(&self, backend: &dyn Backend, sgd: &SgdConfig) -> Result<()> {
        self.program.forward(backend)?;
        self.program.backward(backend)?;
        backend.sgd(sgd, &self.sgd)
    }

    fn load(&self, backend: &dyn Backend, rows: &[u32], start: usize) -> Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        backend.upload(table.rows, bytemuck::cast_slice(rows))?;
        backend.upload(table.cursor, &(start as u32).to_ne_bytes())
    }
}

impl TrainStep {
    /// Plans the steps of an epoch over the source's images, captures them where the device can, and allocates all that
    /// they need: no step allocates afterwards.
    ///
    /// # Errors
    /// When shapes do not fit, a kernel does not compile, or the device has too little memory.
    pub fn new(
        backend: &dyn Backend,
        model: &Model,
        store: &ParameterStore,
        source: Source<'_>,
        config: StepConfig,
    ) -> Result<TrainStep> {
        let (full_steps, tail) = match source {
            Source::Feed(feed) => (feed.images().len() / config.batch, feed.images().len() % config.batch),
            Source::Views(views) => (views.steps, 0),
        };
        let float = |shape: &[usize], what: &str| backend.tensor(shape, backend.precision().accumulate(), what);
        let class_weights = float(&[config.class_weights.len()], "class weights")?;
        write_floats(backend, class_weights, &config.class_weights)?;
        let log = float(&[full_steps + usize::from(tail > 0), LOSS_COLUMNS], "loss log")?;
        let shared = Shared { backend, model, store, source, config: &config, class_weights, log };
        let sized = |rows: usize, batch: usize| -> Result<Option<SizedStep>> {
            (rows > 0 && batch > 0).then(|| shared.plan(rows, batch)).transpose()
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

    /// Loads an epoch's plan, to continue at step `start`.
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
    pub fn run(&self, backend: &dyn Backend, step: usize) -> Result<()> {
        let sized = if step < self.full_steps { &self.full } else { &self.tail };
        match sized {
            Some(SizedStep { replay: Some(replay), .. }) => replay.replay(),
            Some(eager) => eager.execute(backend, &self.config.sgd),
            None => Ok(()),
        }
    }

    /// The passes of a full step without its update, for who runs them one by one.
    pub fn program(&self) -> Option<&Program> {
        self.full.as_ref().map(|full| &full.program)
    }

    /// Updates the parameters by the gradients of a full step.
    pub fn update(&self, backend: &dyn Backend) -> Result<()> {
        self.full.as_ref().map_or(Ok(()), |full| backend.sgd(&self.config.sgd, &full.sgd))
    }

    /// Runs one full step op by op, each timed by itself.
    pub fn timed(&self, backend: &dyn Backend) -> Result<Vec<OpTime>> {
        let Some(full) = &self.full else { return Ok(Vec::new()) };
        let mut room = Room::new(backend);
        let mut times = full.program.timed(backend, &mut room)?;
        // Master and momentum are read and written, the gradient read, the compute copy written.
        let bytes = 5 * full.sgd.master.bytes() + full.sgd.compute.map_or(0, |compute| compute.bytes());
        let Sgd { master, compute, grad, momentum, scalars } = full.sgd;
        let operands = [Some(master), compute, Some(grad), Some(momentum), Some(scalars)].into_iter().flatten();
        let (time, copies) = room.time(&Operands::new(operands, bytes as f64), &mut |place| {
            let at = |tensor: Tensor| place.map_or(tensor, |place| place.at(tensor));
            let tensors = Sgd {
                master: at(master),
                compute: compute.map(at),
                grad: at(grad),
                momentum: at(momentum),
                scalars: at(scalars),
            };
            backend.sgd(&self.config.sgd, &tensors)
        })?;
        times.push(OpTime {
            name: "sgd",
            label: format!("{} parameters", full.sgd.master.elements()),
            pass: crate::tape::Pass::Backward,
            cost: crate::tape::Cost { flops: full.sgd.master.elements() as f64 * 6.0, bytes: bytes as f64 },
            time,
            copies,
        });
        Ok(times)
    }

    /// Where a value lies that the method recorded, by its name in reference steps; `images` are the views. Only of steps
    /// over [`Views`], and until the next of them.
    pub fn output(&self, name: &str) -> Option<Tensor> {
        let step = self.full.as_ref()?;
        step.outputs.iter().find(|(output, _)| *output == name).map(|(_, var)| step.program.value(*var))
    }

    /// Where the activations, gradients and scratch of a step lie; free for other use between two steps.
    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Gives all memory back.
    pub fn release(self, backend: &dyn Backend) {
        for step in [self.full, self.tail].into_iter().flatten() {
            if let Some(table) = step.table {
                backend.free(table.rows.buffer);
                backend.free(table.cursor.buffer);
            }
        }
        backend.free(self.arena.buffer);
        backend.free(self.class_weights.buffer);
        backend.free(self.log.buffer);
    }
}
