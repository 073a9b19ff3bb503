//! Where a store is written, and what gives way to it: nothing but a store of this program, whole and alone in its folder.
//!
//! The store `NAME` is made in the working folder `.NAME.partial` beside it. That holds a lock file, so that two writers of one
//! store do not meet, and whatever a killed writer left there is removed by the next one, unless that goes on with it: then a journal
//! says what is done. Files are removed by their names, never a folder with all that is in it: whoever put something of their own there
//! keeps it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::meta::Meta;
use super::store::MAX_META_BYTES;
use crate::error::shown;
use crate::{Error, Result, files};

/// The journal's name, and how it begins.
const JOURNAL: &str = "journal";
pub(super) const JOURNAL_START: &str = "glmc-engine prepare, journal 1\n";

/// A store's place, locked. Dropping it removes the working folder.
#[derive(Debug)]
pub(super) struct Place {
    out: PathBuf,
    work: PathBuf,
    force: bool,
    /// Dropping it leaves everything as it is, for another process to go on with.
    leave: bool,
    /// Held locked until the end.
    _lock: File,
}

impl Place {
    /// Takes the place for a store at `out` that is made from what lies in the folders `sources`.
    ///
    /// # Errors
    ///
    /// If something is there that must not be replaced, if `out` and a source lie in each other, if the parent folder does not
    /// exist, or if another process is writing the same store.
    pub fn take(out: &Path, force: bool, sources: &[&Path]) -> Result<Place> {
        let (out, work) = names(out)?;
        let parent = parent(&out);
        if !fs::metadata(parent).map_err(Error::io(parent))?.is_dir() {
            return Err(Error::file(parent, "is not a folder"));
        }
        // Before anything is written, a working folder included.
        refuse_sources(&out, sources)?;
        refuse_existing(&out, force)?;
        let lock = lock(&work)?.ok_or_else(|| Error::file(&out, "another process is writing this store"))?;
        let mut place = Place { out, work, force, leave: false, _lock: lock };
        if put_back(&place.out, &place.work)? {
            refuse_existing(&place.out, force)?;
        }
        place.leave = !is_absent(&place.journal());
        Ok(place)
    }

    /// Removes what another process left.
    pub fn start_anew(&mut self) -> Result<()> {
        self.leave = false;
        remove_left(&self.work)
    }

    /// Keeps what another process left of the store.
    pub fn go_on(&mut self) -> Result<()> {
        remove_own(&self.work.join("old"))?;
        let store = self.store();
        if let Some(foreign) = find_foreign(&store, &|_| true).map_err(Error::io(&store))? {
            return Err(refuse_foreign(&store, &foreign));
        }
        self.leave = false;
        Ok(())
    }

    /// Leaves what is done for another process.
    pub fn leave(&mut self) {
        self.leave = true;
    }

    /// The file that says what is done.
    pub fn journal(&self) -> PathBuf {
        self.work.join(JOURNAL)
    }

    /// Fails if the place and one of these folders lie in each other.
    pub fn stay_out_of(&self, sources: &[&Path]) -> Result<()> {
        refuse_sources(&self.out, sources)
    }

    /// What the store will be called.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Where it is made.
    pub fn store(&self) -> PathBuf {
        self.work.join("store")
    }

    /// Gives the finished store its name.
    ///
    /// # Errors
    ///
    /// If something has appeared there meanwhile that must not be replaced, or if the system refuses.
    pub fn publish(&self) -> Result<()> {
        self.publish_by(files::exchange)
    }

    fn publish_by(&self, exchange: impl Fn(&Path, &Path) -> io::Result<bool>) -> Result<()> {
        let (store, old) = (self.store(), self.work.join("old"));
        // Long work lies between this look and the first one.
        let there = refuse_existing(&self.out, self.force)?;
        // What lies in the working folder from here on is not what the journal speaks of.
        remove_journal(&self.work)?;
        if !(there && exchange(&store, &self.out).map_err(Error::io(&self.out))?) {
            // Killed between these two renames, the old store lies in the working folder: see `recover`.
            if there {
                fs::rename(&self.out, &old).map_err(Error::io(&self.out))?;
            }
            if let Err(e) = fs::rename(&store, &self.out) {
                let _ = fs::rename(&old, &self.out);
                return Err(Error::io(&self.out)(e));
            }
        }
        files::sync_folder(parent(&self.out))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.leave {
            return;
        }
        // The store that was to be replaced is still in the working folder if even putting it back failed: keep it.
        if is_absent(&self.out) && !is_absent(&self.work.join("old")) {
            return;
        }
        // There is no caller left to tell; the next writer of this store clears what could not be removed now.
        let _ = clear(&self.work);
    }
}

