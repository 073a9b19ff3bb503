//! Damaged files: flipped bits, cuts, and worse, in every kind of file. What the program wrote itself it must find damaged,
//! unless the damage changes nothing; of what others wrote it must make something whole, or refuse it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::array::Random;
use crate::inputs::Sources;
use crate::program::{BIN, Counts, Scene, cases, copy, end, glmc, outcome, text};

/// Damages the content of a file in one of the ways in which files are damaged.
pub fn damage(bytes: &[u8], dice: &mut Random) -> (String, Vec<u8>) {
    let (length, mut damaged) = (bytes.len(), bytes.to_vec());
    if length == 0 {
        return ("a byte added".into(), vec![dice.below(256) as u8]);
    }
    let at = dice.below(length);
    let until = at + 1 + dice.below((length - at).min(600));
    let what = match dice.below(10) {
        0..4 => {
            let bit = dice.below(8);
            damaged[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        4 => {
            damaged[at] = dice.below(256) as u8;
            format!("byte {at} replaced")
        }
        5 => {
            damaged.truncate(at);
            format!("cut to {at} bytes")
        }
        6 => {
            damaged[at..until].fill(0);
            format!("bytes {at}..{until} zeroed")
        }
        7 => {
            damaged.drain(at..until);
            format!("bytes {at}..{until} removed")
        }
        8 => {
            let part = damaged[at..until].to_vec();
            damaged.splice(at..at, part);
            format!("bytes {at}..{until} doubled")
        }
        _ => {
            damaged[at..until].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
            format!("bytes {at}..{until} replaced by noise")
        }
    };
    (what, damaged)
}

/// `damage` that changes something.
fn damaged(file: &Path, dice: &mut Random) -> (String, Vec<u8>) {
    let whole = fs::read(file).expect("a file");
    loop {
        let (what, bytes) = damage(&whole, dice);
        if bytes != whole {
            return (format!("{}: {what}", file.display()), bytes);
        }
    }
}

#[test]
fn every_file_of_a_run_is_found_damaged_or_does_no_harm() {
    let scene = Scene::new();
    let mut dice = Random::new(20);
    for name in ["config.toml", "run.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "result.json"] {
        let mut counts = Counts::new(format!("damaged {name}, resumed"));
        for _ in 0..cases(8, 400) {
            let run = scene.path("damaged");
            copy(scene.whole(), &run);
            let (what, bytes) = damaged(&run.join(name), &mut dice);
            fs::write(run.join(name), bytes).expect("writable");
            let page = scene.path("page.html");
            fs::remove_file(&page).ok();
            let reported = glmc(&["report", text(&run), "--out", text(&page), "--device", "cpu"], &what).succeeded();
            assert_eq!(reported, page.exists(), "{what}: half a report, or none");
            let mut resume = Command::new(BIN);
            resume.args(["train", "--resume", text(&run)]);
            if end(&mut resume, &what).succeeded() {
                // What depends on nothing may be lost; what others read may not.
                assert!(outcome(&run) == outcome(scene.whole()), "{what}: unnoticed");
                counts.add("harmless");
            } else {
                counts.add("one line");
            }
            fs::remove_dir_all(&run).expect("a folder");
        }
    }
}

#[test]
fn every_checkpoint_that_is_damaged_is_refused_by_eval() {
    let scene = Scene::new();
    let (mut dice, file, store) = (Random::new(21), scene.path("x.safetensors"), scene.store());
    let eval = ["eval", "--json", "--device", "cpu", "--checkpoint", text(&file), "--data", text(&store)];
    let whole = scene.whole().join("best.safetensors");
    let mut counts = Counts::new("damaged checkpoint, evaluated");
    for _ in 0..cases(20, 1000) {
        let (what, bytes) = damaged(&whole, &mut dice);
        fs::write(&file, bytes).expect("writable");
        assert!(!glmc(&eval, &what).succeeded(), "{what}: unnoticed");
        counts.add("one line");
    }
}

#[test]
fn every_file_of_a_store_is_found_damaged() {
    let scene = Scene::new();
    let (mut dice, run) = (Random::new(22), scene.path("run"));
    let (store, checkpoint) = (scene.store(), scene.whole().join("last.safetensors"));
    let check = ["prepare", "check", text(&store)];
    let eval = ["eval", "--device", "cpu", "--checkpoint", text(&checkpoint), "--data", text(&store)];
    let files = ["pixels", "labels", "blocks"].map(|name| ["train", "test"].map(|part| format!("{part}/{name}.npy")));
    for name in files.into_iter().flatten().chain(["meta.json".to_string()]) {
        let mut counts = Counts::new(format!("damaged {name} of a store"));
        let file = store.join(&name);
        let whole = fs::read(&file).expect("a file");
        for case in 0..cases(6, 300) {
            let (what, bytes) = damaged(&file, &mut dice);
            fs::write(&file, bytes).expect("writable");
            // What a command does not read it need not find: `eval` looks at no training image.
            let ending = match case % 3 {
                0 => glmc(&check, &what),
                1 => end(&mut scene.train(&run), &what),
                _ => glmc(&eval, &what),
            };
            let unread = case % 3 == 2 && name.starts_with("train/");
            if ending.succeeded() {
                assert!(unread, "{what}: unnoticed");
                counts.add("not read");
            } else {
                counts.add("one line");
            }
            fs::remove_dir_all(&run).ok();
            fs::write(&file, &whole).expect("writable");
        }
    }
    glmc(&check, "restored").ok();
}

#[test]
fn damaged_sources_are_refused_or_give_a_whole_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sources = Sources::new(folder.path());
    let (mut dice, store) = (Random::new(23), folder.path().join("a.lt"));
    let commands = sources.commands(&store);
    for (name, arguments) in &commands {
        glmc(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), name).ok();
        fs::remove_dir_all(&store).expect("a store");
    }
    for (kind, command, file) in sources.files() {
        let mut counts = Counts::new(format!("damaged {kind}, prepared"));
        let whole = fs::read(&file).expect("a file");
        for _ in 0..cases(8, 300) {
            let (what, bytes) = damaged(&file, &mut dice);
            fs::write(&file, bytes).expect("writable");
            let arguments: Vec<&str> = commands[command].1.iter().map(String::as_str).collect();
            if glmc(&arguments, &what).succeeded() {
                glmc(&["prepare", "check", text(&store)], &what).ok();
                fs::remove_dir_all(&store).expect("a store");
                counts.add("a whole store");
            } else {
                assert!(!store.exists(), "{what}: refused, and half written");
                counts.add("one line");
            }
            fs::write(&file, &whole).expect("writable");
        }
    }
}

