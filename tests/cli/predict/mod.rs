//! `predict`, and what `eval` writes about single images: the same answers about the same images, whatever they come from.

mod broken;
mod inputs;
mod outputs;
mod pytorch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use image::{Rgb, RgbImage};
use tempfile::TempDir;

use crate::prepare::images::turned;
use crate::{error, glmc, ok, text};

/// A folder with image files, lists of them, and what is made of these.
struct Place(TempDir);

/// A picture that no other has, bright or dark by its class.
fn picture(width: u32, height: u32, class: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let noise = (((x * 31 + y * 17 + seed * 53) * 2_654_435_761u32) >> 8) % 120;
        Rgb([(noise + class * 60) as u8, (noise + x % 90) as u8, (255 - noise - class * 40) as u8])
    })
}

impl Place {
    /// Lists `train.txt` and `test.txt` of 25 and 12 images in three classes, of the sizes that `size` gives, the test images
    /// without labels in `bare.txt`. Of each format some; every fifth is a photograph that must be turned.
    fn new(size: impl Fn(u32) -> [u32; 2]) -> Place {
        let place = Place(TempDir::new().expect("a temporary folder"));
        fs::create_dir(place.path("files")).expect("a folder");
        let mut lists = [String::new(), String::new(), String::new()];
        for i in 0..42u32 {
            let (class, [width, height]) = (i % 3, size(i));
            let name = format!("files/{i:02}.{}", ["png", "jpg", "bmp", "gif", "tiff"][i as usize % 5]);
            let (path, picture) = (place.path(&name), picture(width, height, class, i));
            match i % 5 {
                1 => fs::write(&path, turned(&picture, 6)).expect("a file"),
                _ => picture.save(&path).expect("an image"),
            }
            // A tail, for which GLMC trains its other head.
            if i >= 30 || class < 2 || i % 2 == 0 {
                lists[usize::from(i >= 30)].push_str(&format!("{name} {class}\n"));
            }
            if i >= 30 {
                lists[2].push_str(&format!("{name}\n"));
            }
        }
        for (name, list) in ["train.txt", "test.txt", "bare.txt"].iter().zip(&lists) {
            fs::write(place.path(name), list).expect("a list");
        }
        place
    }

    /// Images of one size that CIFAR's networks see as they are.
    fn small() -> Place {
        Place::new(|_| [8, 8])
    }

    /// Photographs of 9 to 33 pixels a side.
    fn photographs() -> Place {
        Place::new(|i| [9 + (i * 7) % 23, 9 + (i * 11) % 25])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A store of the lists.
    fn store(&self, name: &str, more: &[&str]) -> PathBuf {
        let store = self.path(name);
        let [train, test, root] = [self.path("train.txt"), self.path("test.txt"), self.path("")];
        let lists = ["--train-list", text(&train), "--test-list", text(&test), "--root", text(&root)];
        ok(glmc(&[&["prepare", "images", "--out", text(&store)], &lists[..], more].concat()));
        store
    }

    /// A run of one epoch on a store.
    fn run(&self, name: &str, store: &Path, more: &[&str]) -> PathBuf {
        let run = self.path(name);
        let fixed = "train --model resnet20 --width 2 --epochs 1 --batch 10 --lr 0.05 --seed 1 --threads 1";
        let fixed: Vec<&str> = fixed.split(' ').collect();
        ok(glmc(&[&fixed[..], &["--data", text(store), "--out", text(&run)], more].concat()));
        run
    }

    /// A store and a run of small images.
    fn trained(&self) -> PathBuf {
        self.run("run", &self.store("data.lt", &["--size", "8"]), &[])
    }
}

fn predict(run: &Path, more: &[&str]) -> Output {
    glmc(&[&["predict", "--threads", "1", "--checkpoint", text(run)], more].concat())
}

/// The lines of a CSV file with their headings.
fn csv_of(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let headings = csv.headers().expect("headings").iter().map(String::from).collect();
    let rows = csv.records().map(|row| row.expect("a row").iter().map(String::from).collect());
    (headings, rows.collect())
}

/// The columns of these names, row by row.
fn columns(text: &str, names: &[&str]) -> Vec<Vec<String>> {
    let (headings, rows) = csv_of(text);
    let at = |name: &&str| headings.iter().position(|heading| heading == name).unwrap_or_else(|| panic!("no {name}"));
    let at: Vec<usize> = names.iter().map(at).collect();
    rows.iter().map(|row| at.iter().map(|&at| row[at].clone()).collect()).collect()
}

/// An array of f32 with two dimensions, row by row.
fn npy(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).expect("an array");
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False"), "{header}");
    let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).expect("a shape");
    let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().expect("a number")).collect();
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[128..]);
    assert_eq!(values.len(), shape[0] * shape[1], "{shape:?}");
    values.chunks(shape[1].max(1)).map(<[f32]>::to_vec).collect()
}

