//! A sweep: a run for every point of a grid of settings and every seed, one after another in one folder. What an earlier
//! process left there is taken up: finished runs are kept, one that is part-way is resumed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::checkpoint::Checkpoint;
use super::engine::{Data, Engine};
use super::metrics::EpochMetrics;
use super::report::{FIRST_STEPS, PACE};
use super::run_folder::{RunFolder, check_new};
use super::run_record::RunRecord;
use super::session::{self, Role};
use crate::config::Config;
use crate::console::note;
use crate::error::{Error, Result, word};
use crate::files;
use crate::stop;

/// The file of the sweep's figures in its folder.
pub const SUMMARY: &str = "summary.csv";

/// Settings that say where a run computes and how often it is saved, not what it computes.
const PLACE: [&str; 6] = ["data", "device", "threads", "checkpoint_every", "resident_limit", "log"];

/// Settings that change nothing about how long a step takes. All others may.
const AS_LONG: [&str; 25] = [
    "seed",
    "preset",
    "epochs",
    "lr",
    "lr_schedule",
    "lr_set",
    "warmup_epochs",
    "warmup_from",
    "warmup_every_step",
    "warmup_inclusive",
    "weight_decay",
    "momentum",
    "gamma",
    "k",
    "resample",
    "beta",
    "tau",
    "defer_until",
    "halve_supervised",
    "correct_labels",
    "twenty_is_few",
    "shots",
    "select",
    "checkpoint_every",
    "log",
];

/// A run of a sweep.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name of its folder.
    pub name: String,
    /// The place of its settings in the grid.
    pub point: usize,
    /// What it computes.
    pub config: Config,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The configuration in its folder.
    pub config: Config,
    /// Its last epoch.
    pub last: EpochMetrics,
    /// Its best epoch.
    pub best: EpochMetrics,
}

/// How far a run has come.
#[derive(Clone, Debug)]
pub enum State {
    /// Its folder is not there yet.
    New,
    /// This many epochs are finished and saved.
    Partway(usize),
    /// All of them are.
    Finished(Box<Finished>),
}

/// The runs of a sweep, in the order in which they are made.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Where their folders are.
    pub folder: PathBuf,
    /// The runs.
    pub members: Vec<Member>,
}

impl Sweep {
    /// Refuses a folder that holds anything but runs of this sweep and the entries of `own`.
    ///
    /// # Errors
    /// When there is such a thing in it, or the system refuses.
    pub fn check_folder(&self, own: &[&str]) -> Result<()> {
        let partial = format!("{SUMMARY}.partial");
        for name in files::names_in(&self.folder)? {
            let is_ours = |known: &str| name == known;
            let known = own.iter().copied().chain([SUMMARY, &partial]).any(is_ours);
            if !known && !self.members.iter().any(|member| is_ours(&member.name)) {
                let name = Path::new(&name).display();
                let what = format!("holds {name}, which is no run of this sweep: give another --out");
                return Err(Error::file(&self.folder, what));
            }
        }
        Ok(())
    }

    /// How far each run has come on the store with this fingerprint, if there is a store.
    ///
    /// # Errors
    /// When a folder holds a run of another configuration or store, damaged files, or something else than a run, or when
    /// another process trains in it.
    pub fn states(&self, fingerprint: Option<&str>) -> Result<Vec<State>> {
        self.members.iter().map(|member| self.state(member, fingerprint)).collect()
    }

