//! Where libnvrtc may be (toolkits, system folders, Python's packages), and which of several fits driver and GPU.
//!
//! NVRTC 13 makes images of ELF ABI 8, which drivers for CUDA 12 refuse. Within a major version newer compilers and older
//! drivers go together, and so do older compilers and newer drivers (CUDA Compatibility, "Minor Version Compatibility"): a
//! library fits if its major version is the driver's or an earlier one. Of those the first wins that knows the GPU, else
//! the first.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use super::{Nvrtc, VARIABLE};
use crate::{Error, Result};

/// What a libnvrtc must serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    /// The CUDA version that the driver is for.
    driver: (i32, i32),
    /// The GPU's compute capability.
    compute: (i32, i32),
}

/// A library that stays loaded, or why there is none.
type Found = Result<&'static Nvrtc, String>;

/// The libraries of this process by what they were needed for: each is looked for once, and stays loaded.
static LOADED: Mutex<Vec<(Option<Need>, Found)>> = Mutex::new(Vec::new());

impl Nvrtc {
    /// The first libnvrtc there is, for compiling without a GPU.
    ///
    /// # Errors
    /// When none is found or usable; says what to do.
    pub fn load() -> Result<&'static Nvrtc> {
        once(None).map_err(|what| Error::device("nvrtc", what))
    }

    /// The libnvrtc for a GPU of compute capability `compute` under a driver for CUDA `driver`.
    ///
    /// # Errors
    /// When none is found, or none that the driver goes along with; says what to do.
    pub fn load_for(driver: (i32, i32), compute: (i32, i32)) -> Result<&'static Nvrtc, String> {
        once(Some(Need { driver, compute }))
    }
}

fn once(need: Option<Need>) -> Found {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = loaded.iter().find(|(known, _)| *known == need) {
        return known.clone();
    }
    let found = search(&|name| env::var_os(name), need).map(|nvrtc| &*Box::leak(Box::new(nvrtc)));
    loaded.push((need, found.clone()));
    found
}

fn search(variable: &dyn Fn(&str) -> Option<OsString>, need: Option<Need>) -> Result<Nvrtc, String> {
    let mut choice = Choice { need, second: None, problems: Vec::new() };
    if let Some(named) = variable(VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        let files = if named.is_dir() { libraries_in(&named) } else { vec![named.clone()] };
        if files.is_empty() {
            return Err(format!("{VARIABLE} names {}, which holds no libnvrtc.so", named.display()));
        }
        let found = files.iter().find_map(|file| choice.consider(file));
        return found.or(choice.second).ok_or_else(|| {
            let problems = choice.problems.join("; ");
            format!("{VARIABLE} names {problems}; {}", help(need))
        });
    }
    // By name first: what the loader finds is what the system's owner chose.
    for name in ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"].map(Path::new) {
        if let Some(found) = choice.consider(name) {
            return Ok(found);
        }
    }
    // A name that the loader does not find is no problem, unlike a file that is there.
    choice.problems.retain(|problem| problem.contains(TOO_NEW));
    for file in folders(variable).iter().flat_map(|folder| libraries_in(folder)) {
        if let Some(found) = choice.consider(&file) {
            return Ok(found);
        }
    }
    choice.second.ok_or_else(|| match choice.problems.is_empty() {
        true => format!("libnvrtc, which compiles the kernels, was not found; {}", help(need)),
        false => format!("no usable libnvrtc ({}); {}", choice.problems.join("; "), help(need)),
    })
}

/// In the message on a library that the driver is too old for.
const TOO_NEW: &str = "makes kernels that this driver";

/// How to get a library; one for CUDA 12 has a package of its own.
fn help(need: Option<Need>) -> String {
    let package = match need {
        Some(Need { driver: (12, _), .. }) => "nvidia-cuda-nvrtc-cu12",
        _ => "nvidia-cuda-nvrtc",
    };
    format!("install it with `pip install {package}` or a CUDA toolkit, or name it in {VARIABLE}")
}

/// The candidates so far.
struct Choice {
    need: Option<Need>,
    /// Fits the driver and does not know the GPU.
    second: Option<Nvrtc>,
    problems: Vec<String>,
}

impl Choice {
    /// Opens a library, and returns it if nothing is left to wish for.
    fn consider(&mut self, file: &Path) -> Option<Nvrtc> {
        let found = match Nvrtc::open(file) {
            Ok(found) => found,
            Err(error) => {
                self.problems.push(format!("{}: {error}", file.display()));
                return None;
            }
        };
        let Some(need) = self.need else { return Some(found) };
        let (major, minor) = need.driver;
        if found.version().0 > major {
            let what = format!("{} {TOO_NEW} (CUDA {major}.{minor}) does not load", found.describe());
            if !self.problems.contains(&what) {
                self.problems.push(what);
            }
        } else if found.target(need.compute).exact {
            return Some(found);
        } else if self.second.is_none() {
            self.second = Some(found);
        }
        None
    }
}

/// Folders that may hold libnvrtc: toolkits, then Python's packages.
fn folders(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
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

/// The libraries of a folder: the unversioned name, then the highest version first; each file once.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = named(folder, "libnvrtc.so");
    files.sort_by_cached_key(|path| {
        let version = path.to_string_lossy().rsplit_once(".so").map(|(_, v)| v.to_string()).unwrap_or_default();
        let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        (version.is_empty(), numbers)
    });
    files.reverse();
    let mut seen = BTreeSet::new();
    files.retain(|path| seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    files
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
        assert_eq!(libraries_in(&toolkit), ["libnvrtc.so.12.4.127", "libnvrtc.so.12"].map(|name| toolkit.join(name)));
        fs::write(toolkit.join("libnvrtc.so"), "").unwrap();
        assert_eq!(libraries_in(&toolkit)[0], toolkit.join("libnvrtc.so"));
        assert!(libraries_in(root.path()).is_empty());
        let variables = |name: &str| match name {
            "CUDA_HOME" => Some(root.path().join("toolkit").into_os_string()),
            "PATH" => Some(OsString::from(format!("/usr/bin:{}/venv/bin", root.path().display()))),
            _ => None,
        };
        let folders = folders(&variables);
        let at = |folder: &Path| folders.iter().position(|f| f == folder).unwrap();
        assert!(at(&toolkit) < at(&package));
    }

    #[test]
    fn says_what_is_wrong_with_the_named_library() {
        let root = tempfile::tempdir().unwrap();
        let named = |path: PathBuf| {
            let variable = move |name: &str| (name == VARIABLE).then(|| path.clone().into_os_string());
            search(&variable, None).err().unwrap()
        };
        assert!(named(root.path().to_path_buf()).contains("holds no libnvrtc.so"));
        let broken = root.path().join("libnvrtc.so");
        fs::write(&broken, "no library").unwrap();
        let error = named(broken.clone());
        assert!(error.contains(VARIABLE) && error.contains(&broken.display().to_string()), "{error}");
        let absent = named(root.path().join("absent.so"));
        assert!(absent.contains("absent.so"), "{absent}");
    }
}
