//! Writing a store: everything goes to a folder beside the final one, is synced, and takes the final name in one rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype, HEADER_LEN};
use super::pixels::{BLOCK, HASH_LEN};
use super::place::Place;
use super::store::{Store, Subset, array_name};
use crate::files::sync_folder;
use crate::{Error, Result, files, stop};

/// A store in the making. Dropping it without [`StoreWriter::finish`] removes what was written.
#[derive(Debug)]
pub struct StoreWriter {
    place: Place,
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
    /// Begins a store that will be at `out`, made from what lies in the folders `sources`.
    ///
    /// # Errors
    ///
    /// If something is at `out` that must not be replaced (with `force`: if it is something else than a store), if `out` lies in a
    /// source or a source in it, if its parent folder does not exist, or if another process is writing the same store.
    pub fn create(out: &Path, force: bool, sources: &[&Path]) -> Result<StoreWriter> {
        Ok(StoreWriter { place: Place::take(out, force, sources)?, arrays: BTreeMap::new() })
    }

    /// Fails if the store's place and one of these folders lie in each other.
    ///
    /// # Errors
    ///
    /// Says which.
    pub fn stay_out_of(&self, sources: &[&Path]) -> Result<()> {
        self.place.stay_out_of(sources)
    }

    fn store(&self) -> PathBuf {
        self.place.store()
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
            .ok_or_else(|| Error::file(self.place.out(), format!("{name} of shape {shape:?} is too large")))?;
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

    /// Gives up a subset whose pixels were begun, so that it can be written anew. What was written of them is returned: a file that
    /// has no name any more, at the first image.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or removed.
    pub fn take_back(&mut self, pixels: PixelWriter) -> Result<File> {
        let PixelWriter { subset, name, path, .. } = pixels;
        let mut file = files::open(&path)?;
        file.seek(SeekFrom::Start(HEADER_LEN as u64)).map_err(Error::io(&path))?;
        let of_subset = |array: &str| array.split('/').next() == Some(subset.name());
        let written: Vec<String> = self.arrays.keys().filter(|array| of_subset(array)).cloned().collect();
        for array in written.iter().chain([&name]) {
            let path = self.store().join(array);
            fs::remove_file(&path).map_err(Error::io(&path))?;
            self.arrays.remove(array);
        }
        Ok(file)
    }

    /// Completes an array, and returns the checksums of its blocks.
    fn end(&mut self, array: PixelWriter, dtype: Dtype) -> Result<Vec<u8>> {
        let PixelWriter { name, path, file, hasher, blocks, shape, left, .. } = array;
        if left != 0 {
            return Err(Error::file(self.place.out(), format!("{name}: {left} bytes were never written")));
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
        stop::check()?;
        meta.arrays = std::mem::take(&mut self.arrays);
        meta.validate().map_err(|what| Error::file(self.place.out(), what))?;
        let store = self.store();
        let path = store.join("meta.json");
        let mut file = File::create_new(&path).map_err(Error::io(&path))?;
        file.write_all(meta.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io(&path))?;
        drop(Store::open(&store)?);
        for folder in Subset::ALL.map(|subset| store.join(subset.name())).into_iter().filter(|folder| folder.exists()) {
            sync_folder(&folder)?;
        }
        sync_folder(&store)?;
        self.place.publish()
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
