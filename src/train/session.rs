//! The training loop: epochs of steps, an evaluation and a checkpoint after each, and every way a run can end.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Checkpoint, Manifest, Progress};
use super::engine::{Data, Engine};
use super::losses::LossReader;
use super::metrics::{EpochMetrics, FinalMetrics, digest, mean_losses};
use super::report::Reporter;
use super::run_folder::RunFolder;
use crate::config::Config;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::method::schedule;
use crate::ops::Backend;
use crate::ops::total_loss::{LOSS_COLUMNS, TOTAL};

/// How often the host looks at the losses.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Steps that the host may be ahead of the device: enough that the device never waits for work, few enough that progress is
/// shown and Ctrl-C obeyed at once.
const AHEAD: usize = 8;

/// Set from outside (Ctrl-C) to end the run after the step in progress.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// A run that is under way.
struct Session<'a> {
    config: &'a Config,
    backend: &'a dyn Backend,
    folder: RunFolder,
    engine: Engine<'a>,
    losses: LossReader,
    counts: Vec<usize>,
    store: String,
    progress: Progress,
    history: Vec<EpochMetrics>,
    /// Losses of the unfinished epoch's steps that an earlier process made.
    losses_so_far: Vec<f64>,
}

/// Trains a new run. The run's folder is opened by `folder` once everything else has proved good, so that a request that
/// cannot be met leaves nothing behind.
///
/// # Errors
/// Bad data or settings, a failing device, a loss that is no number, or [`Error::Interrupted`] after Ctrl-C.
pub fn start(config: &Config, folder: impl FnOnce() -> Result<RunFolder>, backend: &dyn Backend) -> Result<()> {
    let store = Store::open(&config.placement.data)?;
    let session = Session::new(config, folder, backend, &store)?;
    session.engine.parameters.initialise(backend, config.seed)?;
    session.train(&store)
}

/// Goes on with the run in `folder`.
///
/// # Errors
/// As for [`start`], and when the folder's files are damaged or belong to another run.
pub fn resume(config: &Config, folder: RunFolder, backend: &dyn Backend) -> Result<()> {
    let store = Store::open(&config.placement.data)?;
    let mut session = Session::new(config, || Ok(folder), backend, &store)?;
    session.restore()?;
    session.train(&store)
}

