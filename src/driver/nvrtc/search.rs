//! Where libnvrtc may be: toolkits, system folders, Python's packages.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders that may hold libnvrtc: toolkits, then Python's packages.
pub(super) fn folders(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| variable(name).filter(|value| !value.is_empty()))
        .map(PathBuf::from)
        .collect();
    roots.extend(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    // Newest toolkit first.
    let mut versions = named(Path::new("/usr/local"), "cuda-");
    versions.reverse();
    roots.extend(versions);
    let mut found = Vec::new();
    for root in &roots {
        for lib in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"] {
            found.push(root.join(lib));
        }
    }
    found.extend(["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"].map(PathBuf::from));
    // Python environments: the active one, those whose programs are on the path, the user's and the system's.
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| variable(name).filter(|value| !value.is_empty()))
        .map(PathBuf::from)
        .collect();
    if let Some(path) = variable("PATH") {
        prefixes.extend(env::split_paths(&path).filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    }
    prefixes.extend(variable("HOME").map(|home| PathBuf::from(home).join(".local")));
    prefixes.extend(["/usr", "/usr/local"].map(PathBuf::from));
    let mut seen = BTreeSet::new();
    prefixes.retain(|prefix| seen.insert(prefix.clone()));
    for prefix in prefixes {
        for python in named(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                for package in ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"] {
                    found.push(python.join(packages).join(package));
                }
            }
        }
    }
    found
}

/// The libnvrtc of a folder: the unversioned name, else the highest version.
pub(super) fn find_in(folder: &Path) -> Option<PathBuf> {
    let mut files = named(folder, "libnvrtc.so");
    files.sort_by_key(|path| {
        let version = path.to_string_lossy().rsplit_once(".so").map(|(_, v)| v.to_string()).unwrap_or_default();
        let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        (version.is_empty(), numbers)
    });
    files.pop()
}

/// Paths in `folder` whose names start with `prefix`, sorted.
pub(super) fn named(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_library_in_toolkits_and_python_packages() {
        let root = tempfile::tempdir().unwrap();
        let toolkit = root.path().join("toolkit/lib64");
        let package = root.path().join("venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib");
        for folder in [&toolkit, &package] {
            fs::create_dir_all(folder).unwrap();
        }
        for name in ["libnvrtc.so.12", "libnvrtc.so.12.4.127", "libnvrtc-builtins.so.12.4", "libnvrtc.alt.so.12"] {
            fs::write(toolkit.join(name), "").unwrap();
        }
        fs::write(package.join("libnvrtc.so.13"), "").unwrap();
        assert_eq!(find_in(&toolkit), Some(toolkit.join("libnvrtc.so.12.4.127")));
        fs::write(toolkit.join("libnvrtc.so"), "").unwrap();
        assert_eq!(find_in(&toolkit), Some(toolkit.join("libnvrtc.so")));
        assert_eq!(find_in(root.path()), None);
        let variables = |name: &str| match name {
            "CUDA_HOME" => Some(root.path().join("toolkit").into_os_string()),
            "PATH" => Some(OsString::from(format!("/usr/bin:{}/venv/bin", root.path().display()))),
            _ => None,
        };
        let folders = folders(&variables);
        let at = |folder: &Path| folders.iter().position(|f| f == folder).unwrap();
        assert!(at(&toolkit) < at(&package));
    }
}
