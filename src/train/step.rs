//! The training step as one program: fetch the step's row, augment and mix, network, losses, gradients, update.

use super::feed::Feed;
use super::optimizer::Optimizer;
use super::views::Views;
use crate::config::{OptimizerConfig, Passes};
use crate::error::Result;
use crate::memory::{Replay, write_floats};
use crate::method::plan::part_sizes;
use crate::method::{EpochPlan, Inputs, Recipe};
use crate::nn::{Mode, Model, ParameterStore, Recorder, Rules};
use crate::ops::Backend;
use crate::ops::augment_mix::{Augmentation, mix_views};
use crate::ops::load_step::{StepVars, load_step, row_words};
use crate::ops::supervised_loss::ClassVector;
use crate::ops::total_loss::LOSS_COLUMNS;
use crate::tape::{self, Arena, OpTime, Operands, Program, Room, Tape, Var, time_repeated};
use crate::tensor::{BufferId, DType, Tensor};

/// What training needs besides the model.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// What is recorded.
    pub recipe: Recipe,
    /// Classes of the data.
    pub classes: usize,
    /// Samples per step.
    pub batch: usize,
    /// Parts that a step is made in, one after another; divides the batch.
    pub accumulate: usize,
    /// Crops, flips, normalisation.
    pub augmentation: Augmentation,
    /// What the update does.
    pub optimizer: OptimizerConfig,
}

/// Where a step's images come from.
#[derive(Clone, Copy)]
pub enum Source<'s> {
    /// A data set, by a table of steps, and the images of an epoch.
    Feed(&'s Feed<'s>, usize),
    /// Views made elsewhere.
    Views(&'s Views),
}

/// The rows of an epoch's parts of steps that have one size.
#[derive(Clone, Copy)]
struct Table {
    /// I32 (rows, 16 + 3 * size).
    rows: Tensor,
    /// I32 (1): rows taken.
    cursor: Tensor,
    /// Samples of a part.
    size: usize,
    /// Parts of a step.
    parts: usize,
}

/// The last part of a step, where it is smaller than the others.
struct Rest {
    program: Program,
    scalars: Var,
}

/// A step of one batch size, planned and, where the device can, captured.
struct SizedStep {
    /// With SAM over a table, what fetches and mixes for both passes.
    front: Option<Program>,
    /// With SAM, the pass at the weights; `program` is then that above them.
    ascent: Option<Program>,
    /// The step, or its parts but for a smaller last one.
    program: Program,
    /// Parts that `program` makes, one after another.
    times: usize,
    /// Where the scalars of `program` lie.
    scalars: Var,
    rest: Option<Rest>,
    /// A table for each size of parts; none where views come from elsewhere.
    tables: Vec<Table>,
    /// What the method recorded, by the names of reference steps: of the pass at the weights.
    outputs: Vec<(&'static str, Var)>,
    replay: Option<Box<dyn Replay>>,
}

/// All steps of an epoch: those of a full batch, and the smaller one at the end.
pub struct TrainStep {
    full: Option<SizedStep>,
    tail: Option<SizedStep>,
    full_steps: usize,
    /// The update.
    pub optimizer: Optimizer,
    /// Accumulation type (heads * 5, classes).
    vectors: Tensor,
    arena: Arena,
    unread: Option<Tensor>,
    /// Accumulation type (parts of steps, 4): L_c, L_cb, L_sim, total of every part of the epoch's steps.
    pub log: Tensor,
}

/// What all steps of an epoch share.
struct Shared<'s> {
    backend: &'s dyn Backend,
    model: &'s Model,
    store: &'s ParameterStore,
    source: Source<'s>,
    config: &'s StepConfig,
    rules: &'s Rules,
    optimizer: &'s Optimizer,
    /// Accumulation type (heads * 5, classes).
    vectors: Tensor,
    log: Tensor,
    /// Where the losses of a pass go that nobody reads.
    unread: Option<Tensor>,
}

/// What a pass works on.
#[derive(Clone, Copy)]
struct Batch {
    vars: StepVars,
    images: Var,
    labels: Tensor,
}

