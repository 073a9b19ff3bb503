//! Reading a store: a folder of `.npy` arrays and a `meta.json`, memory-mapped once everything about it was checked.
//!
//! ```text
//! NAME.lt/
//!   meta.json             classes, training counts, mean and std, source, a checksum of each array
//!   train/pixels.npy      u8 (N,H,W,3), or (bytes,) where sizes differ
//!   train/labels.npy      i32 (N,)
//!   train/index.npy       i64 (N,3): offset, height, width; only where sizes differ
//!   test/...              likewise
//!   val/...               likewise, where there are validation images
//! ```

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype, HEADER_LEN};
use crate::{Error, Result, files};

/// Bytes at each end of an array that its `ends` checksum covers.
const END_BYTES: u64 = 64 << 10;

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
    /// Byte offset of its first pixel in [`ImageSet::pixels`].
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
    map: Mmap,
    labels: Vec<i32>,
    index: Option<Vec<Entry>>,
    height: usize,
    width: usize,
}

impl ImageSet {
    /// All pixels: `len()` images of `height()` x `width()` x 3 bytes, one after another, red first; where sizes differ,
    /// [`ImageSet::index`] says where each image lies.
    pub fn pixels(&self) -> &[u8] {
        &self.map[HEADER_LEN..]
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

    /// Pixels (H*W*3), height and width of image `i`.
    ///
    /// # Panics
    ///
    /// If `i` is not below `len()`.
    pub fn image(&self, i: usize) -> (&[u8], usize, usize) {
        let entry = match &self.index {
            Some(index) => index[i],
            None => Entry { offset: i * self.height * self.width * 3, height: self.height, width: self.width },
        };
        (&self.pixels()[entry.offset..][..entry.height * entry.width * 3], entry.height, entry.width)
    }
}

impl Store {
    /// Opens the store at `path`: reads and validates `meta.json`, the lengths, headers and end checksums of all arrays,
    /// all labels (range, checksum, counts), and maps the pixels.
    ///
    /// # Errors
    ///
    /// Names the file and says what is wrong with it. Changed bits deep inside the pixels are what [`Store::check`] is for.
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

    /// The test images.
    pub fn test(&self) -> &ImageSet {
        &self.test
    }

    /// Reads every byte of every array and compares its checksum.
    ///
    /// # Errors
    ///
    /// Names each array that changed since it was written.
    pub fn check(&self) -> Result<()> {
        let mut damaged = Vec::new();
        for (name, array) in &self.meta.arrays {
            let path = self.path.join(name);
            files::open(&path)?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap_rayon(&path).map_err(Error::io(&path))?;
            if hasher.finalize().to_hex().as_str() != array.blake3 {
                damaged.push(path);
            }
        }
        let what = "is damaged (its checksum does not fit meta.json); prepare the store again";
        match &damaged[..] {
            [] => Ok(()),
            [path] => Err(Error::file(path, what)),
            [first, rest @ ..] => {
                let rest: Vec<String> = rest.iter().map(|path| path.display().to_string()).collect();
                Err(Error::file(first, format!("{what}; so are {}", rest.join(", "))))
            }
        }
    }
}

/// The `ends` checksum of an array file of `len` bytes.
pub(super) fn end_checksum(file: &File, path: &Path, len: u64) -> Result<String> {
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

/// Opens an array and checks its length, header and end checksum against its declaration.
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
    if end_checksum(&file, path, declared)? != array.ends {
        return Err(Error::file(
            path,
            "is damaged or of another store (its checksum does not fit meta.json); prepare the store again",
        ));
    }
    Ok(file)
}

/// The data of a small array, checked in full.
fn read_array(path: &Path, array: &ArrayMeta) -> Result<Vec<u8>> {
    let mut file = open_array(path, array)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(path))?;
    if blake3::hash(&bytes).to_hex().as_str() != array.blake3 {
        return Err(Error::file(path, "is damaged (its checksum does not fit meta.json); prepare the store again"));
    }
    bytes.drain(..HEADER_LEN);
    Ok(bytes)
}

