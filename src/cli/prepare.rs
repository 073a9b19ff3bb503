//! `glmc-engine prepare`: builds or checks a store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{self, Stream, note, say};
use crate::data::cifar::{self, Cifar, CifarConfig};
use crate::data::decode::{Exif, MAX_FILE_PIXELS};
use crate::data::images::{self, ImagesConfig, Normalise, Source, Step};
use crate::data::longtail::{LongTail, Pick, Profile};
use crate::data::synthetic::{self, SyntheticConfig};
use crate::data::{Store, Summary};
use crate::error::shown;
use crate::{Error, Result};

/// Build a store (NAME.lt) from images, or check one
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    #[command(subcommand)]
    what: What,
    /// Threads that work at once [default: one per CPU]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// CIFAR-10 from the official archive (binary or Python layout), unpacked
    Cifar10(CifarArgs),
    /// CIFAR-100 from the official archive (binary or Python layout), unpacked
    Cifar100(CifarArgs),
    /// JPEG, PNG, WebP, GIF, BMP and TIFF files, from lists or from a folder per class
    Images(ImagesArgs),
    /// A drawn long-tailed set of textured shapes
    Synthetic(SyntheticArgs),
    /// Compare every byte of a store with its checksums
    Check {
        /// The store
        #[arg(value_name = "STORE")]
        store: PathBuf,
    },
}

#[derive(Debug, Clone, Args)]
struct OutArgs {
    /// Where to write the store
    #[arg(long, value_name = "STORE")]
    out: PathBuf,
    /// Replace the store if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Args)]
struct CifarArgs {
    /// Folder that holds the archive's files
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    #[command(flatten)]
    out: OutArgs,
    /// Largest class over smallest class; 1 is the balanced set
    #[arg(long, value_name = "F", default_value_t = 100.0, allow_negative_numbers = true)]
    imbalance: f64,
    /// The published code's name for it: smallest class over largest class
    #[arg(long = "imbanlance_rate", value_name = "R", hide = true, value_parser = rate, conflicts_with = "imbalance")]
    rate: Option<f64>,
    /// Take files that hold another number of images than the official ones
    #[arg(long)]
    any_size: bool,
    #[command(flatten)]
    rule: RuleArgs,
}

/// The published code's `--imbanlance_rate`.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if rate > 0.0 && rate <= 1.0 { Ok(rate) } else { Err("must lie above 0, and be 1 at most (0.01: 100 to 1)".into()) }
}

