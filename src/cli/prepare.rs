//! `glmc-engine prepare`: builds or checks a store.

use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{Args, Subcommand};

use super::meter::Meter;
use crate::console::{note, say};
use crate::data::cifar::{self, Cifar, CifarConfig};
use crate::data::decode::{Exif, MAX_FILE_PIXELS};
use crate::data::images::{self, ImagesConfig, Normalise, Source, Step};
use crate::data::longtail::{LongTail, Pick, Profile};
use crate::data::published::{self, Published};
use crate::data::resize::Resize;
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
    /// ImageNet-LT from its published lists ImageNet_LT_{train,val,test}.txt
    ImagenetLt(PublishedArgs),
    /// Places-LT from its published lists Places_LT_{train,val,test}.txt
    PlacesLt(PublishedArgs),
    /// iNaturalist 2018 from its published lists iNaturalist18_{train,val}.txt
    Inat2018(PublishedArgs),
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
    /// List of validation images
    #[arg(long, value_name = "FILE", requires = "train_list")]
    val_list: Option<PathBuf>,
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
    #[arg(long, value_name = "S", allow_negative_numbers = true, required_unless_present = "resize")]
    size: Option<usize>,
    /// In place of --size, keep the whole image: `short:S` resizes the shorter side to S, `none` keeps the file's size
    #[arg(long, value_name = "HOW", conflicts_with = "size")]
    resize: Option<Resize>,
    /// Mean and standard deviation for the normalisation
    #[arg(long, value_enum, default_value_t = Normalise::Measured)]
    normalise: Normalise,
    /// Hold this share of each class out of the training images as the test set; drawn by --seed
    #[arg(long, value_name = "F", allow_negative_numbers = true, conflicts_with_all = ["test_list", "test_dir"])]
    test_fraction: Option<f64>,
    /// Hold this share of each class out of the training images for validation; drawn by --seed
    #[arg(long, value_name = "F", allow_negative_numbers = true, conflicts_with = "val_list")]
    val_fraction: Option<f64>,
    /// Turn images upright as their EXIF data say, or take them as stored, as most published lists are used
    #[arg(long, value_enum, default_value_t = Exif::Apply)]
    exif: Exif,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Keep a long-tailed subset of the training images: largest class over smallest class [default: keep all images]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    imbalance: Option<f64>,
    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Clone, Args)]
struct DecodeArgs {
    /// Leave out files that cannot be decoded (each is named) instead of refusing the set
    #[arg(long)]
    skip_broken: bool,
    #[command(flatten)]
    limits: DecodeLimits,
}

/// What decoding an image file may take.
#[derive(Debug, Clone, Copy, Args)]
pub struct DecodeLimits {
    /// Most pixels of an image file
    #[arg(long, value_name = "N", default_value_t = MAX_FILE_PIXELS)]
    pub max_pixels: u64,
    /// Memory for the images that are being decoded, in MiB [default: half of what is free, at most 8192]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    decode_memory: Option<u64>,
}

impl DecodeLimits {
    /// Bytes of memory for the images that are being decoded, where that was said.
    pub fn memory(&self) -> Option<u64> {
        self.decode_memory.map(|mebibytes| mebibytes << 20)
    }
}

