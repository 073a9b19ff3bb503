//! `glmc-engine finetune`.

use std::path::{Path, PathBuf};

use super::self_test::TrustArgs;
use super::signals;
use super::train::{check_outside, located};
use crate::config::{
    Config, DEVICE, Init, PlacementSettings, SECOND_STAGES, SecondStage, Settings, Which, second_stage_parser,
};
use crate::console::note;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::train::checkpoint::Checkpoint;
use crate::train::run_folder::{RunFolder, check_new, free_name};
use crate::train::session::{self, Role};

/// Train the classifier of a finished run on, its encoder left as it is, as a new run
#[derive(Debug, clap::Args)]
#[command(after_help = methods(), mut_arg("method", |arg| arg.long("base-method").hide(true)))]
pub struct FinetuneArgs {
    /// Run folder or checkpoint file to start from; it stays as it is
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Second stage, with its published settings
    #[arg(long = "method", value_name = "STAGE", value_parser = second_stage_parser())]
    stage: &'static SecondStage,
    /// Which checkpoint of the run folder [default: last]
    #[arg(long)]
    checkpoint: Option<Which>,
    /// TOML file of settings that win over the stage's, key by key; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder for the new run [default: a new one under runs/]
    #[arg(long, value_name = "NEW")]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten, next_help_heading = DEVICE)]
    trust: TrustArgs,
}

/// The second stages and their published figures, for `--help`.
fn methods() -> String {
    let mut text = String::from(
        "Stages, and their published top-1 on CIFAR-10-LT and CIFAR-100-LT at imbalance 100, 50, 10 (ResNet-32, width 16):\n",
    );
    for stage in SECOND_STAGES {
        let figure = |figure: &Option<f64>| figure.map_or_else(|| "-".into(), |top1| format!("{top1:.2}"));
        let figures = |all: &[Option<f64>]| all.iter().map(figure).collect::<Vec<_>>().join(" / ");
        let published = &stage.published;
        let (ten, hundred) = (figures(&published.cifar10), figures(&published.cifar100));
        let known = match published.source {
            "" => "none for this network".into(),
            source => format!("{ten} and {hundred} ({source})"),
        };
        text += &format!("  {:<9}{}; {}: {known}\n", stage.name, stage.title, stage.source);
    }
    text += "After a run on photographs crt, lws and mislas have their settings for ImageNet-LT.\n";
    text + "What is not said is the stage's own; model, seed, data and device are the run's."
}

/// Runs the subcommand.
pub fn run(args: FinetuneArgs) -> Result<()> {
    let FinetuneArgs { run, stage, checkpoint, config: file, out, settings: flags, trust } = args;
    let in_file = match &file {
        None => Settings::default(),
        Some(path) => match Settings::read(path)? {
            (_, Some(_)) => return Err(Error::file(path, "names a preset, and finetune takes its stage by --method")),
            (settings, None) if settings.init.is_some() => {
                return Err(Error::file(path, "has a table init, and finetune starts from the run that it is given"));
            }
            (settings, None) => settings,
        },
    };
    let from = std::fs::canonicalize(&run).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(&run, "there is no run here"),
        _ => Error::io(&run)(e),
    })?;
    let out = out.unwrap_or_else(|| free_name("runs".as_ref(), &name(&from, stage)));
    let init = Init { from: from.clone(), checkpoint, reinit: Vec::new() };
    if init.folder().join("config.toml").exists() {
        check_outside(init.folder(), &out, "finetune")?;
    }
    check_new(&out)?;
    let flags = flags.or(in_file);
    let (parent, counts) = parent(&init, flags.placement.data.as_deref())?;
    let placement = flags.placement.clone();
    let published = stage.settings(&parent, &counts, from, checkpoint)?;
    let mut settings = flags.or(published);
    // As the first run did, where nothing else is said.
    settings.placement = PlacementSettings::of(placement.over(&parent.placement));
    let mut config = Config::resolve(settings)?;
    signals::outlive_readers();
    signals::listen("stopping: the step in progress is finished and saved first")?;
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    config.placement.data = located(&config.placement.data)?;
    config.check()?;
    config.settle(&Store::open(&config.placement.data)?)?;
    note!("{} ({})", stage.title, stage.source);
    session::start(&config, || RunFolder::create(&out, &config), Role::Alone, backend.as_ref())
}

/// What the new run is called if nothing else is said.
fn name(from: &Path, stage: &SecondStage) -> String {
    let folder = if from.is_dir() { Some(from) } else { from.parent() };
    let name =
        folder.and_then(Path::file_name).map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
    format!("{name}-{}", stage.name)
}

/// The first run's configuration, and the training images per class: of an imported model those of the new run's data.
fn parent(init: &Init, data: Option<&Path>) -> Result<(Config, Vec<usize>)> {
    let file = init.file()?;
    let mut manifest = Checkpoint::read(&file)?.manifest;
    if manifest.imported.is_some() {
        let gone = || Error::file(&file, "was imported, and does not know what it was trained on: give --data");
        manifest.counts.clone_from(&Store::open(&located(data.ok_or_else(gone)?)?)?.meta().counts);
    }
    // A run that has moved says so in its folder, not in its older checkpoints.
    let stored = init.folder().join("config.toml");
    let placement = if stored.exists() { Config::read(&stored)?.placement } else { manifest.config.placement.clone() };
    Ok((Config { placement, ..manifest.config }, manifest.counts))
}
