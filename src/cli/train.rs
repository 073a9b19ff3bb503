//! `glmc-engine train`.

use std::path::{Path, PathBuf};

use super::self_test::TrustArgs;
use super::{signals, stages};
use crate::backend::{self, AUTO};
use crate::config::{
    Config, DEVICE, DataSet, Init, Placement, PlacementSettings, Preset, SecondStage, Settings, Then, preset, presets,
};
use crate::console::{Column, Table, note};
use crate::data::store::Store;
use crate::data::synthetic::{self, SyntheticConfig};
use crate::error::{Error, Result, word};
use crate::train::parent::ParentRun;
use crate::train::run_folder::{RunFolder, check_new, check_new_extension, free_name, to_go_on};
use crate::train::session::{self, Role};

/// What the loss terms mean: a total below zero is no fault.
const LOSSES: &str = "Loss terms of glmc (paper, section 3): L_c of the conventional classifier fc, L_cb of the rebalanced \
    fc_cb, L_sim of the two views' similarity. The total is alpha*L_c + (1-alpha)*L_cb + gamma*L_sim, with alpha falling from 1 \
    to 0. L_sim is a sum of two negative cosines, from 2 down to -2, so that the total falls below zero as the views agree.";

/// Train a model (without options: the built-in demo).
#[derive(Debug, clap::Args)]
#[command(after_help = LOSSES)]
pub struct TrainArgs {
    /// Published settings to start from; `glmc-engine train --list-presets` lists them [default without --data and --config: demo]. Of those of two stages the flags change the first, and the second follows as published, in OUT/stage-2
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// TOML file of settings, named as the flags are but with underscores; flags win over it. Tables [[stage]] are runs one after another in OUT/stage-1, OUT/stage-2, ...; each starts from the last checkpoint of the one before, or says from = "best", and draws what matches reinit = ["fc.*"] anew. Where a key is an epoch, it counts finished epochs
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Start from these parameters: a PyTorch state dict as a safetensors file (torchvision's names, or those of the models
    /// published with GLMC; heads for other classes are drawn anew), or another run or its checkpoint
    #[arg(long, value_name = "FILE|RUN", conflicts_with_all = ["resume", "extend"])]
    init: Option<PathBuf>,
    /// Folder for the run [default: a new one under runs/]
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Continue the run or the stages in this folder (or named by its last.safetensors); only --data, --device, --precision, --threads, --checkpoint-every, --resident-limit and --log may change
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "config"])]
    resume: Option<PathBuf>,
    /// Go on from the last checkpoint of the run in this folder, in the new folder --out and with the learning rate and alpha of a run of --epochs epochs; the old run stays as it is
    #[arg(long, value_name = "RUN", requires_all = ["out", "epochs"],
          conflicts_with_all = ["preset", "config", "resume", "any_data"])]
    extend: Option<PathBuf>,
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
    settings: Settings,
    #[command(flatten, next_help_heading = DEVICE)]
    trust: TrustArgs,
}

/// Runs the subcommand.
pub fn run(args: TrainArgs) -> Result<()> {
    if args.list_presets {
        let mut table =
            Table::new([Column::text("preset", 0), Column::number("published", 1), Column::text("what", 2)]);
        for preset in presets() {
            let published = preset.published.map_or_else(|| "-".into(), |top1| format!("{top1:.2}"));
            table.row([preset.name.clone(), published, preset.description()]);
        }
        table.print();
        return Ok(());
    }
    signals::outlive_readers();
    signals::listen("stopping: the step in progress is finished and saved first")?;
    match (&args.resume, &args.extend, &args.out) {
        (Some(run), ..) => resume(&to_go_on("--resume", run)?, args.restart, args.trust, args.settings),
        (None, Some(run), Some(out)) => extend(&to_go_on("--extend", run)?, out, args.trust, args.settings),
        _ => start(args),
    }
}

