//! A store: a folder of `.npy` arrays and a `meta.json`, everything about which is checked before it is used.
//!
//! ```text
//! NAME.lt/
//!   meta.json             classes, training counts, mean and std, source, a checksum of each array
//!   train/labels.npy      i32 (N,)
//!   train/pixels.npy      u8 (N,H,W,3), or (bytes,) where sizes differ
//!   train/index.npy       i64 (N,3): offset, height, width; only where sizes differ within the subset
//!   train/blocks.npy      u8 (B,32): a checksum of each block of pixels.npy
//!   test/...              likewise
//!   val/...               likewise, where there are validation images
//! ```
//!
//! This is format 2; `format` in `meta.json` says so.
//!
//! - **Arrays** are NumPy's, version 1.0, little-endian, C order, with a header of 128 bytes; `np.load(..., mmap_mode="r")`
//!   opens them.
//! - **Pixels** are bytes, red first, row by row. Images of one size are one array. Where sizes differ, images lie one after
//!   another without gaps, and row `i` of `index.npy` says at which byte behind the header image `i` begins, and how high and
//!   wide it is.
//! - **Checksums** are BLAKE3. `meta.json` lists type, shape and checksum of every array (of the whole file, header included, as
//!   `b3sum` prints it), and ends with a checksum of itself. `blocks.npy` has the checksum of every 256 KiB of the *file*
//!   `pixels.npy` ([`BLOCK`](super::pixels::BLOCK); block 0 begins with the header, the last one may be shorter).
//! - **Who checks what**: [`Store::open`] reads `meta.json`, labels, index and block checksums in full, and of the pixels length,
//!   header, first and last block. Every other block is verified when the first byte of it is read, so that training and
//!   evaluation see damage anywhere in what they use. [`Store::check`] reads everything.
//!
//! Format 1 has no `val/` and no `blocks.npy`; instead `meta.json` gives a checksum of the first and last 64 KiB of each array,
//! and only [`Store::check`] sees damage between them. It still opens.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype, HEADER_LEN};
use super::pixels::{HASH_LEN, PixelSource, Pixels, blocks};
use crate::{Error, Result, files};

/// Bytes at each end of an array that its `ends` checksum covers, in format 1.
const END_BYTES: u64 = 64 << 10;

const DAMAGED: &str = "is damaged or of another store (its checksum does not fit meta.json); prepare the store again";

/// Longest side of a stored image.
pub const MAX_SIDE: usize = 16_384;

/// Longest `meta.json`: a million classes with long names.
pub(super) const MAX_META_BYTES: u64 = 256 << 20;

/// The subsets of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// Training images.
    Train,
    /// Validation images, by which a model is chosen; not every store has them.
    Val,
    /// Test images.
    Test,
}

impl Subset {
    /// All of them.
    pub const ALL: [Subset; 3] = [Subset::Train, Subset::Val, Subset::Test];

    /// The folder's name.
    pub fn name(self) -> &'static str {
        match self {
            Subset::Train => "train",
            Subset::Val => "val",
            Subset::Test => "test",
        }
    }
}

/// Where an image of a mixed-size split lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset of its first pixel among the subset's pixels.
    pub offset: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// An opened store. Everything that can be checked without reading all pixels was checked.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    meta: Meta,
    train: ImageSet,
    val: Option<ImageSet>,
    test: ImageSet,
}

/// One split: images and their labels.
#[derive(Debug)]
pub struct ImageSet {
    pixels: Pixels,
    labels: Vec<i32>,
    index: Option<Vec<Entry>>,
    height: usize,
    width: usize,
}

impl ImageSet {
    /// A copy of all pixels: `len()` images of `height()` x `width()` x 3 bytes, one after another, red first; where sizes
    /// differ, [`ImageSet::index`] says where each image lies.
    ///
    /// # Errors
    /// As for [`PixelSource::read`].
    pub fn pixels(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.pixels.len()];
        self.pixels.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// A label per image, each in `0..classes`.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// Number of images; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Rows of every image; of the tallest where sizes differ.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of every image; of the widest where sizes differ.
    pub fn width(&self) -> usize {
        self.width
    }

