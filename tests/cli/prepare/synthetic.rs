//! The drawn set.

use std::fs;
use std::path::Path;

use glmc_engine::data::Store;
use tempfile::TempDir;

use super::{FILES, names, prepare, prepared, refused, text};
use crate::ok;

#[test]
fn a_seed_gives_the_same_store_whatever_the_threads() {
    let dir = TempDir::new().unwrap();
    let make = |name: &str, threads: &str, seed: &str| {
        let out = dir.path().join(name);
        let args = [
            "--per-class",
            "40",
            "--classes",
            "6",
            "--imbalance",
            "8",
            "--size",
            "20",
            "--threads",
            threads,
            "--seed",
            seed,
        ];
        prepared(&[&["synthetic", "--out", text(&out)], &args[..]].concat());
        FILES.map(|file| fs::read(out.join(file)).unwrap())
    };
    let one = make("a.lt", "1", "9");
    assert!(one == make("b.lt", "3", "9"));
    assert!(one != make("c.lt", "1", "10"));
    let store = Store::open(dir.path().join("a.lt")).unwrap();
    assert_eq!(store.meta().counts, [40, 26, 17, 11, 7, 5]);
    assert_eq!((store.train().height(), store.train().width(), store.test().len()), (20, 20, 300));
    assert_eq!(store.meta().seed, Some(9));
    // Mean and deviation are those of the training pixels.
    let pixels = store.train().pixels().unwrap();
    for c in 0..3 {
        let values: Vec<f64> = pixels.iter().skip(c).step_by(3).map(|&v| f64::from(v) / 255.0).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
        assert!((mean - store.meta().mean[c]).abs() < 1e-9 && (var.sqrt() - store.meta().std[c]).abs() < 1e-9);
    }
}

#[test]
fn numbers_out_of_range() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.lt");
    for (flag, value, word) in [
        ("--classes", "1", "classes 1"),
        ("--classes", "100000", "classes 100000"),
        ("--per-class", "0", "per-class 0"),
        ("--size", "4", "size 4"),
        ("--size", "9999999", "size 9999999"),
        ("--imbalance", "0", "imbalance 0"),
        ("--imbalance", "NaN", "imbalance NaN"),
        ("--imbalance", "1e9", "would keep 0"),
    ] {
        let line = refused(&["synthetic", "--out", text(&out), flag, value]);
        assert!(line.contains(word), "{line}");
    }
    assert!(names(dir.path()).is_empty());
}

/// The same photographs as files, which `prepare images` makes a store of; a folder that is there stays as it is.
#[test]
fn drawn_files_are_photographs_in_folders() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (drawn, again, store) = (at("drawn"), at("again"), at("a.lt"));
    let draw = |out: &Path| {
        let flags = "synthetic --photos --files --classes 3 --per-class 6 --imbalance 2 --test-per-class 2 --out";
        prepare(&[&flags.split(' ').collect::<Vec<_>>()[..], &[text(out)]].concat())
    };
    let said = ok(draw(&drawn));
    assert!(said.contains("training and 6 test images"), "{said}");
    ok(draw(&again));
    let bytes = |folder: &Path| {
        let classes = names(&folder.join("train"));
        assert_eq!(classes.len(), 3, "{classes:?}");
        fs::read(folder.join("train").join(&classes[0]).join("0000.jpg")).unwrap()
    };
    assert!(bytes(&drawn) == bytes(&again), "the same bytes");
    let (train, test) = (drawn.join("train"), drawn.join("test"));
    let folders = ["--train-dir", text(&train), "--test-dir", text(&test), "--resize", "none", "--out", text(&store)];
    assert!(prepared(&[&["images"][..], &folders].concat()).contains("6 test images"));

    let line = String::from_utf8(draw(&drawn).stderr).unwrap();
    assert!(line.contains("exists already") && line.lines().count() == 1, "{line}");
    let line = String::from_utf8(draw(&at("none").join("drawn")).stderr).unwrap();
    assert!(line.contains("no such folder") && line.lines().count() == 1, "{line}");
    assert_eq!(names(dir.path()), ["a.lt", "again", "drawn"]);
}
