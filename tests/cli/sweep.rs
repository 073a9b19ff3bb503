//! `glmc-engine sweep`: whole sweeps, stopped and killed ones, lists, refusals, and figures that are those of the runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::array::Random;
use crate::common::signals::heeding;
use crate::place::Place;
use crate::{error, ok};

const SETTINGS: &str = "--width 2 --epochs 3 --batch 16 --lr 0.02 --twenty-is-few --threads 1 --device cpu";

impl Place {
    /// With a store, `a.lt`, of classes with 120, 49 and 20 images.
    fn with_store() -> Place {
        let place = Place::new();
        place.prepare("a.lt", 0);
        place
    }

    fn prepare(&self, name: &str, seed: u64) {
        let fixed = "prepare synthetic --classes 3 --per-class 120 --test-per-class 20 --imbalance 6 --size 8";
        ok(self.glmc(&format!("{fixed} --seed {seed} --out {name}")));
    }
}

/// The command line of a sweep of two by two runs into `out`.
fn two_by_two(out: &str) -> String {
    format!("sweep --base demo --data a.lt {SETTINGS} --seeds 0..1 --grid k=1,1.2 --out {out}")
}

const RUNS: [&str; 4] = ["k=1,seed=0", "k=1,seed=1", "k=1.2,seed=0", "k=1.2,seed=1"];

/// The models of these runs, last and best.
fn models(sweep: &Path, runs: &[&str]) -> Vec<Vec<u8>> {
    let files = runs.iter().flat_map(|run| ["last", "best"].map(|which| format!("{run}/{which}.safetensors")));
    files.map(|file| fs::read(sweep.join(file)).expect("a checkpoint")).collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).expect("a file")).expect("JSON")
}

/// The lines of a summary by the names of its columns.
fn summary(sweep: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(sweep.join("summary.csv")).expect("a summary");
    let mut lines = text.lines().map(|line| {
        // Names of runs have a comma, and so are quoted; nothing else is.
        let parts = line.split('"').enumerate();
        let parts = parts.map(|(at, part)| if at % 2 == 1 { part.replace(',', "/") } else { part.to_string() });
        parts.collect::<String>().split(',').map(|cell| cell.replace('/', ",")).collect::<Vec<_>>()
    });
    let headings = lines.next().expect("headings");
    lines.map(|line| headings.iter().cloned().zip(line).collect()).collect()
}

#[test]
fn a_sweep_makes_every_run_and_its_figures_are_the_runs() {
    let place = Place::with_store();
    let stdout = ok(place.glmc(&two_by_two("s")));
    let lines = summary(&place.path("s"));
    let of: Vec<&str> = lines.iter().map(|line| line["of"].as_str()).collect();
    assert_eq!(of, ["run", "run", "mean", "deviation", "run", "run", "mean", "deviation"]);
    let runs: Vec<&str> = lines.iter().map(|line| line["run"].as_str()).filter(|run| !run.is_empty()).collect();
    assert_eq!(runs, RUNS);
    let figures = ["top1", "top5", "many", "medium", "few", "ece"];
    for (point, k) in lines.chunks(4).zip(["1", "1.2"]) {
        for which in ["last", "best"] {
            let results: Vec<Value> = point[..2]
                .iter()
                .map(|line| json(&place.path("s").join(&line["run"]).join("result.json"))[which].clone())
                .collect();
            for figure in figures {
                let column = format!("{which}_{figure}");
                let [a, b] = [0, 1].map(|at: usize| results[at][figure].as_f64().expect("a figure"));
                let at = |line: usize| point[line][&column].parse::<f64>().expect("a figure");
                assert_eq!((at(0), at(1)), (a, b), "{column}");
                // Of two values the sample's deviation is their distance over the root of 2.
                let (mean, deviation) = ((a + b) / 2.0, (a - b).abs() / 2f64.sqrt());
                assert!((at(2) - mean).abs() < 1e-9 && (at(3) - deviation).abs() < 1e-9, "{column}: {point:?}");
                let cell = format!("{mean:.2} +- {deviation:.2}");
                assert!(stdout.contains(&cell), "{cell}: {stdout}");
            }
            for line in 0..2 {
                assert_eq!(point[line][&format!("{which}_epoch")], results[line]["epoch"].to_string());
            }
        }
        assert!(point.iter().all(|line| line["k"] == k), "{point:?}");
        assert_eq!([0, 1].map(|line: usize| point[line]["seed"].as_str()), ["0", "1"]);
    }
    for part in ["k=1: mean +- standard deviation (seed 0, 1)", "last epoch", "best epoch", "many-shot", "few-shot"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }

    // A run is one that `train` makes.
    let alone = format!("train --preset demo --data a.lt {SETTINGS} --k 1.2 --seed 1 --out alone");
    ok(place.glmc(&alone));
    assert!(models(&place.path("s"), &RUNS[3..]) == models(&place.path("."), &["alone"]));

    // Once more: nothing is trained again, and the outcome is the same. One seed more: two runs more.
    let before = models(&place.path("s"), &RUNS);
    assert_eq!(ok(place.glmc(&two_by_two("s"))), stdout);
    assert!(models(&place.path("s"), &RUNS) == before);
    let more = two_by_two("s").replace("0..1", "0..2");
    assert!(ok(place.glmc(&format!("{more} --dry-run"))).contains("6 runs in s, 4 finished; about"));
    ok(place.glmc(&more));
    assert_eq!(summary(&place.path("s")).len(), 10);
    for run in RUNS {
        let processes = json(&place.path("s").join(run).join("run.json"))["processes"].as_array().map(Vec::len);
        assert_eq!(processes, Some(1), "{run}");
    }
}