/// A pass on a tape.
struct Recorded {
    tape: Tape,
    scalars: Var,
    outputs: Vec<(&'static str, Var)>,
}

impl Shared<'_> {
    /// Records what a pass of `batch` samples works on. Of a feed that is the next row of the table.
    fn inputs(&self, tape: &mut Tape, table: Option<&Table>, batch: usize) -> Result<Batch> {
        let (backend, mixing) = (self.backend, self.config.recipe.views()?);
        match (self.source, table) {
            (Source::Feed(feed, _), Some(table)) => {
                let [rows, cursor] = [table.rows, table.cursor].map(|t| tape.external(t));
                let vars = load_step(tape, rows, cursor, batch)?;
                let images = feed.record(tape, backend, vars, mixing, self.config.augmentation)?;
                Ok(Batch { vars, images, labels: feed.labels })
            }
            (Source::Feed(..), None) => Err(crate::Error::op("load_step", "a feed's steps need a table")),
            (Source::Views(v), _) => {
                let on_tape = [v.scalars, v.originals, v.partners, v.shares, v.pixels];
                let [scalars, originals, partners, shares, pixels] = on_tape.map(|t| tape.external(t));
                let images = mix_views(tape, backend, mixing, pixels, scalars)?;
                let vars = StepVars { scalars, logged: scalars, originals, partners, shares };
                Ok(Batch { vars, images, labels: v.labels })
            }
        }
    }

    /// Records a pass of `batch` samples. Views from elsewhere are compared, so that outputs outlive their step.
    fn record(&self, pass: Pass, batch: usize, inputs: &mut dyn FnMut(&mut Tape) -> Result<Batch>) -> Result<Recorded> {
        let Shared { backend, model, store, config, rules, vectors, .. } = *self;
        let mode = Mode::Train { views: config.recipe.views()?.views() };
        let running = config.optimizer.sam.map_or(Passes::Both, |sam| sam.running);
        let unchanged = if pass == Pass::Ascent { Passes::Second } else { Passes::First };
        let mut r = Recorder::with_rules(backend, store, mode, rules, running != unchanged);
        let Batch { mut vars, images, labels } = inputs(&mut r.tape)?;
        let scalars = vars.scalars;
        if let (Pass::Ascent, Some(others)) = (pass, self.optimizer.ascent_scalars()) {
            vars.scalars = r.tape.external(others);
        }
        let log = if pass == Pass::Descent { self.unread.unwrap_or(self.log) } else { self.log };
        let [labels, log] = [labels, log].map(|t| r.tape.external(t));
        let heads = 0..config.recipe.classifiers().len();
        let heads = heads.map(|head| vectors.rows(ClassVector::COUNT * head, ClassVector::COUNT));
        let vectors: Vec<Var> = heads.map(|rows| r.tape.external(rows)).collect();
        let inputs = Inputs { images, labels, vectors: &vectors, vars, log, batch };
        let mut outputs = config.recipe.record(&mut r, model, &inputs)?;
        if let Source::Views(_) = self.source {
            outputs.push(("images", images));
            outputs.iter().for_each(|&(_, var)| r.tape.keep(var));
        }
        Ok(Recorded { tape: r.tape, scalars, outputs })
    }

    /// Room for the parts of `size` samples of which each of `steps` steps has so many.
    fn table(&self, steps: usize, parts: usize, size: usize) -> Result<Option<Table>> {
        let Source::Feed(..) = self.source else { return Ok(None) };
        let integers = |shape: &[usize], what: &str| self.backend.tensor(shape, DType::I32, what);
        let rows = integers(&[steps * parts, row_words(size)], "step table")?;
        Ok(Some(Table { rows, cursor: integers(&[1], "step cursor")?, size, parts }))
    }

