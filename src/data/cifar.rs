//! CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the official archives: the binary layout or the Python (pickle) layout.

use std::path::{Path, PathBuf};

use super::longtail::LongTail;
use super::meta::{Coarse, FORMAT, Meta};
use super::pickle::Pickle;
use super::store::Subset;
use super::summary::Summary;
use super::writer::StoreWriter;
use crate::{Error, Result, files, stop};

/// Side of an image.
pub const SIDE: usize = 32;
/// Bytes of an image.
const PIXELS: usize = SIDE * SIDE * 3;
/// Training images of either set, in equal parts in the official files.
const TRAIN_IMAGES: usize = 50_000;
/// Test images of either set.
const TEST_IMAGES: usize = 10_000;
/// Longest file that is read; CIFAR-100's training file has 155 MB.
const MAX_FILE: u64 = 1 << 30;

/// Which of the two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cifar {
    /// Ten classes.
    Cifar10,
    /// A hundred classes in twenty superclasses.
    Cifar100,
}

/// How [`prepare`] makes a store.
#[derive(Debug, Clone)]
pub struct CifarConfig {
    /// Which set.
    pub set: Cifar,
    /// The folder that holds the archive's files (or the archive's folder itself).
    pub source: PathBuf,
    /// The long-tailed subset.
    pub long_tail: LongTail,
    /// Take files that hold another number of images than the official ones.
    pub any_size: bool,
    /// Replace an existing store.
    pub force: bool,
}

/// The images of a split, in the order of the files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Images {
    /// Images of 3 planes of 32 x 32, as the files hold them.
    planes: Vec<u8>,
    labels: Vec<i32>,
    /// CIFAR-100's superclasses.
    coarse: Vec<u8>,
}

/// A whole archive.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    train: Images,
    test: Images,
    names: Vec<String>,
    coarse_names: Vec<String>,
}

