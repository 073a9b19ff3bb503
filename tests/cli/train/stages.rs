//! Files with tables `[[stage]]`: runs one after another, gone on with after kills, refused as a whole where one does not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::{BIN, Place, error, glmc, killed_within, ok, start_until, timeless_metrics, weights_of};
use crate::common::array::Random;
use crate::common::checkpoints::manifest;
use crate::text;

const BASE: &str = "model = 'resnet20'\nwidth = 4\nbatch = 16\nlr = 0.05\nseed = 1\nthreads = 1\nmethod = 'ce'\n";
const TWO: &str = "[[stage]]\nepochs = 3\n[[stage]]\nfrom = 'best'\nreinit = ['fc.*']\nepochs = 2\nlr = 0.1\n\
                   recipe.originals.sampling = { kind = 'class-aware', images = 4 }\n\
                   groups = [{ match = '*', frozen = true }, { match = 'fc.*' }]\n";

fn file(place: &Place, stages: &str) -> PathBuf {
    let file = place.path("stages.settings.toml");
    fs::write(&file, format!("data = {:?}\n{BASE}{stages}", place.store())).expect("a file");
    file
}

fn train<'a>(file: &'a Path, out: &'a Path) -> [&'a str; 5] {
    ["train", "--config", text(file), "--out", text(out)]
}