    fn state(&self, member: &Member, fingerprint: Option<&str>) -> Result<State> {
        let (path, config) = (self.folder.join(&member.name), &member.config);
        if !path.join("config.toml").exists() {
            check_new(&path)?;
            return Ok(State::New);
        }
        let folder = RunFolder::open(&path)?;
        let stored = Config::read(&folder.config())?;
        if let Some(what) = difference(&stored, config, &[]) {
            let what = format!("is a run of another configuration than this sweep's ({what}): give another --out");
            return Err(Error::file(&path, what));
        }
        if let Some(parent) = RunRecord::read(&folder.record()).parent {
            let what =
                format!("goes on from {}, as no run of a sweep does: give another --out", parent.folder.display());
            return Err(Error::file(&path, what));
        }
        let last = folder.last();
        if !last.exists() {
            return Ok(State::Partway(0));
        }
        let checkpoint = Checkpoint::read(&last)?;
        let manifest = &checkpoint.manifest;
        manifest.check_configuration(&last, &stored)?;
        if let Some(fingerprint) = fingerprint {
            manifest.check_store(&last, fingerprint, &config.placement.data)?;
        }
        let (epoch, best) = (manifest.progress.epoch, manifest.progress.best);
        let (true, true, Some((best, _))) = (epoch == config.epochs, folder.result().exists(), best) else {
            return Ok(State::Partway(epoch));
        };
        let history = folder.read_metrics(epoch, &manifest.progress.metrics, manifest.is_old())?;
        // Both count from 1, and a manifest's best epoch is one of those that are finished.
        let [last, best] = [epoch, best].map(|epoch| history[epoch - 1].clone());
        Ok(State::Finished(Box::new(Finished { config: stored, last, best })))
    }

    /// Makes the runs that are not finished; returns what became of those whose numbers did not stay finite: they do not keep
    /// the others from being made. `command` goes on with the sweep.
    ///
    /// # Errors
    /// When a run cannot be made for any other reason, or [`Error::Interrupted`] after Ctrl-C.
    pub fn run(&self, states: &[State], command: &str) -> Result<Vec<String>> {
        let mut diverged = Vec::new();
        for (at, (Member { name, config, .. }, state)) in self.members.iter().zip(states).enumerate() {
            let path = self.folder.join(name);
            if stop::signal().is_some() {
                let what = format!("stopped before the run {}; to continue: {command}", word(&path));
                return Err(Error::Interrupted(what));
            }
            let role = Role::Part(command);
            let announce = |verb: &str| note!("{verb} run {} of {}: {name}", at + 1, self.members.len());
            let outcome = match state {
                State::Finished(_) => continue,
                State::New => {
                    announce("starting");
                    let backend = config.placement.open()?;
                    session::start(config, || RunFolder::create(&path, config), role, backend.as_ref())
                }
                State::Partway(_) => {
                    announce("resuming");
                    let backend = config.placement.open()?;
                    session::resume(config, RunFolder::open(&path)?, false, role, backend.as_ref())
                }
            };
            match outcome {
                Err(Error::Training(what)) => {
                    note!("warning: {name}: {what}");
                    diverged.push(name.clone());
                }
                other => other?,
            }
        }
        Ok(diverged)
    }

    /// How long the runs will take that are not finished, and a sentence on what that is taken from: the first steps and an
    /// evaluation of one run of each kind, which are made here and thrown away.
    ///
    /// # Errors
    /// When a run cannot be made, or [`Error::Interrupted`] after Ctrl-C.
    pub fn estimate(&self, states: &[State], data: &Data<'_>) -> Result<(Duration, String)> {
        let mut known: Vec<(String, Pace)> = Vec::new();
        let mut total = Duration::ZERO;
        for (member, state) in self.members.iter().zip(states) {
            let config = &member.config;
            let epochs = match state {
                State::New => config.epochs,
                State::Partway(done) => config.epochs - done,
                State::Finished(_) => continue,
            };
            let kind = kind(config);
            let at = match known.iter().position(|(other, _)| *other == kind) {
                Some(at) => at,
                None => {
                    known.push((kind, Pace::measure(config, &Data { framing: config.framing(), ..*data })?));
                    known.len() - 1
                }
            };
            total += known[at].1.epoch.mul_f64(epochs as f64);
        }
        let steps: usize = known.iter().map(|(_, pace)| pace.steps).sum();
        let of = match known.len() {
            0 | 1 => "one run".to_string(),
            n => format!("each of {n} kinds of run"),
        };
        Ok((total, format!("by the pace of the first {steps} steps and an evaluation of {of}")))
    }
}

/// How fast a run is.
struct Pace {
    /// Of training and evaluation.
    epoch: Duration,
    /// What was timed.
    steps: usize,
}

