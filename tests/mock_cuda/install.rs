//! Puts the mock where the loader finds it, for test programs that start themselves again with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Names the folder that holds the mock; set in programs that run with it.
const FOLDER: &str = "GLMC_TEST_MOCK";

/// The names under which the two libraries are looked for.
const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libnvrtc.so", "libnvrtc.so.13"];

/// Runs `trials` in a process of its own with the mock in place of NVIDIA's libraries; `check` then judges what the mock
/// reports on that process.
pub fn run(trials: impl FnOnce() -> ExitCode, check: impl FnOnce(&Value) -> Result<(), String>) -> ExitCode {
    if env::var_os(FOLDER).is_some() {
        return trials();
    }
    let start = || -> Result<ExitCode, String> {
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let library = build()?;
        for name in NAMES {
            // Links, so that both names load one library with one state.
            std::os::unix::fs::symlink(&library, folder.path().join(name)).map_err(|error| error.to_string())?;
        }
        let report = folder.path().join("report.json");
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1)).env(FOLDER, folder.path());
        let status = with_mock(&mut command, folder.path(), &report, "").status().map_err(|error| error.to_string())?;
        if !status.success() {
            return Ok(ExitCode::FAILURE);
        }
        // Without a report no trial has started the driver: the filter left none that does.
        if let Some(report) = read(&report) {
            check(&report).map_err(|what| format!("the trials passed, but {what}: {report:#}"))?;
        } else if env::args_os().len() == 1 {
            return Err("the trials passed without the driver".to_string());
        }
        Ok(ExitCode::SUCCESS)
    };
    start().unwrap_or_else(|what| {
        eprintln!("error: {what}");
        ExitCode::FAILURE
    })
}

/// Builds the library, which does nothing where cargo has built it already: `cargo test` does, `cargo test --test NAME`
/// does not.
fn build() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let profile = program.ancestors().nth(2).ok_or("the test program lies in no target folder")?;
    let library = profile.join("examples/libmock_cuda.so");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => return Err(format!("{} is no target folder", profile.display())),
    };
    let cargo = env::var_os("CARGO").ok_or("run it by cargo, which builds the mock: cargo test --test NAME")?;
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--example", "mock_cuda", "--profile", name, "--target-dir"])
        .arg(profile.parent().ok_or("the target folder has no parent")?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status();
    match built {
        Ok(status) if status.success() && library.exists() => Ok(library),
        Ok(status) => {
            Err(format!("the mock was not built ({status}): cargo build --example mock_cuda --profile {name}"))
        }
        Err(error) => Err(format!("the mock was not built, as cargo does not start: {error}")),
    }
}

fn with_mock<'a>(command: &'a mut Command, folder: &Path, report: &Path, settings: &str) -> &'a mut Command {
    let mut path = folder.as_os_str().to_owned();
    if let Some(rest) = env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    command
        .env("LD_LIBRARY_PATH", path)
        .env("GLMC_NVRTC", folder)
        // A self-test for each way in which a test makes the mock different would take most of the time.
        .env("GLMC_TRUST_DEVICE", "1")
        .env("MOCK_CUDA", format!("report={},{settings}", report.display()))
        .stdin(Stdio::null())
}

/// Where the mock lies, under all of its names.
#[allow(dead_code)] // not every test program looks
pub fn folder() -> PathBuf {
    PathBuf::from(env::var_os(FOLDER).expect("set by `run`"))
}

/// A command that runs with the mock too, under `settings`, and reports to `report`.
#[allow(dead_code)] // not every test program starts others
pub fn command(program: &str, report: &Path, settings: &str) -> Command {
    let mut command = Command::new(program);
    with_mock(&mut command, &folder(), report, settings);
    command
}

/// A report, if there is one.
pub fn read(report: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(report).ok()?).ok()
}

/// Whether the mock has nothing to complain about.
#[allow(dead_code)] // not every test program behaves
pub fn clean(report: &Value) -> Result<(), String> {
    let empty = |key: &str| report[key].as_array().is_some_and(Vec::is_empty);
    match (empty("problems"), empty("leaks")) {
        (true, true) => Ok(()),
        (false, _) => Err("CUDA was misused".to_string()),
        (true, false) => Err("something was not given back".to_string()),
    }
}
