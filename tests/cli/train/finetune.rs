//! `finetune` and the table `init`: a run whose parameters are another's, which stays as it is.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use safetensors::SafeTensors;
use serde_json::Value;

use super::folder::contents;
use super::{BIN, Place, error, glmc, killed_within, ok, resume, text, timeless_metrics, weights_of};
use crate::common::array::Random;
use crate::common::checkpoints::manifest;

/// A finished run of this method.
fn first(place: &Place, method: &str) -> std::path::PathBuf {
    let run = place.path(method);
    ok(place.train(&run, &["--method", method, "--epochs", "2"]));
    run
}

fn finetune(run: &Path, method: &str, out: &Path, more: &[&str]) -> Output {
    let short = ["--epochs", "3", "--lr-schedule", "cosine", "--threads", "1", "--batch", "16"];
    glmc(&[&["finetune", text(run), "--method", method, "--out", text(out)], &short[..], more].concat())
}

/// A tensor of a run's last checkpoint.
fn tensor(run: &Path, name: &str) -> Vec<f32> {
    let bytes = weights_of(run, "last.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

/// The names of the model's tensors in which two runs differ.
fn differing(a: &Path, b: &Path) -> Vec<String> {
    let [a, b] = [a, b].map(|run| weights_of(run, "last.safetensors"));
    let [a, b] = [&a, &b].map(|bytes| SafeTensors::deserialize(bytes).expect("a checkpoint"));
    let is_model = |name: &str| !name.starts_with("optimizer.") && !name.ends_with("num_batches_tracked");
    let names = a.names().into_iter().filter(|name| is_model(name));
    let differ =
        names.filter(|name| b.tensor(name).is_ok_and(|view| view.data() != a.tensor(name).expect("it").data()));
    differ.map(ToString::to_string).collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn a_new_classifier_is_trained_on_a_frozen_encoder_and_the_first_run_stays() {
    let place = Place::new();
    let (run, new) = (first(&place, "glmc"), place.path("new"));
    let before = contents(&run);
    let output = finetune(&run, "crt", &new, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert!(contents(&run) == before, "the first run was changed");
    assert!(
        stderr.contains("epoch 2); new: fc.weight, fc.bias; left out: contrast_head, fc_cb, projection_head"),
        "{stderr}"
    );
    let differing = differing(&run, &new);
    assert!(differing.iter().any(|name| name == "fc.weight") && differing.iter().any(|name| name == "fc.bias"));
    let rest: Vec<&String> = differing.iter().filter(|name| !name.starts_with("fc.")).collect();
    assert!(!rest.is_empty() && rest.iter().all(|name| name.contains("running_")), "statistics alone drift: {rest:?}");
    let parent = &json(&new.join("run.json"))["parent"];
    assert_eq!(parent["folder"].as_str(), Some(text(&fs::canonicalize(&run).expect("a folder"))));
    assert_eq!(parent["checkpoint"], "last.safetensors");
    assert_eq!(parent["checksum"], manifest(&run.join("last.safetensors"))["checksum"]);
    // Its own configuration says all of it: the same run again, from the file alone.
    let again = place.path("again");
    ok(glmc(&["train", "--config", text(&new.join("config.toml")), "--out", text(&again)]));
    assert!(weights_of(&again, "last.safetensors") == weights_of(&new, "last.safetensors"));
    assert_eq!(
        fs::read(again.join("config.toml")).expect("a file"),
        fs::read(new.join("config.toml")).expect("a file")
    );
    // A run like any other.
    ok(resume(&new));
    ok(glmc(&["train", "--resume", text(&new), "--restart"]));
    assert!(weights_of(&again, "last.safetensors") == weights_of(&new, "last.safetensors"));
    ok(glmc(&["train", "--extend", text(&new), "--epochs", "4", "--out", text(&place.path("longer"))]));
}

#[test]
fn learned_scales_begin_at_1_where_the_first_run_stands() {
    let place = Place::new();
    let (run, new) = (first(&place, "ce"), place.path("new"));
    // A rate of 0 trains nothing; running statistics that stay leave the network what it was.
    let file = place.path("still.toml");
    let still = "groups = [{ match = \"*\", frozen = true, batch_norm = \"running\" }, { match = \"fc.scales\" }]\n";
    fs::write(&file, still).expect("a file");
    ok(finetune(&run, "lws", &new, &["--lr", "0", "--config", text(&file)]));
    assert_eq!(tensor(&new, "fc.scales"), [1.0; 4]);
    assert!(differing(&run, &new).is_empty());
    let lines = timeless_metrics(&run);
    let line = &timeless_metrics(&new)[0];
    for key in ["top1", "top5", "ece", "per_class"] {
        assert_eq!(line[key], lines[1][key], "{key}");
    }
    let trained = place.path("trained");
    ok(finetune(&run, "lws", &trained, &[]));
    assert!(tensor(&trained, "fc.scales").iter().any(|&scale| scale != 1.0));
    assert_eq!(tensor(&trained, "fc.weight"), tensor(&run, "fc.weight"));
    assert_eq!(tensor(&trained, "fc.bias"), tensor(&run, "fc.bias"));
}

#[test]
fn max_norm_holds_the_rows_below_the_limit_of_the_start() {
    let place = Place::new();
    for (method, stage, head) in [("glmc", "maxnorm", "fc_cb"), ("ce", "wb", "fc"), ("ce", "maxnorm", "fc")] {
        let run = place.path(&format!("{method}-{stage}"));
        ok(place.train(&run, &["--method", method, "--epochs", "1"]));
        let new = place.path(&format!("{stage}-{head}"));
        ok(finetune(&run, stage, &new, &["--weight-decay", "0"]));
        let norms = |run: &Path| {
            let weight = tensor(run, &format!("{head}.weight"));
            let rows = weight.chunks_exact(weight.len() / 4);
            rows.map(|row| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()).collect::<Vec<f64>>()
        };
        let start = norms(&run);
        let (low, high) = start.iter().fold((f64::MAX, 0.0_f64), |(low, high), &n| (low.min(n), high.max(n)));
        let limit = low + 0.1 * (high - low);
        assert!(
            norms(&new).iter().all(|&norm| norm <= limit * (1.0 + 1e-6)),
            "{stage}: {:?} over {limit}",
            norms(&new)
        );
        let others = differing(&run, &new);
        assert!(
            others.iter().all(|name| name.starts_with(&format!("{head}.")) || name.contains("running_")),
            "{others:?}"
        );
        // The scheduler is stepped before the epoch: the last one's rate is 0.
        let rates: Vec<f64> =
            timeless_metrics(&new).iter().map(|line| line["lr"].as_f64().expect("a number")).collect();
        assert!((rates[0] - 0.0075).abs() < 1e-9 && rates[2].abs() < 1e-12, "{rates:?}");
    }
}

#[test]
fn smoothed_labels_train_the_scales_and_the_classifier() {
    let place = Place::new();
    let (run, new) = (first(&place, "mixup"), place.path("new"));
    ok(finetune(&run, "mislas", &new, &["--checkpoint", "best"]));
    assert_eq!(json(&new.join("run.json"))["parent"]["checkpoint"], "best.safetensors");
    assert!(tensor(&new, "fc.scales").iter().any(|&scale| scale != 1.0));
    let config = fs::read_to_string(new.join("config.toml")).expect("a configuration");
    for part in ["lr_factor = 0.5", "batch_norm = \"running\"", "kind = \"label-aware\"", "checkpoint = \"best\""] {
        assert!(config.contains(part), "{part}: {config}");
    }
}

#[test]
fn a_stage_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::new();
    let (run, whole, killed) = (first(&place, "ce"), place.path("whole"), place.path("killed"));
    let start = Instant::now();
    ok(finetune(&run, "wb", &whole, &[]));
    let longest = start.elapsed().as_micros() as usize;
    let short = ["--epochs", "3", "--lr-schedule", "cosine", "--threads", "1", "--batch", "16"];
    let again = [&["finetune", text(&run), "--method", "wb", "--out", text(&killed)], &short[..]].concat();
    let (mut dice, mut kills) = (Random::new(5), 0);
    while kills < 8 {
        if killed.join("result.json").exists() {
            fs::remove_dir_all(&killed).expect("a folder");
        }
        let mut command = Command::new(BIN);
        match killed.join("config.toml").exists() {
            true => command.args(["train", "--resume", text(&killed)]),
            false => command.args(&again),
        };
        kills += usize::from(!killed_within(&mut command, dice.below(longest)));
    }
    match killed.join("config.toml").exists() {
        true => ok(resume(&killed)),
        false => ok(glmc(&again)),
    };
    for name in ["last.safetensors", "best.safetensors", "config.toml"] {
        assert!(weights_of(&killed, name) == weights_of(&whole, name), "{name} after kills");
    }
    assert_eq!(json(&killed.join("run.json"))["parent"], json(&whole.join("run.json"))["parent"]);
}

#[test]
fn a_stage_without_a_checkpoint_does_not_begin_with_another_first_run() {
    let place = Place::new();
    let (run, new) = (first(&place, "ce"), place.path("new"));
    ok(finetune(&run, "crt", &new, &[]));
    let bits = weights_of(&new, "last.safetensors");
    ok(place.train(&place.path("other"), &["--method", "ce", "--epochs", "2", "--seed", "8"]));
    fs::copy(place.path("other").join("last.safetensors"), run.join("last.safetensors")).expect("a copy");
    let line = error(glmc(&["train", "--resume", text(&new), "--restart"]), 1);
    assert!(line.contains("has changed since this stage began"), "{line}");
    assert!(weights_of(&new, "last.safetensors") == bits, "nothing was lost");
    // Its own checkpoints need no first run.
    fs::remove_dir_all(&run).expect("a folder");
    ok(resume(&new));
}

#[test]
fn what_cannot_be_a_second_stage_is_told_in_a_line() {
    let place = Place::new();
    let (run, new) = (first(&place, "ce"), place.path("new"));
    let cosine = place.path("ldam");
    ok(place.train(&cosine, &["--method", "ldam", "--epochs", "1"]));
    let other = place.path("other.lt");
    let fixed = "prepare synthetic --classes 5 --per-class 20 --imbalance 4 --size 8 --seed 4 --out";
    ok(glmc(&fixed.split(' ').chain([text(&other)]).collect::<Vec<_>>()));
    let unsaved = place.path("unsaved");
    fs::create_dir(&unsaved).expect("a folder");
    let file = |name: &str, lines: &str| {
        let file = place.path(name);
        fs::write(&file, lines).expect("a file");
        text(&file).to_string()
    };
    let init = |name: &str, more: &str| {
        let (data, run) = (place.store(), &run);
        file(
            name,
            &format!(
                "data = {data:?}\nmodel = \"resnet20\"\nwidth = 4\nmethod = \"ce\"\nepochs = 1\ninit = {{ from = {run:?}{more} }}\n"
            ),
        )
    };
    let inside = run.join("inside");
    let train = |settings: &str, more: &[&str]| {
        glmc(&[&["train", "--config", settings, "--out", text(&new)][..], more].concat())
    };
    let best = run.join("best.safetensors");
    for (output, status, part) in [
        (finetune(&place.path("nowhere"), "crt", &new, &[]), 1, "there is no run here"),
        (finetune(&unsaved, "crt", &new, &[]), 1, "no last.safetensors to start from"),
        (finetune(&best, "crt", &new, &["--checkpoint", "best"]), 1, "is a checkpoint itself"),
        (finetune(&run, "crt", &run, &[]), 1, "leaves the old run as it is"),
        (finetune(&run, "crt", &inside, &[]), 1, "leaves the old run as it is"),
        (finetune(&best, "crt", &inside, &[]), 1, "leaves the old run as it is"),
        (finetune(&cosine, "lws", &new, &[]), 1, "fc is cosine, and lws needs a linear one"),
        (finetune(&run, "crt", &new, &["--width", "8"]), 1, "is a resnet20 of width 4, and this stage"),
        (finetune(&run, "crt", &new, &["--data", text(&other)]), 1, "knows 4 classes, and the store"),
        (finetune(&run, "crt", &new, &["--config", &file("a.toml", "init = { from = \"x\" }")]), 1, "has a table init"),
        (finetune(&run, "crt", &new, &["--config", &file("b.toml", "preset = \"demo\"")]), 1, "names a preset"),
        (finetune(&run, "bigger", &new, &[]), 2, "invalid value 'bigger'"),
        (train(&init("c.toml", ", reinit = [\"head.*\"]"), &[]), 1, "init.reinit: no parameter is called \"head.*\""),
        (train(&init("d.toml", ", redraw = []"), &[]), 1, "unknown field `redraw`"),
        (train(&init("e.toml", ""), &["--method", "glmc"]), 1, "has no fc_cb.weight: init.reinit = [\"fc_cb.*\"]"),
        (train(text(&place.path("g.toml")), &[]), 1, "g.toml"),
    ] {
        let line = error(output, status);
        assert!(line.contains(part), "{part}: {line}");
        assert!(!new.exists() && !inside.exists(), "{part}: something was left behind");
    }
}
