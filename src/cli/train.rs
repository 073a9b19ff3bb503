//! `glmc-engine train`.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::config::{Config, PlacementSettings, Settings, preset, presets};
use crate::data::synthetic::{self, SyntheticConfig};
use crate::error::{Error, Result};
use crate::train::run_folder::{RunFolder, check_new, free_name, to_resume};
use crate::train::session::{self, STOP};

/// Train a model: the demo when nothing is said.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Published settings to start from; `glmc-engine train --list-presets` shows them [default without --data and --config: demo]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// TOML file of settings, named as the flags are but with underscores; flags win over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Folder for the run [default: a new one under runs/]
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder (its last.safetensors means it, too); only --data, --device, --precision, --threads, --checkpoint-every and --resident-limit may change
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "config"])]
    resume: Option<PathBuf>,
    /// With --resume: begin the run again from its first epoch, discarding its checkpoints and metrics
    #[arg(long, requires = "resume")]
    restart: bool,
    /// Show the presets and leave
    #[arg(long)]
    list_presets: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the subcommand.
pub fn run(args: TrainArgs) -> Result<()> {
    if args.list_presets {
        for preset in presets() {
            println!("{:<24}{}", preset.name, preset.description());
        }
        return Ok(());
    }
    // A second Ctrl-C ends the program at once, should a step take forever.
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::Config(format!("cannot listen for Ctrl-C: {e}")))?;
    match args.resume {
        Some(run) => resume(&to_resume(&run)?, args.restart, args.settings),
        None => start(args.preset, args.config, args.out, args.settings),
    }
}

fn start(name: Option<String>, file: Option<PathBuf>, out: Option<PathBuf>, flags: Settings) -> Result<()> {
    let (in_file, named_in_file) = match &file {
        Some(path) => Settings::read(path)?,
        None => (Settings::default(), None),
    };
    let settings = flags.or(in_file);
    let demo_meant = file.is_none() && settings.placement.data.is_none();
    let name = name.or(named_in_file).or_else(|| demo_meant.then(|| "demo".to_string()));
    let base = name.as_deref().map(preset).transpose()?.map(|preset| preset.settings()).unwrap_or_default();
    let is_demo = name.as_deref() == Some("demo") && settings.placement.data.is_none();
    let out = out.unwrap_or_else(|| free_name("runs".as_ref(), name.as_deref().unwrap_or("run")));
    let mut settings = settings.or(base);
    if is_demo {
        settings.placement.data = Some(out.join("data.lt"));
    }
    let mut config = Config { preset: name, ..Config::resolve(settings)? };
    let backend = config.placement.open()?;
    if is_demo {
        check_new(&out)?;
        let data = out.join("data.lt");
        std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
        if !data.exists() {
            eprintln!("drawing the demo's images into {}", data.display());
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
    session::start(&config, || RunFolder::create(&out, &config), backend.as_ref())
}

fn resume(run: &Path, restart: bool, flags: Settings) -> Result<()> {
    let Settings { placement, .. } = flags.clone();
    if flags != (Settings { placement: placement.clone(), ..Settings::default() }) {
        let what = "--resume goes on with the run's own settings: only --data (the same store, moved), \
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
    let backend = config.placement.open()?;
    session::resume(&config, folder, restart, backend.as_ref())
}
