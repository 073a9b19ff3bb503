//! Damaged stores: whatever happens to a file, one clear error that names it.

use std::fs;
use std::path::Path;

use glmc_engine::data::Store;
use glmc_engine::data::pixels::BLOCK;
use glmc_engine::data::synthetic::{self, SyntheticConfig};
use tempfile::TempDir;

use super::{FILES, prepare, prepared, refused, text};

/// A store large enough that the middle of its training pixels is not among what `open` reads.
fn store(path: &Path, seed: u64) {
    let config =
        SyntheticConfig { classes: 4, per_class: 160, test_per_class: 9, imbalance: 6.0, seed, ..Default::default() };
    synthetic::prepare(path, &config).unwrap();
}

/// The single line that opening (and then checking) the store fails with.
fn error(path: &Path) -> String {
    let outcome = Store::open(path).and_then(|store| store.check());
    let line = outcome.expect_err("the damage was not seen").to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn every_file_cut_emptied_removed_or_replaced_is_named_on_open() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    store(&path, 1);
    for name in FILES {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let longer = [&whole[..], b"x"].concat();
        let n = whole.len();
        let contents =
            [&[][..], &whole[..1], &whole[..100.min(n)], &whole[..n / 2], &whole[..n - 1], &longer, b"nonsense"];
        for content in contents {
            fs::write(&file, content).unwrap();
            let line = Store::open(&path).expect_err(name).to_string();
            assert!(line.contains(name) && !line.contains('\n'), "{name}, {} bytes: {line}", content.len());
        }
        fs::remove_file(&file).unwrap();
        let line = error(&path);
        assert!(line.contains(name), "{name} removed: {line}");
        fs::create_dir(&file).unwrap();
        let line = error(&path);
        assert!(line.contains(name), "{name} a folder: {line}");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, &whole).unwrap();
    }
    Store::open(&path).unwrap().check().unwrap();
}

#[test]
fn every_flipped_bit_is_seen() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    store(&path, 1);
    for name in FILES {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let pixels = name.ends_with("pixels.npy");
        let step = (whole.len() / 97).max(1);
        for i in (0..whole.len().min(256)).chain((0..whole.len()).step_by(step)).chain([whole.len() - 1]) {
            let mut bad = whole.clone();
            bad[i] ^= 1 << (i % 8);
            fs::write(&file, &bad).unwrap();
            let line = error(&path);
            assert!(line.contains(name), "{name}, byte {i}: {line}");
            if !pixels || i < 1000 {
                Store::open(&path).expect_err("open must see it");
            }
        }
        fs::write(&file, &whole).unwrap();
    }
    Store::open(&path).unwrap().check().unwrap();
}

/// Files of two stores with equal shapes, and files within one store.
#[test]
fn swapped_files_are_seen_on_open() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.lt"), dir.path().join("b.lt"));
    store(&a, 1);
    store(&b, 2);
    let swap = |x: &Path, y: &Path| {
        let other = dir.path().join("swap");
        fs::rename(x, &other).and_then(|()| fs::rename(y, x)).and_then(|()| fs::rename(&other, y)).unwrap();
    };
    // The two stores have the same labels, so only the pixels and the meta data tell them apart.
    for name in ["meta.json", "train/pixels.npy", "test/pixels.npy"] {
        swap(&a.join(name), &b.join(name));
        let line = Store::open(&a).expect_err(name).to_string();
        assert!(line.contains("pixels.npy") || line.contains("blocks.npy"), "{name}: {line}");
        swap(&a.join(name), &b.join(name));
    }
    for (x, y) in [(1, 3), (2, 4), (1, 2), (3, 4), (0, 2), (5, 6), (1, 5)] {
        swap(&a.join(FILES[x]), &a.join(FILES[y]));
        let line = Store::open(&a).expect_err("swapped").to_string();
        assert!(line.contains(FILES[x]) || line.contains(FILES[y]), "{} and {}: {line}", FILES[x], FILES[y]);
        swap(&a.join(FILES[x]), &a.join(FILES[y]));
    }
    Store::open(&a).unwrap().check().unwrap();
}

