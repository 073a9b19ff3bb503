//! What is written where, what is refused, checkpoints that say little, and what `eval` writes about single images.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Place, columns, csv_of, evaluated, npy, predict, predicted};
use crate::common::checkpoints::forge;
use crate::common::signals::heeding;
use crate::{BIN, error, glmc, ok, text};

#[test]
fn outputs_are_not_replaced_unless_asked() {
    let place = Place::small();
    let run = place.trained();
    let image = place.path("files/00.png");
    for (option, name) in [("--out", "a.csv"), ("--out", "a.jsonl"), ("--logits", "l.npy"), ("--features", "f.npy")] {
        let path = place.path(name);
        fs::write(&path, "mine").expect("a file");
        let arguments = [text(&image), option, text(&path)];
        let line = error(predict(&run, &arguments), 1);
        assert!(line.contains(&format!("{name}: exists already; --force replaces it")), "{line}");
        assert_eq!(fs::read(&path).expect("a file"), b"mine");
        ok(predict(&run, &[&arguments[..], &["--force"]].concat()));
        assert_ne!(fs::read(&path).expect("a file"), b"mine");
    }
    let out = place.path("new.csv");
    let (folder, gone, other) = (place.path("files"), place.path("gone/x.csv"), place.path("x.txt"));
    for (more, status, says) in [
        (&["--out", text(&folder), "--force"][..], 1, "is a folder where --out must name a file"),
        (&["--out", text(&gone)], 1, "gone: no such folder"),
        (&["--out", text(&other)], 2, "x.txt: --out needs a name that ends in .csv or .jsonl"),
        (&["--out", "/dev/null", "--force", "--format", "csv"], 1, "/dev/null: is there and is no plain file"),
        (&["--out", text(&out), "--format", "table"], 2, "--format table is for reading"),
        (&["--logits", text(&out)], 2, "needs a name that ends in .npy"),
        (&["--out", text(&out), "--top", "0"], 2, "--top 0: must be 1 or more"),
        (&["--out", text(&out), "--batch", "0"], 2, "--batch"),
        (&["--out", text(&out), "--head", "fc_cb"], 1, "trained without fc_cb"),
        (&["--out", text(&out), "--device", "gpu"], 1, "gpu"),
    ] {
        let run = if says.contains("without") {
            place.run("ce", &place.path("data.lt"), &["--method", "ce"])
        } else {
            run.clone()
        };
        let line = error(predict(&run, &[&[text(&image)], more].concat()), status);
        assert!(line.contains(says), "{more:?}: {line}");
        assert!(!out.exists() && !place.path("new.csv.partial").exists(), "{more:?}");
    }
    let same = [text(&image), "--logits", "x.npy", "--features", "x.npy"];
    assert!(error(predict(&run, &same), 2).contains("name the same file"));
    // A name of one's own, with the format said.
    ok(predict(&run, &[text(&image), "--out", text(&other), "--format", "jsonl"]));
    assert!(fs::read_to_string(&other).expect("lines").starts_with("{\"index\":0,\"path\":"));
}

