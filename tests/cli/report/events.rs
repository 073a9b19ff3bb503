//! What `train --log` writes: event files, read here by their frames and, where it is installed, by TensorBoard's own reader;
//! and a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::Value;

use super::{Place, TRAIN, metrics, number, shared, table};
use crate::common::signals::heeding;
use crate::{error, ok, text};

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The record at the start of these bytes, its frame checked, and how long it is; `None` where it is not whole.
fn record(bytes: &[u8]) -> Option<(Event, usize)> {
    let length: [u8; 8] = bytes.get(..8)?.try_into().expect("eight bytes");
    let end = 12 + u64::from_le_bytes(length) as usize;
    let is_whole = bytes.get(8..12)? == masked(&length) && bytes.get(end..end + 4)? == masked(&bytes[12..end]);
    is_whole.then(|| (Event::decode(&bytes[12..end]).expect("an event"), end + 4))
}

/// The events of a file behind the first, which says the version, and the bytes behind the last whole one.
fn read(file: &Path) -> (Vec<Event>, usize) {
    let bytes = fs::read(file).expect("an event file");
    let (mut at, mut events) = (0, Vec::new());
    while let Some((event, length)) = record(&bytes[at..]) {
        events.push(event);
        at += length;
    }
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    (events.split_off(1), bytes.len() - at)
}

/// The events of a file that is whole to its last byte.
fn events(file: &Path) -> Vec<Event> {
    let (events, rest) = read(file);
    assert_eq!(rest, 0, "{}: bytes that are no record", file.display());
    events
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| text(path).contains("/events.out.tfevents.")).collect();
    files.sort();
    files
}

/// A run's scalars as its metrics have them, by tag and epoch.
fn expected(epochs: &[Value]) -> BTreeMap<(String, i64), f32> {
    let mut all = BTreeMap::new();
    for epoch in epochs {
        let step = epoch["epoch"].as_i64().expect("an epoch");
        for (key, value) in epoch.as_object().expect("a line") {
            let tag = match key.as_str() {
                "lr" | "alpha" => format!("schedule/{key}"),
                "loss" => "loss/total".into(),
                "top1" | "top5" | "balanced" | "many" | "medium" | "few" => format!("accuracy/{key}"),
                "ece" | "nll" | "confidence_gap" => format!("calibration/{key}"),
                "seconds" | "samples_per_second" => format!("speed/{key}"),
                key => match key.strip_prefix("loss_") {
                    Some(term) => format!("loss/{term}"),
                    None => continue,
                },
            };
            if let Some(value) = value.as_f64() {
                all.insert((tag, step), value as f32);
            }
        }
    }
    all
}

/// The scalars of event files; none may come twice.
fn scalars(files: &[PathBuf]) -> BTreeMap<(String, i64), f32> {
    let mut all = BTreeMap::new();
    for event in files.iter().flat_map(|file| events(file)) {
        for Scalar { tag, simple_value } in event.summary.expect("a summary").value {
            let there = all.insert((tag.clone(), event.step), simple_value.expect("a value"));
            assert_eq!(there, None, "{tag} of step {} comes twice", event.step);
        }
        assert!(event.wall_time > 1.6e9, "{}", event.wall_time);
    }
    all
}

#[test]
fn event_files_and_tables_have_every_figure() {
    let place = shared();
    for run in ["ce-0", "glmc-1"] {
        let folder = place.path("runs").join(run);
        let epochs = metrics(&folder);
        assert_eq!(scalars(&files(&folder)), expected(&epochs));
        let lines = table(&folder.join("metrics.csv"));
        assert_eq!(lines.len(), 3);
        for (line, epoch) in lines.iter().zip(&epochs) {
            for (column, cell) in line {
                assert_eq!(cell.parse::<f64>().ok(), epoch[column].as_f64(), "{column}");
            }
            assert_eq!(
                line.len(),
                epoch.as_object().expect("a line").len() - 2 + usize::from(epoch.get("confidence_gap").is_none())
            );
        }
    }
    // The report's are the same, at the times that the epochs took.
    place.page("runs --no-evaluation --tensorboard all-events");
    let folder = place.path("all-events/glmc-1");
    assert_eq!(scalars(&files(&folder)), expected(&metrics(&place.path("runs/glmc-1"))));
    let times: Vec<f64> = events(&files(&folder)[0]).iter().map(|event| event.wall_time).collect();
    let epochs = metrics(&place.path("runs/glmc-1"));
    for (pair, epoch) in times.windows(2).zip(&epochs[1..]) {
        assert!((pair[1] - pair[0] - number(&epoch["seconds"])).abs() < 1e-3, "{times:?}");
    }
}

