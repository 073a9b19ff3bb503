//! The drawn set.

use std::fs;

use glmc_engine::data::Store;
use tempfile::TempDir;

use super::{FILES, names, prepared, refused, text};

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
