//! The pixels of a subset: read by position, verified block by block.
//!
//! A block is hashed the first time that anything in it is asked for, and never again by this process; what is asked for
//! later costs one positioned read. A map would be no faster, and would end the process (SIGBUS) where a file is cut off
//! under it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::npy::HEADER_LEN;
use crate::{Error, Result};

/// Bytes of the file that one checksum covers. Images are read in random order, and the first of a block reads all of it:
/// small enough that this stays near what a disk reads in one go anyway, large enough that the checksums of 30 GB are 4 MB.
pub const BLOCK: usize = 256 << 10;

/// Bytes of a block's checksum.
pub const HASH_LEN: usize = 32;

/// Where pixels come from.
pub trait PixelSource: Sync {
    /// Copies the bytes from `at` on.
    ///
    /// # Errors
    /// When they cannot be read, or are not what was written.
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()>;

    /// All of them, where they are in memory.
    fn in_memory(&self) -> Option<&[u8]> {
        None
    }
}

impl PixelSource for Vec<u8> {
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self[at..][..into.len()]);
        Ok(())
    }

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// An open `pixels.npy`.
#[derive(Debug)]
pub(super) struct Pixels {
    file: File,
    path: PathBuf,
    /// Bytes of the file.
    len: usize,
    /// A checksum per block; a store of format 1 has none.
    hashes: Option<Vec<u8>>,
    /// A bit per block whose checksum was found right.
    verified: Vec<AtomicU64>,
}

/// How many blocks a file of `len` bytes has.
pub(super) fn blocks(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

impl Pixels {
    /// The pixels in a file of `len` bytes, with [`HASH_LEN`] bytes per block where the store has them.
    pub(super) fn new(file: File, path: &Path, len: usize, hashes: Option<Vec<u8>>) -> Pixels {
        let verified = (0..blocks(len).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Pixels { file, path: path.to_path_buf(), len, hashes, verified }
    }

    /// Bytes of pixels.
    pub(super) fn len(&self) -> usize {
        self.len - HEADER_LEN
    }

    /// Verifies the first and the last block: what every reader does on opening, so that swapped files are seen at once.
    pub(super) fn check_ends(&self) -> Result<()> {
        self.check_block(0)?;
        self.check_block(blocks(self.len) - 1)
    }

    /// Reads and verifies one block, whether or not it was verified before.
    pub(super) fn check_block(&self, block: usize) -> Result<()> {
        let start = block * BLOCK;
        let mut bytes = vec![0; BLOCK.min(self.len - start)];
        self.read_file(start, &mut bytes)?;
        self.verify(block, &bytes)
    }

    fn is_verified(&self, block: usize) -> bool {
        self.hashes.is_none() || self.verified[block / 64].load(Ordering::Relaxed) >> (block % 64) & 1 == 1
    }

    fn verify(&self, block: usize, bytes: &[u8]) -> Result<()> {
        let Some(hashes) = &self.hashes else { return Ok(()) };
        if blake3::hash(bytes).as_bytes()[..] != hashes[block * HASH_LEN..][..HASH_LEN] {
            let (start, end) = (block * BLOCK, block * BLOCK + bytes.len() - 1);
            let what = format!("block {block} (bytes {start} to {end}) is damaged or of another store");
            return Err(Error::file(&self.path, format!("{what}: its checksum does not fit; prepare the store again")));
        }
        self.verified[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        Ok(())
    }

    fn read_file(&self, start: usize, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, start as u64).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                let (end, len) = (start + into.len(), self.len);
                let what = format!("was cut off while it was open: it ends before byte {end}, must have {len}");
                Error::file(&self.path, format!("{what}; prepare the store again"))
            }
            _ => Error::io(&self.path)(e),
        })
    }

    /// Copies a part of one block that begins at byte `start` of the file.
    fn read_piece(&self, start: usize, into: &mut [u8]) -> Result<()> {
        let block = start / BLOCK;
        if self.is_verified(block) {
            return self.read_file(start, into);
        }
        let first = block * BLOCK;
        let whole = BLOCK.min(self.len - first);
        if into.len() == whole {
            self.read_file(first, into)?;
            return self.verify(block, into);
        }
        let mut bytes = vec![0; whole];
        self.read_file(first, &mut bytes)?;
        self.verify(block, &bytes)?;
        into.copy_from_slice(&bytes[start - first..][..into.len()]);
        Ok(())
    }
}

impl PixelSource for Pixels {
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        let start = HEADER_LEN + at;
        if into.is_empty() || (start / BLOCK..=(start + into.len() - 1) / BLOCK).all(|block| self.is_verified(block)) {
            return self.read_file(start, into);
        }
        let (head, rest) = into.split_at_mut((BLOCK - start % BLOCK).min(into.len()));
        let rest_start = start + head.len();
        self.read_piece(start, head)?;
        let pieces = rest.par_chunks_mut(BLOCK).enumerate();
        pieces.try_for_each(|(i, piece)| self.read_piece(rest_start + i * BLOCK, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a header and `n` bytes of pixels, and the checksums of its blocks.
    fn file(folder: &Path, n: usize) -> (PathBuf, Vec<u8>, Vec<u8>) {
        let bytes: Vec<u8> = (0..HEADER_LEN + n).map(|i| (i * 31 % 251) as u8).collect();
        let path = folder.join("pixels.npy");
        std::fs::write(&path, &bytes).unwrap();
        let hashes = bytes.chunks(BLOCK).flat_map(|block| *blake3::hash(block).as_bytes()).collect();
        (path, bytes, hashes)
    }

    #[test]
    fn any_range_is_read_and_only_what_is_read_is_verified() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, mut bytes, hashes) = file(dir.path(), 3 * BLOCK + 100);
        // A damaged third block: seen by whoever reads any of it, and by nobody else.
        bytes[2 * BLOCK + 5] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let pixels = Pixels::new(File::open(&path).unwrap(), &path, bytes.len(), Some(hashes));
        pixels.check_ends().unwrap();
        let data = &bytes[HEADER_LEN..];
        let first_bad = 2 * BLOCK - HEADER_LEN;
        let good = [(0, 0), (0, 1), (7, 3072), (0, first_bad), (BLOCK - 200, 200), (first_bad + BLOCK, 228)];
        for (at, len) in good.into_iter().chain(good) {
            let mut into = vec![0; len];
            pixels.read(at, &mut into).unwrap();
            assert_eq!(into, data[at..][..len], "{at} {len}");
        }
        for (at, len) in [(first_bad, 1), (first_bad - 1, 2), (first_bad + BLOCK - 1, 1), (0, pixels.len())] {
            let line = pixels.read(at, &mut vec![0; len]).expect_err("damage").to_string();
            assert!(line.contains("pixels.npy: block 2 (bytes 524288 to 786431)"), "{line}");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_while_it_is_open() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, bytes, hashes) = file(dir.path(), 2 * BLOCK);
        for hashes in [None, Some(hashes)] {
            std::fs::write(&path, &bytes).unwrap();
            let pixels = Pixels::new(File::open(&path).unwrap(), &path, bytes.len(), hashes);
            pixels.read(BLOCK, &mut [0; 300]).unwrap();
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
            for at in [BLOCK, 2 * BLOCK - 300] {
                let line = pixels.read(at, &mut [0; 300]).expect_err("cut off").to_string();
                assert!(line.contains("pixels.npy: was cut off while it was open"), "{line}");
            }
        }
    }
}