#[test]
fn a_log_changes_no_bit_of_a_run() {
    let place = shared();
    ok(place.glmc(&format!("{TRAIN} --data a.lt --method ce --seed 0 --out quiet")));
    let state = |run: &str| {
        let bytes = fs::read(place.path(run).join("last.safetensors")).expect("a checkpoint");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Vec<(String, Vec<u8>)> =
            tensors.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    assert!(state("quiet") == state("runs/ce-0"));
    assert!(files(&place.path("quiet")).is_empty() && !place.path("quiet/metrics.csv").exists());
    let line = error(place.glmc("train --log paper"), 2);
    assert!(line.contains("paper"), "{line}");
}

#[test]
fn a_resumed_run_goes_on_in_a_new_file_without_repeating() {
    let place = Place::new();
    ok(place.glmc("prepare synthetic --classes 3 --per-class 60 --imbalance 3 --size 8 --out a.lt"));
    let train = TRAIN.replace("--epochs 3", "--epochs 40");
    let line = format!("{train} --data a.lt --out run --log tensorboard --checkpoint-every 7");
    let mut command = place.command(&line);
    let mut child = heeding(&mut command).stderr(Stdio::null()).spawn().expect("a start");
    let begun = Instant::now();
    let lines = || fs::read_to_string(place.path("run/metrics.jsonl")).map_or(0, |text| text.matches('\n').count());
    while lines() < 10 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no epoch");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    // Behind the last checkpoint, and in the middle of an event.
    let first = files(&place.path("run")).remove(0);
    let bytes = fs::read(&first).expect("events");
    fs::write(&first, &bytes[..bytes.len() - 3]).expect("writable");
    ok(place.glmc("train --resume run --log tensorboard,csv"));
    let found = files(&place.path("run"));
    assert_eq!(found.len(), 2);
    // The cut event is behind the whole ones: it is taken off, as readers do.
    let (_, rest) = read(&first);
    assert!(rest > 0);
    fs::write(&first, &bytes[..bytes.len() - 3 - rest]).expect("writable");
    let timeless = |all: BTreeMap<(String, i64), f32>| -> BTreeMap<_, _> {
        all.into_iter().filter(|((tag, _), _)| !tag.starts_with("speed/")).collect()
    };
    assert_eq!(timeless(scalars(&found)), timeless(expected(&metrics(&place.path("run")))));
    assert_eq!(table(&place.path("run/metrics.csv")).len(), 40);
    // Begun again, it has new files.
    ok(place.glmc("train --resume run --restart"));
    assert_eq!(files(&place.path("run")).len(), 1);
    assert_eq!(scalars(&files(&place.path("run"))), expected(&metrics(&place.path("run"))));
}

/// Prints a run's scalars as TensorBoard reads them.
const READER: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"#;

/// A Python that has TensorBoard's reader: `GLMC_PYTHON`, or `python3`.
fn python() -> Option<String> {
    let candidates = std::env::var("GLMC_PYTHON").into_iter().chain(["python3".to_string()]);
    let has = |python: &String| {
        let import = "import tensorboard.backend.event_processing.event_accumulator";
        Command::new(python).args(["-c", import]).output().is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(has)
}

#[test]
fn tensorboard_reads_every_scalar() {
    let Some(python) = python() else {
        println!("report: skipped: no python3 (or GLMC_PYTHON) has the package tensorboard");
        return;
    };
    let folder = shared().path("runs/glmc-0");
    let output = Command::new(python).args(["-c", READER, text(&folder)]).output().expect("Python starts");
    let read: Value = serde_json::from_str(&ok(output)).expect("JSON");
    let mut found = BTreeMap::new();
    for (tag, points) in read.as_object().expect("tags") {
        for point in points.as_array().expect("points") {
            found.insert((tag.clone(), point[0].as_i64().expect("a step")), number(&point[1]) as f32);
        }
    }
    assert_eq!(found, expected(&metrics(&folder)));
}
