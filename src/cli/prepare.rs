//! `glmc-engine prepare`: builds or checks a store.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::data::cifar::{self, Cifar, CifarConfig};
use crate::data::images::{self, ImagesConfig, Normalise, Source};
use crate::data::longtail::{LongTail, Pick, Profile};
use crate::data::synthetic::{self, SyntheticConfig};
use crate::data::{Store, Subset, Summary};
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
    /// JPEG and PNG files, from lists or from a folder per class
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
    /// Take files that hold another number of images than the official ones
    #[arg(long)]
    any_size: bool,
    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Clone, Args)]
struct RuleArgs {
    /// Shape of the tail: exponential, or a step in the middle
    #[arg(long, value_enum, default_value_t = Profile::Exp)]
    profile: Profile,
    /// Which images are kept: LDAM-DRW's published choice, or random by seed
    #[arg(long, value_enum, default_value_t = Pick::Ldam)]
    split: Pick,
    /// Seed of the split; for ldam, 0 is the published one
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl RuleArgs {
    fn with(&self, imbalance: f64) -> LongTail {
        LongTail { imbalance, profile: self.profile, split: self.split, seed: self.seed }
    }
}

#[derive(Debug, Clone, Args)]
#[group(skip)]
struct ImagesArgs {
    /// List of training images, lines `relative/path label`
    #[arg(long, value_name = "FILE", requires = "test_list", requires = "root", conflicts_with_all = ["train_dir", "test_dir"],
          required_unless_present = "train_dir")]
    train_list: Option<PathBuf>,
    /// List of test images
    #[arg(long, value_name = "FILE", requires = "train_list")]
    test_list: Option<PathBuf>,
    /// What the paths in the lists are relative to
    #[arg(long, value_name = "DIR", requires = "train_list")]
    root: Option<PathBuf>,
    /// Class names, one a line [default: the folders' names, where each class has its own]
    #[arg(long, value_name = "FILE", requires = "train_list")]
    class_names: Option<PathBuf>,
    /// Training images, a folder per class
    #[arg(long, value_name = "DIR", requires = "test_dir")]
    train_dir: Option<PathBuf>,
    /// Test images, a folder per class
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
    /// Keep a long-tailed subset: largest class over smallest class [default: keep all images]
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
    /// Seed of everything random
    #[arg(long, value_name = "S", default_value_t = SyntheticConfig::default().seed)]
    seed: u64,
}

/// Runs `prepare`.
///
/// # Errors
///
/// Whatever keeps the store from being written or read; nothing half-written is left behind.
pub fn run(args: &PrepareArgs) -> Result<()> {
    super::signals::listen()?;
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::Config(format!("cannot start {threads} threads: {e}")))?;
    pool.install(|| match &args.what {
        What::Cifar10(args) => done(&prepare_cifar(Cifar::Cifar10, args)?),
        What::Cifar100(args) => done(&prepare_cifar(Cifar::Cifar100, args)?),
        What::Images(args) => done(&prepare_images(args)?),
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
            done(&synthetic::prepare(&args.out.out, &config)?)
        }
        What::Check { store } => {
            let store = Store::open(store)?;
            store.check()?;
            done(&Summary::new(store.path(), store.meta(), store.test().len(), Vec::new()))?;
            let _ = writeln!(std::io::stdout(), "  all {} arrays have their checksums", store.meta().arrays.len());
            Ok(())
        }
    })
}

/// Prints the last word on a store; a reader that hung up (`| head`) is no failure of ours.
fn done(summary: &Summary) -> Result<()> {
    let _ = write!(std::io::stdout(), "{summary}");
    Ok(())
}

fn prepare_cifar(set: Cifar, args: &CifarArgs) -> Result<Summary> {
    let config = CifarConfig {
        set,
        source: args.source.clone(),
        long_tail: args.rule.with(args.imbalance),
        any_size: args.any_size,
        force: args.out.force,
    };
    cifar::prepare(&args.out.out, &config)
}

fn prepare_images(args: &ImagesArgs) -> Result<Summary> {
    let source = match (&args.train_list, &args.test_list, &args.root, &args.train_dir, &args.test_dir) {
        (Some(train), Some(test), Some(root), None, None) => Source::Lists {
            train: train.clone(),
            test: test.clone(),
            root: root.clone(),
            names: args.class_names.clone(),
        },
        (None, None, None, Some(train), Some(test)) => Source::Folders { train: train.clone(), test: test.clone() },
        _ => {
            let what = "give either --train-list, --test-list and --root, or --train-dir and --test-dir";
            return Err(Error::Usage(what.into()));
        }
    };
    let config = ImagesConfig {
        source,
        size: args.size,
        long_tail: args.imbalance.map(|imbalance| args.rule.with(imbalance)),
        normalise: args.normalise,
        force: args.out.force,
    };
    let meter = Meter::new();
    let summary = images::prepare(&args.out.out, &config, &|subset, done, total| meter.tick(subset, done, total));
    meter.bar.finish_and_clear();
    summary
}

/// A progress bar on a terminal, a line every few seconds elsewhere.
struct Meter {
    bar: ProgressBar,
    start: Instant,
    /// Subset and time of the last line.
    last: Mutex<(Subset, Instant)>,
    decoded: AtomicUsize,
}

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Meter {
    fn new() -> Meter {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:5} {wide_bar} {pos}/{len} images  {per_sec}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let now = Instant::now();
        Meter { bar, start: now, last: Mutex::new((Subset::Train, now)), decoded: AtomicUsize::new(0) }
    }

    fn tick(&self, subset: Subset, done: usize, total: usize) {
        let decoded = 1 + self.decoded.fetch_add(1, Ordering::Relaxed);
        if !self.bar.is_hidden() {
            self.bar.set_position(done as u64);
        }
        // Where another thread is here already, nothing is lost.
        let Ok(mut last) = self.last.try_lock() else { return };
        if !self.bar.is_hidden() {
            if self.bar.length() != Some(total as u64) || last.0 != subset {
                last.0 = subset;
                self.bar.set_length(total as u64);
                self.bar.set_message(subset.name());
                self.bar.reset_eta();
            }
        } else if done == total || last.1.elapsed() >= LINE_EVERY {
            *last = (subset, Instant::now());
            let rate = decoded as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
            eprintln!("{}: {done}/{total} images, {rate:.0} images/s", subset.name());
        }
    }
}