fn start(args: TrainArgs) -> Result<()> {
    let TrainArgs { preset: name, config: file, init, out, any_data, trust, settings: flags, .. } = args;
    let flags = Settings { init: init.map(|from| Init { from, checkpoint: None, reinit: Vec::new() }), ..flags };
    let (in_file, named_in_file, stages) = match &file {
        Some(path) => Settings::read_stages(path)?,
        None => (Settings::default(), None, Vec::new()),
    };
    let demo_meant = file.is_none() && flags.placement.data.is_none();
    let name = name.or(named_in_file).or_else(|| demo_meant.then(|| "demo".to_string()));
    let preset = name.as_deref().map(preset).transpose()?;
    let base = preset.as_ref().map(Preset::settings).unwrap_or_default();
    let out = out.unwrap_or_else(|| free_name("runs".as_ref(), name.as_deref().unwrap_or("run")));
    let of = Begin { name, preset, out, any_data, trust };
    let configs = match stages.len() {
        0 => vec![of.resolve(flags.or(in_file).or(base))?],
        _ => {
            stages::check_folder(&of.out)?;
            let mut configs = Vec::new();
            for (at, stage) in stages.iter().enumerate() {
                let mut settings = flags.clone().or(stage.settings.clone()).or(in_file.clone()).or(base.clone());
                if at > 0 {
                    settings.init = Some(stages::before(&of.out, at, stage.from, stage.reinit.clone())?);
                }
                let config = of.resolve(settings).map_err(|e| match e {
                    Error::Config(what) => Error::Config(format!("stage {}: {what}", at + 1)),
                    other => other,
                });
                configs.push(config?);
            }
            configs
        }
    };
    let then = of.preset.as_ref().filter(|_| stages.is_empty()).map_or(Then::Nothing, |preset| preset.then);
    match (then, &configs[..]) {
        (Then::Stage(stage), [first]) => {
            stages::check_folder(&of.out)?;
            let first = of.settle(first.clone(), true)?;
            let second = of.second_stage(&first, stage)?;
            stages::start(&of.out, &[first, second])
        }
        (_, [config]) if stages.is_empty() => {
            let backend = config.placement.open()?;
            let config = of.settle(config.clone(), false)?;
            session::start(&config, || RunFolder::create(&of.out, &config), Role::Alone, backend.as_ref())?;
            if let Then::TauNorm(tau) = then {
                note!(
                    "The preset's last part needs no training: glmc-engine posthoc {} --tau-norm {tau}",
                    word(&of.out)
                );
            }
            Ok(())
        }
        _ => {
            let configs = configs.into_iter().map(|config| of.settle(config, true)).collect::<Result<Vec<_>>>()?;
            stages::start(&of.out, &configs)
        }
    }
}

/// A run that is to begin.
struct Begin {
    name: Option<String>,
    preset: Option<Preset>,
    out: PathBuf,
    any_data: bool,
    trust: TrustArgs,
}

impl Begin {
    /// The configuration, on a device that has been proved.
    fn resolve(&self, mut settings: Settings) -> Result<Config> {
        if let (device, Some(why)) = backend::resolve(settings.placement.device.as_deref().unwrap_or(AUTO)) {
            note!("device {device}: {why}");
            settings.placement.device = Some(device);
        }
        if self.name.as_deref() == Some("demo") && settings.placement.data.is_none() {
            settings.placement.data = Some(self.demo());
        }
        let config = Config { preset: self.name.clone(), ..Config::resolve(settings)? };
        self.trust.prove(&config.placement.device, config.placement.precision)?;
        Ok(config)
    }

    /// The preset's second stage after `first`, as it was published: flags are of the first.
    fn second_stage(&self, first: &Config, stage: &SecondStage) -> Result<Config> {
        let Init { from, checkpoint, .. } = stages::before(&self.out, 1, None, Vec::new())?;
        let counts = Store::open(&first.placement.data)?.meta().counts.clone();
        let settings = stage.settings(first, &counts, from, checkpoint)?;
        let config =
            Config::resolve(Settings { placement: PlacementSettings::of(first.placement.clone()), ..settings })?;
        self.settle(Config { preset: self.name.clone(), ..config }, true)
    }

    fn demo(&self) -> PathBuf {
        self.out.join("data.lt")
    }

    /// Finds the data, and what depends on it. The folder may hold stages.
    fn settle(&self, mut config: Config, staged: bool) -> Result<Config> {
        if self.name.as_deref() == Some("demo") && config.placement.data == self.demo() {
            if !staged {
                check_new(&self.out)?;
            }
            draw_demo(&self.out)?;
        }
        config.placement.data = located(&config.placement.data)?;
        if let Some(init) = &mut config.init {
            self.locate(init)?;
        }
        // Behind a link there may be any path.
        config.check()?;
        let store = Store::open(&config.placement.data)?;
        if let Some(preset) = &self.preset {
            check_data(preset, &store, self.any_data)?;
        }
        config.settle(&store)?;
        Ok(config)
    }

    /// Makes the path of a run to start from absolute; that of a stage is, and need not be there yet.
    fn locate(&self, init: &mut Init) -> Result<()> {
        let own = std::path::absolute(&self.out).map_err(Error::io(&self.out))?;
        if init.from.starts_with(own) {
            return Ok(());
        }
        init.locate()?;
        match init.folder().join("config.toml").exists() {
            true => check_outside(init.folder(), &self.out, "init"),
            false => Ok(()),
        }
    }
}

