//! `glmc-engine preview`.

mod font;
mod sheet;

use std::path::PathBuf;

use super::self_test::TrustArgs;
use super::train::{check_data, located};
use crate::config::{Config, DEVICE, PlacementSettings, Preset, Settings, preset};
use crate::console::{self, tell};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::files;
use crate::train::engine::Data;
use crate::train::preview;

/// Most samples of a sheet.
const MOST: usize = 256;

/// Show what the network sees: the first samples of an epoch, as their training step makes them
#[derive(Debug, clap::Args)]
#[command(mut_arg("data", |arg| arg.hide(true)))]
pub struct PreviewArgs {
    /// Store to train on, made by `prepare`
    #[arg(value_name = "STORE")]
    store: PathBuf,
    /// The contact sheet: of each sample its views, step, lambda, and the classes of its label with their shares
    #[arg(long, value_name = "FILE.png")]
    out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// How many samples
    #[arg(long, value_name = "N", default_value_t = 16)]
    samples: usize,
    /// Of which epoch, from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    epoch: usize,
    /// Published settings to start from, as for `train`
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// TOML file of settings, as for `train`, of one run
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Accept a store with another number of classes than the preset is meant for
    #[arg(long)]
    any_data: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten, next_help_heading = DEVICE)]
    trust: TrustArgs,
}

/// Runs the subcommand.
pub fn run(args: PreviewArgs) -> Result<()> {
    let PreviewArgs { store, out, force, samples, epoch, preset: name, config: file, any_data, settings, trust } = args;
    if settings.placement.data.is_some() {
        return Err(Error::Usage(
            "preview takes its store without --data: glmc-engine preview STORE --out FILE.png".into(),
        ));
    }
    if !(1..=MOST).contains(&samples) {
        return Err(Error::Usage(format!("--samples {samples}: must be 1 to {MOST}")));
    }
    let epoch = epoch.checked_sub(1).ok_or_else(|| Error::Usage("--epoch 0: epochs count from 1".into()))?;
    files::check_place(&out, "--out", force)?;
    let (in_file, named_in_file) = match &file {
        Some(path) => Settings::read(path)?,
        None => (Settings::default(), None),
    };
    let preset = name.or(named_in_file).as_deref().map(preset).transpose()?;
    let base = preset.as_ref().map(Preset::settings).unwrap_or_default();
    let mut settings = settings.or(in_file).or(base);
    // A few images: the CPU is done before a GPU is ready.
    let device = settings.placement.device.take().or_else(|| Some("cpu".into()));
    settings.placement = PlacementSettings { data: Some(located(&store)?), device, ..settings.placement };
    let mut config = Config::resolve(settings)?;
    let store = Store::open(&config.placement.data)?;
    if let Some(preset) = &preset {
        check_data(preset, &store, any_data)?;
    }
    config.settle(&store)?;
    trust.prove(&config.placement.device, config.placement.precision)?;
    let backend = config.placement.open()?;
    let data = Data::of(&store, config.framing());
    let preview = preview::preview(backend.as_ref(), &config, &data, epoch, samples)?;
    let bytes = sheet::png(&preview, &store.meta().class_names).map_err(|what| Error::file(&out, what))?;
    files::write_atomically(&out, |file| std::io::Write::write_all(file, &bytes).map_err(Error::io(&out)))?;
    let ([height, width], shown) = (preview.size, preview.samples.len());
    let views = preview.samples.first().map_or(0, |sample| sample.views.len());
    let views = if views == 1 { "one view".to_string() } else { format!("{views} views") };
    tell!("{}: {shown} samples of epoch {}, {views} each of {width}x{height}", out.display(), epoch + 1);
    console::finish()
}