#[derive(Debug, Clone, Args)]
struct RuleArgs {
    /// Shape of the tail: exponential, or a step in the middle
    #[arg(long, value_enum, default_value_t = Profile::Exp)]
    profile: Profile,
    /// Which images are kept: LDAM-DRW's published choice, that of GLMC's authors, or random by seed
    #[arg(long, value_enum, default_value_t = Pick::Ldam)]
    split: Pick,
    /// Seed of the split [default: the published one: 0 for ldam, 3407 for glmc and glmc-replacement; else 0]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

impl RuleArgs {
    fn with(&self, imbalance: f64) -> LongTail {
        LongTail { imbalance, profile: self.profile, split: self.split, seed: self.seed() }
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or(self.split.seed())
    }
}

#[derive(Debug, Clone, Args)]
#[group(skip)]
struct ImagesArgs {
    /// List of training images, lines `relative/path label`
    #[arg(long, value_name = "FILE", requires = "root", conflicts_with_all = ["train_dir", "test_dir"],
          required_unless_present = "train_dir")]
    train_list: Option<PathBuf>,
    /// List of test images, unless --test-fraction is given
    #[arg(long, value_name = "FILE", requires = "train_list")]
    test_list: Option<PathBuf>,
    /// What the paths in the lists are relative to
    #[arg(long, value_name = "DIR", requires = "train_list")]
    root: Option<PathBuf>,
    /// Class names, one a line [default: the folders' names, where each class has its own]
    #[arg(long, value_name = "FILE", requires = "train_list")]
    class_names: Option<PathBuf>,
    /// Training images, a folder per class
    #[arg(long, value_name = "DIR")]
    train_dir: Option<PathBuf>,
    /// Test images, a folder per class, unless --test-fraction is given
    #[arg(long, value_name = "DIR", requires = "train_dir")]
    test_dir: Option<PathBuf>,
    #[command(flatten)]
    out: OutArgs,
    /// Side of the stored images: the shorter side is resized to it, the middle cut out
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    size: usize,
    /// Mean and standard deviation for the normalisation
    #[arg(long, value_enum, default_value_t = Normalise::Measured)]
    normalise: Normalise,
    /// Hold this share of each class out of the training images as the test set; drawn by --seed
    #[arg(long, value_name = "F", allow_negative_numbers = true, conflicts_with_all = ["test_list", "test_dir"])]
    test_fraction: Option<f64>,
    /// Hold this share of each class out of the training images for validation; drawn by --seed
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    val_fraction: Option<f64>,
    /// Turn images upright as their EXIF data say, or take them as stored, as most published lists are used
    #[arg(long, value_enum, default_value_t = Exif::Apply)]
    exif: Exif,
    /// Leave out files that cannot be decoded (each is named) instead of refusing the set
    #[arg(long)]
    skip_broken: bool,
    /// Most pixels of an image file
    #[arg(long, value_name = "N", default_value_t = MAX_FILE_PIXELS)]
    max_pixels: u64,
    /// Memory for the images that are being decoded, in MiB [default: half of what is free, at most 8192]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    decode_memory: Option<u64>,
    /// Keep a long-tailed subset of the training images: largest class over smallest class [default: keep all images]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    imbalance: Option<f64>,
    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Clone, Args)]
struct SyntheticArgs {
    #[command(flatten)]
    out: OutArgs,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = SyntheticConfig::default().classes)]
    classes: usize,
    /// Training images of the largest class
    #[arg(long, value_name = "N", default_value_t = SyntheticConfig::default().per_class)]
    per_class: usize,
    /// Test images of every class
    #[arg(long, value_name = "N", default_value_t = SyntheticConfig::default().test_per_class)]
    test_per_class: usize,
    /// Largest class over smallest class
    #[arg(long, value_name = "F", default_value_t = SyntheticConfig::default().imbalance, allow_negative_numbers = true)]
    imbalance: f64,
    /// Side of an image
    #[arg(long, value_name = "S", default_value_t = SyntheticConfig::default().size)]
    size: usize,
    /// Random seed
    #[arg(long, value_name = "S", default_value_t = SyntheticConfig::default().seed)]
    seed: u64,
}

/// Runs `prepare`.
///
/// # Errors
///
/// Whatever keeps the store from being written or read; nothing half-written is left behind.
pub fn run(args: &PrepareArgs) -> Result<()> {
    super::signals::listen("stopping: nothing is left behind")?;
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| {
        Error::Config(format!("cannot start {threads} threads: too little memory, or more threads than allowed ({e})"))
    })?;
    pool.install(|| match &args.what {
        What::Cifar10(args) => prepare_cifar(Cifar::Cifar10, args).map(|summary| summary.print()),
        What::Cifar100(args) => prepare_cifar(Cifar::Cifar100, args).map(|summary| summary.print()),
        What::Images(args) => prepare_images(args).map(|summary| summary.print()),
        What::Synthetic(args) => {
            let config = SyntheticConfig {
                classes: args.classes,
                per_class: args.per_class,
                test_per_class: args.test_per_class,
                imbalance: args.imbalance,
                size: args.size,
                seed: args.seed,
                force: args.out.force,
            };
            synthetic::prepare(&args.out.out, &config).map(|summary| summary.print())
        }
        What::Check { store } => {
            let store = Store::open(store)?;
            store.check()?;
            let mut summary = Summary::new(store.path(), store.meta(), store.test().len(), Vec::new());
            summary.val = store.val().map_or(0, |val| val.len());
            summary.print();
            say!("  all {} arrays have their checksums", store.meta().arrays.len());
            Ok(())
        }
    })
}

