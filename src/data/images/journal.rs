//! What is done of a store, so that a process that is interrupted need not be repeated.
//!
//! A text file in the working folder: how it begins, a line with the fingerprint of everything that the pixels depend on, then a line for
//! each chunk of images whose pixels were appended, with a checksum. A line is written after its pixels; whether these really reached
//! the disk before the power went, their own checksum says when they are read again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::place::JOURNAL_START;
use crate::data::store::Subset;
use crate::{Error, Result, files};

/// Longest journal: 100 million images.
const MAX_JOURNAL: u64 = 4 << 30;
/// Characters of a line's checksum.
const SUM: usize = 16;

/// Images, one after another in their list, that are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    /// The subset's name.
    pub subset: String,
    /// How many images, those that cannot be decoded included.
    pub images: usize,
    /// BLAKE3 of their pixels.
    pub pixels: String,
    /// [`super::work::Hash`] of each file that was decoded, in hexadecimal digits.
    pub files: String,
    /// Which of them (0 is the first of this chunk) cannot be decoded, and why.
    pub broken: Vec<(usize, String)>,
}

/// An open journal.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Chunks that an interrupted process did and that were not looked at yet, and where each one's line begins.
    ahead: VecDeque<(Chunk, u64)>,
    /// Images that are done, those ahead included.
    done: usize,
}

fn sum(line: &str) -> String {
    blake3::hash(line.as_bytes()).to_hex()[..SUM].to_string()
}

impl Journal {
    /// The journal at `path`, if it is of this fingerprint and something is done.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path, fingerprint: &str) -> Result<Option<Journal>> {
        if !path.exists() {
            return Ok(None);
        }
        // A journal that was damaged, or cut off within a letter, is good up to there.
        let bytes = files::read(path, MAX_JOURNAL)?;
        let text = String::from_utf8_lossy(&bytes);
        let head = format!("{JOURNAL_START}{fingerprint}\n");
        let Some(lines) = text.strip_prefix(&head) else { return Ok(None) };
        let (mut ahead, mut at) = (VecDeque::new(), head.len());
        for line in lines.split_inclusive('\n') {
            let whole = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
            let chunk = whole.filter(|(check, chunk)| sum(chunk) == *check);
            let Some(chunk) = chunk.and_then(|(_, chunk)| serde_json::from_str(chunk).ok()) else { break };
            ahead.push_back((chunk, at as u64));
            at += line.len();
        }
        if ahead.is_empty() {
            return Ok(None);
        }
        let done = ahead.iter().map(|(chunk, _): &(Chunk, u64)| chunk.images).sum();
        let mut file = files::open_to_write(path, OpenOptions::new().write(true).truncate(false))?;
        file.set_len(at as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io(path))?;
        Ok(Some(Journal { path: path.to_path_buf(), file, ahead, done }))
    }

    /// Begins a journal.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, fingerprint: &str) -> Result<Journal> {
        let mut file = files::open_to_write(path, OpenOptions::new().write(true).truncate(true))?;
        file.write_all(format!("{JOURNAL_START}{fingerprint}\n").as_bytes()).map_err(Error::io(path))?;
        Ok(Journal { path: path.to_path_buf(), file, ahead: VecDeque::new(), done: 0 })
    }

    /// Images that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// The next chunk that was done of this subset.
    pub fn next(&self, subset: Subset) -> Option<&Chunk> {
        self.ahead.front().map(|(chunk, _)| chunk).filter(|chunk| chunk.subset == subset.name())
    }

    /// The next chunk is as it was done.
    pub fn accept(&mut self) {
        self.ahead.pop_front();
    }

    /// The next chunk and all behind it have to be done again; returns how many images that are.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn reject(&mut self) -> Result<usize> {
        let images = self.ahead.iter().map(|(chunk, _)| chunk.images).sum();
        self.done -= images;
        if let Some((_, at)) = self.ahead.front() {
            self.file.set_len(*at).and_then(|()| self.file.seek(SeekFrom::End(0))).map_err(Error::io(&self.path))?;
        }
        self.ahead.clear();
        Ok(images)
    }

    /// Notes a chunk whose pixels were appended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, chunk: &Chunk) -> Result<()> {
        // Strings and numbers always serialise.
        let line = serde_json::to_string(chunk).expect("a chunk serialises");
        self.file.write_all(format!("{} {line}\n", sum(&line)).as_bytes()).map_err(Error::io(&self.path))?;
        self.done += chunk.images;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(subset: Subset, images: usize) -> Chunk {
        let broken = vec![(1, "cut off\nhere \u{e9}".to_string())];
        Chunk { subset: subset.name().into(), images, pixels: "ab".into(), files: "cd".into(), broken }
    }

    #[test]
    fn what_was_noted_is_read_up_to_the_first_damage() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("journal");
        assert!(Journal::read(&path, "f").unwrap().is_none());
        let chunks = [chunk(Subset::Train, 3), chunk(Subset::Train, 4), chunk(Subset::Test, 5)];
        let mut journal = Journal::create(&path, "f").unwrap();
        assert_eq!(journal.done(), 0);
        chunks.iter().for_each(|chunk| journal.add(chunk).unwrap());
        let whole = std::fs::read(&path).unwrap();
        assert!(Journal::read(&path, "another").unwrap().is_none());
        let mut journal = Journal::read(&path, "f").unwrap().unwrap();
        assert_eq!(journal.done(), 12);
        for chunk in &chunks[..2] {
            assert_eq!(journal.next(Subset::Train), Some(chunk));
            journal.accept();
        }
        assert_eq!((journal.next(Subset::Train), journal.next(Subset::Test)), (None, Some(&chunks[2])));
        // The last one again, in another way.
        assert_eq!(journal.reject().unwrap(), 5);
        journal.add(&chunk(Subset::Test, 2)).unwrap();
        assert_eq!(Journal::read(&path, "f").unwrap().unwrap().done(), 9);
        // Any cut and any change leaves what lies before it.
        let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
        for at in 0..whole.len() {
            for cut in [true, false] {
                let mut bad = whole.clone();
                match cut {
                    true => bad.truncate(at),
                    false => bad[at] ^= 1,
                }
                std::fs::write(&path, &bad).unwrap();
                let read = Journal::read(&path, "f").unwrap().map_or(0, |journal| journal.done());
                let lines = ends.iter().filter(|&&end| end < at).count().saturating_sub(2);
                assert_eq!(read, [0, 3, 7][lines], "at {at}, cut {cut}");
            }
        }
    }
}
