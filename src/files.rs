//! Files that are whole or absent: written beside their place, synced, renamed.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};

/// Replaces the file at `path` by what `write` writes into a temporary file beside it. Whatever happens, the old file
/// or the new one is there, whole.
///
/// # Errors
/// When the system refuses; the temporary file is then removed.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let mut file = File::create(&partial).map_err(Error::io(&partial))?;
    let written = write(&mut file)
        .and_then(|()| file.sync_all().map_err(Error::io(&partial)))
        .and_then(|()| fs::rename(&partial, path).map_err(Error::io(path)));
    if let Err(error) = written {
        // The error at hand says more than a failure to clean up would.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a rename in this folder survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}
