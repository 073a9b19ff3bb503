//! Writing a store: everything goes to a folder beside the final one, is synced, and takes the final name in one rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype, HEADER_LEN};
use super::place::Place;
use super::store::{Store, Subset, end_checksum};
use crate::files::sync_folder;
use crate::{Error, Result, files, stop};

/// A store in the making. Dropping it without [`StoreWriter::finish`] removes what was written.
#[derive(Debug)]
pub struct StoreWriter {
    place: Place,
    arrays: BTreeMap<String, ArrayMeta>,
}

/// The pixels of one split, appended image by image.
#[derive(Debug)]
pub struct PixelWriter {
    name: String,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    shape: Vec<usize>,
    left: u64,
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

    /// Writes the labels of a split and begins its pixels: `labels.len()` images of `height` x `width` x 3 bytes.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn split(&mut self, subset: Subset, labels: &[i32], height: usize, width: usize) -> Result<PixelWriter> {
        let bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let mut array = self.begin(subset, "labels", Dtype::I32, vec![labels.len()])?;
        array.append(&bytes)?;
        self.end(array, Dtype::I32)?;
        self.begin(subset, "pixels", Dtype::U8, vec![labels.len(), height, width, 3])
    }

    fn begin(&self, subset: Subset, array: &str, dtype: Dtype, shape: Vec<usize>) -> Result<PixelWriter> {
        let name = format!("{}/{array}.npy", subset.name());
        let folder = self.store().join(subset.name());
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let path = self.store().join(&name);
        let len = npy::file_len(dtype, &shape)
            .ok_or_else(|| Error::file(self.place.out(), format!("{name} of shape {shape:?} is too large")))?;
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        let mut array = PixelWriter { name, path, file, hasher: blake3::Hasher::new(), shape, left: len };
        array.append(&npy::header(dtype, &array.shape))?;
        Ok(array)
    }

    /// Completes the pixels of a split.
    ///
    /// # Errors
    ///
    /// If images are missing, or if the file cannot be synced.
    pub fn end_split(&mut self, pixels: PixelWriter) -> Result<()> {
        self.end(pixels, Dtype::U8)
    }

    /// Gives up a subset whose pixels were begun, so that it can be written anew. What was written of them is returned: a file that
    /// has no name any more, at the first image.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or removed.
    pub fn take_back(&mut self, pixels: PixelWriter) -> Result<File> {
        let PixelWriter { name, path, .. } = pixels;
        let mut file = files::open(&path)?;
        file.seek(SeekFrom::Start(HEADER_LEN as u64)).map_err(Error::io(&path))?;
        let subset = name.split('/').next().unwrap_or_default();
        let of_subset = |array: &str| array.split('/').next() == Some(subset);
        let written: Vec<String> = self.arrays.keys().filter(|array| of_subset(array)).cloned().collect();
        for array in written.iter().chain([&name]) {
            let path = self.store().join(array);
            fs::remove_file(&path).map_err(Error::io(&path))?;
            self.arrays.remove(array);
        }
        Ok(file)
    }

    fn end(&mut self, array: PixelWriter, dtype: Dtype) -> Result<()> {
        let PixelWriter { name, path, file, hasher, shape, left } = array;
        if left != 0 {
            return Err(Error::file(self.place.out(), format!("{name}: {left} bytes were never written")));
        }
        file.sync_all().map_err(Error::io(&path))?;
        let file = File::open(&path).map_err(Error::io(&path))?;
        let len = file.metadata().map_err(Error::io(&path))?.len();
        let ends = end_checksum(&file, &path, len)?;
        let blake3 = hasher.finalize().to_hex().to_string();
        self.arrays.insert(name, ArrayMeta { dtype, shape, blake3, ends });
        Ok(())
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
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }
}
