//! `glmc-engine train`.

use std::path::{Path, PathBuf};

use super::self_test::TrustArgs;
use super::signals;
use crate::backend::{self, AUTO};
use crate::config::{Config, DataSet, PlacementSettings, Preset, Settings, preset, presets};
use crate::console::{note, say};
use crate::data::store::Store;
use crate::data::synthetic::{self, SyntheticConfig};
use crate::error::{Error, Result};
use crate::train::run_folder::{RunFolder, check_new, free_name, to_resume};
use crate::train::session;

/// What the loss terms mean: a total below zero is no fault.
const LOSSES: &str = "Loss terms of glmc (paper, section 3): L_c of the conventional classifier fc, L_cb of the rebalanced \
    fc_cb, L_sim of the two views' similarity. The total is alpha*L_c + (1-alpha)*L_cb + gamma*L_sim, with alpha falling from 1 \
    to 0. L_sim is a sum of two negative cosines, from 2 down to -2, so that the total falls below zero as the views agree.";

/// Train a model (without options: the built-in demo).
#[derive(Debug, clap::Args)]
#[command(after_help = LOSSES)]
pub struct TrainArgs {
    /// Published settings to start from; `glmc-engine train --list-presets` lists them [default without --data and --config: demo]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// TOML file of settings, named as the flags are but with underscores; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder for the run [default: a new one under runs/]
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Continue the run in this folder (or named by its last.safetensors); only --data, --device, --precision, --threads, --checkpoint-every and --resident-limit may change
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "config"])]
    resume: Option<PathBuf>,
    /// With --resume: begin the run again from its first epoch, discarding its checkpoints and metrics
    #[arg(long, requires = "resume")]
    restart: bool,
    /// Accept a store with another number of classes than the preset is meant for
    #[arg(long)]
    any_data: bool,
    /// List the presets and exit
    #[arg(long)]
    list_presets: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the subcommand.
pub fn run(args: TrainArgs) -> Result<()> {
    if args.list_presets {
        for preset in presets() {
            say!("{:<24}{}", preset.name, preset.description());
        }
        return Ok(());
    }
    signals::outlive_readers();
    signals::listen("stopping: the step in progress is finished and saved first")?;
    match args.resume {
        Some(run) => resume(&to_resume(&run)?, args.restart, args.trust, args.settings),
        None => start(args),
    }
}

fn start(args: TrainArgs) -> Result<()> {
    let TrainArgs { preset: name, config: file, out, any_data, trust, settings: flags, .. } = args;
    let (in_file, named_in_file) = match &file {
        Some(path) => Settings::read(path)?,
        None => (Settings::default(), None),
    };
    let settings = flags.or(in_file);
    let demo_meant = file.is_none() && settings.placement.data.is_none();
    let name = name.or(named_in_file).or_else(|| demo_meant.then(|| "demo".to_string()));
    let preset = name.as_deref().map(preset).transpose()?;
    let base = preset.as_ref().map(Preset::settings).unwrap_or_default();
    let is_demo = name.as_deref() == Some("demo") && settings.placement.data.is_none();
    let out = out.unwrap_or_else(|| free_name("runs".as_ref(), name.as_deref().unwrap_or("run")));
    let mut settings = settings.or(base);
    if let (device, Some(why)) = backend::resolve(settings.placement.device.as_deref().unwrap_or(AUTO)) {
        note!("device {device}: {why}");
        settings.placement.device = Some(device);
    }
    if is_demo {
        settings.placement.data = Some(out.join("data.lt"));
    }
    let mut config = Config { preset: name, ..Config::resolve(settings)? };
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    if is_demo {
        check_new(&out)?;
        let data = out.join("data.lt");
        std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
        if !data.exists() {
            note!("drawing the demo's images into {}", data.display());
            synthetic::prepare(&data, &SyntheticConfig { seed: config.seed, ..SyntheticConfig::default() })?;
        }
    }
    // An absolute path, so that the run can be resumed from anywhere.
    let data = &mut config.placement.data;
    crate::data::recover(data)?;
    *data = std::fs::canonicalize(&data).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(&data, "no such store; make one with `glmc-engine prepare`"),
        _ => Error::io(&data)(e),
    })?;
    if let Some(preset) = &preset {
        check_data(preset, &Store::open(data)?, any_data)?;
    }
    session::start(&config, || RunFolder::create(&out, &config), backend.as_ref())
}

/// Whether a store is what a preset is meant for: the number of classes must be, the rest is worth a warning.
fn check_data(preset: &Preset, store: &Store, any_data: bool) -> Result<()> {
    let (name, counts) = (&preset.name, &store.meta().counts);
    let DataSet::Cifar { classes, imbalance } = preset.data else { return Ok(()) };
    if counts.len() != classes && !any_data {
        let found = counts.len();
        let what =
            format!("has {found} classes, but --preset {name} is meant for {classes}: --any-data takes it anyway");
        return Err(Error::file(store.path(), what));
    }
    let (most, least) = (counts.iter().max().copied().unwrap_or(0), counts.iter().min().copied().unwrap_or(0));
    let found = most as f64 / least.max(1) as f64;
    let side = (store.train().height(), store.train().width());
    // Counts are whole numbers, so that the ratio is near the imbalance, not equal to it.
    if (found / imbalance as f64 - 1.0).abs() > 0.1 || side != (32, 32) {
        let (height, width) = side;
        note!(
            "warning: --preset {name} is meant for imbalance {imbalance} and images of 32x32; the store has {found:.0} and \
             {height}x{width}"
        );
    }
    Ok(())
}

fn resume(run: &Path, restart: bool, trust: TrustArgs, flags: Settings) -> Result<()> {
    let Settings { placement, .. } = flags.clone();
    if flags != (Settings { placement: placement.clone(), ..Settings::default() }) {
        let what = "--resume keeps the run's own settings: only --data (the same store, moved), \
                    --device, --precision, --threads, --checkpoint-every and --resident-limit may change";
        return Err(Error::Usage(what.into()));
    }
    let folder = RunFolder::open(run)?;
    let stored = Config::read(&folder.config())?;
    let moved = placement.data.map(|path| std::fs::canonicalize(&path).map_err(Error::io(&path))).transpose()?;
    let placement = PlacementSettings { data: moved, ..placement }.over(&stored.placement);
    if !placement.data.exists() {
        let what =
            format!("names the store {}, which is not there: put it back, or give --data", placement.data.display());
        return Err(Error::file(folder.config(), what));
    }
    let config = Config { placement, ..stored };
    config.check()?;
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    session::resume(&config, folder, restart, backend.as_ref())
}