#[test]
fn damaged_kernels_in_the_cache_are_made_again() {
    let scene = Scene::new();
    let (mut dice, cache) = (Random::new(24), scene.path("cache"));
    let bench =
        "bench kernels --device emulator --precision f32 --width 2 --batch 1 --size 8 --seconds 0 --only linear*";
    let fixture = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w2_c7_b3.safetensors"));
    let verify = ["verify", text(&fixture), "--device", "emulator", "--precision", "f32", "--json"];
    let run = |arguments: &[&str], what: &str| end(Command::new(BIN).args(arguments).env("GLMC_CACHE", &cache), what);
    if Command::new("c++").arg("--version").output().is_err() {
        println!("hostile: skipped: no C++ compiler");
        return;
    }
    // In full, a whole step's results are compared; else only that the program goes on.
    let arguments: Vec<&str> = if cases(0, 1) == 1 { verify.to_vec() } else { bench.split(' ').collect() };
    let expected = run(&arguments, "an empty cache").ok();
    let entries = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&cache).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "so")).collect();
        files.sort();
        files
    };
    assert!(!entries().is_empty());
    let mut counts = Counts::new("damaged kernels in the cache");
    for _ in 0..cases(4, 100) {
        let files = entries();
        let file = &files[dice.below(files.len())];
        let (what, bytes) = damaged(file, &mut dice);
        fs::write(file, bytes).expect("writable");
        let found = run(&arguments, &what).ok();
        assert!(cases(0, 1) == 0 || found == expected, "{what}: other results");
        counts.add("made again");
    }
}
