//! The training loop: epochs of steps, an evaluation and a checkpoint after each, and every way a run can end.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, State};
use super::engine::{Data, Engine};
use super::logs::Logs;
use super::losses::LossReader;
use super::manifest::{Manifest, Progress};
use super::metrics::{EpochMetrics, Outcome, digest, mean_losses};
use super::origin::Origin;
use super::parent::ParentRun;
use super::report::Reporter;
use super::run_folder::RunFolder;
use super::run_record::Process;
use crate::config::{Config, Select};
use crate::console::{self, note, tell};
use crate::data::store::Store;
use crate::error::{Error, Result, word};
use crate::method::EpochPlan;
use crate::method::recipe::{Recipe, Share};
use crate::method::schedule::Coefficient;
use crate::ops::Backend;
use crate::ops::total_loss::{LOSS_COLUMNS, TOTAL};
use crate::stop;
use crate::tensor::Precision;

/// How often the host reads the losses back.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Steps that the host may be ahead of the device: enough that the device never waits for work, few enough that progress is
/// shown and Ctrl-C obeyed at once.
const AHEAD: usize = 8;

/// What a run is to those who watch it.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// All there is: its outcome is printed, and an interrupted one says how it is resumed.
    Alone,
    /// One of many: an interrupted one says by which command all of them go on.
    Part(&'a str),
}

/// A run that is under way.
struct Session<'a> {
    role: Role<'a>,
    config: &'a Config,
    backend: &'a dyn Backend,
    folder: RunFolder,
    engine: Engine<'a>,
    losses: LossReader,
    store: &'a Store,
    fingerprint: String,
    progress: Progress,
    /// Epoch and step of the checkpoint that the folder has.
    saved: Option<(usize, usize)>,
    history: Vec<EpochMetrics>,
    logs: Logs,
    /// Losses of the unfinished epoch's steps that an earlier process made.
    losses_so_far: Vec<f64>,
}

/// Trains a new run. The run's folder is opened by `folder` once everything else has proved good, so that a request that
/// cannot be met leaves nothing behind.
///
/// # Errors
/// Bad data or settings, a failing device, a loss that is no number, or [`Error::Interrupted`] after Ctrl-C.
pub fn start(
    config: &Config,
    folder: impl FnOnce() -> Result<RunFolder>,
    role: Role<'_>,
    backend: &dyn Backend,
) -> Result<()> {
    let store = Store::open(&config.placement.data)?;
    let origin = Origin::of(config)?;
    let fitting = |engine: &Engine<'_>| {
        origin.as_ref().map_or(Ok(()), |origin| origin.check(&store, engine.parameters.specs()))?;
        folder()
    };
    let session = Session { role, ..Session::new(config, fitting, backend, &store)? };
    session.begin(origin.as_ref())?;
    session.folder.add_process(Process::this(backend)?)?;
    session.train()
}

/// Continues the run in `folder`, or with `restart` begins it again. Nothing in the folder is changed before everything was
/// found to fit.
///
/// # Errors
/// As for [`start`], and when the folder's files are damaged or belong to another run.
pub fn resume(config: &Config, folder: RunFolder, restart: bool, role: Role<'_>, backend: &dyn Backend) -> Result<()> {
    let store = Store::open(&config.placement.data)?;
    let mut session = Session { role, ..Session::new(config, |_| Ok(folder), backend, &store)? };
    if restart {
        let origin = session.origin()?;
        session.folder.restart()?;
        session.begin(origin.as_ref())?;
    } else {
        session.restore()?;
    }
    if Config::read(&session.folder.config())? != *config {
        session.folder.write_config(config)?;
    }
    session.folder.add_process(Process::this(backend)?)?;
    if session.saved.is_some() {
        // An older version saved without noting it.
        session.folder.note_saved()?;
    }
    session.train()
}

