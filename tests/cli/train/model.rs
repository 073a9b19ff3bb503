//! A checkpoint is the whole model: what it says of itself, how it is evaluated elsewhere, older ones, forged ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use glmc_engine::train::metrics::{EpochMetrics, digest};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{BIN, Place, error, glmc, ok, resume, text, timeless_metrics, weights, weights_of};
use crate::common::checkpoints::{forge, header, manifest, with_checksum, with_header};

/// All numbers of a checkpoint in f32.
pub fn values(file: &Path) -> Vec<f32> {
    let bytes = fs::read(file).expect("a checkpoint");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let floats = tensors.tensors().into_iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    floats.flat_map(|(_, view)| bytemuck::pod_collect_to_vec::<u8, f32>(view.data())).collect()
}

/// Makes a run's checkpoints what the first version would have written.
fn as_format_1(run: &Path) {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let mut old: Vec<EpochMetrics> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    old.iter_mut().for_each(|metrics| metrics.epoch -= 1);
    for name in ["last.safetensors", "best.safetensors"] {
        forge(&run.join(name), |manifest| {
            manifest["format"] = 1.into();
            let object = manifest.as_object_mut().expect("an object");
            ["engine", "data", "shots"].iter().for_each(|key| drop(object.remove(*key)));
            let progress = &mut manifest["progress"];
            progress["best"][0] = (progress["best"][0].as_u64().expect("an epoch") - 1).into();
            let epochs = progress["epoch"].as_u64().expect("a number") as usize;
            progress["metrics"] = digest(&old[..epochs]).into();
        });
    }
    let lines: Vec<String> = old.iter().map(|m| serde_json::to_string(m).expect("JSON") + "\n").collect();
    fs::write(run.join("metrics.jsonl"), lines.concat() + "{\"final\":true}\n").expect("writable");
    fs::remove_file(run.join("run.json")).expect("a file");
}

/// A store like the place's but for what `change` does to its meta data.
fn changed_store(place: &Place, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let path = place.path(name);
    let copied = Command::new("cp").args(["-r", text(&place.store()), text(&path)]).status().expect("cp");
    assert!(copied.success());
    let file = path.join("meta.json");
    let mut meta: Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
    meta.as_object_mut().expect("an object").remove("checksum");
    change(&mut meta);
    let body = serde_json::to_string_pretty(&meta).expect("JSON");
    let body = body.strip_suffix("\n}").expect("an object");
    fs::write(&file, with_checksum(body.as_bytes())).expect("writable");
    path
}

fn eval(checkpoint: &Path, store: &Path, more: &[&str]) -> std::process::Output {
    glmc(&[&["eval", "--checkpoint", text(checkpoint), "--data", text(store)], more].concat())
}

#[test]
fn a_checkpoint_says_all_that_using_it_needs() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(
        &run,
        &["--preset", "cifar10-lt-if100-w16", "--epochs", "2", "--width", "2", "--twenty-is-few", "--any-data"],
    ));
    let manifest = manifest(&run.join("last.safetensors"));
    let meta: Value =
        serde_json::from_slice(&fs::read(place.store().join("meta.json")).expect("a file")).expect("JSON");
    for key in ["class_names", "mean", "std"] {
        assert_eq!(manifest["data"][key], meta[key]);
    }
    assert_eq!((&manifest["data"]["height"], &manifest["data"]["width"]), (&json!(8), &json!(8)));
    assert_eq!(manifest["counts"], meta["counts"]);
    assert_eq!(manifest["shots"], json!({"many_above": 100, "few_below": 21}));
    assert_eq!(manifest["config"]["preset"], "cifar10-lt-if100-w16");
    assert_eq!(manifest["config"]["method"], "glmc");
    assert_eq!(manifest["engine"]["version"], env!("CARGO_PKG_VERSION"));
    // The preset is part of the run: it survives config.toml.
    ok(resume(&run));
}

#[test]
fn eval_normalises_names_and_groups_by_the_checkpoint() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &["--epochs", "3"]));
    let own = ok(eval(&run, &place.store(), &["--json"]));
    // The same pixels with other statistics and other training counts.
    let other = changed_store(&place, "other.lt", |meta| {
        meta["mean"] = json!([0.9, 0.1, 0.3]);
        meta["std"] = json!([0.9, 0.05, 0.3]);
    });
    assert_eq!(ok(eval(&run, &other, &["--json"])), own);
    assert_ne!(ok(eval(&run, &other, &["--json", "--from-store"])), own, "by the other store's statistics");
    // A folder is its last checkpoint.
    assert_eq!(ok(eval(&run.join("last.safetensors"), &place.store(), &["--json"])), own);
    assert!(error(eval(place.folder.path(), &other, &[]), 1).contains("has no last.safetensors"));
    let larger = place.path("larger.lt");
    let fixed = "prepare synthetic --classes 4 --per-class 40 --imbalance 8 --size 12 --seed 3 --out";
    ok(glmc(&fixed.split(' ').chain([text(&larger)]).collect::<Vec<_>>()));
    let output = eval(&run, &larger, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.matches("warning: ").count() == 1 && stderr.contains("12x12") && stderr.contains("8x8"), "{stderr}");
    ok(output);
}

