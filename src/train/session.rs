//! The training loop: epochs of steps, an evaluation and a checkpoint after each, and every way a run can end.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Checkpoint, Manifest, Progress};
use super::engine::{Data, Engine};
use super::feed::Images;
use super::losses::LossReader;
use super::metrics::{EpochMetrics, FinalMetrics, Losses, digest};
use super::report::Reporter;
use super::run_folder::RunFolder;
use crate::config::{Config, Method};
use crate::data::store::{Split, Store};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::glmc::{EpochPlan, PartnerSampler, PlanConfig, schedule};
use crate::ops::Backend;
use crate::ops::augment_mix::Augmentation;
use crate::ops::total_loss::LOSS_COLUMNS;

/// How often the host looks at the losses.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Steps that the host may be ahead of the device: enough that the device never waits for work, few enough that progress is
/// shown and Ctrl-C obeyed at once.
const AHEAD: usize = 8;

/// Set from outside (Ctrl-C) to end the run after the step in progress.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// The images of a split, if they all have one size.
///
/// # Errors
/// When they have not.
pub fn images<'a>(store: &'a Store, split: &'a Split) -> Result<Images<'a>> {
    if split.index().is_some() {
        let what = "holds images of several sizes; training needs one: prepare it again with --size";
        return Err(Error::file(store.path(), what));
    }
    Ok(Images { pixels: split.pixels(), labels: split.labels(), height: split.height(), width: split.width() })
}

/// Normalisation and augmentation for a store: crops from a border of an eighth of the side (4 pixels for CIFAR).
pub fn augmentation(store: &Store) -> Augmentation {
    let meta = store.meta();
    Augmentation {
        mean: meta.mean.map(|v| v as f32),
        std: meta.std.map(|v| v as f32),
        padding: store.train().height().min(store.train().width()) / 8,
        flip: true,
    }
}

/// Identifies a store: the checksum of its `meta.json`, which holds those of its arrays.
///
/// # Errors
/// When it cannot be read.
pub fn fingerprint(store: &Store) -> Result<String> {
    let path = store.path().join("meta.json");
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// A run that is under way.
struct Session<'a> {
    config: &'a Config,
    backend: &'a dyn Backend,
    folder: RunFolder,
    engine: Engine<'a>,
    losses: LossReader,
    sampler: PartnerSampler,
    plan: PlanConfig,
    counts: Vec<usize>,
    store: String,
    progress: Progress,
    history: Vec<EpochMetrics>,
    /// Losses of the unfinished epoch's steps that an earlier process made.
    losses_so_far: Vec<f64>,
}

