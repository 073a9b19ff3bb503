//! `glmc-engine import`.

use std::path::{Path, PathBuf};

use crate::backend::native::Native;
use crate::config::{Config, PlacementSettings, Settings};
use crate::console::{self, note, tell};
use crate::data::store::MAX_SIDE;
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::method::method;
use crate::nn::encoder::{self, Stem};
use crate::nn::{Field, HeadKind, ParameterStore};
use crate::tensor::Precision;
use crate::train::checkpoint::State;
use crate::train::engine::model;
use crate::train::manifest::{Imported, Manifest, Subject};
use crate::train::state_dict::{StateDict, listed};

/// Make a checkpoint of a model that was trained elsewhere, to evaluate and finetune it
///
/// FILE is a PyTorch state dict as a safetensors file (tools/pth_to_safetensors.py makes one of a .pth file), with torchvision's
/// names or those of the models published with GLMC. It must hold just what the network has.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The state dict
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[arg(long, value_name = "NAME", help = encoder::names(), alias = "arch")]
    model: String,
    /// Channels of the first stage [default: those of the file]
    #[arg(long)]
    width: Option<usize>,
    /// What the network begins with [default: imagenet where the file's first convolution is 7x7]
    #[arg(long)]
    stem: Option<Stem>,
    /// Width of the projections [default: that of the file]
    #[arg(long)]
    hidden: Option<usize>,
    /// Number of classes [default: that of the file]
    #[arg(long)]
    classes: Option<usize>,
    /// Mean of red, green and blue that inputs are normalised by, of pixels scaled to 0..1 [default: ImageNet's, or CIFAR's with
    /// the stem of CIFAR]
    #[arg(long, value_name = "R,G,B", value_delimiter = ',')]
    mean: Option<Vec<f64>>,
    /// Standard deviation, likewise
    #[arg(long, value_name = "R,G,B", value_delimiter = ',')]
    std: Option<Vec<f64>>,
    /// Rows and columns of its images [default: 224, or 32 with the stem of CIFAR]
    #[arg(long)]
    size: Option<usize>,
    /// File with a class's name in each line, in the order of the outputs [default: not known; stores are taken as they are]
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// A new file NAME.safetensors, or a folder for a new last.safetensors
    #[arg(long, value_name = "FILE|DIR")]
    out: PathBuf,
}

/// Mean and standard deviation of GLMC's code for ImageNet-LT.
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
/// And of its code for CIFAR.
const CIFAR: [[f64; 3]; 2] = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]];

/// Runs the subcommand.
pub fn run(args: &ImportArgs) -> Result<()> {
    let out = place(&args.out)?;
    let Some(plain) = StateDict::read(&args.file)? else {
        let what = "is a checkpoint of this program already: eval and finetune take it as it is";
        return Err(Error::file(&args.file, what));
    };
    let config = configuration(args, &plain)?;
    let classes = rows(&plain, args, "fc.weight")?;
    let data = subject(args, &config, args.classes.unwrap_or(classes))?;
    let counts = vec![1; data.class_names.len()];
    // Names and values are the same on every device.
    let native = Native::new(Precision::F32, 1)?;
    let network = model(&config, &config.recipe(&counts)?, counts.len(), &native)?;
    let specs = network.specs();
    let fit = plain.fit(specs, |_| false)?;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    for (indices, what) in [(&fit.missing, "has no"), (&fit.redrawn, "has other shapes of")] {
        if !indices.is_empty() {
            let some: Vec<&str> = indices.iter().map(|&index| names[index]).collect();
            let what =
                format!("{what} {}, as a {} would: see --classes, --hidden", listed(&some, &names), config.model);
            return Err(Error::file(&args.file, what));
        }
    }
    if !fit.skipped.is_empty() {
        let some: Vec<&str> = fit.skipped.iter().map(String::as_str).collect();
        let all: Vec<&str> = names.iter().copied().chain(some.iter().copied()).collect();
        let what = format!("has {}, which a {} has not: see --model", listed(&some, &all), config.model);
        return Err(Error::file(&args.file, what));
    }
    let store = ParameterStore::new(&native, specs.clone())?;
    let mut values = store.snapshot(&native, Field::Value)?;
    for (index, name) in names.iter().enumerate() {
        plain.values(name).into_iter().for_each(|found| values.set(index, found));
    }
    store.restore(&native, Field::Value, &values)?;
    drop(values);
    let state = State::take(&native, &store, &[])?
        .map_err(|name| Error::file(&args.file, format!("{name} has numbers that are not finite in f32")))?;
    let file = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let imported = Imported { file, checksum: plain.checksum.clone(), named: args.class_names.is_some() };
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let (head, method) = (config.head.unwrap_or(HeadKind::Fc), config.method.name);
    note!("loaded ({}): {}", names.len(), listed(&names, &names));
    let Subject { mean, std, height, .. } = &data;
    let what = format!(
        "{} width {}, {} classes, {method}, classifier {head}, mean {mean:?}, std {std:?}, images of {height}",
        config.model,
        config.width,
        counts.len()
    );
    state.save(&out, Manifest::of_import(config, data, imported), &[])?;
    tell!("{}: {what}", out.display());
    console::finish()
}

