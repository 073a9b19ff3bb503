//! The first use of a GPU: its kernels are tested once, whatever a broken one does is named, and nothing is computed with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use glmc_engine::driver::cache::Cache;
use libtest_mimic::Failed;
use serde_json::Value;

use crate::install;
use crate::program::{BIN, Place, one_line, words};

const BENCH: &str = "bench step --model resnet20 --width 2 --batch 4 --device cuda --precision f32 --seconds 0 --json";

/// A GPU that nobody has used: a cache of kernels without a note of what was tested. The kernels themselves are there, as
/// compiling takes most of a test's time.
struct Fresh {
    place: Place,
}

impl Fresh {
    fn new() -> Result<Fresh, Failed> {
        static COMPILED: OnceLock<bool> = OnceLock::new();
        let fresh = Fresh { place: Place::new()? };
        // The test's own process notes nothing.
        let compile = || {
            let output = fresh.base("").args(["self-test", "cuda:0", "f32"]).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("\npassed "))
        };
        assert!(COMPILED.get_or_init(compile), "the self-test alone");
        fs::create_dir(fresh.cache())?;
        for entry in Cache::user().folder().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten()
        {
            let name = entry.file_name();
            if [".so", ".cubin"].iter().any(|end| name.to_string_lossy().ends_with(end)) {
                symlink(entry.path(), fresh.cache().join(name))?;
            }
        }
        Ok(fresh)
    }

    fn cache(&self) -> PathBuf {
        self.place.path("cache")
    }

    fn base(&self, settings: &str) -> Command {
        let mut command = install::command(BIN, &self.place.path("report.json"), settings);
        command.env_remove("GLMC_TRUST_DEVICE");
        command
    }

    /// The program in its own cache.
    fn glmc(&self, settings: &str, arguments: &[String]) -> Result<Output, Failed> {
        // Enough for any kernel on a busy machine, and what a hanging one takes.
        let mut command = self.base(settings);
        Ok(command.env("GLMC_CACHE", self.cache()).env("GLMC_SELF_TEST_SECONDS", "8").args(arguments).output()?)
    }

    fn notes(&self) -> Result<Vec<PathBuf>, Failed> {
        let entries = fs::read_dir(self.cache())?.flatten().map(|entry| entry.path());
        Ok(entries.filter(|path| path.extension().is_some_and(|e| e == "tested")).collect())
    }
}

/// Whether a run that succeeded has tested the GPU, and whether it warned instead.
fn tested(output: &Output) -> (bool, bool) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let passed = stderr.contains(" kernels agree");
    assert_eq!(stderr.contains("first use of mock GPU over the emulator in f32"), passed, "{stderr}");
    (passed, stderr.contains("warning: cuda:0 has not passed its self-test in f32"))
}

/// Once for each GPU, driver and precision, and again when the note of it is damaged.
pub fn once() -> Result<(), Failed> {
    let fresh = Fresh::new()?;
    let run = fresh.place.path("run");
    assert_eq!(tested(&fresh.glmc("", &fresh.place.training("cuda", "f32", &run))?), (true, false));
    let report = install::read(&fresh.place.path("report.json")).ok_or("no report")?;
    install::clean(&report).map_err(|what| format!("{what}: {report:#}"))?;
    assert!(run.join("last.safetensors").exists());
    assert_eq!(fresh.notes()?.len(), 1);
    assert_eq!(tested(&fresh.glmc("", &words(BENCH))?), (false, false));
    let eval = format!(
        "eval --device cuda --precision f32 --checkpoint {} --data {}",
        run.display(),
        fresh.place.path("data.lt").display()
    );
    assert_eq!(tested(&fresh.glmc("", &words(&eval))?), (false, false));
    // Another driver is another GPU.
    assert_eq!(tested(&fresh.glmc("driver=13.1", &words(BENCH))?), (true, false));
    assert_eq!((fresh.notes()?.len(), tested(&fresh.glmc("driver=13.1", &words(BENCH))?)), (2, (false, false)));
    for note in fresh.notes()? {
        let mut bytes = fs::read(&note)?;
        bytes[3] ^= 1;
        fs::write(&note, bytes)?;
    }
    assert_eq!(tested(&fresh.glmc("", &words(BENCH))?), (true, false));
    // What has passed needs no trust; other devices are not tested.
    assert_eq!(tested(&fresh.glmc("", &words(&format!("{BENCH} --trust-device")))?), (false, false));
    let emulator = BENCH.replace("cuda", "emulator");
    assert_eq!(tested(&fresh.glmc("", &words(&emulator))?), (false, false));
    Ok(())
}