impl<'a> Session<'a> {
    fn new(
        config: &'a Config,
        folder: impl FnOnce() -> Result<RunFolder>,
        backend: &'a dyn Backend,
        store: &'a Store,
    ) -> Result<Session<'a>> {
        let counts = store.meta().counts.clone();
        if let Some(class) = counts.iter().position(|&n| n == 0) {
            let what = format!("class {class} has no training images: its weight would be infinite");
            return Err(Error::file(store.path(), what));
        }
        let engine = Engine::new(backend, config, &Data::of(store)?)?;
        let losses = LossReader::new(backend, engine.step.log)?;
        let progress = Progress { metrics: digest(&[]), ..Progress::default() };
        Ok(Session {
            config,
            backend,
            folder: folder()?,
            engine,
            losses,
            counts,
            store: store.fingerprint()?,
            progress,
            history: Vec::new(),
            losses_so_far: Vec::new(),
        })
    }

    /// Takes up the run where its last checkpoint left it. A run that was killed before its first checkpoint starts over.
    fn restore(&mut self) -> Result<()> {
        let last = self.folder.last();
        if !last.exists() {
            if self.folder.best().exists()
                && self.config.placement.checkpoint_every == 1
                && self.folder.metrics().exists()
            {
                // A kill between the first epoch's best and last checkpoints leaves this; so does a lost file.
                let lines =
                    crate::files::read_text(&self.folder.metrics(), 1 << 32).unwrap_or_default().lines().count();
                if lines > 1 {
                    return Err(Error::file(&last, "is missing, though later epochs were finished: restore the file"));
                }
            }
            self.folder.rewind_metrics(0, &digest(&[]))?;
            return self.engine.parameters.initialise(self.backend, self.config.seed);
        }
        let checkpoint = Checkpoint::read(&last)?;
        self.check_belongs(&last, &checkpoint.manifest)?;
        checkpoint.load(self.backend, &self.engine.parameters, true)?;
        self.progress = checkpoint.manifest.progress.clone();
        self.losses_so_far = checkpoint.losses()?;
        self.history = self.folder.rewind_metrics(self.progress.epoch, &self.progress.metrics)?;
        if self.progress.best.is_some() {
            let best = Checkpoint::read(&self.folder.best())?;
            self.check_belongs(&self.folder.best(), &best.manifest)?;
        }
        Ok(())
    }

    /// Whether a checkpoint is of this run. Where it computes may change between stop and resume; nothing else.
    fn check_belongs(&self, path: &Path, manifest: &Manifest) -> Result<()> {
        if !manifest.config.same_run(self.config) {
            return Err(Error::file(path, "belongs to a run with another configuration than config.toml beside it"));
        }
        if manifest.store != self.store {
            let what =
                format!("was trained on another store than what is now at {}", self.config.placement.data.display());
            return Err(Error::file(path, what));
        }
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        Manifest::new(self.config.clone(), self.counts.clone(), self.store.clone(), self.progress.clone())
    }

    fn train(mut self, store: &Store) -> Result<()> {
        let mut reporter = Reporter::new(self.config, store, self.backend, self.engine.step.arena().bytes);
        let done = self.run(&mut reporter);
        reporter.close();
        done?;
        self.finish(&reporter, store.meta())
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
                let log = self.checked(epoch, seen, log)?;
                let done: usize = (first..seen).map(samples).sum();
                let mean = mean_losses(&log, (0..seen).map(samples));
                reporter.step(seen, mean[TOTAL], done as f64 / start.elapsed().as_secs_f64());
            }
            if STOP.load(Ordering::Relaxed) && step + 1 < plan.steps() {
                return self.interrupt(epoch, step + 1, first);
            }
        }
        let log = self.losses_now(epoch, plan.steps())?;
        let seconds = start.elapsed().as_secs_f64();
        let trained: usize = (first..plan.steps()).map(samples).sum();
        let mean = mean_losses(&log, (0..plan.steps()).map(samples));
        reporter.step(plan.steps(), mean[TOTAL], trained as f64 / seconds);
        let no_images = || Error::Config("there are no test images to evaluate on".into());
        let evaluation = self.engine.evaluate(self.backend)?.ok_or_else(no_images)?;
        let Config { lr, epochs, warmup_epochs, .. } = *self.config;
        let rates = (schedule::learning_rate(lr, epoch, epochs, warmup_epochs), schedule::alpha(epoch, epochs));
        let metrics = EpochMetrics::new(epoch, rates, (self.config.method, mean), evaluation, (seconds, trained));
        self.progress.total_steps += (plan.steps() - first) as u64;
        self.end_epoch(metrics, reporter)?;
        if STOP.load(Ordering::Relaxed) && self.progress.epoch < self.config.epochs {
            self.save_last(&[])?;
            return Err(self.interrupted(epoch + 1, 0));
        }
        Ok(())
    }

    /// Records, saves and shows a finished epoch. Metrics and the best checkpoint are written before the last one, which
    /// makes them count: whatever a kill cuts off here is done again, to the same bits.
    fn end_epoch(&mut self, metrics: EpochMetrics, reporter: &mut Reporter) -> Result<()> {
        self.progress.epoch += 1;
        self.progress.step = 0;
        self.losses_so_far.clear();
        self.history.push(metrics);
        self.progress.metrics = digest(&self.history);
        let metrics = &self.history[self.history.len() - 1];
        self.folder.append_metrics(metrics)?;
        if self.progress.best.is_none_or(|(_, top1)| metrics.test.top1 > top1) {
            self.progress.best = Some((metrics.epoch, metrics.test.top1));
            let path = self.folder.best();
            checkpoint::save(&path, self.backend, &self.engine.parameters, self.manifest(), &[])?;
        }
        reporter.epoch_ends(metrics);
        let finished = self.progress.epoch;
        if finished.is_multiple_of(self.config.placement.checkpoint_every) || finished == self.config.epochs {
            self.save_last(&[])?;
        }
        Ok(())
    }

    fn save_last(&self, losses: &[f64]) -> Result<()> {
        checkpoint::save(&self.folder.last(), self.backend, &self.engine.parameters, self.manifest(), losses)
    }

    /// The losses of the epoch's first `steps` steps, which have all been started: waits for them.
    fn losses_now(&mut self, epoch: usize, steps: usize) -> Result<Vec<f64>> {
        let log = self.losses.now(self.backend)?;
        self.checked(epoch, steps, log)
    }

    /// The first `steps` rows of the log, those of an earlier process put in, all checked to be numbers.
    fn checked(&self, epoch: usize, steps: usize, mut log: Vec<f64>) -> Result<Vec<f64>> {
        log.truncate(steps * LOSS_COLUMNS);
        log[..self.losses_so_far.len()].copy_from_slice(&self.losses_so_far);
        match log.chunks_exact(LOSS_COLUMNS).position(|row| row.iter().any(|loss| !loss.is_finite())) {
            None => Ok(log),
            Some(step) => {
                let row = &log[step * LOSS_COLUMNS..][..LOSS_COLUMNS];
                let terms =
                    self.config.method.losses().iter().zip(row).map(|(name, loss)| format!("L_{name} {loss}, "));
                Err(Error::Training(format!(
                    "the loss is no longer a finite number at epoch {epoch}, step {step}: {}total {}; \
                     try a lower --lr, --warmup-epochs 5, or --precision f32; {} holds the last good state",
                    terms.collect::<String>(),
                    row[TOTAL],
                    self.folder.path().display()
                )))
            }
        }
    }

    fn interrupt(&mut self, epoch: usize, step: usize, first: usize) -> Result<()> {
        let log = self.losses_now(epoch, step)?;
        self.progress.step = step;
        self.progress.total_steps += (step - first) as u64;
        self.save_last(&log)?;
        Err(self.interrupted(epoch, step))
    }

    fn interrupted(&self, epoch: usize, step: usize) -> Error {
        let path = self.folder.path().display();
        Error::Interrupted(format!(
            "stopped and saved at epoch {epoch}, step {step}; go on with: glmc-engine train --resume {path}"
        ))
    }

    /// Shows and records the outcome of a finished run.
    fn finish(&self, reporter: &Reporter, meta: &crate::data::meta::Meta) -> Result<()> {
        let Some((best, _)) = self.progress.best else { return Ok(()) };
        let (last, best) = (&self.history[self.history.len() - 1], &self.history[best]);
        let (_, peak_bytes) = self.backend.allocated();
        let line = FinalMetrics { is_final: true, last, best, peak_bytes };
        // A finished run that is resumed has its final line already cut off again by `rewind_metrics`.
        self.folder.append_metrics(&line)?;
        reporter.summary(last, best, meta, &self.folder, peak_bytes);
        std::io::stdout().flush().map_err(Error::io("standard output"))
    }
}
