//! Writing a store: everything goes to a folder beside the final one, is synced, and takes the final name in one rename.
//!
//! The working folder is `.NAME.partial`; it holds a lock file, so that two writers of one store do not meet, and whatever a
//! killed writer left there is removed by the next one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype};
use super::pixels::{BLOCK, HASH_LEN};
use super::store::{Store, Subset, array_name};
use crate::{Error, Result};

/// A store in the making. Dropping it without [`StoreWriter::finish`] removes what was written.
#[derive(Debug)]
pub struct StoreWriter {
    out: PathBuf,
    work: PathBuf,
    /// Held locked until the end.
    _lock: File,
    arrays: BTreeMap<String, ArrayMeta>,
}

/// The pixels of one subset, appended image by image.
#[derive(Debug)]
pub struct PixelWriter {
    subset: Subset,
    name: String,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    blocks: BlockHasher,
    shape: Vec<usize>,
    left: u64,
}

/// A checksum per block of a file that is written piece by piece.
#[derive(Debug, Default)]
struct BlockHasher {
    hasher: blake3::Hasher,
    /// Bytes of the block in the making.
    filled: usize,
    hashes: Vec<u8>,
}

impl BlockHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.hasher.update(piece);
            self.filled += piece.len();
            if self.filled == BLOCK {
                self.end_block();
            }
            bytes = rest;
        }
    }

    fn end_block(&mut self) {
        self.hashes.extend(self.hasher.finalize().as_bytes());
        self.hasher.reset();
        self.filled = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_block();
        }
        self.hashes
    }
}

impl StoreWriter {
    /// Begins a store that will be at `out`.
    ///
    /// # Errors
    ///
    /// If `out` exists (with `force`: if it is something else than a store), if its parent folder does not exist, or if
    /// another process is writing the same store.
    pub fn create(out: &Path, force: bool) -> Result<StoreWriter> {
        let name = match out.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => return Err(Error::Usage(format!("{}: not a name for a store", out.display()))),
        };
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !fs::metadata(parent).map_err(Error::io(parent))?.is_dir() {
            return Err(Error::file(parent, "is not a folder"));
        }
        refuse_existing(out, force)?;