#[derive(Debug, Clone, Args)]
struct PublishedArgs {
    /// Folder that holds the lists; they must be the published ones
    #[arg(long, value_name = "DIR")]
    lists: PathBuf,
    /// What the paths in the lists are relative to
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Class names, one a line [default: the folders' names, where each class has its own]
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    #[command(flatten)]
    out: OutArgs,
    /// `short:S` resizes the shorter side to S and keeps the whole image, `none` keeps the file's size
    #[arg(long, value_name = "HOW", default_value = "short:256")]
    resize: Resize,
    /// In place of --resize, the side of square images: the shorter side is resized to it, the middle cut out
    #[arg(long, value_name = "S", allow_negative_numbers = true, conflicts_with = "resize")]
    size: Option<usize>,
    /// Take images as they are stored, as the pipelines behind published results do, or turn them upright as their EXIF data say
    #[arg(long, value_enum, default_value_t = Exif::Ignore)]
    exif: Exif,
    #[command(flatten)]
    decode: DecodeArgs,
}

#[derive(Debug, Clone, Args)]
struct SyntheticArgs {
    #[command(flatten)]
    out: OutArgs,
    /// Draw photographs of mixed sizes, 80 to 400 pixels a side, 20 classes unless --classes says otherwise
    #[arg(long, conflicts_with = "size")]
    photos: bool,
    /// Write JPEG files in a folder per class, OUT/train and OUT/test, in place of a store: what `prepare images` takes
    #[arg(long, conflicts_with = "force")]
    files: bool,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = SyntheticConfig::default().classes,
          default_value_if("photos", ArgPredicate::IsPresent, "20"))]
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
    super::signals::listen(match args.what {
        What::Images(_) | What::ImagenetLt(_) | What::PlacesLt(_) | What::Inat2018(_) => "stopping",
        _ => "stopping: nothing is left behind",
    })?;
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| {
        Error::Config(format!("cannot start {threads} threads: too little memory, or more threads than allowed ({e})"))
    })?;
    pool.install(|| match &args.what {
        What::Cifar10(args) => prepare_cifar(Cifar::Cifar10, args).map(|summary| summary.print()),
        What::Cifar100(args) => prepare_cifar(Cifar::Cifar100, args).map(|summary| summary.print()),
        What::Images(args) => prepare_images(args).map(|summary| summary.print()),
        What::ImagenetLt(args) => prepare_published(&published::IMAGENET_LT, args).map(|summary| summary.print()),
        What::PlacesLt(args) => prepare_published(&published::PLACES_LT, args).map(|summary| summary.print()),
        What::Inat2018(args) => prepare_published(&published::INATURALIST_2018, args).map(|summary| summary.print()),
        What::Synthetic(args) => {
            let config = SyntheticConfig {
                classes: args.classes,
                per_class: args.per_class,
                test_per_class: args.test_per_class,
                imbalance: args.imbalance,
                size: args.size,
                photos: args.photos,
                seed: args.seed,
                force: args.out.force,
            };
            let out = &args.out.out;
            if args.files {
                let [train, test] = synthetic::files(out, &config)?;
                say!("{}: {train} training and {test} test images, a folder per class", shown(out));
                return Ok(());
            }
            synthetic::prepare(out, &config).map(|summary| summary.print())
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
            val: args.val_list.clone(),
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
        published: None,
        // The command line has one of the two.
        resize: args.resize.unwrap_or(Resize::Square(args.size.unwrap_or_default())),
        long_tail: args.imbalance.map(|imbalance| args.rule.with(imbalance)),
        test_fraction: args.test_fraction,
        val_fraction: args.val_fraction,
        seed: args.rule.seed(),
        normalise: args.normalise,
        exif: args.exif,
        skip_broken: args.decode.skip_broken,
        max_pixels: args.decode.limits.max_pixels,
        decode_memory: args.decode.limits.memory(),
        force: args.out.force,
    };
    run_images(&args.out, &config)
}

fn prepare_published(published: &'static Published, args: &PublishedArgs) -> Result<Summary> {
    let (train, val, test) = published.lists(&args.lists);
    let (root, names) = (args.root.clone(), args.class_names.clone());
    let config = ImagesConfig {
        source: Source::Lists { train, val, test: Some(test), root, names },
        published: Some(published),
        resize: args.size.map_or(args.resize, Resize::Square),
        long_tail: None,
        test_fraction: None,
        val_fraction: None,
        seed: 0,
        normalise: published.normalise,
        exif: args.exif,
        skip_broken: args.decode.skip_broken,
        max_pixels: args.decode.limits.max_pixels,
        decode_memory: args.decode.limits.memory(),
        force: args.out.force,
    };
    run_images(&args.out, &config)
}

fn show(meter: &Meter, step: Step, done: usize, total: usize) {
    match step {
        Step::Resume => meter.say(&format!("going on with {done} of {total} images done")),
        Step::Lost => {
            meter.say(&format!("{done} of {total} images are not as they were written and are decoded again"));
        }
        Step::Check => meter.tick("check", false, done, total),
        Step::Recall => meter.tick("reread", false, done, total),
        Step::Decode(subset) => meter.tick(subset.name(), true, done, total),
    }
}

/// Makes a store of images and shows how far that is.
fn run_images(out: &OutArgs, config: &ImagesConfig) -> Result<Summary> {
    let meter = Meter::new();
    let summary = images::prepare(&out.out, config, &|step, done, total| show(&meter, step, done, total));
    meter.end();
    let summary = summary?;
    for (path, why) in &summary.broken {
        note!("left out: {} ({why})", shown(path));
    }
    Ok(summary)
}