/// Goes on from `parent`, whose configuration `config` is but for its epochs and where it computes, in the new folder `out`.
///
/// # Errors
/// As for [`resume`], and when there is anything in `out`.
pub fn extend(config: &Config, parent: ParentRun, out: &Path, backend: &dyn Backend) -> Result<()> {
    let store = Store::open(&config.placement.data)?;
    let folder = |_: &Engine<'_>| {
        parent.check_store(&store.fingerprint()?, config)?;
        RunFolder::create_extension(out, parent.record()?)
    };
    let mut session = Session::new(config, folder, backend, &store)?;
    session.inherit(&parent)?;
    session.folder.add_process(Process::this(backend)?)?;
    note!("{}", parent.jump(config, session.engine.recipe()));
    drop(parent);
    session.train()
}

/// Learning rate and alpha of 0-based epoch `epoch`: the coefficient of the first classifier's loss, or what takes its place
/// where the samples' shares follow a course (BBN).
pub(super) fn rates(config: &Config, recipe: &Recipe, epoch: usize) -> (f64, f64) {
    let first = recipe.classifiers().first().map(|(_, head)| head.coefficient);
    let alpha = match recipe.mixing.share {
        Share::Course { course } => Coefficient { course, ..Coefficient::default() },
        _ => first.unwrap_or_default(),
    };
    // Where the rate changes from step to step, an epoch has the last one's: that of its only step, if it had one.
    (config.learning_rate().at(epoch, config.epochs, 0, 1), alpha.at(epoch, config.epochs))
}

impl<'a> Session<'a> {
    fn new(
        config: &'a Config,
        folder: impl FnOnce(&Engine<'a>) -> Result<RunFolder>,
        backend: &'a dyn Backend,
        store: &'a Store,
    ) -> Result<Session<'a>> {
        if let Some(class) = store.meta().counts.iter().position(|&n| n == 0) {
            let what = format!("class {class} has no training images: its weight would be infinite");
            return Err(Error::file(store.path(), what));
        }
        let engine = Engine::new(backend, config, &Data::of(store, config.framing()))?;
        let losses = LossReader::new(backend, engine.step.log)?;
        let progress = Progress { metrics: digest(&[]), ..Progress::default() };
        Ok(Session {
            role: Role::Alone,
            config,
            backend,
            folder: folder(&engine)?,
            engine,
            losses,
            store,
            fingerprint: store.fingerprint()?,
            progress,
            saved: None,
            history: Vec::new(),
            logs: Logs::default(),
            losses_so_far: Vec::new(),
        })
    }