        let work = parent.join(format!(".{name}.partial"));
        fs::create_dir_all(&work).map_err(Error::io(&work))?;
        let lock_path = work.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::file(out, "another process is writing this store")),
            Err(TryLockError::Error(e)) => return Err(Error::io(&lock_path)(e)),
        }
        // A writer with `force` that was killed between its two renames left the old store here: give it its name back.
        if work.join("old").is_dir() && fs::symlink_metadata(out).is_err() {
            fs::rename(work.join("old"), out).map_err(Error::io(out))?;
            if let Err(e) = refuse_existing(out, force) {
                let _ = clear(&work);
                return Err(e);
            }
        }
        for left in ["store", "old"] {
            remove_folder(&work.join(left))?;
        }
        Ok(StoreWriter { out: out.to_path_buf(), work, _lock: lock, arrays: BTreeMap::new() })
    }

    fn store(&self) -> PathBuf {
        self.work.join("store")
    }

    /// Writes the labels of a subset and begins its pixels: `labels.len()` images of `height` x `width` x 3 bytes.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn split(&mut self, subset: Subset, labels: &[i32], height: usize, width: usize) -> Result<PixelWriter> {
        self.labels(subset, labels)?;
        self.begin(subset, "pixels", Dtype::U8, vec![labels.len(), height, width, 3])
    }

    /// Writes labels and index of a subset whose images differ in size and begins its pixels: for each image its height,
    /// width and label.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn mixed(&mut self, subset: Subset, images: &[(usize, usize, i32)]) -> Result<PixelWriter> {
        let labels: Vec<i32> = images.iter().map(|&(_, _, label)| label).collect();
        self.labels(subset, &labels)?;
        let mut total = 0;
        let mut rows = Vec::with_capacity(24 * images.len());
        for &(height, width, _) in images {
            [total, height, width].iter().for_each(|&n| rows.extend((n as i64).to_le_bytes()));
            total += height * width * 3;
        }
        self.array(subset, "index", Dtype::I64, vec![images.len(), 3], &rows)?;
        self.begin(subset, "pixels", Dtype::U8, vec![total])
    }

    fn labels(&mut self, subset: Subset, labels: &[i32]) -> Result<()> {
        let bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        self.array(subset, "labels", Dtype::I32, vec![labels.len()], &bytes)
    }

    /// Writes a whole array.
    fn array(&mut self, subset: Subset, array: &str, dtype: Dtype, shape: Vec<usize>, data: &[u8]) -> Result<()> {
        let mut array = self.begin(subset, array, dtype, shape)?;
        array.append(data)?;
        self.end(array, dtype).map(|_| ())
    }

    fn begin(&self, subset: Subset, array: &str, dtype: Dtype, shape: Vec<usize>) -> Result<PixelWriter> {
        let name = array_name(subset, array);
        let folder = self.store().join(subset.name());
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = self.store().join(&name);
        let len = npy::file_len(dtype, &shape)
            .ok_or_else(|| Error::file(&self.out, format!("{name} of shape {shape:?} is too large")))?;
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        let (hasher, blocks) = (blake3::Hasher::new(), BlockHasher::default());
        let mut array = PixelWriter { subset, name, path, file, hasher, blocks, shape, left: len };
        array.append(&npy::header(dtype, &array.shape))?;
        Ok(array)
    }

    /// Completes the pixels of a subset.
    ///
    /// # Errors
    ///
    /// If images are missing, or if the file cannot be synced.
    pub fn end_split(&mut self, pixels: PixelWriter) -> Result<()> {
        let subset = pixels.subset;
        let hashes = self.end(pixels, Dtype::U8)?;
        self.array(subset, "blocks", Dtype::U8, vec![hashes.len() / HASH_LEN, HASH_LEN], &hashes)
    }

    /// Completes an array, and returns the checksums of its blocks.
    fn end(&mut self, array: PixelWriter, dtype: Dtype) -> Result<Vec<u8>> {
        let PixelWriter { name, path, file, hasher, blocks, shape, left, .. } = array;
        if left != 0 {
            return Err(Error::file(&self.out, format!("{name}: {left} bytes were never written")));
        }
        file.sync_all().map_err(Error::io(&path))?;
        let blake3 = hasher.finalize().to_hex().to_string();
        self.arrays.insert(name, ArrayMeta { dtype, shape, blake3, ends: None });
        Ok(blocks.finish())
    }

    /// Writes `meta.json` (its `arrays` are filled in here), syncs everything, and gives the store its name.
    ///
    /// # Errors
    ///
    /// If the result is not a store that opens, or if a file cannot be written. Nothing is left behind then.
    pub fn finish(mut self, mut meta: Meta) -> Result<()> {
        meta.arrays = std::mem::take(&mut self.arrays);
        meta.validate().map_err(|what| Error::file(&self.out, what))?;
        let store = self.store();
        let path = store.join("meta.json");
        let mut file = File::create_new(&path).map_err(Error::io(&path))?;
        file.write_all(meta.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io(&path))?;
        drop(Store::open(&store)?);
        for folder in Subset::ALL.map(|subset| store.join(subset.name())).into_iter().filter(|folder| folder.exists()) {
            sync_folder(&folder)?;
        }
        sync_folder(&store)?;
        let old = self.work.join("old");
        if fs::symlink_metadata(&self.out).is_ok() {
            fs::rename(&self.out, &old).map_err(Error::io(&self.out))?;
        }
        if let Err(e) = fs::rename(&store, &self.out) {
            let _ = fs::rename(&old, &self.out);
            return Err(Error::io(&self.out)(e));
        }
        // The parent exists, `create` looked; `Drop` clears the working folder.
        sync_folder(self.work.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // The store that was to be replaced is still in the working folder if even putting it back failed: keep it.
        if fs::symlink_metadata(&self.out).is_err() && self.work.join("old").exists() {
            return;
        }
        // Nobody is left to tell; the next writer of this store clears what could not be removed now.
        let _ = clear(&self.work);
    }
}

impl PixelWriter {
    /// Appends whole images.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or more is appended than was announced.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = (self.left)
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::file(&self.path, format!("more than shape {:?} holds was written", self.shape)))?;
        // Hashing small pieces on all threads costs more than it saves.
        if bytes.len() >= 1 << 20 {
            self.hasher.update_rayon(bytes)
        } else {
            self.hasher.update(bytes)
        };
        self.blocks.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }
}

/// Fails if `out` is there and must not be replaced.
fn refuse_existing(out: &Path, force: bool) -> Result<()> {
    if fs::symlink_metadata(out).is_err() {
        return Ok(());
    }
    if !force {
        return Err(Error::file(out, "exists already; --force replaces it"));
    }
    let entries =
        fs::read_dir(out).map_err(|_| Error::file(out, "is not a store; choose another name or remove it"))?;
    let mut names =
        entries.map(|entry| entry.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>().map_err(Error::io(out))?;
    names.retain(|name| name != Subset::Val.name());
    names.sort();
    if names != ["meta.json", "test", "train"] {
        return Err(Error::file(
            out,
            "is not just a store, so --force does not replace it; choose another name or remove it",
        ));
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Removes the working folder. The lock goes after the content and by name, never recursively, so that a writer that starts in
/// this very moment keeps its own lock and folder.
fn clear(work: &Path) -> io::Result<()> {
    for left in ["store", "old"] {
        match fs::remove_dir_all(work.join(left)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::remove_file(work.join("lock"))?;
    fs::remove_dir(work)
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io(path))
}