#[test]
fn no_more_classes_are_named_than_there_are() {
    let place = Place::small();
    let run = place.trained();
    let image = place.path("files/00.png");
    let headings = |top: &str| csv_of(&ok(predict(&run, &[text(&image), "--format", "csv", "--top", top]))).0;
    assert_eq!(headings("1"), ["index", "path", "predicted", "name", "probability", "error"]);
    assert_eq!(headings("2").len(), 9);
    assert_eq!(headings("1000"), headings("3"));
    let told = ok(predict(&run, &[text(&image), "--format", "jsonl", "--top", "2"]));
    let line: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(line["top"].as_array().map(Vec::len), Some(2));
    assert_eq!(line["name"].as_str().map(|name| name.starts_with("class ")), Some(true), "{line}");
    let table = ok(predict(&run, &[text(&image), "--top", "1"]));
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn a_checkpoint_that_says_little_needs_its_store() {
    let place = Place::photographs();
    let store = place.store("data.lt", &["--resize", "short:14"]);
    let run = place.run("run", &store, &["--size", "12", "--eval-resize", "14"]);
    let wanted = predicted(&place, &run, &[]);
    let file = run.join("last.safetensors");
    forge(&file, |manifest| drop(manifest["data"].as_object_mut().expect("an object").remove("prepared")));
    assert_eq!(predicted(&place, &run, &[]), wanted, "short:14 is what evaluation resizes to");
    forge(&file, |manifest| {
        manifest["format"] = 1.into();
        let object = manifest.as_object_mut().expect("an object");
        ["engine", "data", "shots"].iter().for_each(|key| drop(object.remove(*key)));
        manifest["progress"]["best"][0] = 0.into();
    });
    let image = place.path("files/00.png");
    let line = error(predict(&run, &[text(&image)]), 1);
    assert!(line.contains("older version, without mean, std, class names and image size: --from-store"), "{line}");
    assert_eq!(predicted(&place, &run, &["--from-store", text(&store)]), wanted);
    let other = place.path("other.lt");
    ok(glmc(&[
        "prepare",
        "synthetic",
        "--classes",
        "5",
        "--per-class",
        "4",
        "--imbalance",
        "1",
        "--out",
        text(&other),
    ]));
    let line = error(predict(&run, &[text(&image), "--from-store", text(&other)]), 1);
    assert!(line.contains("has 5 classes, but the checkpoint was trained on 3"), "{line}");
    let line = error(predict(&place.path("gone"), &[text(&image)]), 1);
    assert!(line.contains("gone: No such file"), "{line}");
}

#[test]
fn eval_writes_its_images_and_their_confusion() {
    let place = Place::small();
    let run = place.trained();
    let store = place.path("data.lt");
    let (lines, other, confusion) = (place.path("e.csv"), place.path("e.jsonl"), place.path("c.csv"));
    let eval = |more: &[&str]| {
        let fixed = ["eval", "--checkpoint", text(&run), "--data", text(&store), "--threads", "1"];
        glmc(&[&fixed[..], more].concat())
    };
    let plain: Value = serde_json::from_str(&ok(eval(&["--json"]))).expect("JSON");
    let writing = ["--predictions", text(&lines), "--confusion", text(&confusion), "--json"];
    let told: Value = serde_json::from_str(&ok(eval(&writing))).expect("JSON");
    assert_eq!(told, plain, "the figures are the same");
    let rows = columns(&fs::read_to_string(&lines).expect("lines"), &["index", "label", "label_name", "predicted"]);
    let labels: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(labels, ["0", "1", "2"].repeat(4), "in the order of the store");
    assert_eq!(rows[1][..3], ["1", "1", "class 1"]);
    let right = rows.iter().filter(|row| row[1] == row[3]).count();
    assert_eq!(told["top1"], 100.0 * right as f64 / 12.0);
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    rows.iter().for_each(|row| *counts.entry((&row[1], &row[3])).or_default() += 1);
    let (headings, matrix) = csv_of(&fs::read_to_string(&confusion).expect("a matrix"));
    assert_eq!(headings, ["class", "class 0", "class 1", "class 2"]);
    for (label, row) in matrix.iter().enumerate() {
        assert_eq!(row[0], format!("class {label}"));
        for class in 0..3 {
            let count = counts.get(&(&label.to_string(), &class.to_string())).copied().unwrap_or(0);
            assert_eq!(row[1 + class], count.to_string());
        }
    }
    // The same as JSON, with as many classes as are asked for.
    ok(eval(&["--predictions", text(&other), "--top", "2"]));
    let text_of = fs::read_to_string(&other).expect("lines");
    let json: Vec<Value> = text_of.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (row, line) in rows.iter().zip(&json) {
        assert_eq!(line["label"].to_string(), row[1]);
        assert_eq!(line["predicted"].to_string(), row[3]);
        assert_eq!(line["top"].as_array().map(Vec::len), Some(2));
        assert!(line.get("path").is_none() && line.get("error").is_none());
    }
    let line = error(eval(&["--confusion", text(&confusion)]), 1);
    assert!(line.contains("c.csv: exists already; --force replaces it"), "{line}");
    let line = error(eval(&["--predictions", text(&lines)]), 1);
    assert!(line.contains("e.csv: exists already"), "{line}");
    ok(eval(&["--predictions", text(&lines), "--confusion", text(&confusion), "--force", "--flip"]));
    let line = error(eval(&["--predictions", "x.txt"]), 1);
    assert!(line.contains("--predictions needs a name that ends in .csv or .jsonl"), "{line}");
    assert_eq!(eval(&["--top", "2"]).status.code(), Some(2), "--top goes with --predictions");
    assert_eq!(evaluated(&run, &store, &["--device", "emulator"]).len(), 12);
}

#[test]
fn an_imported_model_sees_photographs_as_torchvision_does() {
    let place = Place::photographs();
    let store = place.store("data.lt", &["--resize", "none"]);
    let run = place.run("run", &store, &["--size", "12", "--method", "ce"]);
    // A plain state dict of the run's network.
    let bytes = fs::read(run.join("last.safetensors")).expect("a checkpoint");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let model = tensors.tensors().into_iter().filter(|(name, _)| !name.starts_with("optimizer."));
    let plain = place.path("plain.safetensors");
    fs::write(&plain, safetensors::serialize(model, None).expect("a file")).expect("a file");
    let imported = place.path("imported.safetensors");
    let import = ["import", text(&plain), "--model", "resnet20", "--size", "72", "--out", text(&imported)];
    ok(glmc(&import));
    let (list, logits) = (place.path("bare.txt"), place.path("l.npy"));
    let told = ok(predict(&imported, &[text(&list), "--format", "csv", "--logits", text(&logits)]));
    // Names are not known; sizes are 8/7 of the image's, and the centre of it.
    assert_eq!(columns(&told, &["name"]).concat(), columns(&told, &["predicted"]).concat());
    let with = |more: &[&str]| {
        columns(&ok(predict(&imported, &[&[text(&list), "--format", "csv"], more].concat())), &["probability"])
    };
    assert_eq!(with(&["--resize", "short:82"]), columns(&told, &["probability"]));
    assert_ne!(with(&["--resize", "none"]), columns(&told, &["probability"]));
    assert_eq!(npy(&logits).len(), 12);
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let place = Place::small();
    let run = place.trained();
    let list = place.path("long.txt");
    fs::write(&list, "files/00.png\n".repeat(200_000)).expect("a list");
    let (out, logits) = (place.path("a.csv"), place.path("l.npy"));
    let mut command = Command::new(BIN);
    command.args(["predict", "--threads", "1", "--checkpoint", text(&run), text(&list), "--batch", "64"]);
    command.args(["--out", text(&out), "--logits", text(&logits)]).stderr(Stdio::piped());
    let child = heeding(&mut command).spawn().expect("the program starts");
    let partial = place.path("l.npy.partial");
    let begun = Instant::now();
    // Some rows are written.
    while fs::metadata(&partial).map_or(0, |stat| stat.len()) < 10_000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill").success());
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(128 + 15));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("stopping: nothing is written") && stderr.contains("error: stopped"), "{stderr}");
    for name in ["a.csv", "l.npy", "a.csv.partial", "l.npy.partial"] {
        assert!(!place.path(name).exists(), "{name} is left");
    }
}
