//! `glmc-engine report`.

use std::path::PathBuf;
use std::time::SystemTime;

use super::device::DeviceArgs;
use super::self_test::TrustArgs;
use super::trained::{StoreArgs, Trained};
use crate::config::Which;
use crate::console::{self, note, print, tell};
use crate::error::{Error, Result};
use crate::files::check_place;
use crate::report::{Report, Run, Seen, check_folder, folders, name, write_events, write_tables};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{Data, normalisation};
use crate::train::evaluate::{EvaluationConfig, Evaluator};
use crate::train::passes::Look;

/// The page, where nothing else is said.
const PAGE: &str = "report.html";

/// Make a page of what runs have come to: curves, classes, calibration, mistakes, settings
///
/// Runs that differ in their seed alone are shown as mean and deviation; those on other data apart. A run may be still going on.
/// Where the store that a run was trained on is at hand, its checkpoint is evaluated for what metrics do not say: confusions,
/// reliability and the images most confidently wrong. Runs are not altered.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Run folders, or folders of stages or of a sweep, whose runs are meant
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page, one HTML file that needs no other [default: report.html]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Also write tables: epochs.csv, runs.csv, classes.csv, confusion.csv, reliability.csv
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// Also write event files that TensorBoard opens, a folder for each run
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Also print the outcome as Markdown
    #[arg(long)]
    markdown: bool,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// The checkpoint that is evaluated
    #[arg(long, default_value_t)]
    checkpoint: Which,
    /// The store that the runs were trained on, where it has moved
    #[arg(long, value_name = "STORE")]
    data: Option<PathBuf>,
    /// Evaluate no checkpoint: quick, and without confusions, reliability and images
    #[arg(long)]
    no_evaluation: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the subcommand.
pub fn run(args: ReportArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| PAGE.into());
    check_place(&out, "--out", args.force)?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in &args.runs {
        for folder in folders(path)? {
            let folder = std::fs::canonicalize(&folder).map_err(Error::io(&folder))?;
            if !paths.contains(&folder) {
                paths.push(folder);
            }
        }
    }
    let (mut runs, mut checkpoints) = (Vec::new(), Vec::new());
    for path in &paths {
        let (run, checkpoint) = Run::read(path, args.checkpoint)?;
        // Only that it is there: many runs' weights need not be in memory at a time.
        checkpoints.push(checkpoint.map(|(file, _)| file));
        runs.push(run);
    }
    name(&mut runs);
    for (folder, events) in [(&args.csv, false), (&args.tensorboard, true)] {
        folder.as_ref().map_or(Ok(()), |folder| check_folder(folder, &runs, events, args.force))?;
    }
    for (run, file) in runs.iter_mut().zip(checkpoints) {
        if args.no_evaluation {
            run.notes.push("was not evaluated for this page, as --no-evaluation wants it".into());
        } else if let Some(file) = file {
            note!("evaluating {}", file.display());
            match seen(run, file, &args) {
                Ok(seen) => run.seen = Some(seen),
                Err(error) => run.notes.push(format!("was not evaluated for this page: {error}")),
            }
        }
        run.notes.iter().for_each(|what| note!("warning: {} {what}", run.name));
    }
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let report = Report { runs, date };
    report.write_page(&out)?;
    let said = |what: String| if args.markdown { note!("{what}") } else { tell!("{what}") };
    said(format!("{}: {} runs", out.display(), report.runs.len()));
    if let Some(folder) = &args.csv {
        write_tables(folder, &report.runs)?;
        said(format!("{}: tables", folder.display()));
    }
    if let Some(folder) = &args.tensorboard {
        write_events(folder, &report.runs)?;
        said(format!("{}: event files, for tensorboard --logdir", folder.display()));
    }
    if args.markdown {
        print(format_args!("{}", report.markdown()));
    }
    console::finish()
}

/// What a run's checkpoint makes of the test images of the store that it was trained on.
fn seen(run: &Run, file: PathBuf, args: &ReportArgs) -> Result<Seen> {
    let data = args.data.as_ref().unwrap_or(&run.config.placement.data);
    if !data.exists() {
        return Err(Error::file(
            data,
            "the store that the run was trained on is gone: say where it is now, with --data",
        ));
    }
    let checkpoint = Checkpoint::read(&file)?;
    let trained = Trained::open(file, checkpoint, data, StoreArgs::default())?;
    let Trained { file, checkpoint, store, subject, framing } = &trained;
    let manifest = &checkpoint.manifest;
    manifest.check_store(file, &store.fingerprint()?, data)?;
    let backend = args.device.open_proven(args.trust)?;
    let backend = backend.as_ref();
    let (recipe, model, parameters) = trained.load(backend)?;
    let Data { test, augmentation, .. } = Data::of(store, *framing);
    let augmentation = normalisation(augmentation, subject.mean, subject.std);
    let test = test.ok_or_else(|| Error::file(data, "has no test images"))?;
    let (flip, head) = (manifest.config.eval_flip, manifest.config.head.unwrap_or(recipe.evaluate));
    let (feed, batch) = trained.feed(backend, test, flip)?;
    let (look, groups) = (Look { augmentation, flip, batch, arena: None }, manifest.shots().groups(&manifest.counts));
    let how = EvaluationConfig { look, head, groups, answers: true };
    let mut guesses = Vec::with_capacity(test.labels.len());
    let evaluation =
        Evaluator::new(backend, &model, &parameters, &feed, how)?.run_with(backend, &feed, &mut |_, answer| {
            guesses.extend(answer.top(1));
            Ok(())
        })?;
    let of = (format!("{}.safetensors", args.checkpoint), manifest.progress.epoch, head.to_string());
    Seen::of((evaluation, &guesses), store.test(), of)
}
