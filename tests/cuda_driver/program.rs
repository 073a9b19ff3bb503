//! The program with the mock: its commands, every way a run can end, and every fault that a driver can have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_json::Value;
use tempfile::TempDir;

use crate::install;
use crate::signals::heeding;

pub const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

/// A temporary folder with a small long-tailed store in it.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Result<Place, Failed> {
        let place = Place { folder: TempDir::new()? };
        let store = place.path("data.lt");
        let more = "--classes 4 --per-class 24 --imbalance 8 --size 8 --seed 3";
        ok(Command::new(BIN).args(["prepare", "synthetic", "--out"]).arg(&store).args(more.split(' ')).output()?)?;
        Ok(place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a short run: two epochs of two full batches and a smaller one.
    pub fn training(&self, device: &str, precision: &str, out: &Path) -> Vec<String> {
        let fixed = "train --model resnet20 --width 2 --epochs 2 --batch 16 --lr 0.05 --seed 1 --threads 2";
        let mut arguments: Vec<String> = fixed.split(' ').map(String::from).collect();
        let paths = [self.path("data.lt"), out.to_path_buf()].map(|path| path.display().to_string());
        let [store, out] = paths;
        let more = ["--device", device, "--precision", precision, "--data", &store, "--out", &out];
        arguments.extend(more.map(String::from));
        arguments
    }
}

/// Runs the program with the mock under `settings`; its output, and the mock's report if it got so far.
pub fn glmc(folder: &TempDir, settings: &str, arguments: &[String]) -> Result<(Output, Option<Value>), Failed> {
    let report = folder.path().join("report.json");
    fs::remove_file(&report).ok();
    let output = install::command(BIN, &report, settings).args(arguments).output()?;
    Ok((output, install::read(&report)))
}

pub fn words(text: &str) -> Vec<String> {
    text.split(' ').map(String::from).collect()
}

/// Stdout of a program that succeeded.
fn ok(output: Output) -> Result<String, Failed> {
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// The same when CUDA was used as it wants to be, with what the mock counted.
pub fn clean((output, report): (Output, Option<Value>)) -> Result<(String, Value), Failed> {
    let stdout = ok(output)?;
    let report = report.ok_or("the mock was not used")?;
    install::clean(&report).map_err(|what| format!("{what}: {report:#}"))?;
    Ok((stdout, report))
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or(0)
}

pub fn info() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let (stdout, _) = clean(glmc(&folder, "", &words("info --json"))?)?;
    let info: Value = serde_json::from_str(&stdout)?;
    let devices = info["devices"].as_array().ok_or("no devices")?;
    let cuda = devices.iter().find(|device| device["device"] == "cuda:0").ok_or("no cuda:0")?;
    assert_eq!(cuda["usable"], true, "{cuda}");
    assert!(cuda["description"].as_str().is_some_and(|text| text.contains("compute capability 9.0")), "{cuda}");
    Ok(())
}

pub fn verify() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    for precision in ["f32", "bf16"] {
        let run = |device: &str| {
            let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w2_c7_b3.safetensors");
            let command = format!("verify {fixture} --device {device} --precision {precision} --json");
            glmc(&folder, "", &words(&command))
        };
        let groups =
            |text: &str| -> Result<Value, Failed> { Ok(serde_json::from_str::<Value>(text)?[0]["groups"].take()) };
        let (cuda, report) = clean(run("cuda")?)?;
        let emulator = ok(run("emulator")?.0)?;
        assert!(groups(&cuda)?.is_array());
        assert_eq!(groups(&cuda)?, groups(&emulator)?, "{precision}");
        assert!(number(&report, "launches") > 100, "{report:#}");
    }
    Ok(())
}

/// The tensors of a checkpoint: everything behind the header, which also names the device.
fn weights(run: &Path, name: &str) -> Result<Vec<u8>, Failed> {
    let bytes = fs::read(run.join(name))?;
    let header = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    Ok(bytes[8 + header..].to_vec())
}

/// Lines of metrics.jsonl without what time it took, and without the memory, of which streamed images take another amount.
fn metrics(run: &Path) -> Result<Vec<Value>, Failed> {
    fn strip(value: &mut Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| !["seconds", "samples_per_second", "peak_bytes"].contains(&key.as_str()));
            object.values_mut().for_each(strip);
        }
    }
    let mut lines = Vec::new();
    for line in fs::read_to_string(run.join("metrics.jsonl"))?.lines() {
        let mut value = serde_json::from_str(line)?;
        strip(&mut value);
        lines.push(value);
    }
    Ok(lines)
}

