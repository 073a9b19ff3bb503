//! Writing a store: everything goes to a folder beside the final one, is synced, and takes the final name in one rename.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use super::meta::{ArrayMeta, Meta};
use super::npy::{self, Dtype};
use super::pixels::{BLOCK, HASH_LEN};
use super::place::Place;
use super::sizes::Sizes;
use super::store::{Store, Subset, array_name};
use crate::files::sync_folder;
use crate::{Error, Result, files, stop};

/// Bytes of pixels that are sent to the disk together while the next ones are decoded.
const SENT: u64 = 32 << 20;

/// A store in the making. Dropping it without [`StoreWriter::finish`] or [`StoreWriter::leave`] removes what was written.
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
    /// Bytes of the file that are there, and that will be.
    written: u64,
    len: u64,
    /// Bytes that were written when they were last sent to the disk, and the thread that waits for it: the system itself would begin
    /// late, and the sync at the end would take as long as a good part of the decoding.
    sent: u64,
    sending: Option<JoinHandle<io::Result<()>>>,
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
        let mut writer = StoreWriter::take(out, force, sources)?;
        writer.start_anew()?;
        Ok(writer)
    }

    /// Takes the place of a store, as [`StoreWriter::create`] does, and leaves what an interrupted process did of it as it is: until
    /// [`StoreWriter::start_anew`] or [`StoreWriter::go_on`] is called, dropping this changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`StoreWriter::create`].
    pub fn take(out: &Path, force: bool, sources: &[&Path]) -> Result<StoreWriter> {
        Ok(StoreWriter { place: Place::take(out, force, sources)?, arrays: BTreeMap::new() })
    }

    /// Removes what an interrupted process did.
    ///
    /// # Errors
    ///
    /// If something lies there that is not of a store, or if the system refuses.
    pub fn start_anew(&mut self) -> Result<()> {
        self.place.start_anew()
    }

    /// Keeps what an interrupted process did, for [`StoreWriter::pixels_again`].
    ///
    /// # Errors
    ///
    /// If something lies there that is not of a store.
    pub fn go_on(&mut self) -> Result<()> {
        self.place.go_on()
    }

    /// Leaves what is done for the next process that makes this store.
    pub fn leave(mut self) {
        self.place.leave();
    }

    /// Bytes of pixels that an interrupted process left.
    pub fn bytes_there(&self) -> u64 {
        let paths = Subset::ALL.map(|subset| self.store().join(array_name(subset, "pixels")));
        paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|stat| stat.len()).sum()
    }

    /// Where it is noted what is done.
    pub fn journal(&self) -> PathBuf {
        self.place.journal()
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
        self.pixels(subset, labels, &Sizes::Same { images: labels.len(), height, width })
    }

    /// [`StoreWriter::split`] of images that may differ in size: for each its height, width and label.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn mixed(&mut self, subset: Subset, images: &[(usize, usize, i32)]) -> Result<PixelWriter> {
        let labels: Vec<i32> = images.iter().map(|&(_, _, label)| label).collect();
        let sizes = images.iter().map(|&(height, width, _)| (height as u32, width as u32)).collect();
        self.pixels(subset, &labels, &Sizes::of(sizes))
    }

    /// Writes labels and, where sizes differ, index of a subset, and begins its pixels.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn pixels(&mut self, subset: Subset, labels: &[i32], sizes: &Sizes) -> Result<PixelWriter> {
        self.describe(subset, labels, sizes)?;
        self.begin(subset, "pixels", Dtype::U8, sizes.shape())
    }

    /// [`StoreWriter::pixels`] on the pixels that an interrupted process left, for [`PixelWriter::reread`]; `None` where it left
    /// none.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or written.
    pub fn pixels_again(&mut self, subset: Subset, labels: &[i32], sizes: &Sizes) -> Result<Option<PixelWriter>> {
        let name = array_name(subset, "pixels");
        let path = self.store().join(&name);
        if !path.exists() {
            return Ok(None);
        }
        let shape = sizes.shape();
        let header = npy::header(Dtype::U8, &shape);
        let file = files::open_to_write(&path, OpenOptions::new().read(true).write(true).truncate(false))?;
        // Where images were left out it says so, and of what follows it says nothing that is not checked.
        file.write_all_at(&header, 0).map_err(Error::io(&path))?;
        let mut array = self.writer(subset, name, path, file, Dtype::U8, shape)?;
        array.count(&header)?;
        self.describe(subset, labels, sizes)?;
        Ok(Some(array))
    }

    /// Leaves images out that were announced and not appended: labels and sizes are those of the others.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or written.
    pub fn leave_out(&mut self, pixels: PixelWriter, labels: &[i32], sizes: &Sizes) -> Result<PixelWriter> {
        let PixelWriter { subset, name, path, file, written, sending, .. } = pixels;
        sending.map_or(Ok(()), sent).map_err(Error::io(&path))?;
        self.describe(subset, labels, sizes)?;
        let mut array = self.writer(subset, name, path, file, Dtype::U8, sizes.shape())?;
        array.file.seek(SeekFrom::Start(0)).map_err(Error::io(&array.path))?;
        array.append(&npy::header(Dtype::U8, &array.shape.clone()))?;
        // The header is part of the checksums, so that the whole file is read once more.
        let mut buffer = vec![0; 4 << 20];
        while array.written < written {
            stop::check()?;
            let piece = &mut buffer[..(4 << 20).min((written - array.written) as usize)];
            if !array.reread(piece)? {
                return Err(Error::file(&array.path, "was cut off while it was written"));
            }
            array.count(piece)?;
        }
        array.file.seek(SeekFrom::End(0)).map_err(Error::io(&array.path))?;
        Ok(array)
    }

    /// Writes what is known of a subset before its pixels are.
    fn describe(&mut self, subset: Subset, labels: &[i32], sizes: &Sizes) -> Result<()> {
        self.labels(subset, labels)?;
        let index = array_name(subset, "index");
        match sizes.index() {
            Some(rows) => self.array(subset, "index", Dtype::I64, vec![labels.len(), 3], &rows),
            // Of images that were to differ, those that are left may have one size.
            None if self.arrays.remove(&index).is_some() => {
                let path = self.store().join(&index);
                fs::remove_file(&path).map_err(Error::io(&path))
            }
            None => Ok(()),
        }
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
        // An interrupted process may have written one.
        let file = files::open_to_write(&path, OpenOptions::new().read(true).write(true).truncate(true))?;
        let mut array = self.writer(subset, name, path, file, dtype, shape)?;
        array.append(&npy::header(dtype, &array.shape.clone()))?;
        Ok(array)
    }

    fn writer(
        &self,
        subset: Subset,
        name: String,
        path: PathBuf,
        file: File,
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<PixelWriter> {
        let len = npy::file_len(dtype, &shape)
            .ok_or_else(|| Error::file(self.place.out(), format!("{name} of shape {shape:?} is too large")))?;
        let (hasher, blocks) = (blake3::Hasher::new(), BlockHasher::default());
        Ok(PixelWriter { subset, name, path, file, hasher, blocks, shape, written: 0, len, sent: 0, sending: None })
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
        let PixelWriter { name, path, file, hasher, blocks, shape, written, len, sending, .. } = array;
        if written != len {
            return Err(Error::file(self.place.out(), format!("{name}: {} bytes were never written", len - written)));
        }
        // An error that the thread met is not reported again.
        sending.map_or(Ok(()), sent).and_then(|()| file.sync_all()).map_err(Error::io(&path))?;
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
        let mut file = files::open_to_write(&path, OpenOptions::new().write(true).truncate(true))?;
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
        self.count(bytes)?;
        self.file.write_all(bytes).and_then(|()| self.send()).map_err(Error::io(&self.path))
    }

    /// Sends what was written to the disk if it is enough, without waiting for it.
    fn send(&mut self) -> io::Result<()> {
        let idle = self.sending.as_ref().is_none_or(JoinHandle::is_finished);
        if idle && self.written - self.sent >= SENT {
            self.sending.take().map_or(Ok(()), sent)?;
            let file = self.file.try_clone()?;
            self.sending = Some(thread::Builder::new().name("sync".into()).spawn(move || file.sync_data())?);
            self.sent = self.written;
        }
        Ok(())
    }

    /// Reads bytes that an interrupted process appended at this place; `false` where it appended fewer.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn reread(&self, into: &mut [u8]) -> Result<bool> {
        match self.file.read_exact_at(into, self.written) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io(&self.path)(e)),
        }
    }

    /// Takes bytes that were reread for appended.
    ///
    /// # Errors
    ///
    /// If they are more than was announced.
    pub fn count(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.len {
            return Err(Error::file(&self.path, format!("more than shape {:?} holds was written", self.shape)));
        }
        // Hashing small pieces on all threads costs more than it saves.
        if bytes.len() >= 1 << 20 {
            self.hasher.update_rayon(bytes)
        } else {
            self.hasher.update(bytes)
        };
        self.blocks.update(bytes);
        Ok(())
    }

    /// Cuts off what was not taken, so that the next bytes are appended there.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn cut(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.written).and_then(|()| self.file.seek(SeekFrom::Start(self.written)));
        cut.map(drop).map_err(Error::io(&self.path))
    }
}

/// What came of sending pixels to the disk.
fn sent(sending: JoinHandle<io::Result<()>>) -> io::Result<()> {
    sending.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs it panicked")))
}
