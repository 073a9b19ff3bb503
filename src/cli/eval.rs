//! `glmc-engine eval`.

use std::path::{Path, PathBuf};

use super::device::DeviceArgs;
use super::predictions::{Confusion, Format, Lines, Of, Subject};
use super::self_test::TrustArgs;
use super::trained::{StoreArgs, Trained};
use crate::console::{Column, Table, say, tell};
use crate::data::shots::{ShotRule, Shots};
use crate::error::{Error, Result};
use crate::files::{check_place, write_atomically};
use crate::method::photos::Framing;
use crate::nn::HeadKind;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{Data, normalisation};
use crate::train::evaluate::{Evaluation, EvaluationConfig, Evaluator};
use crate::train::passes::Look;
use crate::train::report::{accuracies, per_class_table};
use crate::train::run_folder::checkpoint_file;

/// Evaluate a checkpoint on a store's test images.
///
/// Pixels are normalised as they were in training, and classes named and grouped by their training images, all by what the
/// checkpoint says.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// A run folder, whose last.safetensors is meant, or a checkpoint file
    #[arg(long, value_name = "RUN|FILE")]
    checkpoint: PathBuf,
    /// Store whose test images are used
    #[arg(long, value_name = "STORE")]
    data: PathBuf,
    /// Classifier [default: the one that the run was evaluated with]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Average the logits of each image and of its mirror image [default: as the run was evaluated]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    flip: Option<bool>,
    /// Which classes count as many-, medium- and few-shot [default: those of the run]
    #[arg(long, value_name = "RULE")]
    shots: Option<Shots>,
    /// Write a line for each class: its name, training images, group, test images and recall
    #[arg(long, value_name = "FILE.csv")]
    per_class: Option<PathBuf>,
    /// Write a line for each test image, as CSV or JSON Lines: its class and what it was taken for
    #[arg(long, value_name = "FILE.csv|FILE.jsonl")]
    predictions: Option<PathBuf>,
    /// Write how often images of each class (rows) were taken for each class (columns)
    #[arg(long, value_name = "FILE.csv")]
    confusion: Option<PathBuf>,
    /// Classes of a line of --predictions
    #[arg(long, value_name = "K", default_value_t = 5, requires = "predictions")]
    top: usize,
    /// Replace existing files of --predictions and --confusion
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the subcommand.
pub fn run(args: EvalArgs) -> Result<()> {
    if args.top == 0 {
        return Err(Error::Usage("--top 0: must be 1 or more".into()));
    }
    for (option, path) in [("--predictions", &args.predictions), ("--confusion", &args.confusion)] {
        path.as_ref().map_or(Ok(()), |path| check_place(path, option, args.force))?;
    }
    if args.predictions.is_some() && args.predictions == args.confusion {
        return Err(Error::Usage("--predictions and --confusion name the same file".into()));
    }
    let format = args.predictions.as_ref().map(|path| Format::of(path, "--predictions")).transpose()?;
    let file = checkpoint_file(&args.checkpoint, None)?;
    let checkpoint = Checkpoint::read(&file)?;
    let trained = Trained::open(file, checkpoint, &args.data, args.store)?;
    let Trained { file, checkpoint, store, subject, framing } = &trained;
    let manifest = &checkpoint.manifest;
    let (config, counts) = (&manifest.config, &manifest.counts);
    let rule = args.shots.map_or(manifest.shots(), |shots| shots.rule(counts.len()));
    let backend = args.device.open_proven(args.trust)?;
    let backend = backend.as_ref();
    let (recipe, model, parameters) = trained.load(backend)?;
    let Data { test, augmentation, .. } = Data::of(store, *framing);
    let augmentation = normalisation(augmentation, subject.mean, subject.std);
    let test = test.ok_or_else(|| Error::file(&args.data, "has no test images"))?;
    let flip = args.flip.unwrap_or(config.eval_flip);
    let (feed, batch) = trained.feed(backend, test, flip)?;
    let head = args.head.or(config.head).unwrap_or(recipe.evaluate);
    let look = Look { augmentation, flip, batch, arena: None };
    let answers = args.predictions.is_some() || args.confusion.is_some();
    let how = EvaluationConfig { look, head, groups: rule.groups(counts), answers };
    let evaluator = Evaluator::new(backend, &model, &parameters, &feed, how)?;
    let names = &subject.class_names;
    let begin = |format| Lines::begin(format, args.predictions.as_deref(), Of::Labels, args.top, names);
    let (mut lines, mut confusion) = (format.map(begin).transpose()?, Confusion::default());
    let evaluation = evaluator.run_with(backend, &feed, &mut |image, answer| {
        let (label, guesses) = (test.labels[image] as usize, answer.top(args.top));
        confusion.add(label, guesses[0].class);
        lines.as_mut().map_or(Ok(()), |lines| lines.add(image, Subject::Label(label), Ok(&guesses)))
    })?;
    lines.map_or(Ok(()), Lines::finish)?;
    args.confusion.as_ref().map_or(Ok(()), |path| confusion.write(path, names))?;
    if let Some(file) = &args.per_class {
        write_classes(file, &evaluation, rule, &subject.class_names, counts, test.labels)?;
    }
    if args.json {
        let mut json = serde_json::to_value(&evaluation).map_err(|e| Error::file(file, e.to_string()))?;
        json["head"] = head.to_string().into();
        json["epoch"] = manifest.progress.epoch.into();
        if flip {
            json["flip"] = true.into();
        }
        if let Some(Framing { size, resize, .. }) = framing {
            (json["size"], json["eval_resize"]) = ((*size).into(), (*resize).into());
        }
        if let Some(what) = &manifest.posthoc {
            json["posthoc"] = what.as_str().into();
        }
        say!("{json}");
    } else {
        let changed = manifest.posthoc.as_ref().map(|what| format!(", then {what}")).unwrap_or_default();
        tell!("{}, epoch {}{changed}", file.display(), manifest.progress.epoch);
        let flipped = if flip { ", mean over each image and its mirror image" } else { "" };
        let framed = framing.map_or_else(String::new, |Framing { size, resize, .. }| {
            format!(", resized to {resize} with the centre of {size}x{size}")
        });
        tell!("{} test images{framed}, classifier {head}{flipped}, accuracy in percent", evaluation.images);
        print(&evaluation, rule, &subject.class_names, counts);
        for (what, file) in
            [("Class by class", &args.per_class), ("Image by image", &args.predictions), ("Confusion", &args.confusion)]
        {
            file.iter().for_each(|file| tell!("{what} in {}", file.display()));
        }
    }
    Ok(())
}