    /// What a run that has no checkpoint of its own begins with again.
    fn origin(&self) -> Result<Option<Origin<'a>>> {
        let origin = Origin::of(self.config)?;
        if let Some(origin) = &origin {
            origin.check(self.store, self.engine.parameters.specs())?;
            self.folder.parent().map_or(Ok(()), |parent| origin.check_unchanged(&parent))?;
        }
        Ok(origin)
    }

    /// Makes the parameters that the first epoch starts with.
    fn begin(&self, origin: Option<&Origin<'_>>) -> Result<()> {
        self.engine.initialise(self.backend, self.config.seed)?;
        let Some(origin) = origin else { return Ok(()) };
        origin.load(self.backend, &self.engine.parameters)?;
        // What it measures is of the weights that are there now.
        self.engine.step.optimizer.begin(self.backend)?;
        note!("{}", origin.describe(self.engine.parameters.specs()));
        self.folder.note_parent(origin.record()?)
    }

    /// Takes up the run where its last checkpoint left it. A run that was killed before its first checkpoint starts over.
    fn restore(&mut self) -> Result<()> {
        let last = self.folder.last();
        if !last.exists() {
            self.folder.check_not_lost(self.config.placement.checkpoint_every)?;
            let origin = self.origin()?;
            self.folder.rewind_metrics(0, &digest(&[]), false)?;
            return self.begin(origin.as_ref());
        }
        let checkpoint = Checkpoint::read(&last)?;
        let manifest = &checkpoint.manifest;
        self.check_belongs(&last, manifest)?;
        self.progress = manifest.progress.clone();
        let Progress { epoch, step, .. } = self.progress;
        self.check_fits(&last, &self.progress)?;
        if self.progress.best.is_some() {
            let best = Checkpoint::read(&self.folder.best())?;
            self.check_belongs(&self.folder.best(), &best.manifest)?;
        }
        self.load(&checkpoint)?;
        self.losses_so_far = checkpoint.losses()?;
        self.history = self.folder.rewind_metrics(epoch, &self.progress.metrics, manifest.is_old())?;
        self.saved = Some((epoch, step));
        Ok(())
    }

    /// Makes the folder's files what they would be if this run had made the parent's epochs.
    fn inherit(&mut self, parent: &ParentRun) -> Result<()> {
        self.history.clone_from(&parent.history);
        let of_best = parent.best.as_ref().map(|best| (best, self.folder.best()));
        for (checkpoint, file) in of_best.into_iter().chain([(&parent.last, self.folder.last())]) {
            let progress = &checkpoint.manifest.progress;
            self.check_fits(&file, progress)?;
            self.progress = Progress { metrics: digest(&self.history[..progress.epoch]), ..progress.clone() };
            self.load(checkpoint)?;
            self.losses_so_far = checkpoint.losses()?;
            self.state("the parent's last epoch")?.save(&file, self.manifest(), &self.losses_so_far)?;
        }
        self.saved = Some((self.progress.epoch, self.progress.step));
        self.folder.write_metrics(&self.history)?;
        self.folder.write_config(self.config)
    }

    /// Takes over a checkpoint's model and its optimiser's state.
    fn load(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.load(self.backend, &self.engine.parameters, true)?;
        self.engine.step.optimizer.set_limits(self.backend, &|name| checkpoint.limit(name))
    }

    /// Whether a checkpoint is of this run.
    fn check_belongs(&self, path: &Path, manifest: &Manifest) -> Result<()> {
        manifest.check_configuration(path, self.config)?;
        manifest.check_store(path, &self.fingerprint, &self.config.placement.data)
    }

    /// Whether a run on this data can be there.
    fn check_fits(&self, path: &Path, progress: &Progress) -> Result<()> {
        let Progress { epoch, step, .. } = *progress;
        let steps = self.engine.draw(epoch.min(self.config.epochs - 1))?.steps();
        if progress.fits(steps) {
            return Ok(());
        }
        let what = format!("impossible glmc_engine metadata: {epoch} epochs and {step} steps of {steps} per epoch");
        Err(Error::file(path, format!("{what}; restore the file")))
    }

    fn manifest(&self) -> Manifest {
        Manifest::new(self.config.clone(), self.store, self.fingerprint.clone(), self.progress.clone())
    }

    fn train(mut self) -> Result<()> {
        self.logs = Logs::open(self.folder.path(), &self.config.placement.log, &self.history)?;
        let mut reporter = Reporter::new(self.config, self.store, self.backend, self.engine.step.arena().bytes);
        let done = self.run(&mut reporter);
        reporter.close();
        done?;
        self.finish(&reporter)
    }

    fn run(&mut self, reporter: &mut Reporter) -> Result<()> {
        while self.progress.epoch < self.config.epochs {
            self.epoch(reporter)?;
        }
        Ok(())
    }

    fn epoch(&mut self, reporter: &mut Reporter) -> Result<()> {
        let (epoch, first) = (self.progress.epoch, self.progress.step);
        let plan = self.engine.draw(epoch)?;
        self.engine.load(self.backend, &plan, first)?;
        let start = Instant::now();
        let samples = |step: usize| plan.indices(step).0.len();
        // A look at the losses never makes the device wait: it is asked for behind a step and read when it is there.
        let mut looked = start;
        let mut ahead = VecDeque::with_capacity(AHEAD);
        reporter.epoch_begins(epoch, plan.steps(), first);
        for step in first..plan.steps() {
            if ahead.len() == AHEAD
                && let Some(earliest) = ahead.pop_front()
            {
                self.backend.wait(&earliest)?;
            }
            self.engine.run(self.backend, &plan, step)?;
            ahead.push_back(self.backend.mark()?);
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.losses.ask(self.backend, step + 1)?;
            }
            if let Some((seen, log)) = self.losses.answer(self.backend)? {
                let log = self.checked(&plan, (epoch, seen), log)?;
                let done: usize = (first..seen).map(samples).sum();
                let mean = mean_losses(&log, (0..seen).map(samples));
                reporter.step(seen, mean[TOTAL], done as f64 / start.elapsed().as_secs_f64());
            }
            if stop::signal().is_some() && step + 1 < plan.steps() {
                return self.interrupt(&plan, (epoch, step + 1), first);
            }
        }
        self.engine.step.optimizer.end_epoch(self.backend)?;
        let log = self.losses_now(&plan, (epoch, plan.steps()))?;
        let seconds = start.elapsed().as_secs_f64();
        let trained: usize = (first..plan.steps()).map(samples).sum();
        let mean = mean_losses(&log, (0..plan.steps()).map(samples));
        reporter.step(plan.steps(), mean[TOTAL], trained as f64 / seconds);
        let no_images = || Error::Config("there are no test images to evaluate on".into());
        let [test, val] = self.engine.evaluate(self.backend)?;
        let evaluations = (test.ok_or_else(no_images)?, val);
        let rates = rates(self.config, self.engine.recipe(), epoch);
        let metrics = EpochMetrics::new(
            epoch + 1,
            rates,
            (&self.engine.recipe().losses(), mean),
            evaluations,
            (seconds, trained),
        );
        self.progress.total_steps += (plan.steps() - first) as u64;
        self.end_epoch(metrics, reporter)?;
        if stop::signal().is_some() && self.progress.epoch < self.config.epochs {
            if self.saved != Some((self.progress.epoch, 0)) {
                let state = self.state(&format!("epoch {}", self.progress.epoch))?;
                self.save_last(&state, &[])?;
            }
            return Err(self.interrupted());
        }
        Ok(())
    }

    /// Records, saves and shows a finished epoch. Metrics and the best checkpoint are written before the last one, which
    /// makes them count: whatever a kill cuts off here is done again, to the same bits.
    fn end_epoch(&mut self, metrics: EpochMetrics, reporter: &mut Reporter) -> Result<()> {
        let finished = metrics.epoch;
        let selecting = metrics.selecting(self.config.select());
        let is_best = self.progress.best.is_none_or(|(_, top1)| selecting > top1);
        let is_due = finished.is_multiple_of(self.config.placement.checkpoint_every) || finished == self.config.epochs;
        // Before anything is written: an epoch that diverged is not recorded.
        let state = if is_best || is_due { Some(self.state(&format!("epoch {finished}"))?) } else { None };
        self.progress.epoch = finished;
        self.progress.step = 0;
        self.losses_so_far.clear();
        self.history.push(metrics);
        self.progress.metrics = digest(&self.history);
        let metrics = &self.history[finished - 1];
        self.folder.append_metrics(metrics)?;
        self.logs.update(self.folder.path(), &self.history)?;
        if is_best {
            self.progress.best = Some((finished, selecting));
        }
        if let (true, Some(state)) = (is_best, &state) {
            state.save(&self.folder.best(), self.manifest(), &[])?;
        }
        reporter.epoch_ends(metrics, is_best);
        match state {
            Some(state) if is_due => self.save_last(&state, &[]),
            _ => Ok(()),
        }
    }

    /// The model as it is now, whose numbers must all be finite.
    fn state(&self, when: &str) -> Result<State> {
        let limits = self.engine.step.optimizer.limits(self.backend)?;
        let state = State::take(self.backend, &self.engine.parameters, &limits)?;
        state.map_err(|tensor| self.diverged(&format!("{tensor} is no longer finite after {when}")))
    }

    fn save_last(&mut self, state: &State, losses: &[f64]) -> Result<()> {
        state.save(&self.folder.last(), self.manifest(), losses)?;
        if self.saved.is_none() {
            self.folder.note_saved()?;
        }
        self.saved = Some((self.progress.epoch, self.progress.step));
        Ok(())
    }

    /// The error of a run whose numbers are not finite any more. What it saved before is the same in every repeat, and so is
    /// what follows on it: only other settings help.
    fn diverged(&self, what: &str) -> Error {
        let kept = match self.saved {
            Some((epoch, 0)) => format!("last.safetensors still holds epoch {epoch}"),
            Some((epoch, step)) => format!("last.safetensors still holds step {step} of epoch {}", epoch + 1),
            None => "no checkpoint had been written".into(),
        };
        let (config, lr) = (self.folder.config(), self.config.lr / 10.0);
        let wider = if self.backend.precision() == Precision::Bf16 { ", or with --precision f32" } else { "" };
        Error::Training(format!(
            "{what}; {kept}; start again with a lower rate (glmc-engine train --config {} --lr {lr} --out NEW) or with \
             --warmup-epochs 5{wider}",
            word(config)
        ))
    }

    /// The losses of the epoch's first `steps` steps, all of them started: waits for them.
    fn losses_now(&mut self, plan: &EpochPlan, at: (usize, usize)) -> Result<Vec<f64>> {
        let log = self.losses.now(self.backend)?;
        self.checked(plan, at, log)
    }

    /// The first `steps` rows of the log, those of an earlier process put in, all checked to be numbers.
    fn checked(&self, plan: &EpochPlan, (epoch, steps): (usize, usize), log: Vec<f64>) -> Result<Vec<f64>> {
        let mut log = plan.losses(&log);
        log.truncate(steps * LOSS_COLUMNS);
        log[..self.losses_so_far.len()].copy_from_slice(&self.losses_so_far);
        match log.chunks_exact(LOSS_COLUMNS).position(|row| row.iter().any(|loss| !loss.is_finite())) {
            None => Ok(log),
            Some(step) => {
                let row = &log[step * LOSS_COLUMNS..][..LOSS_COLUMNS];
                let losses = self.engine.recipe().losses();
                let terms = losses.iter().map(|&(name, column)| format!("L_{name} {}, ", row[column]));
                Err(self.diverged(&format!(
                    "the loss is no longer a finite number at epoch {}, step {}: {}total {}",
                    epoch + 1,
                    step + 1,
                    terms.collect::<String>(),
                    row[TOTAL],
                )))
            }
        }
    }

    fn interrupt(&mut self, plan: &EpochPlan, (epoch, step): (usize, usize), first: usize) -> Result<()> {
        let log = self.losses_now(plan, (epoch, step))?;
        let state = self.state(&format!("step {step} of epoch {}", epoch + 1))?;
        self.progress.step = step;
        self.progress.total_steps += (step - first) as u64;
        self.save_last(&state, &log)?;
        Err(self.interrupted())
    }

    fn interrupted(&self) -> Error {
        let path = word(self.folder.path());
        let Progress { epoch, step, .. } = self.progress;
        let at = if step == 0 { format!("epoch {epoch}") } else { format!("step {step} of epoch {}", epoch + 1) };
        Error::Interrupted(match self.role {
            Role::Alone => {
                format!("stopped and saved after {at}; to continue: glmc-engine train --resume {path}")
            }
            Role::Part(command) => format!("{path}: stopped and saved after {at}; to continue: {command}"),
        })
    }

    /// Shows and records the outcome of a finished run.
    fn finish(&self, reporter: &Reporter) -> Result<()> {
        let Some((best, _)) = self.progress.best else { return Ok(()) };
        let (last, best) = (&self.history[self.history.len() - 1], &self.history[best - 1]);
        let (_, peak_bytes) = self.backend.allocated();
        let waited = self.engine.waited();
        let (select, waited_for_images_seconds) = (self.config.select(), waited.as_secs_f64());
        self.folder.write_result(&Outcome { last, best, select, peak_bytes, waited_for_images_seconds })?;
        if let Role::Part(_) = self.role {
            return Ok(());
        }
        reporter.summary(last, best, self.store.meta(), &self.folder, (peak_bytes, waited));
        tell!("{}", chosen(self.config.select(), best));
        console::finish()
    }
}

/// How the best epoch was chosen, and what that means for the figures.
fn chosen(select: Select, best: &EpochMetrics) -> String {
    let epoch = best.epoch;
    match select {
        Select::Val => format!(
            "Best epoch {epoch} chosen on val (top-1 there {:.2}); papers' tables often choose on test: --select test.",
            best.selecting(select)
        ),
        Select::Test => {
            format!("Best epoch {epoch} chosen on test, as papers' tables often are: compare last with last.")
        }
    }
}
