//! Reading plain files and nothing else, and writing files that are whole or absent.

use std::ffi::OsString;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Opens a file for reading. A FIFO, a socket or a device is refused at once: reading one could wait forever, and opening one
/// could act on what stands behind it.
///
/// # Errors
/// When the system refuses, or when this is something else than a plain file.
pub fn open(path: &Path) -> Result<File> {
    plain(path, fs::metadata(path).map_err(Error::io(path))?.file_type())?;
    // Without blocking, should a FIFO have taken the file's place since; on plain files the flag does nothing.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Error::io(path))?;
    plain(path, file.metadata().map_err(Error::io(path))?.file_type())?;
    Ok(file)
}

/// Opens a file for writing, making it where it is absent. Anything but a plain file is refused as by [`open`].
///
/// # Errors
/// As for [`open`].
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> Result<File> {
    if let Ok(stat) = fs::metadata(path) {
        plain(path, stat.file_type())?;
    }
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = options.create(true).custom_flags(flags).open(path).map_err(Error::io(path))?;
    plain(path, file.metadata().map_err(Error::io(path))?.file_type())?;
    Ok(file)
}

fn plain(path: &Path, kind: FileType) -> Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(Error::file(path, format!("is {what} where a file must be")))
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// As for [`open`]; when the file is longer; when there is not enough memory for it.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let too_long = || Error::file(path, format!("is larger than {limit} bytes, which no such file is"));
    if length > limit {
        return Err(too_long());
    }
    let mut bytes = buffer(length as usize).map_err(|what| Error::file(path, what))?;
    // It may grow while it is read; reading reserves fallibly, too.
    match file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))? as u64 > limit {
        true => Err(too_long()),
        false => Ok(bytes),
    }
}

/// Reads a whole text file of at most `limit` bytes.
///
/// # Errors
/// As for [`read`], and where the file is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|_| Error::file(path, "is not UTF-8 text"))
}

/// An empty vector with room for `n` elements, or in a few words why there is none: running out of memory elsewhere ends the
/// process.
///
/// # Errors
/// When there is not enough memory.
pub fn buffer<T>(n: usize) -> Result<Vec<T>, String> {
    let mut buffer = Vec::new();
    let mebibytes = n.saturating_mul(size_of::<T>()).div_ceil(1 << 20);
    match buffer.try_reserve_exact(n) {
        Ok(()) => Ok(buffer),
        Err(_) => Err(format!("there is not enough memory ({mebibytes} MiB more are needed)")),
    }
}

/// Replaces the file at `path` by what `write` writes into a temporary file beside it. Whatever happens, the old file
/// or the new one is there, whole.
///
/// # Errors
/// When the system refuses; the temporary file is then removed.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut pending = Pending::begin(path)?;
    write(pending.file.get_mut())?;
    pending.publish()
}

/// A file that is written piece by piece beside its place, and gets its name when it is whole. Dropping it removes it.
pub struct Pending {
    file: BufWriter<File>,
    path: PathBuf,
    partial: PathBuf,
    published: bool,
}

impl Pending {
    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// As for [`open_to_write`].
    pub fn begin(path: &Path) -> Result<Pending> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = open_to_write(&partial, OpenOptions::new().write(true).truncate(true))?;
        Ok(Pending { file: BufWriter::new(file), path: path.to_path_buf(), partial, published: false })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Gives the whole file its name, in place of an older one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn publish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(Error::io(&self.path))?;
        self.published = true;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.published {
            // The error at hand says more than a failure to clean up would.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Refuses a place that the file of an option cannot be written to, before anything is computed for it.
///
/// # Errors
/// When it is a folder, when there is a file already that is not to be replaced, or when its folder is missing.
pub fn check_place(path: &Path, option: &str, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, format!("is a folder where {option} must name a file")));
    }
    match (path.symlink_metadata(), path.metadata()) {
        // To replace a device would take it away.
        (_, Ok(there)) if !there.is_file() => return Err(Error::file(path, "is there and is no plain file")),
        (Ok(_), _) if !force => return Err(Error::file(path, "exists already; --force replaces it")),
        _ => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.is_dir() {
        true => Ok(()),
        false => Err(Error::file(folder, format!("no such folder; {option} needs one that is there"))),
    }
}

/// The names in a folder; none where there is no folder.
///
/// # Errors
/// When the system refuses.
pub fn names_in(folder: &Path) -> Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder)(e)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.file_name())).collect(),
    }
}

/// Bytes that this user may still write into a folder; `None` where the file system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let disk = rustix::fs::statvfs(folder).ok()?;
    // Some network file systems count nothing.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Makes a rename in this folder survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}

/// Makes two files or folders change places in one step, so that at no moment one of the names is absent. `false` where the
/// system or the file system cannot do that.
///
/// # Errors
/// When the system refuses for another reason.
pub fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    Ok(false)
}