fn open_images(root: &Path, meta: &Meta, meta_path: &Path, subset: Subset) -> Result<ImageSet> {
    let names = ["labels", "pixels", "index"].map(|array| format!("{}/{array}.npy", subset.name()));
    let [labels_name, pixels_name, index_name] = &names;
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
    // SAFETY: the map is read-only and the file's length was just checked. A store is written once under another name and
    // renamed, never changed in place, so nothing of ours modifies or truncates the file while it is mapped; replacing a
    // store keeps the old file's pages alive. Bytes are valid whatever their value.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&pixels_path))?;
    if map.len() as u64 != npy::file_len(Dtype::U8, &pixels_array.shape).unwrap_or(0) {
        return Err(Error::file(pixels_path, "changed while it was opened"));
    }
    Ok(ImageSet { map, labels, index, height, width })
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
mod tests {
    use std::fs;

    use super::*;
    use crate::data::meta::FORMAT;

    /// Writes an array and returns its declaration.
    fn array(root: &Path, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> (String, ArrayMeta) {
        let path = root.join(name);
        let bytes = [npy::header(dtype, shape), data.to_vec()].concat();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &bytes).unwrap();
        let ends = end_checksum(&File::open(&path).unwrap(), &path, bytes.len() as u64).unwrap();
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        (name.to_string(), ArrayMeta { dtype, shape: shape.to_vec(), blake3, ends })
    }

    /// A store of three images of different sizes, with this index and this many bytes of pixels in each split.
    fn mixed(root: &Path, index: [[i64; 3]; 3], total: usize) -> Result<Store> {
        let labels: Vec<u8> = [0i32, 1, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
        let index: Vec<u8> = index.as_flattened().iter().flat_map(|n| n.to_le_bytes()).collect();
        let pixels: Vec<u8> = (0..total).map(|i| i as u8).collect();
        let mut arrays = std::collections::BTreeMap::new();
        for subset in ["train", "test"] {
            arrays.extend([
                array(root, &format!("{subset}/labels.npy"), Dtype::I32, &[3], &labels),
                array(root, &format!("{subset}/index.npy"), Dtype::I64, &[3, 3], &index),
                array(root, &format!("{subset}/pixels.npy"), Dtype::U8, &[total], &pixels),
            ]);
        }
        let meta = Meta {
            format: FORMAT,
            source: "test".into(),
            class_names: vec!["a".into(), "b".into()],
            counts: vec![1, 2],
            mean: [0.5; 3],
            std: [0.25; 3],
            split: None,
            seed: None,
            coarse: None,
            arrays,
        };
        fs::write(root.join("meta.json"), meta.to_text()).unwrap();
        Store::open(root)
    }

    #[test]
    fn images_of_mixed_sizes() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = mixed(dir.path(), [[0, 2, 3], [18, 1, 1], [21, 4, 2]], 45).unwrap();
        store.check().unwrap();
        let train = store.train();
        assert_eq!((train.len(), train.height(), train.width()), (3, 4, 3));
        let (pixels, height, width) = train.image(1);
        assert_eq!((pixels, height, width), (&[18, 19, 20][..], 1, 1));
        assert_eq!(train.image(2).0.len(), 24);
        assert_eq!(train.image(2).0[23], 44);
        assert_eq!(train.index().unwrap()[2], Entry { offset: 21, height: 4, width: 2 });
    }

    #[test]
    fn an_index_that_does_not_tile_the_pixels() {
        let dir = tempfile::TempDir::new().unwrap();
        for (index, total) in [
            ([[0, 2, 3], [18, 1, 1], [21, 4, 2]], 46),
            ([[0, 2, 3], [18, 1, 1], [21, 4, 2]], 44),
            ([[0, 2, 3], [17, 1, 1], [20, 4, 2]], 44),
            ([[0, 2, 3], [18, 0, 1], [18, 4, 2]], 42),
            ([[0, 2, 3], [18, -1, -1], [21, 4, 2]], 45),
            ([[i64::MIN, 2, 3], [18, 1, 1], [21, 4, 2]], 45),
            ([[0, i64::MAX, i64::MAX], [18, 1, 1], [21, 4, 2]], 45),
        ] {
            let line = mixed(dir.path(), index, total).expect_err("it must not open").to_string();
            assert!(line.contains("train/index.npy"), "{index:?}: {line}");
        }
    }
}