fn prepare_cifar(set: Cifar, args: &CifarArgs) -> Result<Summary> {
    let config = CifarConfig {
        set,
        source: args.source.clone(),
        long_tail: args.rule.with(args.rate.map_or(args.imbalance, |rate| 1.0 / rate)),
        any_size: args.any_size,
        force: args.out.force,
    };
    cifar::prepare(&args.out.out, &config)
}

fn prepare_images(args: &ImagesArgs) -> Result<Summary> {
    let source = match (&args.train_list, &args.test_list, &args.root, &args.train_dir, &args.test_dir) {
        (Some(train), test, Some(root), None, None) => Source::Lists {
            train: train.clone(),
            test: test.clone(),
            root: root.clone(),
            names: args.class_names.clone(),
        },
        (None, None, None, Some(train), test) => Source::Folders { train: train.clone(), test: test.clone() },
        _ => {
            let what = "give either --train-list, --root and --test-list, or --train-dir and --test-dir; \
                        --test-fraction in place of a test set";
            return Err(Error::Usage(what.into()));
        }
    };
    let config = ImagesConfig {
        source,
        size: args.size,
        long_tail: args.imbalance.map(|imbalance| args.rule.with(imbalance)),
        test_fraction: args.test_fraction,
        val_fraction: args.val_fraction,
        seed: args.rule.seed(),
        normalise: args.normalise,
        exif: args.exif,
        skip_broken: args.skip_broken,
        max_pixels: args.max_pixels,
        decode_memory: args.decode_memory.map(|mebibytes| mebibytes << 20),
        force: args.out.force,
    };
    let meter = Meter::new();
    let summary = images::prepare(&args.out.out, &config, &|step, done, total| meter.tick(step, done, total));
    meter.bar.finish_and_clear();
    let summary = summary?;
    for (path, why) in &summary.broken {
        note!("left out: {} ({why})", shown(path));
    }
    Ok(summary)
}

/// A progress bar on a terminal, a line every few seconds elsewhere.
struct Meter {
    bar: ProgressBar,
    /// When the first image was decoded.
    start: OnceLock<Instant>,
    /// Step and time of the last line.
    last: Mutex<(Step, Instant)>,
    decoded: AtomicUsize,
}

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Meter {
    fn new() -> Meter {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(0), console::bar_target());
        let template = match console::width(Stream::Err) {
            ..70 => "{msg:5} {wide_bar} {pos}/{len}  {eta} left",
            _ => "{msg:5} {wide_bar} {pos}/{len} images  {per_sec}  {eta} left",
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let now = Instant::now();
        Meter { bar, start: OnceLock::new(), last: Mutex::new((Step::Check, now)), decoded: AtomicUsize::new(0) }
    }

    fn tick(&self, step: Step, done: usize, total: usize) {
        let decoded = match step {
            Step::Check => 0,
            Step::Decode(_) => {
                self.start.get_or_init(Instant::now);
                1 + self.decoded.fetch_add(1, Ordering::Relaxed)
            }
        };
        let name = match step {
            Step::Check => "check",
            Step::Decode(subset) => subset.name(),
        };
        if !self.bar.is_hidden() {
            self.bar.set_position(done as u64);
        }
        // Where another thread is here already, nothing is lost.
        let Ok(mut last) = self.last.try_lock() else { return };
        if !self.bar.is_hidden() {
            if self.bar.length() != Some(total as u64) || last.0 != step {
                last.0 = step;
                self.bar.set_length(total as u64);
                self.bar.set_message(name);
                self.bar.reset_eta();
            }
        } else if last.1.elapsed() >= LINE_EVERY || (done == total && step != Step::Check) {
            *last = (step, Instant::now());
            let rate = decoded as f64 / self.start.get_or_init(Instant::now).elapsed().as_secs_f64().max(1e-9);
            let rate = if decoded > 0 { format!(", {rate:.0} images/s") } else { String::new() };
            note!("{name}: {done}/{total} images{rate}");
        }
    }
}
