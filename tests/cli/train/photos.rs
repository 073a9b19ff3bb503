//! Photographs of mixed sizes: everything that a run on one-size images can do.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

use super::{Place, assert_kills_change_nothing, error, glmc, ok, resume, text, timeless_result, weights};
use crate::common::checkpoints::manifest;

/// A store of three classes of 30, 20 and 10 images of 5x5 to 35x29 pixels.
fn photographs() -> Place {
    photographs_of(1)
}

/// The same, `scale` times as large.
fn photographs_of(scale: u32) -> Place {
    let place = Place { folder: TempDir::new().expect("a temporary folder") };
    let root = place.path("files");
    for class in 0..3u32 {
        let folder = root.join(format!("kind {class}"));
        fs::create_dir_all(&folder).expect("a folder");
        for i in 0..30 - 10 * class {
            let [width, height] = [5 + (i * 7 + class) % 25, 5 + (i * 11 + class * 3) % 31].map(|side| side * scale);
            let image = RgbImage::from_fn(width, height, |x, y| {
                let noise = (((x * 31 + y * 17 + i * 53 + class * 7) * 2_654_435_761u32) >> 8) % 120;
                Rgb([noise as u8 + class as u8 * 60, noise as u8, 255 - noise as u8 - class as u8 * 40])
            });
            image.save(folder.join(format!("{i:02}.png"))).expect("an image");
        }
    }
    let fixed = "prepare images --resize none --test-fraction 0.3 --val-fraction 0.2 --train-dir";
    ok(glmc(&fixed.split(' ').chain([text(&root), "--out", text(&place.store())]).collect::<Vec<_>>()));
    place
}

const SMALL: [&str; 8] = ["--width", "2", "--epochs", "2", "--size", "12", "--eval-resize", "13"];

fn eval(run: &Path, store: &Path, more: &[&str]) -> Value {
    let fixed = ["eval", "--json", "--checkpoint", text(run), "--data", text(store)];
    serde_json::from_str(&ok(glmc(&[&fixed[..], more].concat()))).expect("JSON")
}