    /// Plans `steps` steps of `batch` samples without placing them: see [`SizedStep::place`].
    fn plan(&self, steps: usize, whole: usize) -> Result<SizedStep> {
        let backend = self.backend;
        let sizes: Vec<usize> = part_sizes(whole, self.config.batch / self.config.accumulate).collect();
        // All but the last have one size.
        let (batch, last) = (sizes[0], sizes[sizes.len() - 1]);
        let times = sizes.iter().filter(|size| **size == batch).count();
        let table = self.table(steps, times, batch)?;
        let mut tables: Vec<Table> = table.into_iter().collect();
        let whole = |pass: Pass| self.record(pass, batch, &mut |tape| self.inputs(tape, table.as_ref(), batch));
        if self.config.optimizer.sam.is_none() {
            let Recorded { tape, scalars, outputs } = whole(Pass::Descent)?;
            let program = tape.layout(backend, true);
            let mut rest = None;
            if last < batch {
                let table = self.table(steps, 1, last)?;
                let inputs = &mut |tape: &mut Tape| self.inputs(tape, table.as_ref(), last);
                let Recorded { tape, scalars, .. } = self.record(Pass::Descent, last, inputs)?;
                rest = Some(Rest { program: tape.layout(backend, true), scalars });
                tables.extend(table);
            }
            let (front, ascent, replay) = (None, None, None);
            return Ok(SizedStep { front, ascent, program, times, scalars, rest, tables, outputs, replay });
        }
        let (rest, replay) = (None, None);
        if table.is_none() {
            // Outputs of the first pass outlive the second: it has memory of its own.
            let Recorded { tape, outputs, .. } = whole(Pass::Ascent)?;
            let ascent = Some(tape.plan(backend, true)?);
            let Recorded { tape, scalars, .. } = whole(Pass::Descent)?;
            let program = tape.layout(backend, true);
            return Ok(SizedStep { front: None, ascent, program, times, scalars, rest, tables, outputs, replay });
        }
        // Both passes see one row of the table and the same mixtures, which outlive the first.
        let mut tape = Tape::new();
        let fetched = self.inputs(&mut tape, table.as_ref(), batch)?;
        let StepVars { scalars, originals, partners, shares, .. } = fetched.vars;
        let kept = [scalars, originals, partners, shares, fetched.images];
        kept.iter().for_each(|&var| tape.keep(var));
        let front = tape.plan(backend, false)?;
        let kept = kept.map(|var| front.value(var));
        let mut given = |tape: &mut Tape| {
            let [scalars, originals, partners, shares, images] = kept.map(|tensor| tape.external(tensor));
            let vars = StepVars { scalars, logged: scalars, originals, partners, shares };
            Ok(Batch { vars, images, labels: fetched.labels })
        };
        let Recorded { tape, outputs, .. } = self.record(Pass::Ascent, batch, &mut given)?;
        let ascent = tape.layout(backend, true);
        let Recorded { tape, scalars, .. } = self.record(Pass::Descent, batch, &mut given)?;
        let program = tape.layout(backend, true);
        let (front, ascent) = (Some(front), Some(ascent));
        Ok(SizedStep { front, ascent, program, times, scalars, rest, tables, outputs, replay })
    }
}

/// The passes of a step with SAM; others have a descent alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// At the weights.
    Ascent,
    /// Where they have climbed to.
    Descent,
}

impl SizedStep {
    /// Its programs, in the order in which they run.
    fn programs(&self) -> impl Iterator<Item = &Program> {
        self.front.iter().chain(&self.ascent).chain([&self.program]).chain(self.rest.iter().map(|rest| &rest.program))
    }

    /// Puts the step into its arena and captures it.
    fn place(&mut self, backend: &dyn Backend, optimizer: &Optimizer, arena: BufferId) -> Result<()> {
        self.program.place(arena);
        self.rest.iter_mut().for_each(|rest| rest.program.place(arena));
        if let (Some(ascent), Some(_)) = (&mut self.ascent, &self.front) {
            ascent.place(arena);
        }
        self.replay = backend.capture(&mut || self.execute(backend, optimizer))?;
        Ok(())
    }

