//! `bench step --trace`: a viewer of traces finds every op of the step there, in order, and nothing else is overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(what: &str, device: &str, more: &[&str]) -> Output {
    let small = "--model resnet20 --width 2 --batch 2 --size 8 --seconds 0 --threads 2 --device";
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    command.args(["bench", what]).args(small.split(' ')).arg(device).args(more).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whole nanoseconds of a field in microseconds.
fn nanoseconds(event: &Value, field: &str) -> u64 {
    let value = event[field].as_f64().unwrap_or_else(|| panic!("{field} in {event}"));
    assert!(value >= 0.0, "{event}");
    (value * 1e3).round() as u64
}

#[test]
fn a_trace_holds_every_op_of_a_step_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("step.json");
    for device in ["cpu", "emulator"] {
        let said: Value =
            serde_json::from_str(&stdout(&bench("step", device, &["--trace", text(&path), "--json"]))).unwrap();
        assert_eq!(said["device"], *device);
        let trace: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let (named, ops): (Vec<&Value>, Vec<&Value>) = events.iter().partition(|event| event["ph"] == "M");
        assert!(ops.iter().all(|event| event["ph"] == "X"));
        let names: Vec<&str> = named.iter().map(|event| event["args"]["name"].as_str().unwrap()).collect();
        assert!(names[0].starts_with("resnet20 width 2, batch 2, on ") && names[1..] == ["forward", "backward"]);

        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut last, mut counts) = (0, BTreeMap::new());
        for event in &ops {
            let (start, length) = (nanoseconds(event, "ts"), nanoseconds(event, "dur"));
            let track = ends.entry(event["tid"].as_u64().unwrap()).or_default();
            assert!(length > 0 && start >= *track && start >= last, "{event}");
            (last, *track) = (start, start + length);
            let args = &event["args"];
            assert!(nanoseconds(args, "us") == length && args["bytes"].as_f64().unwrap() > 0.0, "{event}");
            assert!(args["flop"].as_f64().unwrap() >= 0.0 && event["cat"] == args["pass"], "{event}");
            assert_eq!(named[event["tid"].as_u64().unwrap() as usize]["args"]["name"], args["pass"]);
            let key = [&event["name"], &args["pass"], &args["label"]].map(|part| part.as_str().unwrap().to_string());
            *counts.entry(key).or_insert(0) += 1;
        }
        // The same ops as in the table, each pass as often as a step has it.
        let table: Value = serde_json::from_str(&stdout(&bench("ops", device, &["--json"]))).unwrap();
        let rows = table["ops"].as_array().unwrap().iter();
        let wanted: BTreeMap<[String; 3], u64> = rows
            .map(|row| {
                let key = [&row["op"], &row["pass"], &row["shape"]].map(|part| part.as_str().unwrap().to_string());
                (key, row["count"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(counts, wanted);
        assert!(fs::read_dir(folder.path()).unwrap().count() == 1, "a partial file is left");
    }
}

#[test]
fn a_trace_replaces_nothing_but_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("thesis.json"), "{\"years\": \"of work\"}").unwrap();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    for (name, wanted) in [
        ("thesis.json", "exists and is not a trace"),
        ("folder", "is a folder where a file must be"),
        ("socket", "is a socket where a file must be"),
        ("dangling", "No such file"),
        ("absent/step.json", "absent: No such file"),
        ("thesis.json/step.json", "is no folder"),
    ] {
        let output = bench("step", "cpu", &["--trace", text(&at(name))]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{name}: {error}");
        assert!(error.contains(wanted), "{name}: {error}");
    }
    assert_eq!(fs::read_to_string(at("thesis.json")).unwrap(), "{\"years\": \"of work\"}");
    let output = bench("ops", "cpu", &["--trace", text(&at("step.json"))]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("--trace is for `bench step`"), "{error}");
    let output = bench("kernels", "cpu", &["--save", text(&at("thesis.json"))]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("exists and is not times of `bench kernels --save`"), "{error}");
}
