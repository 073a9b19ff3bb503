//! `train --extend`: a run goes on in a new folder with more epochs, and stays as it was.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::folder::contents;
use super::{
    BIN, Place, error, glmc, killed_within, ok, resume, start_until, text, timeless_metrics, timeless_result,
    weights_of,
};
use crate::common::array::Random;
use crate::common::checkpoints::{forge, manifest};

fn extend<'a>(run: &'a Path, epochs: &'a str, out: &'a Path) -> [&'a str; 7] {
    ["train", "--extend", text(run), "--epochs", epochs, "--out", text(out)]
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON")
}

#[test]
fn a_finished_run_goes_on_as_a_longer_one_in_a_new_folder() {
    let place = Place::new();
    let (run, new, longer) = (place.path("run"), place.path("new"), place.path("longer"));
    ok(place.train(&run, &["--epochs", "3"]));
    ok(place.train(&longer, &["--epochs", "6"]));
    let before = contents(&run);
    let output = glmc(&extend(&run, "6", &new));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert!(contents(&run) == before, "the old run was changed");
    let (old, new_lines, longer) = (timeless_metrics(&run), timeless_metrics(&new), timeless_metrics(&longer));
    assert_eq!((&new_lines[..3], new_lines.len()), (&old[..], 6), "the parent's lines come first");
    for epoch in 3..6 {
        for key in ["epoch", "lr", "alpha"] {
            assert_eq!(new_lines[epoch][key], longer[epoch][key], "{key} of epoch {}", epoch + 1);
        }
    }
    // 0.05 along half a cosine: a quarter of it in the last of 3 epochs, half of it in the fourth of 6.
    let jump = "3 epochs to 6: it ended with lr 0.012500, alpha 0.5556; epoch 4 has lr 0.025000, alpha 0.7500";
    assert!(stderr.contains(jump), "{stderr}");
    let record = json(&new.join("run.json"));
    assert_eq!(record["parent"]["folder"].as_str(), Some(text(&fs::canonicalize(&run).expect("a folder"))));
    assert_eq!(record["parent"]["checksum"], manifest(&run.join("last.safetensors"))["checksum"]);
    let last = manifest(&new.join("last.safetensors"));
    assert_eq!((&last["config"]["epochs"], &last["progress"]["epoch"]), (&6.into(), &6.into()));
    let best = timeless_result(&new)["best"].clone();
    assert_eq!(manifest(&new.join("best.safetensors"))["progress"]["epoch"], best["epoch"]);
    let top1 = |line: &Value| line["top1"].as_f64().expect("a figure");
    assert!(new_lines.iter().all(|line| top1(line) <= top1(&best)), "the best of all epochs");
    // A run like any other: resumed, extended; but begun again only from its parent.
    ok(resume(&new));
    ok(glmc(&extend(&new, "7", &place.path("newer"))));
    let line = error(glmc(&["train", "--resume", text(&new), "--restart"]), 1);
    assert!(line.contains("extends") && line.contains(text(&run)), "{line}");
    fs::remove_file(new.join("last.safetensors")).expect("a file");
    let line = error(resume(&new), 1);
    assert!(line.contains("last.safetensors: is missing") && !line.contains("--restart"), "{line}");
}

#[test]
fn an_extension_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::new();
    let (run, whole, killed) = (place.path("run"), place.path("whole"), place.path("killed"));
    ok(place.train(&run, &["--epochs", "2"]));
    let start = Instant::now();
    ok(glmc(&extend(&run, "5", &whole)));
    let longest = start.elapsed().as_micros() as usize;
    let (mut dice, mut kills) = (Random::new(7), 0);
    while kills < 12 {
        let mut command = Command::new(BIN);
        if killed.join("result.json").exists() {
            fs::remove_dir_all(&killed).expect("a folder");
        }
        // What a kill has left of a folder that is no run yet does not stand in the way.
        match killed.join("config.toml").exists() {
            true => command.args(["train", "--resume", text(&killed)]),
            false => command.args(extend(&run, "5", &killed)),
        };
        kills += usize::from(!killed_within(&mut command, dice.below(longest)));
    }
    match killed.join("config.toml").exists() {
        true => ok(resume(&killed)),
        false => ok(glmc(&extend(&run, "5", &killed))),
    };
    for name in ["last.safetensors", "best.safetensors", "config.toml"] {
        assert!(weights_of(&killed, name) == weights_of(&whole, name), "{name} after kills");
    }
    assert_eq!(timeless_metrics(&killed), timeless_metrics(&whole));
}