const ANSWER: [&str; 9] =
    ["predicted", "name", "probability", "class_2", "name_2", "probability_2", "class_3", "name_3", "probability_3"];

/// What `eval` says about the test images of a store.
fn evaluated(run: &Path, store: &Path, more: &[&str]) -> Vec<Vec<String>> {
    let out = run.with_extension("eval.csv");
    let fixed = ["eval", "--checkpoint", text(run), "--data", text(store), "--threads", "1", "--force"];
    ok(glmc(&[&fixed[..], &["--predictions", text(&out)], more].concat()));
    columns(&fs::read_to_string(&out).expect("predictions"), &ANSWER)
}

/// What `predict` says about the files that they were made of.
fn predicted(place: &Place, run: &Path, more: &[&str]) -> Vec<Vec<String>> {
    let list = place.path("bare.txt");
    columns(&ok(predict(run, &[&[text(&list), "--format", "csv"], more].concat())), &ANSWER)
}

#[test]
fn photographs_get_the_answers_that_their_store_gets() {
    let place = Place::photographs();
    for (name, how) in [
        ("none", &["--resize", "none"][..]),
        ("short", &["--resize", "short:14"]),
        ("larger", &["--resize", "short:19"]),
        ("square", &["--size", "14"]),
        ("stored", &["--resize", "none", "--exif", "ignore"]),
    ] {
        let store = place.store(&format!("{name}.lt"), how);
        let run = place.run(name, &store, &["--size", "12", "--eval-resize", "14"]);
        let wanted = evaluated(&run, &store, &[]);
        assert_eq!(wanted.len(), 12);
        assert_eq!(predicted(&place, &run, &[]), wanted, "{name}");
        for more in [&["--flip=true"][..], &["--head", "fc"], &["--head", "mean"]] {
            let found = predicted(&place, &run, more);
            assert_eq!(found, evaluated(&run, &store, more), "{name} {more:?}");
            assert_ne!(found, wanted, "{name} {more:?}");
        }
        // What the checkpoint says is what counts.
        let others = [["--resize", "short:9"], ["--exif", if name == "stored" { "apply" } else { "ignore" }]];
        others.iter().for_each(|other| assert_ne!(predicted(&place, &run, other), wanted, "{name} {other:?}"));
    }
}

#[test]
fn small_images_get_the_answers_that_their_store_gets() {
    for place in [Place::small(), Place::photographs()] {
        let store = place.store("data.lt", &["--size", "8"]);
        let run = place.run("run", &store, &[]);
        let wanted = evaluated(&run, &store, &[]);
        assert_eq!(predicted(&place, &run, &[]), wanted);
        for more in [&["--flip=true"][..], &["--head", "mean"]] {
            assert_eq!(predicted(&place, &run, more), evaluated(&run, &store, more), "{more:?}");
        }
        let list = place.path("bare.txt");
        let line = error(predict(&run, &[text(&list), "--resize", "none"]), 2);
        assert!(line.contains("this model sees whole images of 8x8"), "{line}");
    }
}