fn nothing_in(run: &Path) -> bool {
    fs::read_dir(run).into_iter().flatten().count() == 0
}

/// A broken kernel: one line that names it, status 1, nothing noted and nothing computed.
fn broken(settings: &str, parts: &[&str]) -> Result<(), Failed> {
    let fresh = Fresh::new()?;
    let run = fresh.place.path("run");
    let output = fresh.glmc(settings, &fresh.place.training("cuda", "f32", &run))?;
    let line = one_line(&output);
    let usual = ["error: cuda:0: self-test of mock GPU over the emulator: ", "glmc-engine info", "--trust-device"];
    for part in usual.iter().chain(parts) {
        assert!(line.contains(part), "{settings}: {line}");
    }
    assert!(fresh.notes()?.is_empty() && nothing_in(&run), "{settings}");
    Ok(())
}

pub fn wrong() -> Result<(), Failed> {
    broken("wrong=conv2d_forward", &["kernel conv2d_forward<", "conv2d (", "forward, output", " is off by "])?;
    broken("wrong=linear_input_grad", &["linear_input_grad", "linear (", "backward", " is off by "])?;
    broken("wrong=checksum", &["kernel checksum: ", ", but it is "])
}

pub fn hanging() -> Result<(), Failed> {
    broken("hang=batch_norm_apply", &["kernel batch_norm_apply<", " does not end: killed after 8 s"])
}

pub fn faulting() -> Result<(), Failed> {
    broken("fault=supervised_loss", &["kernel supervised_loss", "CUDA_ERROR_ILLEGAL_ADDRESS"])?;
    broken("crash=sgd", &["kernel sgd<", "the process ended in it (signal: 6"])
}

/// `--trust-device` goes on with a warning, each time. The kernel that is wrong is one that training does not need.
pub fn trusted() -> Result<(), Failed> {
    let fresh = Fresh::new()?;
    let run = fresh.place.path("run");
    let mut arguments = fresh.place.training("cuda", "f32", &run);
    one_line(&fresh.glmc("wrong=mix_views", &arguments)?);
    arguments.push("--trust-device".into());
    assert_eq!(tested(&fresh.glmc("wrong=mix_views", &arguments)?), (false, true));
    assert!(run.join("last.safetensors").exists() && fresh.notes()?.is_empty());
    assert_eq!(tested(&fresh.glmc("wrong=mix_views", &words(&format!("{BENCH} --trust-device")))?), (false, true));
    one_line(&fresh.glmc("wrong=mix_views", &words(BENCH))?);
    Ok(())
}

/// `verify` without a file: every kernel and the references that the program carries.
pub fn verify() -> Result<(), Failed> {
    let fresh = Fresh::new()?;
    let output = fresh.glmc("", &words("verify --device cuda --precision f32 --json"))?;
    let found: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success(), "{found:#}");
    assert!(found["kernels"][0]["proof"]["kernels"].as_u64().is_some_and(|n| n > 50), "{found:#}");
    let references = found["references"].as_array().ok_or("no references")?;
    assert!(references.len() == 2 && references.iter().all(|r| r["pass"] == true), "{found:#}");
    let output = fresh.glmc("wrong=linear_forward", &words("verify --device cuda --precision f32"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.lines().any(|l| l.starts_with("cuda") && l.contains("FAIL  kernel linear_forward")), "{stdout}");
    assert!(one_line(&output).contains("3 of 3 checks of cuda:0 fail"), "{stdout}");
    Ok(())
}