    /// An entry per image where sizes differ, `None` where all images have one size.
    pub fn index(&self) -> Option<&[Entry]> {
        self.index.as_deref()
    }

    /// A copy of the pixels (H*W*3) of image `i`, its height and its width.
    ///
    /// # Errors
    /// As for [`PixelSource::read`].
    ///
    /// # Panics
    /// If `i` is not below `len()`.
    pub fn image(&self, i: usize) -> Result<(Vec<u8>, usize, usize)> {
        let entry = match &self.index {
            Some(index) => index[i],
            None => Entry { offset: i * self.height * self.width * 3, height: self.height, width: self.width },
        };
        let mut bytes = vec![0; entry.height * entry.width * 3];
        self.pixels.read(entry.offset, &mut bytes)?;
        Ok((bytes, entry.height, entry.width))
    }
}

impl PixelSource for ImageSet {
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        self.pixels.read(at, into)
    }
}

impl Store {
    /// Opens the store at `path`: reads and validates `meta.json`, the lengths and headers of all arrays, all labels (range,
    /// checksum, counts), and both ends of the pixels.
    ///
    /// # Errors
    ///
    /// Names the file and says what is wrong with it. Changed bits between the ends of the pixels are seen when they are read.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        super::place::recover(path)?;
        let folder = std::fs::metadata(path).map_err(Error::io(path))?;
        let meta_path = path.join("meta.json");
        if !folder.is_dir() {
            return Err(Error::file(
                path,
                "is not a store (a folder with meta.json); make one with `glmc-engine prepare`",
            ));
        }
        let text = files::read(&meta_path, MAX_META_BYTES).map_err(|e| match e {
            // Any other cause (no permission, say) is told as it is.
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::file(path, "is not a store (it has no meta.json); make one with `glmc-engine prepare`")
            }
            other => other,
        })?;
        let meta = Meta::from_text(&meta_path, &text)?;
        let train = open_images(path, &meta, &meta_path, Subset::Train)?;
        let test = open_images(path, &meta, &meta_path, Subset::Test)?;
        let has_val = meta.arrays.contains_key("val/labels.npy");
        let val = has_val.then(|| open_images(path, &meta, &meta_path, Subset::Val)).transpose()?;
        let mut counts = vec![0; meta.counts.len()];
        train.labels.iter().for_each(|&label| counts[label as usize] += 1);
        if let Some(class) = (0..counts.len()).find(|&c| counts[c] != meta.counts[c]) {
            let what =
                format!("holds {} images of class {class}, meta.json says {}", counts[class], meta.counts[class]);
            return Err(Error::file(path.join("train/labels.npy"), format!("{what}; prepare the store again")));
        }
        Ok(Store { path: path.to_path_buf(), meta, train, val, test })
    }

    /// Identifies the store: the checksum of its `meta.json`, which holds those of its arrays.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let path = self.path.join("meta.json");
        let bytes = files::read(&path, MAX_META_BYTES)?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of `meta.json`.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.meta.class_names.len()
    }

    /// The training images.
    pub fn train(&self) -> &ImageSet {
        &self.train
    }

    /// The validation images, where there are any.
    pub fn val(&self) -> Option<&ImageSet> {
        self.val.as_ref()
    }

    /// The images of a subset; only `val` may be absent.
    pub fn subset(&self, subset: Subset) -> Option<&ImageSet> {
        match subset {
            Subset::Train => Some(&self.train),
            Subset::Val => self.val.as_ref(),
            Subset::Test => Some(&self.test),
        }
    }

    /// The test images.
    pub fn test(&self) -> &ImageSet {
        &self.test
    }

    /// Reads every byte of every array and compares its checksum.
    ///
    /// # Errors
    ///
    /// Names each array that changed since it was written, and the first damaged block of the first.
    pub fn check(&self) -> Result<()> {
        let mut damaged = Vec::new();
        for (name, array) in &self.meta.arrays {
            let path = self.path.join(name);
            if hash_file(&path)? != array.blake3 {
                damaged.push((name, path));
            }
        }
        let Some(((name, first), rest)) = damaged.split_first() else { return Ok(()) };
        let what = match self.damaged_block(name) {
            Some(error) => error,
            None => Error::file(first, DAMAGED),
        };
        if rest.is_empty() {
            return Err(what);
        }
        let rest: Vec<String> = rest.iter().map(|(_, path)| path.display().to_string()).collect();
        match what {
            Error::File { path, what } => Err(Error::file(path, format!("{what}; so are {}", rest.join(", ")))),
            other => Err(other),
        }
    }

    /// What is wrong with the first damaged block of an array, if that is an array with blocks.
    fn damaged_block(&self, name: &str) -> Option<Error> {
        let set = Subset::ALL.iter().find(|subset| name == array_name(**subset, "pixels"))?;
        let set = self.subset(*set)?;
        (0..blocks(set.pixels.len() + HEADER_LEN)).find_map(|block| set.pixels.check_block(block).err())
    }
}