/// Draws the demo's images into `data.lt` in this folder, unless they are there.
pub(super) fn draw_demo(out: &Path) -> Result<()> {
    let data = out.join("data.lt");
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    if !data.exists() {
        note!("drawing the demo's images into {}", data.display());
        // The same images whatever the run's seed: figures of several seeds are of one data set.
        synthetic::prepare(&data, &SyntheticConfig::default())?;
    }
    Ok(())
}

/// The absolute path of a store, so that a run on it can be resumed from anywhere.
pub(super) fn located(data: &Path) -> Result<PathBuf> {
    crate::data::recover(data)?;
    std::fs::canonicalize(data).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(data, "no such store; make one with `glmc-engine prepare`"),
        _ => Error::io(data)(e),
    })
}

/// Whether a store is what a preset is meant for: the number of classes must be, the rest is worth a warning.
pub(super) fn check_data(preset: &Preset, store: &Store, any_data: bool) -> Result<()> {
    let (name, counts) = (&preset.name, &store.meta().counts);
    let Some(classes) = preset.data.classes() else { return Ok(()) };
    if counts.len() != classes && !any_data {
        let found = counts.len();
        let what =
            format!("has {found} classes, but --preset {name} is meant for {classes}: --any-data takes it anyway");
        return Err(Error::file(store.path(), what));
    }
    let DataSet::Cifar { imbalance, .. } = preset.data else { return Ok(()) };
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
    if let Some(epochs) = flags.epochs {
        let what = "--resume keeps the run's epochs: to change them, go on in a new run";
        let command = format!("glmc-engine train --extend {} --epochs {epochs} --out NEW", word(run));
        return Err(Error::Usage(format!("{what} ({command})")));
    }
    let placement = only_placement("--resume", flags)?;
    if stages::are_in(run) {
        if restart {
            let what = "holds stages: --restart one of them, as in stage-2, and what follows it in a new folder";
            return Err(Error::file(run, what));
        }
        let prove = |config: &Config| trust.prove(&config.placement.device, config.placement.precision);
        let data = placement.data.as_deref().map(located).transpose()?;
        return stages::resume(run, &PlacementSettings { data, ..placement }, &prove);
    }
    let folder = RunFolder::open(run)?;
    let stored = Config::read(&folder.config())?;
    let placement = moved(placement, &stored, &folder)?;
    let config = Config { placement, ..stored };
    config.check()?;
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    session::resume(&config, folder, restart, Role::Alone, backend.as_ref())
}

fn extend(run: &Path, out: &Path, trust: TrustArgs, mut flags: Settings) -> Result<()> {
    let epochs = flags.epochs.take().ok_or_else(|| Error::Usage("--extend needs --epochs".into()))?;
    let placement = only_placement("--extend", flags)?;
    let folder = RunFolder::open(run)?;
    check_outside(run, out, "--extend")?;
    check_new_extension(out)?;
    let stored = Config::read(&folder.config())?;
    let config = Config { placement: moved(placement, &stored, &folder)?, epochs, ..stored };
    config.check()?;
    let parent = ParentRun::read(folder, epochs)?;
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    session::extend(&config, parent, out, backend.as_ref())
}

/// Refuses a new run in the folder of the old one, which stays as it is.
pub(super) fn check_outside(run: &Path, out: &Path, what: &str) -> Result<()> {
    let old = std::fs::canonicalize(run).map_err(Error::io(run))?;
    let out = std::path::absolute(out).map_err(Error::io(out))?;
    let there = out.ancestors().find_map(|path| std::fs::canonicalize(path).ok());
    if there.is_some_and(|path| path.starts_with(&old)) {
        return Err(Error::file(run, format!("{what} leaves the old run as it is: give another --out")));
    }
    Ok(())
}

/// The flags that may go with `flag`, if there are no others.
fn only_placement(flag: &str, flags: Settings) -> Result<PlacementSettings> {
    let placement = flags.placement.clone();
    if flags == (Settings { placement: placement.clone(), ..Settings::default() }) {
        return Ok(placement);
    }
    Err(Error::Usage(format!(
        "{flag} keeps the run's own settings: only --data (the same store, moved), --device, --precision, --threads, \
         --checkpoint-every, --resident-limit and --log may change"
    )))
}

/// Where a stored run computes now.
fn moved(flags: PlacementSettings, stored: &Config, folder: &RunFolder) -> Result<Placement> {
    let data = flags.data.map(|path| std::fs::canonicalize(&path).map_err(Error::io(&path))).transpose()?;
    let placement = PlacementSettings { data, ..flags }.over(&stored.placement);
    if !placement.data.exists() {
        let what =
            format!("names the store {}, which is not there: put it back, or give --data", placement.data.display());
        return Err(Error::file(folder.config(), what));
    }
    Ok(placement)
}
