//! `glmc-engine predict`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::DeviceArgs;
use super::meter::Meter;
use super::predictions::{Format, Lines, Of, Rows, Subject};
use super::prepare::DecodeLimits;
use super::self_test::TrustArgs;
use super::trained::{OnFiles, load};
use crate::console::{self, note, tell};
use crate::data::decode::Exif;
use crate::data::inputs;
use crate::data::loader::{Loader, Planned};
use crate::data::resize::Resize;
use crate::error::{Error, Result, shown};
use crate::files::check_place;
use crate::nn::HeadKind;
use crate::ops::augment_mix::Augmentation;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{batch_of_evaluation, normalisation};
use crate::train::predict::{PredictConfig, predict};
use crate::train::run_folder::checkpoint_file;

/// Say what is in images
///
/// Files are turned upright, resized, cut and normalised as those that the model was trained on, by what the checkpoint says. What
/// cannot be read is named on standard error and has a line without a class, and NaN in the arrays; the exit status is 1 then.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    /// A run folder, whose last.safetensors is meant, or a checkpoint file
    #[arg(long, value_name = "RUN|FILE")]
    checkpoint: PathBuf,
    /// Images, folders of them (at any depth), lists of paths (NAME.txt, one a line), or - for a list on standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// What paths in lists are relative to [default: the list's folder; of standard input the current one]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Classifier [default: the one that the run was evaluated with]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Average the logits of each image and of its mirror image [default: as the run was evaluated]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    flip: Option<bool>,
    /// How many classes to name
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// How to write them [default: table, or what the name of --out ends in]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write them into a file NAME.csv or NAME.jsonl
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the logits as a NumPy array (files, classes) of f32, a row for each file
    #[arg(long, value_name = "FILE.npy")]
    logits: Option<PathBuf>,
    /// Write the encoder's features as a NumPy array (files, width) of f32, likewise
    #[arg(long, value_name = "FILE.npy")]
    features: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Files that cannot be read are no error
    #[arg(long)]
    skip_broken: bool,
    /// Images at a time; results do not depend on it [default: 64 photographs, or 256 small images]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Resize files first, as `prepare images --resize` [default: as those that were trained on, or short:S with the S that
    /// evaluation resizes to]
    #[arg(long, value_name = "HOW")]
    resize: Option<Resize>,
    /// Turn images upright as their EXIF data say, or take them as stored [default: as those that were trained on, or apply]
    #[arg(long, value_enum)]
    exif: Option<Exif>,
    #[command(flatten)]
    limits: DecodeLimits,
    /// Take mean, std, class names and size from the store that the model was trained on, as checkpoints without them need it
    #[arg(long, value_name = "STORE")]
    from_store: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the subcommand.