/// Writes the recall of each class as a CSV file, whole or not at all.
fn write_classes(
    at: &Path,
    e: &Evaluation,
    rule: ShotRule,
    names: &[String],
    counts: &[usize],
    labels: &[i32],
) -> Result<()> {
    let mut images = vec![0usize; counts.len()];
    labels.iter().for_each(|&label| images[label as usize] += 1);
    let wrong = |e: csv::Error| Error::file(at, format!("cannot be written: {e}"));
    write_atomically(at, |file| {
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(["class", "name", "training_images", "group", "images", "recall"]).map_err(wrong)?;
        for (class, group) in rule.groups(counts).into_iter().enumerate() {
            let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
            let recall = e.per_class[class].map_or_else(String::new, |recall| recall.to_string());
            let [class, training, images] = [class, counts[class], images[class]].map(|n| n.to_string());
            csv.write_record([class, name, training, group.name().into(), images, recall]).map_err(wrong)?;
        }
        csv.flush().map_err(Error::io(at))
    })
}

fn print(e: &Evaluation, rule: ShotRule, class_names: &[String], counts: &[usize]) {
    say!("");
    let mut table = Table::new([Column::text("classes", 0), Column::number("accuracy", 0)]);
    accuracies(e, rule).into_iter().for_each(|(name, value)| table.row([name, value]));
    table.print();
    say!("");
    tell!("Class by class: training images, and the accuracy in percent");
    per_class_table(class_names, counts, rule, &[("accuracy", e.per_class.as_slice())]).print();
}