#[test]
fn what_a_kill_leaves_of_a_beginning_is_replaced_and_nothing_else() {
    let place = Place::new();
    let (run, new) = (place.path("run"), place.path("new"));
    ok(place.train(&run, &["--epochs", "1"]));
    ok(glmc(&extend(&run, "2", &new)));
    let bits = weights_of(&new, "last.safetensors");
    for name in ["config.toml", "result.json"] {
        fs::remove_file(new.join(name)).expect("a file");
    }
    assert!(error(resume(&new), 1).contains("no run here"), "it is no run before its config.toml");
    fs::write(new.join("thesis.txt"), "years of work").expect("writable");
    let line = error(glmc(&extend(&run, "2", &new)), 1);
    assert!(line.contains("neither empty nor a run") && line.contains("thesis.txt"), "{line}");
    fs::remove_file(new.join("thesis.txt")).expect("a file");
    ok(glmc(&extend(&run, "2", &new)));
    assert!(weights_of(&new, "last.safetensors") == bits);
}

#[cfg(unix)]
#[test]
fn a_run_stopped_within_an_epoch_is_extended_from_there() {
    let place = Place::new();
    let run = place.path("run");
    let arguments = place.training(&run);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(["--epochs", "1000", "--batch", "4"]).collect();
    let child = start_until(&run, &arguments, 2);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs").success());
    assert_eq!(child.wait_with_output().expect("an end").status.code(), Some(130));
    let progress = manifest(&run.join("last.safetensors"))["progress"].clone();
    let (epoch, step) = (progress["epoch"].as_u64().expect("a number"), progress["step"].as_u64().expect("a number"));
    let epochs = (epoch + 2).to_string();
    let [one, two] = ["one", "two"].map(|name| {
        let new = place.path(name);
        let output = glmc(&extend(&run, &epochs, &new));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ok(output);
        let at = if step == 0 { format!("epoch {} has lr", epoch + 1) } else { format!("from step {step} on") };
        assert!(stderr.contains(&at), "{stderr}");
        assert_eq!(timeless_metrics(&new).len() as u64, epoch + 2);
        weights_of(&new, "last.safetensors")
    });
    assert!(one == two, "other bits the second time");
}

#[test]
fn what_cannot_be_extended_is_told_in_a_line() {
    let place = Place::new();
    let (run, new, unsaved) = (place.path("run"), place.path("new"), place.path("unsaved"));
    ok(place.train(&run, &["--epochs", "3", "--width", "2"]));
    let before = contents(&run);
    fs::create_dir(&unsaved).expect("a folder");
    fs::copy(run.join("config.toml"), unsaved.join("config.toml")).expect("a copy");
    let foreign = place.path("foreign");
    fs::create_dir(&foreign).expect("a folder");
    fs::write(foreign.join("thesis.txt"), "years of work").expect("writable");
    let other = place.path("other.lt");
    let fixed = "prepare synthetic --classes 4 --per-class 40 --imbalance 8 --size 8 --seed 4 --out";
    ok(glmc(&fixed.split(' ').chain([text(&other)]).collect::<Vec<_>>()));
    let inside = run.join("inside");
    let with = |more: &[&'static str]| glmc(&[&extend(&run, "6", &new), more].concat());
    for (output, status, part) in [
        (glmc(&extend(&run, "3", &new)), 1, "has finished 3 epochs"),
        (glmc(&extend(&run, "6", &run)), 1, "leaves the old run as it is"),
        (glmc(&extend(&run, "6", &inside)), 1, "leaves the old run as it is"),
        (glmc(&extend(&run, "6", &foreign)), 1, "thesis.txt"),
        (glmc(&extend(&place.path("nowhere"), "6", &new)), 1, "no run here"),
        (glmc(&extend(&unsaved, "6", &new)), 1, "no last.safetensors"),
        (glmc(&extend(&run.join("best.safetensors"), "6", &new)), 2, "give --extend"),
        (with(&["--lr", "0.1"]), 2, "--extend keeps the run's own settings"),
        (with(&["--preset", "demo"]), 2, "cannot be used with"),
        (glmc(&[&extend(&run, "6", &new)[..], &["--data", text(&other)]].concat()), 1, "another store"),
        (glmc(&extend(&run, "6", &new)[..5]), 2, "not provided"),
        (glmc(&["train", "--resume", text(&run), "--epochs", "6"]), 2, "--extend"),
    ] {
        let line = error(output, status);
        assert!(line.contains(part), "{line}");
    }
    assert!(!new.exists() && !inside.exists(), "a request that cannot be met leaves nothing behind");
    assert!(contents(&run) == before);
    // A kill between the two checkpoints leaves a best epoch that the last one does not know.
    let known = manifest(&run.join("best.safetensors"))["progress"]["epoch"].as_u64().expect("an epoch");
    let earlier = if known == 1 { 2 } else { 1 };
    forge(&run.join("last.safetensors"), |manifest| manifest["progress"]["best"][0] = earlier.into());
    let line = error(glmc(&extend(&run, "6", &new)), 1);
    assert!(line.contains("best.safetensors") && line.contains("train --resume"), "{line}");
}
