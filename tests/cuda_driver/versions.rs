//! The program where driver, compiler and GPU are of different ages.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;

use crate::install;
use crate::program::{BIN, clean, one_line, words};

const BENCH: &str = "bench step --model resnet20 --width 2 --batch 4 --device cuda --seconds 0 --json";

/// Runs the program with the mock under `settings` and the compilers that lie in `compilers`.
fn glmc(settings: &str, compilers: &Path, command: &str) -> Result<(std::process::Output, Option<Value>), Failed> {
    let folder = TempDir::new()?;
    let report = folder.path().join("report.json");
    let output = install::command(BIN, &report, settings).args(words(command)).env("GLMC_NVRTC", compilers).output()?;
    Ok((output, install::read(&report)))
}

/// What `info` says of the GPU.
fn described(settings: &str, compilers: &Path) -> Result<Value, Failed> {
    let (stdout, _) = clean(glmc(settings, compilers, "info --json")?)?;
    let mut info: Value = serde_json::from_str(&stdout)?;
    let devices = info["devices"].as_array_mut().ok_or("no devices")?;
    Ok(devices.iter_mut().find(|device| device["device"] == "cuda:0").ok_or("no cuda:0")?.take())
}

/// A folder of compilers: the mock under these names, each a library of its own.
fn compilers(names: &[&str]) -> Result<TempDir, Failed> {
    let folder = TempDir::new()?;
    for name in names {
        fs::copy(install::folder().join("libnvrtc.so"), folder.path().join(name))?;
    }
    Ok(folder)
}

/// NVRTC 13 makes images that drivers for CUDA 12 do not load.
pub fn compilers_and_drivers() -> Result<(), Failed> {
    let both = compilers(&["libnvrtc.so.12", "libnvrtc.so.13"])?;
    for (settings, version) in
        [("driver=12.4", "NVRTC 12."), ("driver=13.0", "NVRTC 13."), ("driver=14.1", "NVRTC 13.")]
    {
        let device = described(settings, both.path())?;
        let text = device["description"].as_str().ok_or_else(|| device.to_string())?;
        assert!(text.contains(version) && text.ends_with(" for sm_90a"), "{settings}: {text}");
        clean(glmc(settings, both.path(), BENCH)?)?;
    }
    // An older compiler serves a newer driver.
    let old = compilers(&["libnvrtc.so.12"])?;
    clean(glmc("driver=13.0", old.path(), BENCH)?)?;
    let new = compilers(&["libnvrtc.so.13"])?;
    let (output, report) = glmc("driver=12.4", new.path(), BENCH)?;
    install::clean(&report.ok_or("no report")?)?;
    let line = one_line(&output);
    let parts = ["NVRTC 13.", "makes kernels that this driver (CUDA 12.4) does not load", "nvidia-cuda-nvrtc-cu12"];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    let device = described("driver=12.4", new.path())?;
    assert_eq!(device["usable"], false, "{device}");
    Ok(())
}

/// The nearest minor version, without its specific instructions; else PTX. Both run, and `info` says so.
pub fn newer_gpus() -> Result<(), Failed> {
    let folder = install::folder();
    for (settings, arch) in [("compute=9.3", "sm_90"), ("compute=13.0", "compute_80")] {
        let device = described(settings, &folder)?;
        let text = device["description"].as_str().ok_or_else(|| device.to_string())?;
        let wanted = format!(" for {arch}, as it does not know this GPU: a newer libnvrtc makes faster ones");
        assert!(text.ends_with(&wanted), "{settings}: {text}");
        clean(glmc(settings, &folder, BENCH)?)?;
    }
    Ok(())
}