fn same_run(run: &Path, expected: &Path) -> Result<(), Failed> {
    let (got, wanted) = (metrics(run)?, metrics(expected)?);
    assert!(got == wanted, "{}: {got:#?}, expected {wanted:#?}", run.display());
    for name in ["last.safetensors", "best.safetensors"] {
        assert!(weights(run, name)? == weights(expected, name)?, "{} differs in {}", name, run.display());
    }
    Ok(())
}

/// Late and early work, resident and streamed images: all the same bits.
pub fn training(precision: &str) -> Result<(), Failed> {
    trained(precision, "")
}

/// Both passes of SAM, the way up and back, and projections are in the one graph of a step.
pub fn optimizer() -> Result<(), Failed> {
    trained(
        "bf16",
        "project = { max_norm = 0.1, match = \"fc*.weight\", every = \"step\" }\nnesterov = true\n\
         sam = { rho = 0.05, ascent = [1, 1, 0] }\ngroups = [{ match = \"*.bias\", weight_decay = 0.0 }]\n",
    )
}

fn trained(precision: &str, settings: &str) -> Result<(), Failed> {
    let place = Place::new()?;
    let file = place.path("settings.toml");
    fs::write(&file, settings)?;
    let config = ["--config".to_string(), file.display().to_string()];
    let expected = place.path("emulator");
    let arguments = [place.training("emulator", precision, &expected), config.to_vec()].concat();
    ok(glmc(&place.folder, "", &arguments)?.0)?;
    for (name, settings, more) in [
        ("late", "timing=late", ""),
        ("early", "timing=early", ""),
        ("streamed", "timing=late", "--resident-limit 0"),
        ("streamed-early", "timing=early", "--resident-limit 0"),
    ] {
        let run = place.path(name);
        let mut arguments = [place.training("cuda", precision, &run), config.to_vec()].concat();
        arguments.extend(more.split_whitespace().map(String::from));
        let (_, report) = clean(glmc(&place.folder, settings, &arguments)?)?;
        same_run(&run, &expected)?;
        // Graphs for full batches, the last one of an epoch, and evaluation; a replay for each step and each evaluation.
        let nodes: Vec<u64> =
            report["graph_nodes"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        assert!(nodes.len() >= 3 && nodes.iter().all(|n| *n > 20), "{report:#}");
        assert!(number(&report, "replays") >= 2 * 3 + 2, "{report:#}");
        // No step takes the time, no thread polls while it waits, and no kernel leaves to the driver what it has for blocks.
        for cost in ["timed_events", "polling_waits", "uncarved"] {
            assert_eq!(number(&report, cost), 0, "{cost}: {report:#}");
        }
    }
    Ok(())
}

/// Starts a run on the mock, does `stop` to it after its first epoch, and returns how it ended.
fn stopped(
    place: &Place,
    run: &Path,
    stop: fn(&mut std::process::Child) -> std::io::Result<()>,
) -> Result<Output, Failed> {
    let mut command = install::command(BIN, &place.path("stopped.json"), "");
    let mut arguments = place.training("cuda", "f32", run);
    let epochs = arguments.iter().position(|word| word == "--epochs").ok_or("no epochs")? + 1;
    arguments[epochs] = "6".to_string();
    let mut child = heeding(command.args(arguments)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let start = Instant::now();
    while !fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains('\n')) {
        if child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(120) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    stop(&mut child)?;
    Ok(child.wait_with_output()?)
}

pub fn interrupted() -> Result<(), Failed> {
    let place = Place::new()?;
    let whole = place.path("whole");
    let mut arguments = place.training("emulator", "f32", &whole);
    let epochs = arguments.iter().position(|word| word == "--epochs").ok_or("no epochs")? + 1;
    arguments[epochs] = "6".to_string();
    ok(glmc(&place.folder, "", &arguments)?.0)?;
    let interrupt = |child: &mut std::process::Child| {
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().map(|_| ())
    };
    for (name, stop, status) in [
        ("interrupted", interrupt as fn(&mut std::process::Child) -> _, Some(130)),
        ("killed", std::process::Child::kill, None),
    ] {
        let run = place.path(name);
        let output = stopped(&place, &run, stop)?;
        assert_eq!(output.status.code(), status, "{name}: {}", String::from_utf8_lossy(&output.stderr));
        if status.is_some() {
            let report = install::read(&place.path("stopped.json")).ok_or("no report")?;
            install::clean(&report).map_err(|what| format!("{name}: {what}: {report:#}"))?;
        }
        clean(glmc(&place.folder, "", &["train".into(), "--resume".into(), run.display().to_string()])?)?;
        same_run(&run, &whole)?;
    }
    Ok(())
}

pub fn bench() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let command = "bench step --model resnet20 --width 2 --batch 4 --device cuda --seconds 0.1 --json";
    let (stdout, report) = clean(glmc(&folder, "", &words(command))?)?;
    let bench: Value = serde_json::from_str(&stdout)?;
    assert_eq!((&bench["device"], &bench["precision"]), (&"cuda:0".into(), &"bf16".into()), "{bench}");
    assert!(bench["samples_per_second"].as_f64().is_some_and(|n| n > 0.0), "{bench}");
    let replays = number(&report, "replays");
    assert!(replays > 0, "{report:#}");
    // What `bench plan` counts without a device is what the step's graph launches.
    let planned = "bench plan --model resnet20 --width 2 --batch 4 --json";
    let plan: Value = serde_json::from_str(&ok(Command::new(BIN).args(words(planned)).output()?)?)?;
    let (launches, nodes) = (number(&plan, "launches"), number(&plan, "graph_nodes"));
    assert_eq!(report["graph_nodes"], serde_json::json!([nodes]), "{report:#}");
    // Nothing is launched outside of the graph once the run is set up.
    let rest = number(&report, "launches").checked_sub(replays * launches).ok_or("a step launches less")?;
    assert!(launches > 150 && rest < 10, "{launches} launches in each of {replays} steps: {report:#}");
    Ok(())
}

/// One launch after another would be timed with its latency, which no emulator shows: so the calls themselves are looked at.
pub fn bench_ops() -> Result<(), Failed> {
    let folder = TempDir::new()?;
    let command = "bench ops --model resnet20 --width 1 --batch 1 --size 8 --device cuda --seconds 0 --json";
    let (stdout, report) = clean(glmc(&folder, "", &words(command))?)?;
    let bench: Value = serde_json::from_str(&stdout)?;
    let ops = bench["ops"].as_array().ok_or("no ops")?;
    let passes: f64 = ops.iter().filter_map(|op| op["count"].as_f64()).sum();
    assert!(passes > 50.0, "{bench}");
    // Ops of one image are short even here: most are replayed, twice in each of at least three rounds, in several copies.
    assert!(number(&report, "replays") as f64 > passes, "{report:#}");
    let several = report["graph_nodes"].as_array().into_iter().flatten().filter(|n| n.as_u64() > Some(4)).count();
    assert!(several > 20, "{report:#}");
    // None of them finds its operands where another left them: copies take turns, each once, as these are small.
    let lists = ["graph_nodes", "graph_works"].map(|name| report[name].as_array().cloned().unwrap_or_default());
    let different = lists[0].iter().zip(&lists[1]).filter(|(nodes, works)| nodes.as_u64() > Some(4) && nodes == works);
    assert!(different.count() > 20, "{report:#}");
    let copies = |op: &Value| op["copies"].as_u64().unwrap_or(0);
    assert!(ops.iter().all(|op| copies(op) >= 1) && ops.iter().any(|op| copies(op) > 4), "{bench}");
    assert_eq!(bench["cache_bytes"], 1 << 20, "{bench}");
    Ok(())
}

/// The device itself finds that its model is not finite any more: nothing is copied, and what was saved before stays.
pub fn divergence() -> Result<(), Failed> {
    let place = Place::new()?;
    for precision in ["f32", "bf16"] {
        let run = place.path(precision);
        let mut arguments = place.training("cuda", precision, &run);
        let last = run.join("last.safetensors");
        let (before, mut epochs) = (arguments.clone(), words("--epochs 12 --lr 20"));
        for name in ["--epochs", "--lr"] {
            let at = arguments.iter().position(|word| word == name).ok_or("a flag")?;
            arguments.drain(at..at + 2);
        }
        assert!(arguments.len() + 4 == before.len());
        arguments.append(&mut epochs);
        let (output, _) = glmc(&place.folder, "", &arguments)?;
        let line = one_line(&output);
        assert!(line.contains(" is no longer finite after epoch "), "{precision}: {line}");
        let kept = fs::read_to_string(run.join("metrics.jsonl"))?.lines().count();
        assert!(line.contains(&format!("last.safetensors still holds epoch {kept};")), "{precision}: {line}");
        let model = safetensors::SafeTensors::deserialize(&fs::read(&last)?).map(|model| model.len())?;
        assert!(model > 0, "{precision}");
        // Again from there: the same end, and the same file.
        let held = fs::read(&last)?;
        let (output, _) = glmc(&place.folder, "", &words(&format!("train --resume {}", run.display())))?;
        assert_eq!(one_line(&output), line);
        assert!(fs::read(&last)? == held, "{precision}: the checkpoint was replaced");
    }
    Ok(())
}

/// Asserts exit status 1 and one line, which it returns.
pub fn one_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(lines.len() == 1 && stderr.trim_end().ends_with(lines[0]) && !stderr.contains("panicked"), "{stderr}");
    lines[0].to_string()
}

