//! A preset's data: another number of classes is refused, another imbalance or size told once.

use super::{BIN, Place};
use crate::{error, glmc, ok, text};

use std::process::Command;

#[test]
fn a_preset_refuses_a_store_of_other_classes_and_warns_of_other_images() {
    let place = Place::new();
    let run = place.path("run");
    let fixed = ["train", "--preset", "cifar10-lt-if100", "--width", "2", "--epochs", "1", "--device", "cpu"];
    let train = |more: &[&str]| {
        let paths = ["--data", text(&place.store()), "--out", text(&run)].map(String::from);
        glmc(&[&fixed[..], &paths.each_ref().map(String::as_str), more].concat())
    };
    let line = error(train(&[]), 1);
    assert!(line.contains("has 4 classes, but --preset cifar10-lt-if100 is meant for 10"), "{line}");
    assert!(!run.exists(), "a refused request leaves nothing behind");
    let output = train(&["--any-data"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert_eq!(stderr.matches("warning: --preset cifar10-lt-if100 is meant for imbalance 100").count(), 1, "{stderr}");
}

#[test]
fn the_device_is_chosen_and_said() {
    let place = Place::new();
    let run = place.path("run");
    let mut arguments = place.training(&run);
    arguments.extend(["--epochs", "1"].map(String::from));
    // No GPU is found where the loader finds no library.
    let output = Command::new(BIN).args(&arguments).env("LD_LIBRARY_PATH", "").output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    let first = stderr.lines().next().unwrap_or_default();
    let config = std::fs::read_to_string(run.join("config.toml")).expect("a configuration");
    let device = if first.starts_with("device cpu: no usable GPU") { "cpu" } else { "cuda:0" };
    assert!(first.starts_with(&format!("device {device}: ")), "{stderr}");
    assert!(config.contains(&format!("device = \"{device}\"")), "{config}");
}

#[test]
fn the_demos_images_are_the_same_for_every_seed() {
    let place = Place::new();
    let pixels = |seed: &str| {
        let run = place.path(seed);
        let quick = ["--epochs", "1", "--width", "2", "--batch", "128", "--device", "cpu"];
        ok(glmc(&[&["train", "--seed", seed, "--out", text(&run)], &quick[..]].concat()));
        std::fs::read(run.join("data.lt/train/pixels.npy")).expect("images")
    };
    assert!(pixels("1") == pixels("2"), "other images with another seed");
}

#[test]
fn a_preset_of_two_stages_trains_both() {
    let place = Place::new();
    let (run, store) = (place.path("crt"), place.store());
    let preset = ["--preset", "cifar10-lt-if100-mislas", "--any-data", "--data", text(&store), "--device", "cpu"];
    let first =
        ["--model", "resnet20", "--width", "2", "--epochs", "1", "--warmup-epochs", "0", "--lr-schedule", "cosine"];
    ok(glmc(&[&["train", "--out", text(&run), "--seed", "3"], &preset[..], &first].concat()));
    let settings = |stage: &str| std::fs::read_to_string(run.join(stage).join("config.toml")).expect("a configuration");
    let (one, two) = (settings("stage-1"), settings("stage-2"));
    assert!(one.contains("method = \"mislas\"") && one.contains("epochs = 1\n"), "{one}");
    // The second is as published, but for what it must share with the first.
    assert!(two.contains("method = \"ce\"") && two.contains("epochs = 10\n") && two.contains("label-aware"), "{two}");
    assert!(two.contains("width = 2\n") && two.contains("seed = 3\n") && two.contains("stage-1"), "{two}");
    let line =
        error(glmc(&["sweep", "--base", "cifar10-lt-if100-mislas", "--data", text(&store), "--seeds", "0..1"]), 2);
    assert!(line.contains("two stages") && line.contains("finetune"), "{line}");
}