/// Gives the store at `out` its name back, should a writer that replaced it have been killed between two renames.
///
/// # Errors
///
/// If it lies in the working folder but cannot be renamed.
pub fn recover(out: &Path) -> Result<()> {
    if !is_absent(out) {
        return Ok(());
    }
    let Ok((out, work)) = names(out) else { return Ok(()) };
    if is_absent(&work.join("old")) {
        return Ok(());
    }
    // A writer that is alive will do what it must.
    let Some(_lock) = lock(&work)? else { return Ok(()) };
    if put_back(&out, &work)? {
        clear(&work).map_err(Error::io(&work))?;
    }
    Ok(())
}

fn put_back(out: &Path, work: &Path) -> Result<bool> {
    let old = work.join("old");
    if is_absent(&old) || !is_absent(out) {
        return Ok(false);
    }
    let stuck = |e: io::Error| {
        let what = format!("a writer was killed when it had moved this store to {}; move it back ({e})", shown(&old));
        Error::file(out, what)
    };
    fs::rename(&old, out).map_err(stuck)?;
    Ok(true)
}

/// The store's path without a slash at its end, and that of its working folder.
fn names(out: &Path) -> Result<(PathBuf, PathBuf)> {
    let Some(name) = out.file_name() else {
        let what = format!("--out {}: is no name for a store; give one such as mine.lt", shown(out));
        return Err(Error::Usage(what));
    };
    let mut work = std::ffi::OsString::from(".");
    work.push(name);
    work.push(".partial");
    let parent = parent(out);
    match parent == Path::new(".") {
        true => Ok((name.into(), work.into())),
        false => Ok((parent.join(name), parent.join(work))),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Locks a working folder, making it where it is absent; `None` where another process has it.
fn lock(work: &Path) -> Result<Option<File>> {
    let path = work.join("lock");
    loop {
        match fs::create_dir(work) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(work)(e)),
            _ => {}
        }
        if !fs::symlink_metadata(work).map_err(Error::io(work))?.is_dir() {
            return Err(Error::file(work, "stands where the store is to be made; move it away"));
        }
        let lock = match files::open_to_write(&path, OpenOptions::new().write(true).truncate(false)) {
            // The process that had the folder has just removed it.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
        }
        // It may have been removed by the process that held it; a lock on a removed file keeps no process out.
        if id(&path).is_some_and(|there| lock.metadata().is_ok_and(|held| there == (held.dev(), held.ino()))) {
            return Ok(Some(lock));
        }
    }
}

/// What the system knows a file by, whatever its names.
fn id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|stat| (stat.dev(), stat.ino()))
}

/// Fails if `out` is a source, lies in one or holds one, by whatever names and links.
fn refuse_sources(out: &Path, sources: &[&Path]) -> Result<()> {
    let real_parent = fs::canonicalize(parent(out)).map_err(Error::io(out))?;
    let out_id = id(out);
    for &source in sources {
        let source = if source.as_os_str().is_empty() { Path::new(".") } else { source };
        // One that does not exist is an error of whoever reads it.
        let (Ok(real), Some(source_id)) = (fs::canonicalize(source), id(source)) else { continue };
        let refuse = |what: &str| {
            let what = format!("{what} {}; choose a place outside of it", shown(source));
            Err(Error::file(out, what))
        };
        if out_id == Some(source_id) {
            return refuse("is the source folder");
        }
        if real_parent.ancestors().any(|above| id(above) == Some(source_id)) {
            return refuse("lies in the source folder");
        }
        if out_id.is_some() && real.ancestors().any(|above| id(above) == out_id) {
            return refuse("holds the source folder");
        }
    }
    Ok(())
}