pub fn faults() -> Result<(), Failed> {
    let place = Place::new()?;
    for (settings, parts) in [
        ("init=no-device", ["error: cuda: the driver sees no GPU", "--device cpu"]),
        ("init=stub", ["the toolkit's stub, not a driver", "install the driver"]),
        ("init=mismatch", ["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"]),
        ("init=unknown", ["the NVIDIA driver does not start", "CUDA_ERROR_UNKNOWN"]),
        ("devices=0", ["error: cuda:0: the driver sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        ("compute=7.5", ["compute capability 7.5 is below 8.0", "Ampere"]),
        ("driver=11.8", ["the NVIDIA driver is for CUDA 11.8", "CUDA 12 or later"]),
        ("memory=300000", ["batch 16 needs ", " of memory and 0.3 MiB are free: "]),
        ("image=200", ["CUDA_ERROR_INVALID_IMAGE", "update the driver"]),
        // Codes that CUDA 12.0 did not have.
        ("image=226", ["error: cuda:0: loading kernel ", "code 226 of the driver"]),
        ("image=919", ["error: cuda:0: loading kernel ", "code 919 of the driver"]),
        ("illegal-address=1", ["CUDA_ERROR_ILLEGAL_ADDRESS", "run the same on --device emulator"]),
    ] {
        let run = place.path("run");
        let (output, report) = glmc(&place.folder, settings, &place.training("cuda", "f32", &run))?;
        let line = one_line(&output);
        assert!(parts.iter().all(|part| line.contains(part)), "{settings}: {line}");
        // Even then everything is given back; where cuInit fails there is nothing to report.
        if let Some(report) = report {
            install::clean(&report).map_err(|what| format!("{settings}: {what}: {report:#}"))?;
        }
        let files = fs::read_dir(&run).into_iter().flatten().count();
        assert!(files == 0 || settings == "illegal-address=1", "{settings} leaves {files} files");
        fs::remove_dir_all(&run).ok();
    }
    Ok(())
}

pub fn fault_in_a_run() -> Result<(), Failed> {
    let place = Place::new()?;
    let run = place.path("run");
    // Somewhere in the second epoch: the first one's checkpoint stands, and nothing else does.
    let (output, report) = glmc(&place.folder, "illegal-address=900", &place.training("cuda", "f32", &run))?;
    let line = one_line(&output);
    assert!(line.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{line}");
    let report = report.ok_or("no report")?;
    install::clean(&report).map_err(|what| format!("{what}: {report:#}"))?;
    assert_eq!(number(&report, "launches"), 900, "nothing runs after an error");
    let mut names: Vec<_> =
        fs::read_dir(&run)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    assert_eq!(names, ["best.safetensors", "config.toml", "last.safetensors", "metrics.jsonl", "run.json"]);
    let expected = place.path("emulator");
    ok(glmc(&place.folder, "", &place.training("emulator", "f32", &expected))?.0)?;
    clean(glmc(&place.folder, "", &["train".into(), "--resume".into(), run.display().to_string()])?)?;
    same_run(&run, &expected)
}