/// Trains a new run, or goes on with an older one if `resume`. The run's folder is opened by `folder` once everything
/// else has proved good, so that a request that cannot be met leaves nothing behind.
///
/// # Errors
/// Bad data or settings, a failing device, a loss that is no number, or [`Error::Interrupted`] after Ctrl-C.
pub fn train(
    config: &Config,
    folder: impl FnOnce() -> Result<RunFolder>,
    resume: bool,
    backend: &dyn Backend,
) -> Result<()> {
    let store = Store::open(&config.data)?;
    let mut session = Session::new(config, folder, backend, &store)?;
    if resume {
        session.resume()?;
    } else {
        session.engine.parameters.initialise(backend, config.seed)?;
    }
    let mut reporter = Reporter::new(config, &store, backend, session.engine.step.arena().bytes);
    let done = session.run(&mut reporter);
    reporter.close();
    done?;
    session.finish(&reporter, store.meta())
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
        let train = images(store, store.train())?;
        let data = Data {
            counts: &store.meta().counts,
            train,
            test: images(store, store.test())?,
            augmentation: augmentation(store),
        };
        let engine = Engine::new(backend, config, &data)?;
        let losses = LossReader::new(backend, engine.step.log)?;
        let sampler = PartnerSampler::new(train.labels, counts.len(), config.resample)?;
        let plan = PlanConfig {
            seed: config.seed,
            epochs: config.epochs,
            batch: config.batch,
            lr: config.lr,
            warmup_epochs: config.warmup_epochs,
            beta: (config.method == Method::Glmc).then_some(config.beta),
            gamma: config.gamma,
            supervised: if config.halve_supervised { 0.5 } else { 1.0 },
            correct_labels: config.correct_labels,
            height: train.height,
            width: train.width,
        };
        let progress = Progress { metrics: digest(&[]), ..Progress::default() };
        Ok(Session {
            config,
            backend,
            folder: folder()?,
            engine,
            losses,
            sampler,
            plan,
            counts,
            store: fingerprint(store)?,
            progress,
            history: Vec::new(),
            losses_so_far: Vec::new(),
        })
    }

    /// Takes up the run where its last checkpoint left it. A run that was killed before its first checkpoint starts over.
    fn resume(&mut self) -> Result<()> {
        let last = self.folder.last();
        if !last.exists() {
            if self.folder.best().exists() && self.config.checkpoint_every == 1 && self.folder.metrics().exists() {
                // A kill between the first epoch's best and last checkpoints leaves this; so does a lost file.
                let lines = std::fs::read_to_string(self.folder.metrics()).unwrap_or_default().lines().count();
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
            let what = format!("was trained on another store than what is now at {}", self.config.data.display());
            return Err(Error::file(path, what));
        }
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        Manifest::new(self.config.clone(), self.counts.clone(), self.store.clone(), self.progress.clone())
    }

    fn run(&mut self, reporter: &mut Reporter) -> Result<()> {
        while self.progress.epoch < self.config.epochs {
            self.epoch(reporter)?;
        }
        Ok(())
    }

    fn epoch(&mut self, reporter: &mut Reporter) -> Result<()> {
        let (epoch, first) = (self.progress.epoch, self.progress.step);
        let images = self.engine.feed.images().len();
        let plan = EpochPlan::draw(&self.plan, epoch, images, &self.sampler)?;
        self.engine.step.load(self.backend, &self.engine.feed, &plan, first)?;
        let start = Instant::now();
        let samples = |step: usize| plan.indices(step).0.len();
        // A look at the losses never makes the device wait: it is asked for behind a step and read when it is there.
        let mut looked = start;
        let mut ahead = VecDeque::with_capacity(AHEAD);
        reporter.epoch_begins(epoch, plan.steps(), first);
        for step in first..plan.steps() {
            self.engine.feed.stage(self.backend, &plan, step)?;
            if ahead.len() == AHEAD
                && let Some(earliest) = ahead.pop_front()
            {
                self.backend.wait(&earliest)?;
            }
            self.engine.step.run(self.backend, step)?;
            ahead.push_back(self.backend.mark()?);
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                self.losses.ask(self.backend, step + 1)?;
            }
            if let Some((seen, log)) = self.losses.answer(self.backend)? {
                let log = self.checked(epoch, seen, log)?;
                let done: usize = (first..seen).map(samples).sum();
                let mean = Losses::mean(&log, (0..seen).map(samples));
                reporter.step(seen, mean.0[3], done as f64 / start.elapsed().as_secs_f64());
            }
            if STOP.load(Ordering::Relaxed) && step + 1 < plan.steps() {
                return self.interrupt(epoch, step + 1, first);
            }
        }
        let log = self.losses_now(epoch, plan.steps())?;
        let seconds = start.elapsed().as_secs_f64();
        let trained: usize = (first..plan.steps()).map(samples).sum();
        let mean = Losses::mean(&log, (0..plan.steps()).map(samples));
        reporter.step(plan.steps(), mean.0[3], trained as f64 / seconds);
        let evaluation = self.engine.evaluate(self.backend)?;
        let Config { lr, epochs, warmup_epochs, .. } = *self.config;
        let rates = (schedule::learning_rate(lr, epoch, epochs, warmup_epochs), schedule::alpha(epoch, epochs));
        let metrics = EpochMetrics::new(epoch, rates, mean, evaluation, (seconds, trained));
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
        if finished.is_multiple_of(self.config.checkpoint_every) || finished == self.config.epochs {
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
                let l = &log[step * LOSS_COLUMNS..][..LOSS_COLUMNS];
                Err(Error::Training(format!(
                    "the loss is no longer a finite number at epoch {epoch}, step {step}: L_c {}, L_cb {}, L_sim {}, total {}; \
                     try a lower --lr, --warmup-epochs 5, or --precision f32; {} holds the last good state",
                    l[0],
                    l[1],
                    l[2],
                    l[3],
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

impl Config {
    /// Whether another configuration describes the same computation: everything but where and how often it is saved.
    fn same_run(&self, other: &Config) -> bool {
        let neutral = |c: &Config| Config {
            device: String::new(),
            precision: crate::tensor::Precision::F32,
            threads: 0,
            checkpoint_every: 1,
            resident_limit: None,
            data: std::path::PathBuf::new(),
            ..c.clone()
        };
        neutral(self) == neutral(other)
    }
}

/// Replaces a resumed run's `config.toml` when the command line moved it to another device.
///
/// # Errors
/// When the system refuses.
pub fn rewrite_config(folder: &RunFolder, config: &Config) -> Result<()> {
    let at = folder.config();
    write_atomically(&at, |file| file.write_all(config.to_toml().as_bytes()).map_err(Error::io(&at)))
}
