//! `glmc-engine eval`.

use std::path::PathBuf;

use super::device::DeviceArgs;
use crate::data::shots::Shot;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::nn::{HeadKind, ParameterStore};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{Data, EVALUATION_BATCH, head, model};
use crate::train::evaluate::{Evaluation, EvaluationConfig, Evaluator};
use crate::train::feed::Feed;
use crate::train::report::{per_class_table, percent};

/// Evaluate a checkpoint on a store's test images.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// A run's last.safetensors or best.safetensors
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Store whose test images are used
    #[arg(long, value_name = "STORE")]
    data: PathBuf,
    /// Classifier [default: the one that the run was evaluated with]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the subcommand.
pub fn run(args: EvalArgs) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let (config, counts) = (&checkpoint.manifest.config, &checkpoint.manifest.counts);
    let store = Store::open(&args.data)?;
    if store.classes() != counts.len() {
        let what = format!("has {} classes, but the checkpoint was trained on {}", store.classes(), counts.len());
        return Err(Error::file(&args.data, what));
    }
    let backend = args.device.open()?;
    let backend = backend.as_ref();
    let model = model(config, counts.len(), backend)?;
    let parameters = ParameterStore::new(backend, model.specs().clone())?;
    checkpoint.load(backend, &parameters, false)?;
    let Data { test, augmentation, .. } = Data::of(&store)?;
    let test = test.ok_or_else(|| Error::file(&args.data, "has no test images"))?;
    let batch = EVALUATION_BATCH.min(test.len());
    // Half of what is free is more than enough for the activations of one batch.
    let room = config.placement.resident_limit.map_or(backend.available()? / 2, |mib| mib.saturating_mul(1 << 20));
    let feed = Feed::new(backend, test, batch, room)?;
    feed.fill(backend)?;
    let head = args.head.unwrap_or_else(|| head(config, counts));
    let how = EvaluationConfig {
        augmentation,
        head,
        batch,
        groups: counts.iter().map(|&n| Shot::of(n, config.twenty_is_few)).collect(),
        arena: None,
    };
    let evaluation = Evaluator::new(backend, &model, &parameters, &feed, how)?.run(backend, &feed)?;
    if args.json {
        let mut json = serde_json::to_value(&evaluation).map_err(|e| Error::file(&args.checkpoint, e.to_string()))?;
        json["head"] = head.to_string().into();
        json["epoch"] = checkpoint.manifest.progress.epoch.into();
        println!("{json}");
    } else {
        print(&evaluation, head, &store, counts);
    }
    Ok(())
}

fn print(e: &Evaluation, head: HeadKind, store: &Store, counts: &[usize]) {
    println!("{} test images, classifier {head}, accuracy in percent", e.images);
    for (name, value) in [
        ("top-1", Some(e.top1)),
        ("top-5", Some(e.top5)),
        ("many-shot classes (> 100 images)", e.many),
        ("medium-shot classes (20 to 100)", e.medium),
        ("few-shot classes (< 20)", e.few),
        ("calibration error (ECE, 15 bins)", Some(e.ece)),
    ] {
        println!("  {name:<37}{:>8}", percent(value));
    }
    println!();
    print!("{}", per_class_table(&store.meta().class_names, counts, &[&e.per_class]));
}