/// An array's path in the store.
pub(super) fn array_name(subset: Subset, array: &str) -> String {
    format!("{}/{array}.npy", subset.name())
}

/// Bytes of a file that are read and hashed at a time.
const HASHED_AT_ONCE: u64 = 4 << 20;

/// BLAKE3 of a whole file, as `b3sum` prints it.
fn hash_file(path: &Path) -> Result<String> {
    let mut file = files::open(path)?;
    // No larger than the file, which may be tiny, and a byte at least.
    let len = file.metadata().map_err(Error::io(path))?.len().clamp(1, HASHED_AT_ONCE);
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), vec![0; len as usize]);
    loop {
        match file.read(&mut bytes).map_err(Error::io(path))? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update_rayon(&bytes[..n]),
        };
    }
}

/// The `ends` checksum of an array file of `len` bytes, in format 1.
fn end_checksum(file: &File, path: &Path, len: u64) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let first = len.min(END_BYTES);
    let last = (len - first).min(END_BYTES);
    for (offset, n) in [(0, first), (len - last, last)] {
        let mut bytes = vec![0; n as usize];
        file.read_exact_at(&mut bytes, offset).map_err(Error::io(path))?;
        hasher.update(&bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Opens an array and checks its length, its header, and in format 1 its ends against its declaration.
fn open_array(path: &Path, array: &ArrayMeta) -> Result<File> {
    let declared = npy::file_len(array.dtype, &array.shape)
        .ok_or_else(|| Error::file(path, format!("meta.json gives it the impossible shape {:?}", array.shape)))?;
    let file = files::open(path)?;
    let stat = file.metadata().map_err(Error::io(path))?;
    let mut start = vec![0; stat.len().min(HEADER_LEN as u64) as usize];
    file.read_exact_at(&mut start, 0).map_err(Error::io(path))?;
    npy::check_header(path, &start, array.dtype, &array.shape)?;
    if stat.len() != declared {
        let kind = if stat.len() < declared { "is cut off" } else { "is too long" };
        return Err(Error::file(
            path,
            format!("{kind}: {} bytes, must be {declared}; prepare the store again", stat.len()),
        ));
    }
    if let Some(ends) = &array.ends
        && end_checksum(&file, path, declared)? != *ends
    {
        return Err(Error::file(path, DAMAGED));
    }
    Ok(file)
}

/// The data of a small array, checked in full.
fn read_array(path: &Path, array: &ArrayMeta) -> Result<Vec<u8>> {
    let mut file = open_array(path, array)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(path))?;
    if blake3::hash(&bytes).to_hex().as_str() != array.blake3 {
        return Err(Error::file(path, DAMAGED));
    }
    bytes.drain(..HEADER_LEN);
    Ok(bytes)
}

fn open_images(root: &Path, meta: &Meta, meta_path: &Path, subset: Subset) -> Result<ImageSet> {
    let names = ["labels", "pixels", "index", "blocks"].map(|array| array_name(subset, array));
    let [labels_name, pixels_name, index_name, blocks_name] = &names;
    let labels_array = meta.array(meta_path, labels_name)?;
    let pixels_array = meta.array(meta_path, pixels_name)?;
    let odd = |name: &str, array: &ArrayMeta| {
        let what = format!("gives {name} type {} and shape {:?}", array.dtype.descr(), array.shape);
        Error::file(meta_path, format!("{what}, which no store has; prepare the store again"))
    };

    let &[n] = &labels_array.shape[..] else { return Err(odd(labels_name, labels_array)) };
    if labels_array.dtype != Dtype::I32 || n == 0 {
        return Err(odd(labels_name, labels_array));
    }
    let labels_path = root.join(labels_name);
    let bytes = read_array(&labels_path, labels_array)?;
    // Four-byte chunks by `chunks_exact`, so the conversion cannot fail.
    let labels: Vec<i32> = bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    let classes = meta.class_names.len();
    if let Some(i) = labels.iter().position(|&label| label < 0 || label as usize >= classes) {
        let what = format!("image {i} has label {}, the store has {classes} classes", labels[i]);
        return Err(Error::file(labels_path, format!("{what}; prepare the store again")));
    }

    let pixels_path = root.join(pixels_name);
    let (index, height, width) = match pixels_array.shape[..] {
        _ if pixels_array.dtype != Dtype::U8 => return Err(odd(pixels_name, pixels_array)),
        [images, h, w, 3] if images == n && (1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w) => (None, h, w),
        [bytes] => {
            let array = meta.array(meta_path, index_name)?;
            if array.dtype != Dtype::I64 || array.shape != [n, 3] {
                return Err(odd(index_name, array));
            }
            let index_path = root.join(index_name);
            let index = parse_index(&index_path, &read_array(&index_path, array)?, bytes)?;
            let height = index.iter().map(|e| e.height).max().unwrap_or(0);
            let width = index.iter().map(|e| e.width).max().unwrap_or(0);
            (Some(index), height, width)
        }
        _ => return Err(odd(pixels_name, pixels_array)),
    };
    let file = open_array(&pixels_path, pixels_array)?;
    let len = HEADER_LEN + pixels_array.shape.iter().product::<usize>();
    let hashes = match meta.format {
        1 => None,
        _ => {
            let array = meta.array(meta_path, blocks_name)?;
            if array.dtype != Dtype::U8 || array.shape != [blocks(len), HASH_LEN] {
                return Err(odd(blocks_name, array));
            }
            Some(read_array(&root.join(blocks_name), array)?)
        }
    };
    let pixels = Pixels::new(file, &pixels_path, len, hashes);
    pixels.check_ends()?;
    Ok(ImageSet { pixels, labels, index, height, width })
}

/// Entries (offset, height, width as i64) that must tile `total` bytes without gap or overlap.
fn parse_index(path: &Path, bytes: &[u8], total: usize) -> Result<Vec<Entry>> {
    let mut next = 0;
    let mut entries = Vec::with_capacity(bytes.len() / 24);
    for (i, row) in bytes.chunks_exact(24).enumerate() {
        // Eight-byte pieces of a 24-byte row, so the conversion cannot fail.
        let [offset, height, width] = [0, 8, 16].map(|at| i64::from_le_bytes(row[at..at + 8].try_into().unwrap()));
        let side = 1..=MAX_SIDE as i64;
        if usize::try_from(offset) != Ok(next) || !side.contains(&height) || !side.contains(&width) {
            let what =
                format!("image {i}: offset {offset}, height {height}, width {width} does not follow on byte {next}");
            return Err(Error::file(path, format!("{what}; prepare the store again")));
        }
        let entry = Entry { offset: next, height: height as usize, width: width as usize };
        next += entry.height * entry.width * 3;
        entries.push(entry);
    }
    if next != total {
        return Err(Error::file(
            path,
            format!("describes {next} bytes of pixels, there are {total}; prepare the store again"),
        ));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