#[test]
fn a_store_of_other_classes_is_refused() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &["--epochs", "1"]));
    let reversed = changed_store(&place, "reversed.lt", |meta| {
        meta["class_names"].as_array_mut().expect("names").reverse();
    });
    let line = error(eval(&run, &reversed, &[]), 1);
    assert!(line.contains("in another order") && line.contains("class 0") && line.contains("--ignore-names"), "{line}");
    let renamed = changed_store(&place, "renamed.lt", |meta| meta["class_names"][2] = "truck".into());
    let line = error(eval(&run, &renamed, &[]), 1);
    assert!(line.contains("of other names") && line.contains("class 2 is \"truck\""), "{line}");
    // Names are the checkpoint's.
    assert!(!ok(eval(&run, &renamed, &["--ignore-names"])).contains("truck"));
    assert!(ok(eval(&run, &renamed, &["--from-store"])).contains("truck"));
}

#[test]
fn checkpoints_of_format_1_are_evaluated_and_resumed() {
    let place = Place::new();
    let (whole, run) = (place.path("whole"), place.path("run"));
    ok(place.train(&whole, &[]));
    let mut child = Command::new(BIN);
    let mut child =
        child.args(place.training(&run)).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    let lines = || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 3 && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    as_format_1(&run);
    let line = error(eval(&run, &place.store(), &[]), 1);
    assert!(line.contains("older version") && line.contains("--from-store"), "{line}");
    ok(eval(&run, &place.store(), &["--from-store"]));
    ok(resume(&run));
    assert!(weights(&run) == weights(&whole), "an old run goes on to the same bits");
    assert!(weights_of(&run, "last.safetensors") == weights_of(&whole, "last.safetensors"));
    assert_eq!(timeless_metrics(&run), timeless_metrics(&whole));
    // Killed after its lines were counted anew, and before it had a checkpoint of the new format.
    let new = fs::read(run.join("metrics.jsonl")).expect("metrics");
    as_format_1(&run);
    fs::write(run.join("metrics.jsonl"), new).expect("writable");
    ok(resume(&run));
    as_format_1(&run);
    ok(resume(&run));
    assert_eq!(timeless_metrics(&run), timeless_metrics(&whole));
    let result = fs::read_to_string(run.join("result.json")).expect("a result");
    assert_eq!(serde_json::from_str::<Value>(&result).expect("JSON")["last"]["epoch"], 6);
}

#[test]
fn forged_metadata_is_an_error_and_no_panic() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &["--epochs", "2", "--width", "2"]));
    let file = run.join("last.safetensors");
    let whole = fs::read(&file).expect("a checkpoint");
    let huge = json!(1_000_000_000_000_000_000_u64);
    let cases: [(&str, Value); 16] = [
        ("/progress/epoch", huge.clone()),
        ("/progress/epoch", json!(3)),
        ("/progress/epoch", json!(1)),
        ("/progress/step", json!(1)),
        ("/progress/step", huge.clone()),
        ("/progress/total_steps", json!(u64::MAX)),
        ("/progress/total_steps", json!(0)),
        ("/progress/best", json!([0, 50.0])),
        ("/progress/best", json!([huge, 50.0])),
        ("/progress/best", Value::Null),
        ("/config/epochs", huge.clone()),
        ("/config/batch", json!(0)),
        ("/data/std", json!([0.0, 0.0, 0.0])),
        ("/data/class_names", json!(["a"])),
        ("/data", Value::Null),
        ("/format", json!(3)),
    ];
    for (pointer, value) in cases {
        fs::write(&file, &whole).expect("writable");
        forge(&file, |manifest| *manifest.pointer_mut(pointer).expect("a field") = value.clone());
        let line = error(resume(&run), 1);
        assert!(line.contains("last.safetensors") || line.contains("metrics.jsonl"), "{pointer} {value}: {line}");
        // Evaluated or refused, but never a panic.
        let evaluated = eval(&file, &place.store(), &[]);
        assert!(evaluated.status.code().is_some_and(|code| code < 2), "{pointer} {value}");
    }
    // A step beyond the steps of the epoch, of a run that is not over.
    fs::write(&file, &whole).expect("writable");
    forge(&file, |manifest| {
        manifest["progress"]["epoch"] = 1.into();
        manifest["progress"]["best"] = json!([1, 50.0]);
        manifest["progress"]["step"] = 1000.into();
    });
    let line = error(resume(&run), 1);
    assert!(line.contains("1 epochs and 1000 steps"), "{line}");
    fs::write(&file, &whole).expect("writable");
    ok(resume(&run));
}

#[test]
fn a_tensor_of_another_type_is_damage() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &["--epochs", "1", "--width", "2"]));
    let file = run.join("last.safetensors");
    let bytes = fs::read(&file).expect("a checkpoint");
    let (mut head, data) = header(&bytes);
    // As many bytes of another meaning.
    head["bn1.num_batches_tracked"]["dtype"] = "F64".into();
    fs::write(&file, with_header(&head, data)).expect("writable");
    let line = error(eval(&run, &place.store(), &[]), 1);
    assert!(line.contains("checksum does not match"), "{line}");
}