#[test]
fn a_run_says_its_sizes_and_eval_takes_them_from_it() {
    let place = photographs();
    let (run, store) = (place.path("run"), place.store());
    let output = place.train(&run, &SMALL);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(ok(output).contains("waiting for images"), "the last lines tell the wait");
    assert!(stderr.contains("seen as 12x12; evaluation resizes the shorter side to 13"), "{stderr}");
    let config = fs::read_to_string(run.join("config.toml")).expect("a configuration");
    for line in ["size = 12", "eval_resize = 13", "[photos]", "grey = 0.2", "scale = [0.08, 1.0]"] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let about = manifest(&run.join("last.safetensors"));
    assert_eq!((&about["config"]["size"], &about["config"]["eval_resize"]), (&12.into(), &13.into()));
    assert_eq!((&about["data"]["height"], &about["data"]["width"]), (&12.into(), &12.into()));
    let evaluated = eval(&run, &store, &[]);
    let result = timeless_result(&run);
    for key in ["top1", "nll", "ece", "per_class"] {
        assert_eq!(evaluated[key], result["last"][key], "{key}");
    }
    assert_eq!((&evaluated["size"], &evaluated["eval_resize"]), (&12.into(), &13.into()));
    // Other sizes are other figures, and the two views of a mirrored evaluation again.
    let others = [&["--size", "16"][..], &["--eval-resize", "20"], &["--flip"]].map(|more| eval(&run, &store, more));
    assert_eq!((&others[0]["size"], &others[0]["eval_resize"]), (&16.into(), &18.into()));
    others.iter().for_each(|other| assert_ne!(other["nll"], evaluated["nll"]));
    assert_eq!(eval(&run, &store, &["--device", "emulator"])["images"], evaluated["images"]);
    // A resize below the size is said, and once.
    let output = place.train(&place.path("bordered"), &[&SMALL[..6], &["--eval-resize", "9"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert_eq!(stderr.matches("--eval-resize 9 is below --size 12").count(), 1, "{stderr}");
    // What is not said is taken from the images: most shorter sides are small ones.
    let (usual, shorter) = (place.path("usual"), ["--width", "2", "--epochs", "1"]);
    ok(place.train(&usual, &shorter));
    let size = manifest(&usual.join("last.safetensors"))["config"]["size"].as_u64().expect("a size");
    assert!((8..=20).contains(&size), "{size}");
}

#[test]
fn streaming_and_threads_change_no_bit() {
    let place = photographs();
    for (device, methods) in [("cpu", &["glmc", "ce", "cmo-ce"][..]), ("emulator", &["glmc"])] {
        for method in methods {
            let train = |name: &str, more: &[&str]| {
                let run = place.path(&format!("{device}-{method}-{name}"));
                let fixed = ["--method", method, "--device", device, "--batch", "11", "--epochs", "1"];
                ok(place.train(&run, &[&SMALL[..2], &SMALL[4..], &fixed, more].concat()));
                weights(&run)
            };
            let resident = train("resident", &[]);
            assert!(train("streamed", &["--resident-limit", "0"]) == resident, "{device} {method}: streamed");
        }
    }
    let threads = |count: &str| {
        let run = place.path(&format!("threads-{count}"));
        let mut arguments = place.training(&run);
        let at = arguments.iter().position(|a| a == "--threads").expect("a flag") + 1;
        arguments[at] = count.into();
        let all = arguments.iter().map(String::as_str).chain(SMALL).chain(["--resident-limit", "0"]);
        ok(glmc(&all.collect::<Vec<_>>()));
        weights(&run)
    };
    let one = threads("1");
    assert!(threads("2") == one && threads("3") == one, "other bits with more threads");
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_bits() {
    assert_kills_change_nothing(
        &photographs(),
        &[&SMALL[..], &["--resident-limit", "0", "--epochs", "4"]].concat(),
        20,
    );
}

#[test]
fn a_damaged_block_ends_the_run_before_a_step_sees_it() {
    let place = photographs_of(5);
    let pixels = place.store().join("train/pixels.npy");
    let mut bytes = fs::read(&pixels).expect("pixels");
    assert!(bytes.len() > 2 << 18, "{} bytes: opening sees the first and the last block", bytes.len());
    bytes[(1 << 18) + 5000] ^= 1;
    fs::write(&pixels, &bytes).expect("writable");
    for limit in [&[][..], &["--resident-limit", "0"]] {
        let run = place.path("damaged");
        let line = error(place.train(&run, &[&SMALL[..], limit].concat()), 1);
        assert!(line.contains("train/pixels.npy: block 1 (bytes 262144 to 524287)"), "{line}");
        assert!(!run.join("last.safetensors").exists());
        fs::remove_dir_all(&run).ok();
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_would() {
    let place = photographs();
    // More than any machine has: 30 images of 3500 x 3500, each of them 3 GiB after the first convolution.
    let run = place.path("large");
    let line = error(place.train(&run, &["--width", "64", "--size", "3500", "--batch", "1024"]), 1);
    assert!(line.contains("batch 1024 needs") && line.contains("are free: "), "{line}");
    assert!(!run.exists());
}

#[test]
fn a_step_in_parts_goes_on_from_its_middle_after_a_kill() {
    let more = ["--accumulate", "4", "--epochs", "4"];
    assert_kills_change_nothing(&photographs(), &[&SMALL[..], &more].concat(), 6);
    let place = photographs();
    let memory = |name: &str, more: &[&str]| {
        let run = place.path(name);
        ok(place.train(&run, &[&SMALL[..], &["--size", "32"], more].concat()));
        timeless_result(&run)["peak_bytes"].as_u64().expect("a number")
    };
    assert!(memory("parts", &more) < memory("whole", &more[2..]), "parts take less memory");
    for (parts, said) in [("3", "accumulate must divide the batch of 16"), ("0", "accumulate must divide")] {
        assert!(error(place.train(&place.path("refused"), &["--accumulate", parts]), 1).contains(said));
    }
    let line = error(place.train(&place.path("refused"), &["--accumulate", "2", "--sam", "0.1"]), 1);
    assert!(line.contains("SAM"), "{line}");
}

#[test]
fn info_predicts_the_memory() {
    let place = photographs();
    for (name, limit) in [("resident", &[][..]), ("streamed", &["--resident-limit", "0"])] {
        for device in ["cpu", "emulator"] {
            let run = place.path(&format!("{name}-{device}"));
            let chosen = [&SMALL[..], limit, &["--device", device, "--batch", "16"]].concat();
            ok(place.train(&run, &chosen));
            let store = place.store();
            let info = [&["info", "--json", "--data", text(&store), "--model", "resnet20"], &chosen[..]].concat();
            let predicted: Value = serde_json::from_str(&ok(glmc(&info))).expect("JSON");
            assert_eq!(predicted["memory"]["total_bytes"], timeless_result(&run)["peak_bytes"], "{name} {device}");
            assert_eq!(predicted["memory"]["images_resident"], limit.is_empty());
        }
    }
}

#[test]
fn what_follows_a_run_follows_it_on_photographs() {
    let place = photographs();
    let (run, store) = (place.path("run"), place.store());
    ok(place.train(&run, &SMALL));
    let said = ok(glmc(&["posthoc", text(&run), "--tau-norm", "0..1", "--ncm", "--json"]));
    let posthoc: Value = serde_json::from_str(&said).expect("JSON");
    let test = &posthoc["trained"]["test"];
    let evaluated = eval(&run, &store, &[]);
    assert_eq!(test["top1"], evaluated["top1"], "the same images in the same crops");
    let second = place.path("second");
    ok(glmc(&[
        "finetune",
        text(&run),
        "--method",
        "crt",
        "--epochs",
        "1",
        "--lr-schedule",
        "constant",
        "--out",
        text(&second),
    ]));
    let about = manifest(&second.join("last.safetensors"));
    for (key, value) in [("size", 12), ("eval_resize", 13)] {
        assert_eq!(about["config"][key], value, "{key}");
    }
    let first = &manifest(&run.join("last.safetensors"))["config"]["photos"];
    assert_eq!(&about["config"]["photos"], first);
    ok(resume(&run));
}

#[test]
fn small_images_of_one_size_become_photographs_where_that_is_asked_for() {
    let place = Place::new();
    let train = |name: &str, more: &[&str]| {
        let run = place.path(name);
        ok(place.train(&run, &[&["--width", "2", "--epochs", "1"], more].concat()));
        (weights(&run), manifest(&run.join("last.safetensors"))["config"]["size"].clone())
    };
    let (plain, size) = train("plain", &[]);
    assert_eq!(size, Value::Null);
    assert!(train("as-stored", &["--size", "8"]).0 == plain, "the size that they have changes nothing");
    let (larger, size) = train("larger", &["--size", "16"]);
    assert!(size == 16 && larger != plain);
    let file = place.path("photos.toml");
    for (table, said) in [
        ("[photos]\nblurr = 1.0", "unknown field `blurr`"),
        ("[photos]\nkind = 'plain'", "8x8 are cropped from a border"),
        ("size = 0", "size must lie in 1..=4096"),
    ] {
        fs::write(&file, table).expect("a file");
        let run = place.path("refused");
        let line = error(place.train(&run, &["--config", text(&file)]), 1);
        assert!(line.contains(said) && !run.exists(), "{line}");
    }
}
