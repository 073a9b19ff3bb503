//! `glmc-engine export`.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::trained::{StoreArgs, Trained, load};
use crate::backend::native::Native;
use crate::config::Which;
use crate::console::{note, say, tell};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::export::runtime::{self, LIMIT, Shown};
use crate::export::{Input, Wanted, onnx, weights};
use crate::files::{check_place, write_atomically};
use crate::nn::{HeadKind, ParameterStore};
use crate::ops::augment_mix::{AugmentMixKernels, Augmentation};
use crate::rng::philox::{Purpose, Stream};
use crate::tensor::Precision;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::Data;
use crate::train::manifest::Subject;
use crate::train::passes::{Look, Passes};
use crate::train::run_folder::checkpoint_file;

/// Random images of a check.
const RANDOM: usize = 64;
/// Test images of a check, if no other number is asked for.
const REAL: &str = "256";

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A graph for onnxruntime and others, normalisation included.
    #[default]
    Onnx,
    /// The weights that inference takes, by PyTorch's names.
    Safetensors,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Format::Onnx => "onnx",
            Format::Safetensors => "weights.safetensors",
        }
    }
}

/// Write a trained model for other programs: an ONNX file, or weights alone
///
/// An ONNX file (opset 17) takes `image`, any number of them at the size that the model is evaluated at, normalises them, and gives
/// `logits` or `probabilities`; batch normalisations are folded into the convolutions. Its metadata has class_names, image_size,
/// resize and crop of photographs, mean, std and head. Each image is shown once, also where the run averages over mirror images. Weights
/// (--format safetensors) are those of the encoder by torchvision's names and of one classifier, which is fc.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A run folder or a checkpoint file
    #[arg(value_name = "RUN|FILE")]
    run: PathBuf,
    /// The run's checkpoint that is meant [default: last]
    #[arg(long)]
    checkpoint: Option<Which>,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Classifier [default: the one that the run was evaluated with]
    #[arg(long)]
    head: Option<HeadKind>,
    /// What the graph takes [default: u8]
    #[arg(long, value_enum)]
    input: Option<Input>,
    /// Put out probabilities in place of logits
    #[arg(long)]
    softmax: bool,
    /// Leave batch normalisations as they are
    #[arg(long)]
    keep_bn: bool,
    /// Put out the encoder's features, too
    #[arg(long)]
    features: bool,
    /// Compare the graph with the engine before it is written: on random images and, if the store is at hand, on N of its test
    /// images [default N: 256]. By Python with onnxruntime (python3, or what GLMC_PYTHON names)
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = REAL, require_equals = true)]
    check: Option<usize>,
    /// Store for --check [default: the one that the run was trained on, if it is there]; a checkpoint of an older version takes
    /// mean, std and class names of it
    #[arg(long, value_name = "STORE")]
    data: Option<PathBuf>,
    /// CPU threads of a check; 0 means all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// The file [default: the checkpoint's name with another ending, beside it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &ExportArgs) -> Result<()> {
    let file = checkpoint_file(&args.run, args.checkpoint)?;
    let out = args.out.clone().unwrap_or_else(|| file.with_extension(args.format.ending()));
    check_place(&out, "--out", args.force)?;
    check_meaning(args)?;
    let checkpoint = Checkpoint::read(&file)?;
    let config = &checkpoint.manifest.config;
    let head =
        args.head.or(config.head).map_or_else(|| Ok(config.recipe(&checkpoint.manifest.counts)?.evaluate), Ok)?;
    let input = args.input.unwrap_or_default();
    let wanted = Wanted { head, input, softmax: args.softmax, features: args.features, keep_norms: args.keep_bn };
    let averages = config.eval_flip;
    let (bytes, checked, said) = match args.format {
        Format::Safetensors => {
            let subject = subject(&file, &checkpoint, args.data.as_deref()).ok();
            let bytes = weights::safetensors(&checkpoint, subject.as_ref(), head)?;
            (bytes, None, format!("weights of the encoder and of {head}, which is fc"))
        }
        Format::Onnx => {
            let subject = subject(&file, &checkpoint, args.data.as_deref())?;
            let bytes = onnx(&checkpoint, &subject, wanted)?;
            let said = format!(
                "image {}x{}, {}; {} of {} classes by {head}",
                subject.height,
                subject.width,
                input.words(),
                wanted.output(),
                subject.class_names.len()
            );
            let limit = args.check;
            let checked =
                limit.map(|most| check(args, (&file, checkpoint), &subject, wanted, &bytes, most)).transpose()?;
            (bytes, checked, said)
        }
    };
    write_atomically(&out, |file| file.write_all(&bytes).map_err(Error::io(&out)))?;
    if averages {
        note!(
            "the run is evaluated on the mean over mirror images; what was written sees each image once (eval --flip false)"
        );
    }
    if args.json {
        let whole = json!({
            "file": out.display().to_string(), "bytes": bytes.len(), "head": head.name(), "check": checked.map(|checked| checked.json),
        });
        say!("{whole}");
        return Ok(());
    }
    tell!("{}: {said}; {:.1} MiB", out.display(), bytes.len() as f64 / f64::from(1 << 20));
    for line in checked.iter().flat_map(|checked| &checked.lines) {
        tell!("{line}");
    }
    Ok(())
}

