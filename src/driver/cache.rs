//! The cache of compiled kernels: cubins and emulator libraries, in the user's cache folder.
//!
//! An entry's name is the BLAKE3 of everything that decides its content (sources, options, architecture, compiler), so
//! that no entry is ever wrong, only absent. An entry ends in a trailer with a checksum of its name and content: a truncated
//! or damaged one counts as absent, and so does one under another's name. Writing is temporary file + rename, so two processes never see each other's unfinished entries.
//! Whatever fails here (a read-only folder, a full disk) costs a compilation and nothing else.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Environment variable that names the cache folder.
pub const FOLDER_VARIABLE: &str = "GLMC_CACHE";

/// Default size limit: a few thousand kernels.
pub const DEFAULT_LIMIT: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"GLMCkrn2";
const TRAILER: usize = 8 + 32;

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
    limit: u64,
}

/// The name of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of what is made from `parts`; each part counts with its length, so that no two lists run together.
    /// `extension` (`cubin`, `so`) ends the file's name.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a [u8]>, extension: &str) -> Key {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(format!("{}.{extension}", &hasher.finalize().to_hex()[..40]))
    }

    /// The entry's file name.
    pub fn file_name(&self) -> &str {
        &self.0
    }

    /// What the trailer holds of an entry: a hash of its name, which has a length of its own, and content.
    fn checksum(&self, content: &[u8]) -> blake3::Hash {
        blake3::Hasher::new().update(self.0.as_bytes()).update(content).finalize()
    }
}

impl Cache {
    /// The user's cache: `$GLMC_CACHE`, else `glmc-engine` in `$XDG_CACHE_HOME`, else in `~/.cache`. Without any of
    /// them nothing is cached.
    pub fn user() -> Cache {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set(FOLDER_VARIABLE)
            .or_else(|| set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("glmc-engine")))
            .or_else(|| set("HOME").map(|path| path.join(".cache").join("glmc-engine")));
        Cache { folder, limit: DEFAULT_LIMIT }
    }

    /// A cache in `folder`, which need not exist yet, that keeps to `limit` bytes.
    pub fn at(folder: impl Into<PathBuf>, limit: u64) -> Cache {
        Cache { folder: Some(folder.into()), limit }
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The content of the entry `key`, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(&key.0);
        let mut bytes = crate::files::read(&path, 1 << 32).ok()?;
        let length = bytes.len().checked_sub(TRAILER)?;
        let (content, trailer) = bytes.split_at(length);
        if &trailer[..8] != MAGIC || key.checksum(content).as_bytes() != &trailer[8..] {
            return None;
        }
        bytes.truncate(length);
        // The time of last use decides what goes first when the cache is full; a failure only makes it go sooner.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(bytes)
    }

    /// The path of the entry `key`, if it is there and whole. For files that the system loads by path: a loader ignores
    /// the trailer behind an ELF image.
    pub fn get_path(&self, key: &Key) -> Option<PathBuf> {
        self.get(key)?;
        Some(self.folder.as_ref()?.join(&key.0))
    }

    /// Stores an entry and returns its path; `None` where the folder cannot be written.
    pub fn put(&self, key: &Key, content: &[u8]) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        fs::create_dir_all(folder).ok()?;
        let path = folder.join(&key.0);
        let unique = format!("{}.{}.{:?}.tmp", key.0, std::process::id(), std::thread::current().id());
        let temporary = folder.join(unique.replace(['(', ')'], ""));
        let written = (|| {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(content)?;
            file.write_all(MAGIC)?;
            file.write_all(key.checksum(content).as_bytes())?;
            drop(file);
            fs::rename(&temporary, &path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
            return None;
        }
        self.evict(&key.0);
        Some(path)
    }

    /// Removes the oldest entries until the rest fits the limit, and what crashed writers left behind; never `keep`.
    fn evict(&self, keep: &str) {
        let Some(entries) = self.folder.as_ref().and_then(|folder| fs::read_dir(folder).ok()) else { return };
        let now = SystemTime::now();
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(data) = entry.metadata() else { continue };
            let modified = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.ends_with(".tmp") {
                if now.duration_since(modified).is_ok_and(|age| age > Duration::from_secs(3600)) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if data.is_file() && (name.ends_with(".cubin") || name.ends_with(".so")) {
                found.push((modified, data.len(), name, entry.path()));
            }
        }
        let mut total: u64 = found.iter().map(|(_, bytes, ..)| bytes).sum();
        found.sort();
        for (_, bytes, name, path) in found {
            if total <= self.limit {
                break;
            }
            if name != keep && fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }
}
