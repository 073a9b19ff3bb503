//! The kernel sources: those that the binary carries (made by `build.rs` from `kernels/`), or those of a folder, so that an
//! edited kernel runs without a build.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fmt, fs, io};

use crate::{Error, Result};

/// Environment variable that names a folder to take instead of the binary's sources, as a whole.
pub const VARIABLE: &str = "GLMC_KERNELS";

/// `(path under kernels/, text)` of every `.cu`, `.cuh` and `.h`, sorted by path.
type Table = &'static [(&'static str, &'static str)];

static BUILT_IN: Table = include!(concat!(env!("OUT_DIR"), "/kernel_sources.rs"));

/// Folders in folders, at most; a link to a folder above ends there.
const DEEPEST: usize = 8;

/// Where the kernel sources of this process come from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The folder; `None` for the binary's own.
    pub folder: Option<PathBuf>,
    /// Hash of all paths and texts, 16 hexadecimal digits. A folder that equals the sources of the binary has its hash.
    pub hash: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.folder {
            None => f.write_str("built in"),
            Some(folder) => write!(f, "{} ({})", folder.display(), self.hash),
        }
    }
}

struct Sources {
    table: Table,
    origin: Origin,
}

/// Where the kernel sources come from.
///
/// # Errors
/// When `GLMC_KERNELS` names no folder that can be read and holds kernels.
pub fn origin() -> Result<&'static Origin> {
    sources().map(|sources| &sources.origin)
}

/// Read once in a process: a run compiles kernels at several times, and they must be of one state.
fn sources() -> Result<&'static Sources> {
    static SOURCES: OnceLock<Result<Sources, String>> = OnceLock::new();
    let read = || match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        None => Ok(Sources { table: BUILT_IN, origin: Origin { folder: None, hash: hash(BUILT_IN) } }),
        Some(folder) => Sources::read(&PathBuf::from(folder)),
    };
    let sources = SOURCES.get_or_init(read);
    sources.as_ref().map_err(|what| Error::Config(format!("{VARIABLE} names {what}")))
}

fn hash(table: Table) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in table.iter().flat_map(|(path, text)| [path, text]) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_string()
}

impl Sources {
    fn read(folder: &Path) -> Result<Sources, String> {
        let mut found = Vec::new();
        collect(folder, "", DEEPEST, &mut found).map_err(|(path, error)| format!("{}: {error}", path.display()))?;
        if !found.iter().any(|(path, _)| path.ends_with(".cu")) {
            return Err(format!("{}, which holds no kernel (.cu); give it a copy of kernels/", folder.display()));
        }
        found.sort_unstable();
        let table: Table = found.leak();
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
        Ok(Sources { table, origin: Origin { folder: Some(folder), hash: hash(table) } })
    }
}

/// Reads the sources below `folder`. The texts live as long as the process, as the binary's own do.
fn collect(
    folder: &Path,
    prefix: &str,
    deeper: usize,
    found: &mut Vec<(&'static str, &'static str)>,
) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error| (path, error)
    };
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        let kind = fs::metadata(&path).map_err(at(&path))?;
        if kind.is_dir() && deeper > 0 {
            collect(&path, &format!("{name}/"), deeper - 1, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "h") {
            found.push((name.leak(), fs::read_to_string(&path).map_err(at(&path))?.leak()));
        }
    }
    Ok(())
}

/// All sources; none where the folder cannot be read, which [`origin`] and [`KernelSpec::source`] say.
///
/// [`KernelSpec::source`]: super::KernelSpec::source
fn table() -> Table {
    sources().map_or(&[], |sources| sources.table)
}

/// The text of the file `name` (`conv2d_forward.cu`).
pub fn source(name: &str) -> Option<&'static str> {
    table().iter().find(|(path, _)| *path == name).map(|(_, text)| *text)
}

/// The headers that kernels may include: `(path, text)`.
pub fn headers() -> impl Iterator<Item = (&'static str, &'static str)> {
    table().iter().copied().filter(|(path, _)| !path.ends_with(".cu"))
}

/// The kernels' own files, `.cu`.
pub fn kernel_files() -> impl Iterator<Item = &'static str> {
    table().iter().map(|(path, _)| *path).filter(|path| path.ends_with(".cu"))
}

/// The headers that `text` includes, directly or through others, by path: what a compilation of it depends on.
pub fn included(text: &str) -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&'static str, &'static str)> = Vec::new();
    let mut waiting: Vec<(&str, &str)> = vec![("", text)];
    while let Some((folder, text)) = waiting.pop() {
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix('#') else { continue };
            let Some(name) = rest.trim_start().strip_prefix("include").and_then(|rest| rest.split('"').nth(1)) else {
                continue;
            };
            let beside = format!("{folder}{name}");
            let Some(header) = headers().find(|(path, _)| *path == beside || *path == name) else { continue };
            if !found.contains(&header) {
                found.push(header);
                let folder = header.0.rfind('/').map_or("", |slash| &header.0[..=slash]);
                waiting.push((folder, header.1));
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_includes() {
        let names: Vec<&str> = included("#include \"portable.cuh\"\n").into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"portable.cuh") && names.contains(&"emulator/checks.h"), "{names:?}");
        assert!(!names.contains(&"emulator/entry.h"));
        assert!(included("#include <math.h>\nint x;").is_empty());
    }

    #[test]
    fn every_kernel_file_is_carried() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut files: Vec<String> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cu"))
            .collect();
        files.sort();
        assert_eq!(files, kernel_files().filter(|name| !name.contains('/')).collect::<Vec<_>>());
    }
}