impl Cifar {
    fn name(self) -> &'static str {
        match self {
            Cifar::Cifar10 => "cifar10",
            Cifar::Cifar100 => "cifar100",
        }
    }

    fn classes(self) -> usize {
        match self {
            Cifar::Cifar10 => 10,
            Cifar::Cifar100 => 100,
        }
    }

    fn coarse_classes(self) -> usize {
        match self {
            Cifar::Cifar10 => 0,
            Cifar::Cifar100 => 20,
        }
    }

    /// The folder that the official archive of the binary or the Python layout unpacks to.
    fn folder(self, layout: Layout) -> &'static str {
        match (self, layout) {
            (Cifar::Cifar10, Layout::Binary) => "cifar-10-batches-bin",
            (Cifar::Cifar10, Layout::Pickle) => "cifar-10-batches-py",
            (Cifar::Cifar100, Layout::Binary) => "cifar-100-binary",
            (Cifar::Cifar100, Layout::Pickle) => "cifar-100-python",
        }
    }

    /// Training files and the test file.
    fn files(self, layout: Layout) -> (Vec<String>, String) {
        let suffix = if layout == Layout::Binary { ".bin" } else { "" };
        match self {
            Cifar::Cifar10 => {
                ((1..=5).map(|i| format!("data_batch_{i}{suffix}")).collect(), format!("test_batch{suffix}"))
            }
            Cifar::Cifar100 => (vec![format!("train{suffix}")], format!("test{suffix}")),
        }
    }

    /// Mean and standard deviation by which everybody normalises the set.
    pub fn normalisation(self) -> ([f64; 3], [f64; 3]) {
        match self {
            Cifar::Cifar10 => ([0.49139968, 0.48215827, 0.44653124], [0.24703233, 0.24348505, 0.26158768]),
            Cifar::Cifar100 => ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Binary,
    Pickle,
}

/// Reads an archive and writes the store at `out`.
///
/// # Errors
///
/// If `config.source` holds no such archive, if a file is cut off or damaged (named), if the long tail is impossible, or if the
/// store cannot be written.
pub fn prepare(out: &Path, config: &CifarConfig) -> Result<Summary> {
    let (layout, folder) = find(config.set, &config.source)?;
    let mut writer = StoreWriter::create(out, config.force, &[&folder])?;
    let archive = match layout {
        Layout::Binary => read_binary(config, &folder)?,
        Layout::Pickle => read_pickle(config, &folder)?,
    };
    let classes = config.set.classes();
    if let Some(class) = (0..classes).find(|&class| !archive.train.labels.contains(&(class as i32))) {
        let name = &archive.names[class];
        return Err(Error::file(
            &folder,
            format!("no training image has label {class} ({name}); unpack the archive again"),
        ));
    }
    let chosen = config.long_tail.select(&archive.train.labels, classes)?;
    for (subset, images) in [(Subset::Train, &archive.train), (Subset::Test, &archive.test)] {
        let all: Vec<usize>;
        let indices = match subset {
            Subset::Train => &chosen.indices,
            Subset::Val | Subset::Test => {
                all = (0..images.labels.len()).collect();
                &all
            }
        };
        let labels: Vec<i32> = indices.iter().map(|&i| images.labels[i]).collect();
        let mut pixels = writer.split(subset, &labels, SIDE, SIDE)?;
        let mut buffer = Vec::new();
        for chunk in indices.chunks(4096) {
            stop::check()?;
            buffer.clear();
            chunk.iter().for_each(|&i| interleave(&images.planes[i * PIXELS..][..PIXELS], &mut buffer));
            pixels.append(&buffer)?;
        }
        writer.end_split(pixels)?;
    }
    let (mean, std) = config.set.normalisation();
    let coarse = match config.set {
        Cifar::Cifar10 => None,
        Cifar::Cifar100 => Some(coarse_of_classes(&folder, &archive)?),
    };
    let meta = Meta {
        format: FORMAT,
        source: config.set.name().into(),
        class_names: archive.names,
        counts: chosen.counts,
        mean,
        std,
        split: Some(config.long_tail),
        seed: None,
        coarse,
        prepared: None,
        arrays: Default::default(),
    };
    let summary = Summary::new(out, &meta, archive.test.labels.len(), chosen.short);
    writer.finish(meta)?;
    Ok(summary)
}

/// Appends an image of three planes with its colours interleaved.
fn interleave(planes: &[u8], out: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(SIDE * SIDE);
    let (green, blue) = rest.split_at(SIDE * SIDE);
    out.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
}

/// The superclass of each class, which every image of the class must share.
fn coarse_of_classes(source: &Path, archive: &Archive) -> Result<Coarse> {
    let mut of_class = vec![None; archive.names.len()];
    for images in [&archive.train, &archive.test] {
        for (&label, &coarse) in images.labels.iter().zip(&images.coarse) {
            let known = of_class[label as usize].get_or_insert(usize::from(coarse));
            if *known != usize::from(coarse) {
                let what = format!("class {label} has images of two superclasses, {known} and {coarse}");
                return Err(Error::file(source, what));
            }
        }
    }
    // `select` found every class among the training images.
    Ok(Coarse { names: archive.coarse_names.clone(), of_class: of_class.into_iter().flatten().collect() })
}

/// Finds the layout in `source`, or in the folder of the official archive below it.
fn find(set: Cifar, source: &Path) -> Result<(Layout, PathBuf)> {
    std::fs::read_dir(source).map_err(Error::io(source))?;
    for layout in [Layout::Binary, Layout::Pickle] {
        for folder in [source.to_path_buf(), source.join(set.folder(layout))] {
            let (train, test) = set.files(layout);
            for file in train.iter().chain([&test]) {
                // What cannot be looked at is told as it is; it does not count as absent.
                let path = folder.join(file);
                if path.try_exists().map_err(Error::io(&path))? {
                    return Ok((layout, folder));
                }
            }
        }
    }
    let (binary, pickle) = (set.files(Layout::Binary).1, set.files(Layout::Pickle).1);
    let what = format!("holds no {} (no {binary} of the binary layout, no {pickle} of the Python layout)", set.name());
    Err(Error::file(source, what))
}

fn read_files(
    config: &CifarConfig,
    folder: &Path,
    layout: Layout,
    one: impl Fn(&Path) -> Result<Images>,
) -> Result<(Images, Images)> {
    let set = config.set;
    let (train_files, test_file) = set.files(layout);
    let official = |path: &Path, images: &Images, size: usize| match images.labels.len() {
        n if n == size || config.any_size => Ok(()),
        n => {
            let what =
                format!("has {n} images, the official file has {size}; unpack the archive again, or use --any-size");
            Err(Error::file(path, what))
        }
    };
    let mut train = Images::default();
    let mut first = None;
    for file in &train_files {
        let path = folder.join(file);
        let images = one(&path)?;
        // A batch that was cut between two images would pass otherwise.
        let first = *first.get_or_insert(images.labels.len());
        if images.labels.len() != first {
            let what =
                format!("has {} images, {} has {first}; unpack the archive again", images.labels.len(), train_files[0]);
            return Err(Error::file(path, what));
        }
        official(&path, &images, TRAIN_IMAGES / train_files.len())?;
        let room = train.planes.try_reserve_exact(images.planes.len());
        room.map_err(|_| Error::file(&path, "there is not enough memory for its images"))?;
        train.planes.extend(images.planes);
        train.labels.extend(images.labels);
        train.coarse.extend(images.coarse);
    }
    let path = folder.join(test_file);
    let test = one(&path)?;
    official(&path, &test, TEST_IMAGES)?;
    Ok((train, test))
}

fn check_names(path: &Path, names: Vec<String>, expected: usize) -> Result<Vec<String>> {
    match names.len() {
        n if n == expected => Ok(names),
        n => Err(Error::file(path, format!("names {n} classes, must be {expected}"))),
    }
}

fn check_label(path: &Path, image: usize, label: u8, classes: usize) -> Result<i32> {
    match usize::from(label) < classes {
        true => Ok(label.into()),
        false => Err(Error::file(path, format!("image {image} has label {label}, must be below {classes}"))),
    }
}

/// Records of one label (CIFAR-100: superclass, then class) and the planes of an image.
fn read_binary(config: &CifarConfig, folder: &Path) -> Result<Archive> {
    let set = config.set;
    let label_bytes = if set == Cifar::Cifar100 { 2 } else { 1 };
    let record = label_bytes + PIXELS;
    let (train, test) = read_files(config, folder, Layout::Binary, |path| {
        let bytes = files::read(path, MAX_FILE)?;
        if bytes.is_empty() || bytes.len() % record != 0 {
            let what = format!("has {} bytes, which is not a number of images of {record} bytes", bytes.len());
            return Err(Error::file(path, format!("{what}; unpack the archive again")));
        }
        let planes = files::buffer(bytes.len()).map_err(|what| Error::file(path, what))?;
        let mut images = Images { planes, ..Images::default() };
        for (i, record) in bytes.chunks_exact(record).enumerate() {
            if set == Cifar::Cifar100 {
                check_label(path, i, record[0], set.coarse_classes())?;
                images.coarse.push(record[0]);
            }
            images.labels.push(check_label(path, i, record[label_bytes - 1], set.classes())?);
            images.planes.extend_from_slice(&record[label_bytes..]);
        }
        Ok(images)
    })?;
    let names = |file: &str, expected| {
        let path = folder.join(file);
        let bytes = files::read(&path, 1 << 20)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(&path, "is not text"))?;
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
        check_names(&path, names, expected)
    };
    let (names, coarse_names) = match set {
        Cifar::Cifar10 => (names("batches.meta.txt", 10)?, Vec::new()),
        Cifar::Cifar100 => (names("fine_label_names.txt", 100)?, names("coarse_label_names.txt", 20)?),
    };
    Ok(Archive { train, test, names, coarse_names })
}