#[test]
fn a_sweep_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::with_store();
    let start = Instant::now();
    ok(place.glmc(&two_by_two("whole")));
    let longest = start.elapsed().as_micros() as usize;
    let mut dice = Random::new(3);
    let mut kills = 0;
    loop {
        let mut child = place.command(&two_by_two("killed"));
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        // The last time to its end.
        if kills < 8 {
            std::thread::sleep(Duration::from_micros(dice.below(longest) as u64));
            child.kill().expect("a kill");
        }
        kills += 1;
        let output = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_none_or(|code| code == 0), "{stderr}");
        if kills > 8 {
            break;
        }
    }
    assert!(models(&place.path("killed"), &RUNS) == models(&place.path("whole"), &RUNS), "other bits after kills");
    let [whole, killed] =
        ["whole", "killed"].map(|name| fs::read(place.path(name).join("summary.csv")).expect("a file"));
    assert!(whole == killed, "other figures after kills");
}

#[test]
fn ctrl_c_saves_the_run_and_names_the_command_that_goes_on() {
    let place = Place::with_store();
    let line = two_by_two("s").replace("--epochs 3", "--epochs 40");
    ok(place.glmc(&line.replace("--out s", "--out whole")));
    let mut command = place.command(&line);
    let child = heeding(command.stdout(Stdio::null()).stderr(Stdio::piped())).spawn().expect("the program starts");
    // In the second run.
    while !place.path("s").join(RUNS[1]).join("metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    let output = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((interrupt.success(), output.status.code()), (true, Some(130)), "{stderr}");
    assert!(stderr.contains(&format!("to continue: glmc-engine {line}\n")), "{stderr}");
    let list = ok(place.glmc(&format!("{line} --dry-run")));
    assert!(list.contains("part-way") && list.contains("40/40") && list.contains(" 0/40"), "{list}");
    ok(place.glmc(&line));
    assert!(models(&place.path("s"), &RUNS) == models(&place.path("whole"), &RUNS), "other bits after Ctrl-C");
}

#[test]
fn a_dry_run_lists_the_runs_and_leaves_nothing() {
    let place = Place::with_store();
    let list = ok(place.glmc(&format!("{} --dry-run", two_by_two("s"))));
    assert!(RUNS.iter().all(|run| list.contains(run)), "{list}");
    assert!(list.contains("4 runs in s, 0 finished; about ") && list.contains("first "), "{list}");
    // The demo's images are not drawn for a list.
    let list = ok(place.glmc(&format!("sweep --base demo {SETTINGS} --seeds 3,5 --grid width=2,4 --dry-run")));
    assert!(list.contains("width=4,seed=5") && list.contains("each of 2 kinds of run"), "{list}");
    let names: Vec<_> =
        fs::read_dir(place.path("")).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(names, ["a.lt"]);
}

#[test]
fn the_demos_runs_share_their_images() {
    let place = Place::with_store();
    let line = "sweep --base demo --width 2 --epochs 1 --batch 128 --device cpu --seeds 0..1";
    let stdout = ok(place.glmc(line));
    assert!(stdout.contains("demo: mean +- standard deviation (seed 0, 1)"), "{stdout}");
    let sweep = place.path("sweeps/demo");
    assert!(sweep.join("data.lt/meta.json").exists() && !sweep.join("seed=0/data.lt").exists());
    let [zero, one] = [0, 1].map(|seed| fs::read(sweep.join(format!("seed={seed}/last.safetensors"))).expect("a file"));
    assert!(zero != one, "two seeds, one run");
    ok(place.glmc(line));
}

#[test]
fn what_does_not_belong_to_the_sweep_is_refused_in_one_line() {
    let place = Place::with_store();
    place.prepare("b.lt", 1);
    ok(place.glmc(&two_by_two("s")));
    let before = models(&place.path("s"), &RUNS);
    let line = two_by_two("s");
    let cases = [
        (line.replace("0..1", "0"), 1, "seed=1, which is no run of this sweep: give another --out"),
        (line.replace("k=1,1.2", "k=1,1.3"), 1, "which is no run of this sweep"),
        (
            line.replace("--lr 0.02", "--lr 0.05"),
            1,
            "is a run of another configuration than this sweep's (lr 0.02 there, 0.05 here): give another --out",
        ),
        (line.replace("a.lt", "b.lt"), 1, "was trained on another store"),
        (line.replace("a.lt", "c.lt"), 1, "no such store"),
        (line.replace("--base demo", "--base nonsense"), 2, "unknown preset"),
        (line.replace("k=1,1.2", "kk=1"), 2, "kk is no setting: known are"),
        (line.replace("k=1,1.2", "k=1,x"), 2, "invalid value 'x' for '--k <K>'"),
        (line.replace("--seeds 0..1", "--seeds 0..1 --seed 3"), 2, "give --seeds"),
        (line.replace("k=1,1.2", "batch=16,0"), 1, "batch must be at least 1"),
        ("sweep --base cifar10-lt-if100 --seeds 0..1 --device cpu".to_string(), 2, "no data"),
        (line.replace("--base demo", "--base cifar10-lt-if100"), 1, "meant for 10"),
    ];
    for (line, status, part) in cases {
        let message = error(place.glmc(&line), status);
        assert!(message.contains(part), "{line}: {message}");
    }
    assert_eq!(place.glmc(&line.replace("0..1", "1..0")).status.code(), Some(2));
    fs::write(place.path("s/notes.txt"), "mine").expect("writable");
    assert!(error(place.glmc(&line), 1).contains("holds notes.txt, which is no run of this sweep"));
    fs::remove_file(place.path("s/notes.txt")).expect("a file");
    // A run that another one was put in the place of.
    let alone = format!("train --preset demo --data a.lt {SETTINGS} --seed 0 --gamma 2 --k 1 --out alone");
    ok(place.glmc(&alone));
    let (theirs, kept) = (place.path("s").join(RUNS[0]), place.path("kept"));
    fs::rename(&theirs, &kept).expect("a rename");
    fs::rename(place.path("alone"), &theirs).expect("a rename");
    let message = error(place.glmc(&line), 1);
    assert!(message.contains("(gamma 2.0 there, 1.0 here)"), "{message}");
    fs::remove_dir_all(&theirs).expect("a folder");
    fs::rename(&kept, &theirs).expect("a rename");
    assert!(models(&place.path("s"), &RUNS) == before, "a refused sweep changes nothing");
    ok(place.glmc(&line));
}

#[test]
fn a_run_that_diverges_does_not_keep_the_others_from_being_made() {
    let place = Place::with_store();
    let line = two_by_two("s").replace("k=1,1.2", "lr=100,0.02").replace("--lr 0.02", "");
    for _ in 0..2 {
        let message = error(place.glmc(&line), 1);
        assert!(message.contains("2 of 4 runs did not stay finite") && message.contains("lr=100,seed=1"), "{message}");
        let runs: Vec<String> = summary(&place.path("s")).iter().map(|line| line["run"].clone()).collect();
        assert_eq!(runs, ["lr=0.02,seed=0", "lr=0.02,seed=1", "", ""]);
    }
}