#[test]
fn each_stage_is_a_run_that_names_the_one_before() {
    let place = Place::new();
    let (file, out) = (file(&place, TWO), place.path("out"));
    let stdout = ok(glmc(&train(&file, &out)));
    let [one, two] = ["stage-1", "stage-2"].map(|name| out.join(name));
    assert!(stdout.contains(&format!("The last stage is in {}", two.display())), "{stdout}");
    assert_eq!((timeless_metrics(&one).len(), timeless_metrics(&two).len()), (3, 2));
    let record: Value = serde_json::from_slice(&fs::read(two.join("run.json")).expect("a record")).expect("JSON");
    assert_eq!(record["parent"]["folder"].as_str(), Some(text(&fs::canonicalize(&one).expect("a folder"))));
    assert_eq!(record["parent"]["checkpoint"], "best.safetensors");
    assert_eq!(record["parent"]["checksum"], manifest(&one.join("best.safetensors"))["checksum"]);
    // The file's own keys hold in every stage, a stage's in itself alone.
    let lr = |run: &Path| timeless_metrics(run)[0]["lr"].as_f64();
    assert_eq!((lr(&one), lr(&two)), (Some(0.05), Some(0.1)));
    // The same again, by either command, trains nothing more.
    let (bits, lines) = (weights_of(&two, "last.safetensors"), fs::read(two.join("run.json")).expect("a record"));
    for again in [&train(&file, &out)[..], &["train", "--resume", text(&out)]] {
        assert!(ok(glmc(again)).contains("The last stage is in"));
        assert!(weights_of(&two, "last.safetensors") == bits && fs::read(two.join("run.json")).expect("it") == lines);
    }
    // In a folder that has moved too.
    let moved = place.path("moved");
    fs::rename(&out, &moved).expect("a new name");
    fs::remove_dir_all(moved.join("stage-2")).expect("a folder");
    ok(glmc(&["train", "--resume", text(&moved)]));
    let model = |run: &Path| {
        let bytes = weights_of(run, "last.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        file.tensor("fc.weight").expect("a weight").data().to_vec()
    };
    fs::write(place.path("bits"), &bits).expect("a file");
    let whole = safetensors::SafeTensors::deserialize(&bits).expect("a checkpoint");
    assert!(model(&moved.join("stage-2")) == whole.tensor("fc.weight").expect("a weight").data());
}

#[test]
fn stages_killed_at_any_moment_go_on_to_the_same_bits() {
    let place = Place::new();
    let (file, whole, killed) = (file(&place, TWO), place.path("whole"), place.path("killed"));
    let start = Instant::now();
    ok(glmc(&train(&file, &whole)));
    let longest = start.elapsed().as_micros() as usize;
    let (mut dice, mut kills) = (Random::new(9), 0);
    while kills < 10 {
        if killed.join("stage-2/result.json").exists() {
            fs::remove_dir_all(&killed).expect("a folder");
        }
        let mut command = Command::new(BIN);
        // Either command goes on.
        match killed.join("stages.toml").exists() && kills % 2 == 0 {
            true => command.args(["train", "--resume", text(&killed)]),
            false => command.args(train(&file, &killed)),
        };
        kills += usize::from(!killed_within(&mut command, dice.below(longest)));
    }
    ok(glmc(&train(&file, &killed)));
    for stage in ["stage-1", "stage-2"] {
        let [one, other] = [&whole, &killed].map(|out| out.join(stage));
        assert_eq!(timeless_metrics(&one), timeless_metrics(&other));
        // The second stage's checkpoint names the folder of the first.
        let weights = |run: &Path| {
            let bytes = weights_of(run, "last.safetensors");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
            let mut all: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
            all.sort();
            all
        };
        assert!(weights(&one) == weights(&other), "{stage} after kills");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_stage_says_how_all_of_them_go_on() {
    let place = Place::new();
    let stages = "[[stage]]\nepochs = 100000\n[[stage]]\nepochs = 1\n";
    let (file, out) = (file(&place, stages), place.path("out"));
    let child = start_until(&out.join("stage-1"), &train(&file, &out), 2);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(&format!("to continue: glmc-engine train --resume {}", text(&out))), "{stderr}");
    assert!(!out.join("stage-2").exists());
}

#[test]
fn the_example_of_the_readme_is_one() {
    let place = Place::new();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    let begin = readme.find("    data = \"cifar10-if100.lt\"").expect("the example");
    let example = readme[begin..].lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let example = example.map(|line| format!("{}\n", line.trim_start())).collect::<String>();
    let file = place.path("readme.toml");
    fs::write(&file, example.replace("cifar10-if100.lt", text(&place.store()))).expect("a file");
    // All is resolved and checked before the data are found to have 4 classes.
    let line = error(glmc(&train(&file, &place.path("out"))), 1);
    assert!(line.contains("has 4 classes, but --preset cifar10-lt-if100-ce is meant for 10"), "{line}");
}

#[test]
fn stages_that_do_not_fit_are_told_in_a_line_before_any_is_trained() {
    let place = Place::new();
    let out = place.path("out");
    let first = "[[stage]]\nepochs = 1\n[[stage]]\nepochs = 1\n";
    for (stages, part) in [
        (format!("{first}reinit = ['head.*']\n"), "stage 2: init.reinit: no parameter is called \"head.*\""),
        (format!("{first}method = 'glmc'\n"), "has no fc_cb.weight: init.reinit"),
        (format!("{first}width = 8\n"), "is a resnet20 of width 4, and this stage trains a resnet20 of width 8"),
        (format!("{first}from = 'first'\n"), "stage 2: unknown variant `first`"),
        (format!("{first}init = {{ from = 'x' }}\n"), "stage 2: starts from the stage before"),
        (format!("{first}epoch = 3\n"), "unknown setting \"epoch\""),
        (format!("{first}lr_schedule = '3:0.1'\n"), "stage 2: lr-schedule 3:0.1: epoch 3 is not before"),
        (
            format!("{first}recipe.heads.fc.weight = {{ kind = 'values', values = [1, 2] }}\n"),
            "a vector of 2 values for 4",
        ),
        ("[[stage]]\nfrom = 'best'\n".into(), "stage 1: from is of the stage before"),
        ("[stage]\nepochs = 1\n".into(), "each headed [[stage]]"),
        ("stage = []\n".into(), "one at least"),
    ] {
        let line = error(glmc(&train(&file(&place, &stages), &out)), 1);
        assert!(line.contains(part), "{stages}: {line}");
        assert!(!out.exists(), "{stages}");
    }
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("thesis.txt"), "years of work").expect("writable");
    let line = error(glmc(&train(&file(&place, first), &out)), 1);
    assert!(line.contains("holds thesis.txt"), "{line}");
    fs::remove_file(out.join("thesis.txt")).expect("a file");
    ok(glmc(&train(&file(&place, first), &out)));
    let line = error(glmc(&train(&file(&place, TWO), &out)), 1);
    assert!(line.contains("holds stages of other settings"), "{line}");
    let line = error(glmc(&["train", "--resume", text(&out), "--restart"]), 1);
    assert!(line.contains("--restart one of them"), "{line}");
    let line = error(
        glmc(&["finetune", text(&out.join("stage-1")), "--method", "crt", "--config", text(&file(&place, TWO))]),
        1,
    );
    assert!(line.contains("has stages"), "{line}");
}