/// Refuses flags that mean nothing to the format.
fn check_meaning(args: &ExportArgs) -> Result<()> {
    if args.format == Format::Onnx {
        return Ok(());
    }
    let flags = [
        ("--input", args.input.is_some()),
        ("--softmax", args.softmax),
        ("--keep-bn", args.keep_bn),
        ("--features", args.features),
        ("--check", args.check.is_some()),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Error::Usage(format!("{flag} is for --format onnx: weights alone have no such choice"))),
        None => Ok(()),
    }
}

/// What the model knows of its data.
fn subject(file: &Path, checkpoint: &Checkpoint, data: Option<&Path>) -> Result<Subject> {
    match (&checkpoint.manifest.data, data) {
        // Numbers stand for the names of a model that was imported without them.
        (Some(subject), Some(data)) if !checkpoint.manifest.knows_names() => {
            let class_names = Store::open(data)?.meta().class_names.clone();
            let classes = [class_names.len(), subject.class_names.len()];
            if classes[0] != classes[1] {
                let what = format!("has {} classes, but the checkpoint was trained on {}", classes[0], classes[1]);
                return Err(Error::file(data, what));
            }
            Ok(Subject { class_names, ..subject.clone() })
        }
        (Some(subject), _) => Ok(subject.clone()),
        (None, Some(data)) => Ok(Subject::of(&Store::open(data)?, checkpoint.manifest.config.size)),
        (None, None) => {
            let what = "was written by an older version, without mean, std and class names: --data takes those of the store that it \
                        was trained on";
            Err(Error::file(file, what))
        }
    }
}

/// What a check found.
struct Checked {
    lines: Vec<String>,
    json: Value,
}

