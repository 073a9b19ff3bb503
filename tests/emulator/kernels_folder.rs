//! Kernels from a folder, and compilers that do not work: what the program says and does.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs the program with kernels of `folder` (if any), and an empty cache where `cache` is none.
pub fn glmc(arguments: &str, folder: Option<&Path>, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    command.args(arguments.split(' ')).env_remove("GLMC_KERNELS").env_remove("NO_COLOR");
    if let Some(folder) = folder {
        command.env("GLMC_KERNELS", folder);
    }
    command.envs(more.iter().copied()).output().unwrap()
}

fn verify() -> String {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w2_c7_b3.safetensors");
    format!("verify {fixture} --device emulator --precision f32 --json")
}

/// Stderr of a program that failed with status 1.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one line that a program failed with.
pub fn one_line(output: &Output) -> String {
    let text = failure(output);
    assert!(text.trim_end().lines().count() == 1 && text.starts_with("error: "), "{text}");
    text
}

pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn kernels(info: &Output) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&stdout(info)).unwrap()["kernels"].take()
}

#[test]
fn an_edited_kernel_runs_without_a_build() {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("kernels");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &folder);
    let built_in = kernels(&glmc("info --json", None, &[]));
    assert!(built_in["folder"].is_null(), "{built_in}");
    let copied = kernels(&glmc("info --json", Some(&folder), &[]));
    assert_eq!(copied["hash"], built_in["hash"], "a copy of the sources is the sources");
    assert_eq!(copied["folder"].as_str().unwrap(), fs::canonicalize(&folder).unwrap().to_str().unwrap());
    let plain = stdout(&glmc("info", None, &[]));
    assert!(plain.contains("\nKernels: built in\n"), "{plain}");
    let expected = stdout(&glmc(&verify(), None, &[]));
    assert_eq!(stdout(&glmc(&verify(), Some(&folder), &[])), expected);

    // A header that every kernel sees: all are compiled anew, and say what is wrong by file and line.
    let header = folder.join("portable.cuh");
    let text = fs::read_to_string(&header).unwrap();
    fs::write(&header, format!("{text}\n#error \"edited\"\n")).unwrap();
    let changed = kernels(&glmc("info --json", Some(&folder), &[]));
    assert_ne!(changed["hash"], built_in["hash"]);
    let error = failure(&glmc(&verify(), Some(&folder), &[]));
    assert!(error.contains("does not compile") && error.contains("edited"), "{error}");
    fs::write(&header, text).unwrap();
    assert_eq!(stdout(&glmc(&verify(), Some(&folder), &[])), expected, "the cache holds what was edited apart");

    fs::remove_file(folder.join("classify.cu")).unwrap();
    fs::remove_file(folder.join("sgd.cu")).unwrap();
    let error = one_line(&glmc(&verify(), Some(&folder), &[]));
    assert!(error.contains("there is no kernel source named") && error.contains("kernels ("), "{error}");
}

#[test]
fn a_folder_without_kernels_is_one_line() {
    let place = TempDir::new().unwrap();
    let error = one_line(&glmc(&verify(), Some(place.path()), &[]));
    assert!(error.contains("GLMC_KERNELS names") && error.contains("holds no kernel"), "{error}");
    let error = one_line(&glmc("info", Some(&place.path().join("absent")), &[]));
    assert!(error.contains("GLMC_KERNELS names") && error.contains("No such file"), "{error}");
    fs::write(place.path().join("x.cu"), b"\xff\xfe").unwrap();
    let error = one_line(&glmc("info", Some(place.path()), &[]));
    assert!(error.contains("x.cu"), "{error}");
}

#[test]
#[cfg(unix)]
fn a_broken_compiler_is_one_sentence() {
    use std::os::unix::fs::PermissionsExt;
    let place = TempDir::new().unwrap();
    let cache = place.path().join("cache");
    for (name, script, wanted) in [
        (
            "noisy",
            "echo 'cc1plus: fatal error: no such thing' >&2; for i in 1 2 3 4 5; do echo \"more $i\" >&2; done; exit 1",
            "cannot compile the least program (exit status: 1: cc1plus: fatal error: no such thing)",
        ),
        ("silent", "exit 4", "cannot compile the least program (exit status: 4)"),
        ("idle", "exit 0", "makes no library, and says that it did"),
    ] {
        let compiler = place.path().join(name);
        fs::write(
            &compiler,
            format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo odd 1.0; exit 0; fi\n{script}\n"),
        )
        .unwrap();
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
        let more = [("CXX", compiler.to_str().unwrap()), ("GLMC_CACHE", cache.to_str().unwrap())];
        let error = one_line(&glmc(&verify(), None, &more));
        assert!(error.contains(wanted) && error.contains(&format!("/{name}`")), "{error}");
        assert!(error.contains("repair it, or set CXX to another"), "{error}");
    }
}
