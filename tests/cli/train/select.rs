//! `train --select`: the images by which the best epoch is chosen.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::Value;

use super::{Place, error, glmc, ok, text, timeless_metrics, timeless_result};
use crate::common::checkpoints::manifest;

/// A store of three classes with test and validation images.
pub fn with_val(place: &Place) -> PathBuf {
    let (root, store) = (place.path("photos"), place.path("val.lt"));
    for class in 0..3u32 {
        let folder = root.join(format!("kind {class}"));
        fs::create_dir_all(&folder).expect("a folder");
        for i in 0..30u32 {
            // Classes overlap, so that epochs differ.
            let image = RgbImage::from_fn(8, 8, |x, y| {
                let noise = (x * 31 + y * 17 + i * 53 + class * 7) * 2_654_435_761 % 160;
                Rgb([noise as u8 + class as u8 * 40, noise as u8, 255 - noise as u8])
            });
            image.save(folder.join(format!("{i:02}.png"))).expect("an image");
        }
    }
    let fixed = "prepare images --size 8 --test-fraction 0.3 --val-fraction 0.3 --train-dir";
    ok(glmc(&fixed.split(' ').chain([text(&root), "--out", text(&store)]).collect::<Vec<_>>()));
    store
}

fn train(place: &Place, store: &Path, name: &str, more: &[&str]) -> (PathBuf, String) {
    let run = place.path(name);
    let said = ok(place.train(&run, &[&["--data", text(store)], more].concat()));
    (run, said)
}

/// The first epoch with the highest top-1 of the figures at `pointer` in a line.
fn best(lines: &[Value], pointer: &str) -> Value {
    let top1 = |line: &Value| line.pointer(pointer).and_then(Value::as_f64).expect("a figure");
    let highest = lines.iter().map(top1).fold(0.0, f64::max);
    lines.iter().find(|line| top1(line) == highest).expect("an epoch").clone()
}

#[test]
fn the_best_epoch_is_chosen_on_val_where_there_is_one_else_on_test() {
    let place = Place::new();
    let store = with_val(&place);
    let mut differed = false;
    for seed in ["1", "2", "3", "4"] {
        let mut metrics = Vec::new();
        for (select, pointer, more) in [("val", "/val/top1", &[][..]), ("test", "/top1", &["--select", "test"])] {
            let more = [&["--seed", seed], more].concat();
            let (run, said) = train(&place, &store, &format!("{select}-{seed}"), &more);
            let lines = timeless_metrics(&run);
            let best = best(&lines, pointer);
            let (result, about) = (timeless_result(&run), manifest(&run.join("best.safetensors")));
            assert_eq!((&result["best"], result["select"].as_str()), (&best, Some(select)));
            assert_eq!((&about["progress"]["epoch"], &about["config"]["select"]), (&best["epoch"], &select.into()));
            assert!(said.contains(&format!("Best epoch {} chosen on {select}", best["epoch"])), "{said}");
            assert_eq!(lines[0]["val"]["images"], 27, "{}", lines[0]);
            metrics.push((lines, best));
        }
        // Selecting changes nothing else.
        assert_eq!(metrics[0].0, metrics[1].0);
        differed |= metrics[0].1 != metrics[1].1;
    }
    assert!(differed, "in none of these runs the two splits disagree: the test shows nothing");

    let (run, said) = train(&place, &place.store(), "plain", &["--epochs", "1"]);
    assert!(said.contains("chosen on test"), "{said}");
    assert_eq!(manifest(&run.join("last.safetensors"))["config"]["select"], "test");
    assert!(timeless_metrics(&run)[0].get("val").is_none());
    let run = place.path("refused");
    let line = error(place.train(&run, &["--select", "val"]), 1);
    assert!(line.contains("has no val split") && line.contains("--val-fraction"), "{line}");
    assert!(!run.exists());
}

#[test]
fn info_predicts_the_memory_of_validation_images_too() {
    let place = Place::new();
    let store = with_val(&place);
    let (run, _) = train(&place, &store, "run", &["--epochs", "1", "--device", "cpu"]);
    let fixed = "info --json --model resnet20 --width 4 --batch 16 --device cpu --data";
    let info: Value =
        serde_json::from_str(&ok(glmc(&fixed.split(' ').chain([text(&store)]).collect::<Vec<_>>()))).expect("JSON");
    assert_eq!(info["memory"]["total_bytes"], timeless_result(&run)["peak_bytes"]);
}

#[test]
fn a_run_from_before_there_was_a_choice_goes_on_choosing_on_test() {
    let place = Place::new();
    let store = with_val(&place);
    let (run, _) = train(&place, &store, "run", &["--epochs", "1", "--select", "test"]);
    for name in ["last.safetensors", "best.safetensors"] {
        crate::common::checkpoints::forge(&run.join(name), |manifest| {
            manifest["config"].as_object_mut().expect("an object").remove("select");
        });
    }
    let config = fs::read_to_string(run.join("config.toml")).expect("a file");
    fs::write(run.join("config.toml"), config.replace("select = \"test\"\n", "")).expect("writable");
    assert!(ok(super::resume(&run)).contains("chosen on test"));
    let line = error(glmc(&["train", "--resume", text(&run), "--select", "val"]), 2);
    assert!(line.contains("--resume keeps"), "{line}");
}
