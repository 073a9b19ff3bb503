//! `glmc-engine eval`.

use std::path::PathBuf;

use super::device::DeviceArgs;
use super::self_test::TrustArgs;
use crate::console::{Column, Table, note, say, tell};
use crate::data::shots::ShotRule;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::nn::{HeadKind, ParameterStore};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{Data, EVALUATION_BATCH, model, normalisation};
use crate::train::evaluate::{Evaluation, EvaluationConfig, Evaluator};
use crate::train::feed::Feed;
use crate::train::manifest::Subject;
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
    /// Accept a store whose classes have other names, or stand in another order
    #[arg(long)]
    ignore_names: bool,
    /// Take mean, std and class names from the store, as checkpoints without them need it
    #[arg(long)]
    from_store: bool,
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
    let file = checkpoint_file(&args.checkpoint)?;
    let checkpoint = Checkpoint::read(&file)?;
    let manifest = &checkpoint.manifest;
    let (config, counts, rule) = (&manifest.config, &manifest.counts, manifest.shots());
    let store = Store::open(&args.data)?;
    if store.classes() != counts.len() {
        let what = format!("has {} classes, but the checkpoint was trained on {}", store.classes(), counts.len());
        return Err(Error::file(&args.data, what));
    }
    let subject = match &manifest.data {
        Some(subject) if !args.from_store => {
            check_names(&store, subject, args.ignore_names)?;
            warn_of_size(&store, subject);
            subject.clone()
        }
        None if !args.from_store => {
            let what = "was written by an older version, without mean, std and class names: --from-store takes those of \
                        the evaluated store, which is right where that is the one that it was trained on";
            return Err(Error::file(&file, what));
        }
        _ => Subject::of(&store),
    };
    let backend = args.device.open_proven(args.trust)?;
    let backend = backend.as_ref();
    let recipe = config.recipe(counts)?;
    let model = model(config, &recipe, counts.len(), backend)?;
    let parameters = ParameterStore::new(backend, model.specs().clone())?;
    checkpoint.load(backend, &parameters, false)?;
    let Data { test, augmentation, .. } = Data::of(&store)?;
    let augmentation = normalisation(augmentation, subject.mean, subject.std);
    let test = test.ok_or_else(|| Error::file(&args.data, "has no test images"))?;
    let batch = EVALUATION_BATCH.min(test.len());
    // Half of what is free is more than enough for the activations of one batch.
    let room = config.placement.resident_limit.map_or(backend.available()? / 2, |mib| mib.saturating_mul(1 << 20));
    let feed = Feed::new(backend, test, batch, room)?;
    feed.fill(backend)?;
    let head = args.head.or(config.head).unwrap_or(recipe.evaluate);
    let how = EvaluationConfig {
        augmentation,
        head,
        batch,
        groups: counts.iter().map(|&n| rule.shot(n)).collect(),
        arena: None,
    };
    let evaluation = Evaluator::new(backend, &model, &parameters, &feed, how)?.run(backend, &feed)?;
    if args.json {
        let mut json = serde_json::to_value(&evaluation).map_err(|e| Error::file(&file, e.to_string()))?;
        json["head"] = head.to_string().into();
        json["epoch"] = manifest.progress.epoch.into();
        say!("{json}");
    } else {
        tell!("{}, epoch {}", file.display(), manifest.progress.epoch);
        print(&evaluation, head, rule, &subject.class_names, counts);
    }
    Ok(())
}

/// Refuses a store whose classes are not those of the checkpoint, one by one: an accuracy would be of other questions.
fn check_names(store: &Store, subject: &Subject, ignore: bool) -> Result<()> {
    let (found, known) = (&store.meta().class_names, &subject.class_names);
    let Some(class) = (0..known.len()).find(|&class| found[class] != known[class]) else { return Ok(()) };
    if ignore {
        return Ok(());
    }
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    let how = if sorted(found) == sorted(known) { "in another order" } else { "of other names" };
    let what = format!(
        "has classes {how} than the checkpoint: class {class} is {:?} here and {:?} there; --ignore-names takes it anyway",
        found[class], known[class]
    );
    Err(Error::file(store.path(), what))
}

fn warn_of_size(store: &Store, subject: &Subject) {
    let (test, Subject { height, width, .. }) = (store.test(), subject);
    if (test.height(), test.width()) != (*height, *width) {
        let (found, path) = (format!("{}x{}", test.height(), test.width()), store.path().display());
        note!("warning: {path}: images of {found}, but the checkpoint was trained on {height}x{width}");
    }
}

fn print(e: &Evaluation, head: HeadKind, rule: ShotRule, class_names: &[String], counts: &[usize]) {
    tell!("{} test images, classifier {head}, accuracy in percent", e.images);
    say!("");
    let mut table = Table::new([Column::text("classes", 0), Column::number("accuracy", 0)]);
    accuracies(e, rule).into_iter().for_each(|(name, value)| table.row([name, value]));
    table.print();
    say!("");
    tell!("Class by class: training images, and the accuracy in percent");
    per_class_table(class_names, counts, rule, &[("accuracy", e.per_class.as_slice())]).print();
}
