//! Makes the table of kernel sources that the binary carries: every `.cu`, `.cuh` and `.h` under `kernels/`, by its path
//! there. The program needs no source folder at run time. And notes which commit the sources are of, where git knows.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What the program is compiled from, besides kernels/.
const SOURCES: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "h") {
            found.push(path);
        }
    }
}

/// The commit of the sources, with `-modified` behind it where they differ from it; `None` where this is no checkout of its
/// own, as in an unpacked archive inside some other project.
fn commit(package: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(package).arg("--no-optional-locks").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(package).ok()? {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&[&["status", "--porcelain", "--untracked-files=no", "--", "kernels"], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-modified") })
}

/// Passes version and commit on to the compiler. Looked up again when the sources change, not at every commit: these are
/// the sources that the program has, and a commit that changed none of them costs no build.
fn stamp(package: &Path) {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", package.join(source).display());
    }
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    match commit(package) {
        Some(commit) => {
            println!("cargo:rustc-env=GLMC_COMMIT={commit}");
            println!("cargo:rustc-env=GLMC_VERSION={version} ({commit})");
        }
        None => println!("cargo:rustc-env=GLMC_VERSION={version}"),
    }
}

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    stamp(&package);
    let root = package.join("kernels");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root).expect("it was found there").to_string_lossy().replace('\\', "/");
        writeln!(table, "    ({name:?}, include_str!({:?})),", file.display().to_string()).expect("a string grows");
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernel_sources.rs");
    fs::write(&out, table).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}