pub fn run(args: PredictArgs) -> Result<()> {
    let format = check(&args)?;
    super::signals::listen("stopping: nothing is written")?;
    let file = checkpoint_file(&args.checkpoint, None)?;
    let checkpoint = Checkpoint::read(&file)?;
    let on = OnFiles::open(&file, checkpoint, args.from_store.as_deref(), (args.resize, args.exif))?;
    let OnFiles { checkpoint, subject, framing, prepared } = &on;
    framing.and_then(|framing| framing.note()).into_iter().for_each(|note| note!("{note}"));
    let found = inputs::find(&args.paths, args.root.as_deref(), &mut io::stdin().lock())?;
    found.notes.iter().for_each(|note| note!("{note}"));
    let backend = args.device.open_proven(args.trust)?;
    let (recipe, model, parameters) = load(checkpoint, backend.as_ref())?;
    let config = &checkpoint.manifest.config;
    let head = args.head.or(config.head).unwrap_or(recipe.evaluate);
    let flip = args.flip.unwrap_or(config.eval_flip);

    let total = found.paths.len();
    let (classes, names) = (subject.class_names.len(), &subject.class_names);
    let mut lines = Lines::begin(format, args.out.as_deref(), Of::Files, args.top, names)?;
    let rows = |path: &Option<PathBuf>, width: usize| path.as_ref().map(|path| Rows::begin(path, total, width));
    let mut logits = rows(&args.logits, classes).transpose()?;
    let mut features = rows(&args.features, model.features()).transpose()?;

    let (meter, checked) = (Meter::new(), AtomicUsize::new(0));
    let loader = Loader::new(*prepared, args.limits.max_pixels, args.limits.memory());
    let files = Planned::new(loader, &found.paths, &|| {
        meter.tick("check", false, 1 + checked.fetch_add(1, Ordering::Relaxed), total);
    })?;
    let augmentation = Augmentation { mean: [0.0; 3], std: [1.0; 3], padding: 0, flip: false };
    let config = PredictConfig {
        head,
        augmentation: normalisation(augmentation, subject.mean, subject.std),
        framing: *framing,
        flip,
        batch: args.batch.map_or(batch_of_evaluation(*framing), |batch| batch as usize),
        features: features.is_some(),
    };
    let mut failed = 0;
    meter.start();
    let outcome = predict(backend.as_ref(), (&model, &parameters), &files, config, &mut |at, answer| {
        let path = &found.paths[at];
        if let Err(why) = answer {
            failed += 1;
            meter.say(&format!("failed: {} ({why})", shown(path)));
        }
        let guesses = answer.map(|answer| answer.top(args.top));
        meter.beside(|| lines.add(at, Subject::File(path), guesses.as_deref().map_err(|why| *why)))?;
        let answer = answer.ok();
        logits.as_mut().map_or(Ok(()), |rows| rows.add(answer.map(|answer| answer.logits)))?;
        features.as_mut().map_or(Ok(()), |rows| rows.add(answer.map(|answer| answer.features)))?;
        meter.tick("predict", true, at + 1, total);
        Ok(())
    });
    meter.end();
    outcome?;
    logits.map_or(Ok(()), Rows::finish)?;
    features.map_or(Ok(()), Rows::finish)?;
    lines.finish()?;
    if let Some(out) = &args.out {
        let flipped = if flip { ", mean over each image and its mirror image" } else { "" };
        tell!("{}: {total} images, classifier {head}{flipped}", out.display());
    }
    console::finish()?;
    match failed {
        0 => Ok(()),
        _ if failed == total => Err(Error::Config(format!("none of {total} files could be read"))),
        _ if args.skip_broken => Ok(()),
        _ => {
            let what = "the others are done; --skip-broken makes this no error";
            Err(Error::Config(format!("{failed} of {total} files could not be read; {what}")))
        }
    }
}

/// Refuses what cannot be written, before anything is computed; returns the format.
fn check(args: &PredictArgs) -> Result<Format> {
    if args.top == 0 {
        return Err(Error::Usage("--top 0: must be 1 or more".into()));
    }
    let places = [("--out", &args.out), ("--logits", &args.logits), ("--features", &args.features)];
    let places: Vec<(&str, &Path)> =
        places.iter().filter_map(|(option, path)| Some((*option, path.as_deref()?))).collect();
    for (at, (option, path)) in places.iter().enumerate() {
        check_place(path, option, args.force)?;
        if let Some((other, _)) = places[..at].iter().find(|(_, before)| before == path) {
            return Err(Error::Usage(format!("{other} and {option} name the same file")));
        }
        if *option != "--out" && path.extension().is_none_or(|end| end != "npy") {
            return Err(Error::Usage(format!("{option} {}: needs a name that ends in .npy", shown(path))));
        }
    }
    match (&args.out, args.format) {
        (None, format) => Ok(format.unwrap_or(Format::Table)),
        (Some(_), Some(Format::Table)) => {
            Err(Error::Usage("--format table is for reading: give --out with csv or jsonl".into()))
        }
        (Some(_), Some(format)) => Ok(format),
        (Some(out), None) => Format::of(out, "--out").map_err(|e| Error::Usage(e.to_string())),
    }
}