/// Compares a graph with the engine on random and real images.
fn check(
    args: &ExportArgs,
    (file, checkpoint): (&Path, Checkpoint),
    subject: &Subject,
    wanted: Wanted,
    bytes: &[u8],
    most: usize,
) -> Result<Checked> {
    let native = Native::new(Precision::F32, args.threads)?;
    let (_, network, store) = load(&checkpoint, &native)?;
    let size = [subject.height, subject.width];
    let mut words = Stream::new(0, 0, 0, Purpose::Augment);
    let mut values: Vec<f32> = (0..RANDOM * size[0] * size[1] * 3).map(|_| words.unit() as f32).collect();
    // A store that was trained on is looked for; one that is named must be there.
    let trained_on = checkpoint.manifest.config.placement.data.clone();
    let data = args.data.clone().or_else(|| trained_on.exists().then_some(trained_on));
    let mut labels = Vec::new();
    if let Some(data) = data.filter(|_| most > 0) {
        let from_store = checkpoint.manifest.data.is_none();
        let trained = Trained::open(file.to_path_buf(), checkpoint, &data, StoreArgs::taking(from_store))?;
        let (real, of_them) = real_images(&native, &trained, &store, subject, most)?;
        values.extend(real);
        labels = of_them;
    }
    let shown = Shown::new(wanted.input, size, values.into_iter());
    let outputs = runtime::evaluated(&native, &network, &store, subject, wanted, &shown)?;
    let answer = runtime::asked(bytes, &shown, &outputs, args.threads)?;
    let onnx = answer.onnx.as_ref().map_or_else(
        || "; onnx, for its checker, is not installed".into(),
        |version| format!(", found valid by onnx {version}"),
    );
    let mut lines = vec![format!("Checked by onnxruntime {}{onnx}", answer.onnxruntime)];
    let mut compared = json!({ "onnxruntime": answer.onnxruntime, "onnx": answer.onnx });
    let sets = [("random", 0, RANDOM), ("test", RANDOM, labels.len())];
    for (set, first, count) in sets.into_iter().filter(|(.., count)| *count > 0) {
        compared[set]["images"] = count.into();
        let mut said = Vec::new();
        for output in &outputs {
            let (name, largest) = (output.name(), output.largest(first, count));
            let difference = answer.difference(output, first, count);
            if difference > LIMIT * largest.max(1.0) {
                let what = "this is a bug, and nothing was written: please report it";
                return Err(Error::Config(format!(
                    "the graph's {name} of {set} images differ from the engine's by {difference:.1e}, where the largest is \
                     {largest:.1e}: {what}"
                )));
            }
            said.push(format!("largest difference of {name} {difference:.1e}, where the largest is {largest:.1}"));
            compared[set][name] = json!({ "largest_difference": difference, "largest_value": largest });
        }
        if set == "test" {
            let top1 = |first: &[usize]| {
                let right = first[RANDOM..].iter().zip(&labels).filter(|(first, label)| **first == **label as usize);
                100.0 * right.count() as f64 / labels.len() as f64
            };
            let (theirs, ours) = (top1(&answer.first), top1(&outputs[0].first()));
            said.push(format!("top-1 {theirs:.2}, the engine's {ours:.2}"));
            (compared[set]["top1"], compared[set]["engine_top1"]) = (theirs.into(), ours.into());
        }
        lines.push(format!("{count} {set} images: {}", said.join("; ")));
    }
    if labels.is_empty() {
        lines.push("No test images were looked at: --data names a store that has some".into());
    }
    Ok(Checked { lines, json: compared })
}

/// The first test images of a store as the network sees them, values in 0..1, (images, height, width, 3), and their labels.
fn real_images(
    native: &Native,
    trained: &Trained,
    store: &ParameterStore,
    subject: &Subject,
    most: usize,
) -> Result<(Vec<f32>, Vec<i32>)> {
    let test = Data::of(&trained.store, trained.framing).test;
    let mut test =
        test.filter(|test| !test.is_empty()).ok_or_else(|| Error::file(trained.store.path(), "has no test images"))?;
    if trained.framing.is_none() && [test.height, test.width] != [subject.height, subject.width] {
        let what = format!(
            "images of {}x{}, but the checkpoint was trained on {}x{}",
            test.height, test.width, subject.height, subject.width
        );
        return Err(Error::file(trained.store.path(), what));
    }
    test.labels = &test.labels[..test.labels.len().min(most)];
    test.index = test.index.map(|index| &index[..test.labels.len()]);
    let labels = test.labels.to_vec();
    let (feed, batch) = trained.feed(native, test, false)?;
    let as_stored = Augmentation { mean: [0.0; 3], std: [1.0; 3], padding: 0, flip: false };
    let look = Look { augmentation: as_stored, flip: false, batch, arena: None };
    let passes = Passes::new(native, store, &feed, &look, &|_, seen| Ok(vec![seen.images]))?;
    let (mut values, channels) = (Vec::new(), native.stem_channels());
    passes.run(native, &feed, &mut |_, kept| {
        values.extend(
            kept[0].values.chunks_exact(channels).flat_map(|pixel| [0, 1, 2].map(|colour| pixel[colour] as f32)),
        );
        Ok(())
    })?;
    feed.release(native);
    Ok((values, labels))
}