#[test]
fn images_that_are_no_squares_are_covered() {
    let place = Place::new(|_| [12, 8]);
    // Turned ones would have another shape.
    let store = place.store("data.lt", &["--resize", "none", "--exif", "ignore"]);
    let run = place.run("run", &store, &[]);
    assert_eq!(predicted(&place, &run, &[]), evaluated(&run, &store, &[]));
    picture(30, 10, 1, 1).save(place.path("wide.png")).expect("an image");
    ok(predict(&run, &[text(&place.path("wide.png"))]));
}

#[test]
fn neither_threads_nor_batch_change_a_bit() {
    for place in [Place::small(), Place::photographs()] {
        let is_small = place.path("files/00.png").metadata().expect("a file").len() < 300;
        let run = match is_small {
            true => place.trained(),
            false => place.run("run", &place.store("data.lt", &["--resize", "none"]), &["--size", "12"]),
        };
        let files = place.path("files");
        let arrays = |device: &str, more: &[&str]| {
            let at = ["a.csv", "l.npy", "f.npy"].map(|name| place.path(name));
            let [out, logits, features] = [text(&at[0]), text(&at[1]), text(&at[2])];
            let fixed = ["predict", "--device", device, "--checkpoint", text(&run), text(&files), "--force"];
            let out = ["--out", out, "--logits", logits, "--features", features];
            ok(glmc(&[&fixed[..], &out, more].concat()));
            at.map(|path| fs::read(path).expect("an output"))
        };
        for device in ["cpu", "emulator"] {
            let one = arrays(device, &["--threads", "1"]);
            for more in [
                ["--threads", "2", "--batch", "1"],
                ["--threads", "3", "--batch", "5"],
                ["--threads", "1", "--batch", "41"],
            ] {
                assert!(arrays(device, &more) == one, "{device} {more:?}");
            }
        }
        // Another device rounds otherwise, and ranks alike but for near ties.
        let logits = |device: &str| {
            arrays(device, &[]);
            npy(&place.path("l.npy"))
        };
        let (cpu, emulated) = (logits("cpu"), logits("emulator"));
        assert_eq!((cpu.len(), cpu[0].len()), (42, 3));
        let pairs = cpu.iter().flatten().zip(emulated.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
}

#[test]
fn logits_and_features_are_those_of_the_lines() {
    let place = Place::small();
    let run = place.trained();
    let (list, logits, features) = (place.path("bare.txt"), place.path("l.npy"), place.path("f.npy"));
    let arguments = [text(&list), "--format", "csv", "--logits", text(&logits), "--features", text(&features)];
    let told = ok(predict(&run, &[&arguments[..], &["--head", "fc"]].concat()));
    let (logits, features) = (npy(&logits), npy(&features));
    assert_eq!((logits.len(), features.len(), features[0].len()), (12, 12, 8));
    for (row, line) in logits.iter().zip(columns(&told, &["predicted", "probability", "class_3", "probability_3"])) {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let largest = (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("classes");
        assert_eq!(line[0], largest.to_string());
        for pair in line.chunks(2) {
            let (class, said): (usize, f64) = (pair[0].parse().expect("a class"), pair[1].parse().expect("a number"));
            assert!((f64::from(row[class]).exp() / sum - said).abs() < 1e-6, "{row:?} {line:?}");
        }
    }
    // The head on the features is the logits.
    let bytes = fs::read(run.join("last.safetensors")).expect("a checkpoint");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let values = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(tensors.tensor(name).expect(name).data()) };
    let (weight, bias) = (values("fc.weight"), values("fc.bias"));
    for (found, row) in features.iter().zip(&logits) {
        for class in 0..3 {
            let weights = &weight[class * 8..][..8];
            let sum: f64 = weights.iter().zip(found).map(|(w, f)| f64::from(*w) * f64::from(*f)).sum();
            assert!((sum + f64::from(bias[class]) - f64::from(row[class])).abs() < 1e-5);
        }
    }
}