#[test]
fn the_program_says_it_in_one_line() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    store(&path, 1);
    let said = prepared(&["check", text(&path)]);
    assert!(said.contains("all 6 arrays have their checksums"), "{said}");
    let file = path.join("train/pixels.npy");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, &bytes).unwrap();
    Store::open(&path).expect("a bit deep inside the pixels is seen when it is read");
    let line = refused(&["check", text(&path)]);
    let block = format!("block {}", middle / BLOCK);
    assert!(line.contains("train/pixels.npy") && line.contains("damaged") && line.contains(&block), "{line}");
    // Two damaged files are still one line.
    let other = path.join("test/pixels.npy");
    let mut bytes = fs::read(&other).unwrap();
    bytes[128 + 40] ^= 4;
    fs::write(&other, &bytes).unwrap();
    refused(&["check", text(&path)]);
    for nothing in [dir.path().join("none.lt"), dir.path().to_path_buf(), file] {
        let line = refused(&["check", text(&nothing)]);
        assert!(line.contains(text(&nothing)), "{line}");
    }
}

#[test]
fn nothing_is_overwritten_without_force() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    let base = ["synthetic", "--out", text(&path), "--per-class", "20", "--imbalance", "2"];
    let make = |more: &'static [&'static str]| [&base[..], more].concat();
    prepared(&make(&[]));
    let before = fs::read(path.join("train/pixels.npy")).unwrap();
    let line = refused(&make(&["--seed", "5"]));
    assert!(line.contains("exists already") && line.contains("--force"), "{line}");
    assert_eq!(fs::read(path.join("train/pixels.npy")).unwrap(), before);
    prepared(&make(&["--seed", "5", "--force"]));
    assert_ne!(fs::read(path.join("train/pixels.npy")).unwrap(), before);
    // Never what is not a store.
    fs::write(path.join("thesis.txt"), "years of work").unwrap();
    let line = refused(&make(&["--force"]));
    assert!(line.contains("not just a store"), "{line}");
    assert!(path.join("thesis.txt").exists());
    assert_eq!(super::names(dir.path()), ["a.lt"]);
    let output = prepare(&["synthetic", "--out", "/"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(refused(&["synthetic", "--out", text(&dir.path().join("no/such/a.lt"))]).contains("no/such"));
}

#[test]
fn what_a_killed_prepare_left_is_cleaned_up() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    let work = dir.path().join(".a.lt.partial");
    let make = ["synthetic", "--out", text(&path), "--per-class", "20", "--imbalance", "2"];
    // Killed while writing.
    fs::create_dir_all(work.join("store/train")).unwrap();
    fs::write(work.join("store/train/pixels.npy"), "half").unwrap();
    fs::write(work.join("lock"), "").unwrap();
    prepared(&make);
    assert_eq!(super::names(dir.path()), ["a.lt"]);
    // Killed between the two renames of --force: the old store gets its name back, so that nothing is lost.
    fs::create_dir(&work).unwrap();
    fs::rename(&path, work.join("old")).unwrap();
    let line = refused(&make);
    assert!(line.contains("exists already"), "{line}");
    Store::open(&path).unwrap().check().unwrap();
    assert_eq!(super::names(dir.path()), ["a.lt"]);
    // Another process at work on the same store.
    fs::remove_dir_all(&path).unwrap();
    fs::create_dir(&work).unwrap();
    let lock = fs::File::create(work.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let line = refused(&make);
    assert!(line.contains("another process"), "{line}");
    drop(lock);
    prepared(&make);
    assert_eq!(super::names(dir.path()), ["a.lt"]);
}

/// SIGKILL at moments all over the work: afterwards there is a whole store or none, and the next run succeeds.
#[test]
fn killed_at_any_moment() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.lt");
    let args = ["prepare", "synthetic", "--out", text(&path), "--per-class", "300", "--imbalance", "2", "--force"];
    let mut killed = 0;
    for i in 0..12 {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_glmc-engine"))
            .args(args)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(4 + 9 * i));
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        if path.exists() {
            Store::open(&path).unwrap().check().unwrap();
        }
    }
    assert!(killed > 0, "every run was over before it was killed");
    prepared(&args[1..]);
    assert_eq!(super::names(dir.path()), ["a.lt"]);
}