/// Fails if something is at `out` that must not be replaced; otherwise whether a store is there.
fn refuse_existing(out: &Path, force: bool) -> Result<bool> {
    let stat = match fs::symlink_metadata(out) {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(out)(e)),
    };
    let refuse = |what: String| Err(Error::file(out, what));
    if stat.is_symlink() {
        return refuse("is a symbolic link; give the place that it points to".into());
    }
    if !stat.is_dir() {
        return refuse("is there already and is no store; choose another name".into());
    }
    let path = out.join("meta.json");
    if is_absent(&path) {
        return refuse(
            "is a folder but no store (it has no meta.json), and stays as it is; choose another name".into(),
        );
    }
    let meta = files::read(&path, MAX_META_BYTES).and_then(|text| Meta::from_text(&path, &text));
    let meta = match meta {
        Ok(meta) => meta,
        Err(e) => {
            let what = format!("is not replaced, as its meta.json is not a store's ({})", e.without_path());
            return refuse(format!("{what}; choose another name, or remove it yourself"));
        }
    };
    let own = |name: &str| name == "meta.json" || meta.arrays.contains_key(name);
    if let Some(foreign) = find_foreign(out, &own).map_err(Error::io(out))? {
        let what = format!("is not just a store (it holds {}), and stays as it is", shown(foreign));
        return refuse(format!("{what}; choose another name, or move that away"));
    }
    match force {
        true => Ok(true),
        false => refuse("exists already; --force replaces it".into()),
    }
}

/// Whether a store has files of this name: `meta.json`, `train/pixels.npy` and the like.
fn is_own(name: &str) -> bool {
    let array = |file: &str| {
        let stem = file.strip_suffix(".npy").or_else(|| file.strip_suffix(".spool")).unwrap_or_default();
        !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_lowercase())
    };
    name == "meta.json" || name.split_once('/').is_some_and(|(folder, file)| is_split(folder) && array(file))
}

fn is_split(folder: &str) -> bool {
    matches!(folder, "train" | "test" | "val")
}

/// The first thing in a folder that is neither a plain file with a store's name that `own` knows nor a split's folder.
fn find_foreign(store: &Path, own: &dyn Fn(&str) -> bool) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        match name.to_str() {
            Some("meta.json") if kind.is_file() => {}
            Some(split) if kind.is_dir() && is_split(split) => {
                for inner in fs::read_dir(entry.path())? {
                    let inner = inner?;
                    let path = Path::new(&name).join(inner.file_name());
                    let known = path.to_str().is_some_and(|path| is_own(path) && own(path));
                    if !(known && inner.file_type()?.is_file()) {
                        return Ok(Some(path));
                    }
                }
            }
            _ => return Ok(Some(name.into())),
        }
    }
    Ok(None)
}

fn refuse_foreign(store: &Path, foreign: &Path) -> Error {
    let what = "is not of a store and stays as it is; move it away, so that a store can be made here";
    Error::file(store.join(foreign), what)
}

/// Removes a journal, if it is there and is one.
fn remove_journal(work: &Path) -> Result<()> {
    let path = work.join(JOURNAL);
    if is_absent(&path) {
        return Ok(());
    }
    let mut start = vec![0; JOURNAL_START.len()];
    let mut file = files::open(&path)?;
    // A kill may have cut it off anywhere.
    let n = file.metadata().map_err(Error::io(&path))?.len().min(start.len() as u64) as usize;
    file.read_exact(&mut start[..n]).map_err(Error::io(&path))?;
    if !JOURNAL_START.as_bytes().starts_with(&start[..n]) {
        return Err(refuse_foreign(work, Path::new(JOURNAL)));
    }
    fs::remove_file(&path).map_err(Error::io(&path))
}

/// Removes what a process left in its working folder. The journal goes first: it speaks of the rest.
fn remove_left(work: &Path) -> Result<()> {
    remove_journal(work)?;
    ["store", "old"].iter().try_for_each(|left| remove_own(&work.join(left)))
}

