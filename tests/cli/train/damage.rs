//! Stores that are damaged where only a reader of all pixels can see it, and metrics that are where no figure stands.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BIN, Place, Random, error, glmc, ok, resume, text};

/// A place whose training and test pixels are several blocks long.
fn large() -> Place {
    let place = Place { folder: tempfile::TempDir::new().expect("a temporary folder") };
    let store = place.store();
    let fixed =
        "prepare synthetic --classes 4 --per-class 160 --test-per-class 90 --imbalance 4 --size 32 --seed 3 --out";
    let mut arguments: Vec<&str> = fixed.split(' ').collect();
    arguments.push(text(&store));
    ok(glmc(&arguments));
    place
}

fn flip(file: &Path, bit: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(file, bytes).expect("writable");
}

#[test]
fn a_flipped_bit_anywhere_in_the_pixels_is_seen_by_train_eval_and_resume() {
    let place = large();
    let (run, store) = (place.path("run"), place.store());
    let small = ["--width", "2", "--epochs", "1"];
    ok(place.train(&run, &small));
    let mut dice = Random::new(7);
    for (file, name) in [("train/pixels.npy", "train"), ("test/pixels.npy", "test")] {
        let file = store.join(file);
        let bits = 8 * fs::metadata(&file).expect("a file").len() as usize;
        for _ in 0..6 {
            let bit = dice.below(bits);
            flip(&file, bit);
            let block = format!("{name}/pixels.npy: block {} ", bit / 8 / (256 << 10));
            let header = bit / 8 < 128;
            let seen = |output| {
                let line = error(output, 1);
                assert!(line.contains(&block) || header && line.contains("pixels.npy"), "bit {bit}: {line}");
            };
            for limit in ["1000", "0"] {
                let limit = ["--resident-limit", limit];
                seen(place.train(&place.path("new"), &[&small[..], &limit].concat()));
                fs::remove_dir_all(place.path("new")).ok();
            }
            if name == "test" {
                seen(glmc(&["eval", "--checkpoint", text(&run.join("last.safetensors")), "--data", text(&store)]));
            }
            seen(resume(&run));
            flip(&file, bit);
        }
    }
    ok(resume(&run));
}

#[test]
fn a_store_cut_off_under_a_run_is_an_error_of_one_line() {
    let place = large();
    let run = place.path("run");
    let mut arguments = place.training(&run);
    arguments.extend(["--epochs", "10000", "--width", "2", "--resident-limit", "0"].map(String::from));
    let child =
        Command::new(BIN).args(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let begun = Instant::now();
    while !run.join("last.safetensors").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = fs::OpenOptions::new().write(true).open(place.store().join("train/pixels.npy")).expect("a file");
    file.set_len(5000).expect("a cut");
    let line = error(child.wait_with_output().expect("an end"), 1);
    assert!(line.contains("train/pixels.npy: was cut off while it was open"), "{line}");
}

#[test]
fn metrics_whose_damage_changes_no_figure_are_written_anew() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &["--epochs", "2"]));
    let file = run.join("metrics.jsonl");
    let whole = fs::read(&file).expect("metrics");
    // A name that nothing knows, and that is no UTF-8: no JSON reader would take the file any more.
    fs::write(&file, [b"{\"\xff\":1,", &whole[1..]].concat()).expect("writable");
    ok(resume(&run));
    assert!(fs::read(&file).expect("metrics") == whole, "the damage is still there");
}