impl Pace {
    fn measure(config: &Config, data: &Data<'_>) -> Result<Pace> {
        let backend = config.placement.open()?;
        let backend = backend.as_ref();
        let engine = Engine::new(backend, config, data)?;
        engine.initialise(backend, config.seed)?;
        let plan = engine.draw(0)?;
        engine.load(backend, &plan, 0)?;
        // The first step touches all memory for the first time; it counts only where it is the only one.
        let mut begun = Instant::now();
        let mut timed = 0;
        for step in 0..plan.steps() {
            stop::check()?;
            engine.run(backend, &plan, step)?;
            backend.wait(&backend.mark()?)?;
            if step == 0 && plan.steps() > 1 {
                begun = Instant::now();
                continue;
            }
            timed += 1;
            if timed >= FIRST_STEPS && begun.elapsed() >= PACE {
                break;
            }
        }
        let training = begun.elapsed().mul_f64(plan.steps() as f64 / timed as f64);
        stop::check()?;
        let begun = Instant::now();
        engine.evaluate(backend)?;
        Ok(Pace { epoch: training + begun.elapsed(), steps: timed })
    }
}

/// The settings that say how long a step takes.
fn kind(config: &Config) -> String {
    let mut settings = table(config);
    settings.retain(|key, _| !AS_LONG.contains(&key));
    settings.to_string()
}

fn table(config: &Config) -> toml::Table {
    // A configuration has a TOML form, which is a table.
    toml::from_str(&config.to_toml()).expect("a table")
}

/// The settings of a run in what it computes, those in `but` left out: name and value, as TOML has it.
pub fn settings(config: &Config, but: &[&str]) -> Vec<(String, String)> {
    let of_run = |(key, _): &(String, toml::Value)| !PLACE.contains(&key.as_str()) && !but.contains(&key.as_str());
    table(config).into_iter().filter(of_run).map(|(key, value)| (key, value.to_string())).collect()
}

/// How two runs differ in what they compute, as in `lr 0.1 there, 0.2 here`, the settings in `but` not counted; `None` where
/// they do not.
pub fn difference(there: &Config, here: &Config, but: &[&str]) -> Option<String> {
    let (there, here) = (table(there), table(here));
    let mut keys: Vec<&String> = there.keys().chain(here.keys().filter(|key| !there.contains_key(*key))).collect();
    keys.retain(|key| !PLACE.contains(&key.as_str()) && !but.contains(&key.as_str()));
    let text = |table: &toml::Table, key: &str| table.get(key).map_or("not set".into(), ToString::to_string);
    let differing = keys.into_iter().filter(|key| there.get(*key) != here.get(*key));
    let parts: Vec<String> =
        differing.map(|key| format!("{key} {} there, {} here", text(&there, key), text(&here, key))).collect();
    if parts.is_empty() { None } else { Some(parts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PlacementSettings, Settings};

    fn config(settings: Settings) -> Config {
        Config::resolve(settings.or(Settings { placement: PlacementSettings::on("x.lt"), ..Settings::default() }))
            .unwrap()
    }

    #[test]
    fn a_difference_is_named_unless_it_is_of_place() {
        let one = config(Settings::default());
        let moved = PlacementSettings { threads: Some(3), checkpoint_every: Some(7), ..PlacementSettings::on("y.lt") };
        assert_eq!(difference(&one, &config(Settings { placement: moved, ..Settings::default() }), &[]), None);
        let other = config(Settings { seed: Some(3), k: Some(1.0), ..Settings::default() });
        assert_eq!(difference(&one, &other, &["seed"]).unwrap(), "k 1.2 there, 1.0 here");
        assert_eq!(difference(&one, &other, &[]).unwrap(), "k 1.2 there, 1.0 here; seed 0 there, 3 here");
    }

    #[test]
    fn runs_of_one_kind_are_as_fast() {
        let one = config(Settings::default());
        let with = |settings| kind(&config(settings));
        assert_eq!(kind(&one), with(Settings { lr: Some(0.5), epochs: Some(7), seed: Some(2), ..Settings::default() }));
        assert_ne!(kind(&one), with(Settings { width: Some(16), ..Settings::default() }));
    }
}