/// The file to write.
fn place(out: &Path) -> Result<PathBuf> {
    let is_file = out.extension().is_some_and(|extension| extension == "safetensors");
    let file = if is_file { out.to_path_buf() } else { out.join("last.safetensors") };
    if std::fs::symlink_metadata(&file).is_ok() {
        return Err(Error::file(file, "is there already: give another --out"));
    }
    Ok(file)
}

/// Rows of a tensor of the file.
fn rows(plain: &StateDict, args: &ImportArgs, name: &str) -> Result<usize> {
    let found = plain.shape(name).and_then(<[usize]>::first);
    found.copied().ok_or_else(|| Error::file(&args.file, format!("has no {name}, as a {} would", args.model)))
}

/// What the network is, and which heads it has.
fn configuration(args: &ImportArgs, plain: &StateDict) -> Result<Config> {
    encoder::family(&args.model)?;
    let width = args.width.map_or_else(|| rows(plain, args, "conv1.weight"), Ok)?;
    // A kernel of seven rows is the ImageNet stem's.
    let side = plain
        .shape("conv1.weight")
        .and_then(|shape| shape.get(2))
        .map_or(0, |&kernel| if kernel > 3 { 224 } else { 32 });
    let stem = encoder::stem(&args.model, args.stem, side)?;
    let (name, head) = match plain.shape("fc_cb.weight") {
        Some(_) => ("glmc", HeadKind::FcCb),
        None => ("ce", HeadKind::Fc),
    };
    let hidden = match (args.hidden, plain.shape("projection_head.0.weight")) {
        (Some(hidden), _) => Some(hidden),
        (None, Some(shape)) => shape.first().copied(),
        (None, None) => None,
    };
    Config::resolve(Settings {
        model: Some(args.model.clone()),
        width: Some(width),
        stem,
        hidden,
        method: Some(method(name).map_err(Error::Config)?),
        recipe: (head == HeadKind::FcCb).then(both_heads),
        head: Some(head),
        // No run goes on from it without being told its data.
        placement: PlacementSettings { device: Some("cpu".into()), ..PlacementSettings::on("(not known)") },
        ..Settings::default()
    })
}

/// The rebalanced head stays, whatever the counts of the data that the model is used on: `heads.fc_cb = {}`.
fn both_heads() -> toml::Table {
    let table = |name: &str, value| toml::Table::from_iter([(name.to_owned(), toml::Value::Table(value))]);
    table("heads", table("fc_cb", toml::Table::new()))
}

/// What the model knows of its data.
fn subject(args: &ImportArgs, config: &Config, classes: usize) -> Result<Subject> {
    let [mean, std] = if config.stem == Some(Stem::Imagenet) { IMAGENET } else { CIFAR };
    let three = |flag: &str, given: &Option<Vec<f64>>, usual: [f64; 3], least: f64| match given.as_deref() {
        None => Ok(usual),
        Some(&[r, g, b]) if [r, g, b].iter().all(|&v| (least..=1.0).contains(&v)) => Ok([r, g, b]),
        Some(other) => Err(Error::Usage(format!("--{flag} {other:?}: three numbers in {least}..=1 are needed, R,G,B"))),
    };
    let size = args.size.unwrap_or(if config.stem == Some(Stem::Imagenet) { 224 } else { 32 });
    if !(1..=MAX_SIDE).contains(&size) {
        return Err(Error::Usage(format!("--size {size} is not in 1..={MAX_SIDE}")));
    }
    let class_names: Vec<String> = match &args.class_names {
        None => (0..classes).map(|class| class.to_string()).collect(),
        Some(path) => {
            let text = read_text(path, 16 << 20)?;
            let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
            if names.len() != classes {
                return Err(Error::file(path, format!("has {} names, and the model {classes} classes", names.len())));
            }
            names
        }
    };
    let (mean, std) = (three("mean", &args.mean, mean, 0.0)?, three("std", &args.std, std, 1e-6)?);
    Ok(Subject { class_names, mean, std, height: size, width: size, prepared: None })
}