    fn execute(&self, backend: &dyn Backend, optimizer: &Optimizer) -> Result<()> {
        let mut scalars = self.program.value(self.scalars);
        if let Some(front) = &self.front {
            front.forward(backend)?;
        }
        if let Some(ascent) = &self.ascent {
            optimizer.prepare(backend, scalars)?;
            ascent.forward(backend)?;
            ascent.backward(backend)?;
            optimizer.climb(backend)?;
        }
        for part in 0..self.times {
            self.program.forward(backend)?;
            self.program.backward(backend)?;
            optimizer.gather(backend, scalars, part == 0)?;
        }
        if let Some(rest) = &self.rest {
            rest.program.forward(backend)?;
            rest.program.backward(backend)?;
            // Those of the parts before are overwritten by now.
            scalars = rest.program.value(rest.scalars);
            optimizer.gather(backend, scalars, false)?;
        }
        optimizer.restore(backend)?;
        optimizer.update(backend, scalars)
    }

    fn load(&self, backend: &dyn Backend, rows: &dyn Fn(usize) -> Vec<u32>, start: usize) -> Result<()> {
        self.tables.iter().try_for_each(|table| {
            backend.upload(table.rows, bytemuck::cast_slice(&rows(table.size)))?;
            backend.upload(table.cursor, &((start * table.parts) as u32).to_ne_bytes())
        })
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
            Source::Feed(_, images) => (images / config.batch, images % config.batch),
            Source::Views(views) => (views.steps, 0),
        };
        let float = |shape: &[usize], what: &str| backend.tensor(shape, backend.precision().accumulate(), what);
        let rows = ClassVector::COUNT * config.recipe.classifiers().len();
        let vectors = float(&[rows, config.classes], "class vectors")?;
        let part = config.batch / config.accumulate;
        let log = float(&[full_steps * config.accumulate + tail.div_ceil(part), LOSS_COLUMNS], "loss log")?;
        let unread =
            config.optimizer.sam.map(|_| float(&log.shape.dims()[..2], "losses that are not logged")).transpose()?;
        let rules = Rules::new(model.specs(), config.optimizer.weight_decay, &config.optimizer.groups)?;
        let mut optimizer = Optimizer::new(backend, store, &rules, &config.optimizer)?;
        if config.accumulate > 1 {
            optimizer = optimizer.in_parts(backend)?;
        }
        let shared = Shared {
            backend,
            model,
            store,
            source,
            config: &config,
            rules: &rules,
            optimizer: &optimizer,
            vectors,
            log,
            unread,
        };
        let sized = |rows: usize, batch: usize| -> Result<Option<SizedStep>> {
            (rows > 0 && batch > 0).then(|| shared.plan(rows, batch)).transpose()
        };
        let (mut full, mut tail) = (sized(full_steps, config.batch)?, sized(1, tail)?);
        // The two, and the two passes of SAM, never run at the same time: one arena serves all.
        let shares = |s: &SizedStep| {
            let ascent = s.front.as_ref().and(s.ascent.as_ref());
            let programs = ascent.into_iter().chain([&s.program]).chain(s.rest.iter().map(|rest| &rest.program));
            programs.map(Program::arena_bytes).max().unwrap_or(0)
        };
        let needed = [&full, &tail].into_iter().flatten().map(shares);
        let bytes = needed.max().unwrap_or(0);
        let arena = Arena { buffer: backend.alloc(bytes, "activations")?, bytes };
        for step in [&mut full, &mut tail].into_iter().flatten() {
            step.place(backend, &optimizer, arena.buffer)?;
        }
        Ok(TrainStep { full, tail, full_steps, optimizer, vectors, arena, unread, log })
    }

    /// Sets the classifiers' class vectors, (heads, 5, classes), for the steps to come.
    pub fn set_vectors(&self, backend: &dyn Backend, vectors: &[f64]) -> Result<()> {
        write_floats(backend, self.vectors, vectors)
    }

    /// Loads an epoch's plan, to continue at step `start`.
    pub fn load(&self, backend: &dyn Backend, feed: &Feed<'_>, plan: &EpochPlan, start: usize) -> Result<()> {
        self.set_vectors(backend, plan.vectors())?;
        if let Some(full) = &self.full {
            full.load(backend, &|size| feed.table(plan, 0..self.full_steps, size), start)?;
        }
        if let Some(tail) = &self.tail {
            tail.load(backend, &|size| feed.table(plan, self.full_steps..plan.steps(), size), 0)?;
        }
        Ok(())
    }

    /// Starts step `step` of the loaded plan; steps are run in order.
    pub fn run(&self, backend: &dyn Backend, step: usize) -> Result<()> {
        let sized = if step < self.full_steps { &self.full } else { &self.tail };
        match sized {
            Some(SizedStep { replay: Some(replay), .. }) => replay.replay(),
            Some(eager) => eager.execute(backend, &self.optimizer),
            None => Ok(()),
        }
    }

    /// The passes of a full step without its update, for who runs them one by one; of one with SAM, those of the descent, of one
    /// in parts its first.
    pub fn program(&self) -> Option<&Program> {
        self.full.as_ref().map(|full| &full.program)
    }

    /// Updates the parameters by the gradients of a full step.
    pub fn update(&self, backend: &dyn Backend) -> Result<()> {
        let update = |full: &SizedStep| self.optimizer.update(backend, full.program.value(full.scalars));
        self.full.as_ref().map_or(Ok(()), update)
    }

    /// Runs one full step op by op, each timed by itself.
    pub fn timed(&self, backend: &dyn Backend) -> Result<Vec<OpTime>> {
        let Some(full) = &self.full else { return Ok(Vec::new()) };
        let mut room = Room::new(backend);
        let mut times = Vec::new();
        for program in full.programs() {
            times.extend(program.timed(backend, &mut room)?);
        }
        let (elements, bytes) = self.optimizer.traffic();
        let label = format!("{elements} parameters");
        let mut after = |name, flops: f64, bytes: usize, (time, copies)| {
            let cost = tape::Cost { flops: flops * elements as f64, bytes: bytes as f64 };
            times.push(OpTime { name, label: label.clone(), pass: tape::Pass::Backward, cost, time, copies });
        };
        if full.ascent.is_some() {
            // Up, the gradient is read twice, the weights read and written, their backup written; back, it is read and they are
            // written.
            let bytes = 7 * elements * self.log.dtype.bytes();
            let mut there_and_back = || {
                self.optimizer.climb(backend)?;
                self.optimizer.restore(backend)
            };
            after("sam", 4.0, bytes, (time_repeated(backend, &mut there_and_back)?, 1));
        }
        let scalars = full.program.value(full.scalars);
        let operands = self.optimizer.operands().into_iter().chain([scalars]);
        let timed = room.time(&Operands::new(operands, bytes as f64), &mut |place| {
            let at = |tensor: Tensor| place.map_or(tensor, |place| place.at(tensor));
            self.optimizer.update_at(backend, at(scalars), &at)
        })?;
        after("sgd", 6.0, bytes, timed);
        Ok(times)
    }

    /// Where a value lies that the method recorded, by its name in reference steps; `images` are the views. Only of steps
    /// over [`Views`], and until the next of them.
    pub fn output(&self, name: &str) -> Option<Tensor> {
        let step = self.full.as_ref()?;
        let program = step.ascent.as_ref().unwrap_or(&step.program);
        step.outputs.iter().find(|(output, _)| *output == name).map(|(_, var)| program.value(*var))
    }

    /// Where the activations, gradients and scratch of a step lie; free for other use between two steps.
    pub fn arena(&self) -> Arena {
        self.arena
    }

    /// Gives all memory back.
    pub fn release(self, backend: &dyn Backend) {
        for step in [self.full, self.tail].into_iter().flatten() {
            for table in step.tables {
                backend.free(table.rows.buffer);
                backend.free(table.cursor.buffer);
            }
            step.front.into_iter().chain(step.ascent).for_each(|program| program.release(backend));
        }
        backend.free(self.arena.buffer);
        backend.free(self.vectors.buffer);
        backend.free(self.log.buffer);
        if let Some(unread) = self.unread {
            backend.free(unread.buffer);
        }
        self.optimizer.release(backend);
    }
}