fn read_pickle(config: &CifarConfig, folder: &Path) -> Result<Archive> {
    let set = config.set;
    let (label_key, meta_file, names_key) = match set {
        Cifar::Cifar10 => ("labels", "batches.meta", "label_names"),
        Cifar::Cifar100 => ("fine_labels", "meta", "fine_label_names"),
    };
    let meta_path = folder.join(meta_file);
    let bytes = files::read(&meta_path, MAX_FILE)?;
    let at_meta = |what| Error::file(&meta_path, what);
    let meta = Pickle::load(&bytes).map_err(at_meta)?;
    let names = check_names(&meta_path, meta.strings(names_key).map_err(at_meta)?, set.classes())?;
    let coarse_names = match set {
        Cifar::Cifar10 => Vec::new(),
        Cifar::Cifar100 => {
            check_names(&meta_path, meta.strings("coarse_label_names").map_err(at_meta)?, set.coarse_classes())?
        }
    };
    let batch = meta.integer("num_cases_per_batch").filter(|_| set == Cifar::Cifar10);

    let (train, test) = read_files(config, folder, Layout::Pickle, |path| {
        let bytes = files::read(path, MAX_FILE)?;
        let at = |what| Error::file(path, what);
        let pickle = Pickle::load(&bytes).map_err(at)?;
        let (rows, columns, planes) = pickle.matrix("data").map_err(at)?;
        let labels = pickle.labels(label_key).map_err(at)?;
        if columns != PIXELS || rows == 0 || labels.len() != rows {
            let what =
                format!("{} labels for data of shape ({rows}, {columns}), must be (images, {PIXELS})", labels.len());
            return Err(at(what));
        }
        if let Some(n) = batch.filter(|&n| n != rows as i64) {
            return Err(at(format!("has {rows} images, batches.meta says {n}")));
        }
        let mut coarse = Vec::new();
        if set == Cifar::Cifar100 {
            coarse = pickle.labels("coarse_labels").map_err(at)?;
            if coarse.len() != rows {
                return Err(at(format!("{} coarse labels for {rows} images", coarse.len())));
            }
            for (i, &label) in coarse.iter().enumerate() {
                check_label(path, i, label, set.coarse_classes())?;
            }
        }
        let labels = labels.iter().enumerate().map(|(i, &label)| check_label(path, i, label, set.classes()));
        Ok(Images { planes, labels: labels.collect::<Result<_>>()?, coarse })
    })?;
    Ok(Archive { train, test, names, coarse_names })
}