/// Removes a store, whole or half-written, if it is there and holds nothing else.
fn remove_own(store: &Path) -> Result<()> {
    if is_absent(store) {
        return Ok(());
    }
    let foreign = match fs::symlink_metadata(store).map_err(Error::io(store))?.is_dir() {
        true => find_foreign(store, &|_| true).map_err(Error::io(store))?,
        false => Some(PathBuf::new()),
    };
    if let Some(foreign) = foreign {
        return Err(refuse_foreign(store, &foreign));
    }
    remove_files(store).map_err(Error::io(store))
}

/// Removes a folder of plain files and of folders of plain files. What `find_foreign` did not see when it looked keeps its
/// folder.
fn remove_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true if entry.file_name().to_str().is_some_and(is_split) => {
                for inner in fs::read_dir(entry.path())? {
                    let inner = inner?;
                    if inner.file_name().to_str().is_some_and(|name| is_own(&format!("train/{name}"))) {
                        fs::remove_file(inner.path())?;
                    }
                }
                fs::remove_dir(entry.path())?;
            }
            false if entry.file_name() == "meta.json" => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// Removes the working folder. The lock goes after the content and by name, never recursively, so that a writer that starts in
/// this very moment keeps its own lock and folder.
fn clear(work: &Path) -> io::Result<()> {
    remove_left(work).map_err(io::Error::other)?;
    fs::remove_file(work.join("lock"))?;
    fs::remove_dir(work)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::data::Store;
    use crate::data::synthetic::{self, SyntheticConfig};

    fn make(path: &Path, seed: u64) -> u64 {
        let config = SyntheticConfig { per_class: 4, imbalance: 1.0, seed, force: true, ..Default::default() };
        synthetic::prepare(path, &config).unwrap();
        Store::open(path).unwrap().meta().seed.unwrap()
    }

    /// A store `a.lt` of seed 1 and its place, with a finished store of seed 2 that waits for the name.
    fn waiting(dir: &Path) -> Place {
        let out = dir.join("a.lt");
        make(&out, 1);
        let place = Place::take(&out, true, &[]).unwrap();
        make(&dir.join("b.lt"), 2);
        fs::rename(dir.join("b.lt"), place.store()).unwrap();
        place
    }

    #[test]
    fn a_store_is_replaced_with_and_without_exchange() {
        for by in [files::exchange, |_: &Path, _: &Path| Ok(false)] {
            let dir = TempDir::new().unwrap();
            let place = waiting(dir.path());
            let out = place.out().to_path_buf();
            place.publish_by(by).unwrap();
            drop(place);
            assert_eq!(Store::open(&out).unwrap().meta().seed, Some(2));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    /// Where the system cannot exchange, a kill between the two renames costs the name, not the store.
    #[test]
    fn a_store_whose_writer_died_between_two_renames_opens() {
        let dir = TempDir::new().unwrap();
        let place = waiting(dir.path());
        let (out, work) = (place.out().to_path_buf(), place.work.clone());
        fs::rename(&out, work.join("old")).unwrap();
        // While the writer lives, its work is left alone.
        assert!(Store::open(&out).is_err());
        // It ends without its destructors, and the lock with it.
        let place = std::mem::ManuallyDrop::new(place);
        place._lock.unlock().unwrap();
        assert_eq!(Store::open(&out).unwrap().meta().seed, Some(1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_appeared_during_the_work_stays() {
        let dir = TempDir::new().unwrap();
        let place = waiting(dir.path());
        let thesis = place.out().join("thesis.txt");
        fs::write(&thesis, "years of work").unwrap();
        let line = place.publish().unwrap_err().to_string();
        assert!(line.contains("not just a store") && line.contains("thesis.txt"), "{line}");
        drop(place);
        assert_eq!(fs::read_to_string(thesis).unwrap(), "years of work");
    }

    #[test]
    fn nothing_foreign_is_removed_from_a_working_folder() {
        let dir = TempDir::new().unwrap();
        let out = dir.path().join("a.lt");
        let own = dir.path().join(".a.lt.partial/store/train/photo.jpg");
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "a photograph").unwrap();
        let line = Place::take(&out, true, &[]).unwrap().start_anew().unwrap_err().to_string();
        assert!(line.contains("photo.jpg") && own.exists(), "{line}");
    }
}
