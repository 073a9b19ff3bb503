//! `glmc-engine train`, `--resume` and `eval`: training, stopping in every way, resuming, evaluating, and every file of a run
//! damaged in every way.

mod ablations;
mod branches;
mod damage;
mod divergence;
mod extend;
mod finetune;
mod folder;
mod init;
mod lengths;
mod methods;
mod model;
mod optimizer;
mod photos;
mod posthoc;
mod preset;
mod select;
mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::array::Random;
use crate::common::signals::heeding;
use crate::{BIN, error, glmc, ok, text};

/// A folder with a small long-tailed store in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: TempDir::new().expect("a temporary folder") };
        ok(glmc(&[
            "prepare",
            "synthetic",
            "--out",
            text(&place.store()),
            "--classes",
            "4",
            "--per-class",
            "40",
            "--imbalance",
            "8",
            "--size",
            "8",
            "--seed",
            "3",
        ]));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("data.lt")
    }

    /// The arguments of a short training run into `out`.
    fn training(&self, out: &Path) -> Vec<String> {
        let fixed =
            "train --model resnet20 --width 4 --epochs 6 --batch 16 --lr 0.05 --weight-decay 5e-4 --seed 1 --threads 1";
        let mut arguments: Vec<String> = fixed.split(' ').map(String::from).collect();
        arguments.extend(["--data".into(), text(&self.store()).into(), "--out".into(), text(out).into()]);
        arguments
    }

    fn train(&self, out: &Path, more: &[&str]) -> Output {
        let arguments = self.training(out);
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        all.extend(more);
        glmc(&all)
    }
}

fn resume(run: &Path) -> Output {
    glmc(&["train", "--resume", text(run)])
}

/// Lines of metrics.jsonl without what time it took.
fn timeless_metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.iter_mut().for_each(strip_times);
    lines
}

fn strip_times(metrics: &mut Value) {
    let metrics = metrics.as_object_mut().expect("an object");
    metrics.retain(|key, _| key != "seconds" && key != "samples_per_second");
}

/// result.json, likewise.
fn timeless_result(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("result.json")).expect("a result");
    let mut result: Value = serde_json::from_str(&text).expect("JSON");
    ["last", "best"].iter().for_each(|part| strip_times(&mut result[part]));
    let waited = result.as_object_mut().expect("an object").remove("waited_for_images_seconds");
    assert!(waited.expect("a time").as_f64().expect("seconds") >= 0.0);
    result
}

#[test]
fn a_run_writes_its_folder_and_eval_agrees_with_it() {
    let place = Place::new();
    let run = place.path("run");
    let stdout = ok(place.train(&run, &[]));
    assert!(stdout.contains("last epoch") && stdout.contains("few-shot"), "{stdout}");
    let metrics = timeless_metrics(&run);
    let epochs: Vec<_> = metrics.iter().map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(epochs, (1..=6).map(Some).collect::<Vec<_>>());
    let result = timeless_result(&run);
    assert_eq!(result["last"], metrics[5]);
    assert!(metrics.contains(&result["best"]));
    let store = place.store();
    for (file, part) in [("last.safetensors", "last"), ("best.safetensors", "best")] {
        let file = run.join(file);
        let json = ok(glmc(&["eval", "--checkpoint", text(&file), "--data", text(&store), "--json"]));
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        for key in ["top1", "top5", "ece", "many", "medium", "few", "per_class"] {
            assert_eq!(json[key], result[part][key], "{part} {key}");
        }
        assert_eq!(json["head"], "fc_cb");
    }
    let other = ok(glmc(&[
        "eval",
        "--checkpoint",
        text(&run.join("last.safetensors")),
        "--data",
        text(&store),
        "--head",
        "fc",
    ]));
    assert!(other.contains("classifier fc,"), "{other}");
}

#[test]
fn the_same_seed_gives_the_same_bits_with_any_number_of_threads() {
    let place = Place::new();
    let train = |name: &str, threads: &str| {
        let run = place.path(name);
        let mut arguments = place.training(&run);
        let at = arguments.iter().position(|a| a == "--threads").expect("a flag") + 1;
        arguments[at] = threads.into();
        ok(glmc(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        weights(&run)
    };
    let one = train("one", "1");
    assert!(one == train("again", "1"), "other bits the second time");
    assert!(one == train("two", "2"), "other bits with two threads");
    assert!(one == train("three", "3"), "other bits with three threads");
}

/// The tensors of a run's last checkpoint: everything behind the header, which also names the number of threads.
fn weights(run: &Path) -> Vec<u8> {
    let bytes = fs::read(run.join("last.safetensors")).expect("a checkpoint");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[8 + header..].to_vec()
}

/// Starts the program and kills it after some microseconds; whether it had finished by then. An error is a failure.
fn killed_within(command: &mut Command, micros: usize) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    std::thread::sleep(Duration::from_micros(micros as u64));
    child.kill().expect("a kill");
    let output = child.wait_with_output().expect("an end");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_none_or(|code| code == 0), "{stderr}");
    output.status.success()
}

/// Trains with these arguments once undisturbed and once through `wanted` kills: files and figures must be equal.
fn assert_kills_change_nothing(place: &Place, more: &[&str], wanted: usize) {
    let whole = place.path("whole");
    let start = Instant::now();
    ok(place.train(&whole, more));
    // Moments all over a run, however fast the machine is.
    let longest = start.elapsed().as_micros() as usize;
    let expected = fs::read(whole.join("last.safetensors")).expect("a checkpoint");
    let run = place.path("killed");
    let mut dice = Random::new(11);
    let mut kills = 0;
    let mut finished = false;
    let arguments = place.training(&run);
    while kills < wanted {
        let mut command = Command::new(BIN);
        if run.join("config.toml").exists() && !finished {
            command.args(["train", "--resume", text(&run)]);
        } else {
            // Finished before the last kill: once more from the start.
            fs::remove_dir_all(&run).ok();
            command.args(&arguments).args(more);
        }
        finished = killed_within(&mut command, dice.below(longest));
        kills += usize::from(!finished);
    }
    if !run.join("config.toml").exists() {
        ok(place.train(&run, more));
    }
    ok(resume(&run));
    assert!(fs::read(run.join("last.safetensors")).expect("a checkpoint") == expected, "other bits after kills");
    assert_eq!(timeless_metrics(&run), timeless_metrics(&whole));
    assert_eq!(timeless_result(&run), timeless_result(&whole));
    assert!(weights_of(&run, "best.safetensors") == weights_of(&whole, "best.safetensors"));
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_bits() {
    assert_kills_change_nothing(&Place::new(), &[], 20);
}

fn weights_of(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(name)).expect("a checkpoint")
}

/// Lines of metrics.jsonl so far.
fn epochs(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Starts the program and waits until the run has `more` epochs more than before, or is over.
fn start_until(run: &Path, arguments: &[&str], more: usize) -> Child {
    let (before, mut command) = (epochs(run), Command::new(BIN));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = heeding(&mut command).spawn().expect("the program starts");
    while epochs(run) < before + more && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let place = Place::new();
    let (whole, run) = (place.path("whole"), place.path("stopped"));
    // Many times the epochs that pass before the signal comes.
    let many = ["--epochs", "60"];
    ok(place.train(&whole, &many));
    let first = place.training(&run);
    let first: Vec<&str> = first.iter().map(String::as_str).chain(many).collect();
    for arguments in [&first[..], &["train", "--resume", text(&run)], &["train", "--resume", text(&run)]] {
        let child = start_until(&run, arguments, 1);
        let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
        let output = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((interrupt.success(), output.status.code()), (true, Some(130)), "{stderr}");
        assert!(stderr.contains("to continue: glmc-engine train --resume"), "{stderr}");
    }
    ok(resume(&run));
    assert!(weights_of(&run, "last.safetensors") == weights_of(&whole, "last.safetensors"));
    assert_eq!(timeless_metrics(&run), timeless_metrics(&whole));
}

#[test]
fn a_run_goes_on_on_another_device_and_in_another_precision() {
    let place = Place::new();
    let small = ["--width", "2", "--epochs", "8"];
    let (whole, run) = (place.path("whole"), place.path("moved"));
    ok(place.train(&whole, &small));
    // Runs until an epoch more is done and saved, then kills it.
    let leg = |arguments: &[&str]| {
        let mut child = start_until(&run, arguments, 2);
        child.kill().expect("a kill");
        child.wait().expect("an end");
    };
    let first = place.training(&run);
    let first: Vec<&str> = first.iter().map(String::as_str).chain(small).chain(["--device", "emulator"]).collect();
    leg(&first);
    leg(&["train", "--resume", text(&run), "--device", "emulator", "--precision", "bf16"]);
    ok(glmc(&["train", "--resume", text(&run), "--device", "cpu"]));

    let (moved, stayed) = (timeless_metrics(&run), timeless_metrics(&whole));
    assert_eq!(moved.len(), stayed.len());
    let difference = |epoch: usize| {
        let loss = |metrics: &[Value]| metrics[epoch]["loss"].as_f64().expect("a loss");
        (loss(&moved) - loss(&stayed)).abs()
    };
    assert!(difference(0) < 1e-4, "an epoch in f32 on the emulator and on the cpu: {}", difference(0));
    assert!(difference(7) < 0.5, "after an epoch in bf16: {}", difference(7));
    let checkpoint = run.join("last.safetensors");
    let top1 = |device: &str, precision: &str| {
        let store = place.store();
        let fixed = ["eval", "--json", "--checkpoint", text(&checkpoint), "--data", text(&store), "--device", device];
        let evaluation: Value =
            serde_json::from_str(&ok(glmc(&[&fixed[..], &["--precision", precision]].concat()))).expect("JSON");
        evaluation["top1"].as_f64().expect("a figure")
    };
    let oracle = top1("cpu", "f64");
    for (device, precision, points) in [("cpu", "f32", 0.51), ("emulator", "f32", 0.51), ("emulator", "bf16", 5.0)] {
        let got = top1(device, precision);
        assert!((got - oracle).abs() < points, "{device} {precision}: {got}, not {oracle}");
    }
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let place = Place::new();
    let run = place.path("run");
    let first = place.training(&run);
    let first: Vec<&str> = first.iter().map(String::as_str).chain(["--epochs", "1000"]).collect();
    let mut first = start_until(&run, &first, 1);
    let (again, resumed) = (place.train(&run, &[]), resume(&run));
    first.kill().expect("a kill");
    first.wait().expect("an end");
    assert!(error(again, 1).contains("another process is training in this folder"));
    assert!(error(resumed, 1).contains("another process is training in this folder"));
    assert!(error(place.train(&run, &[]), 1).contains("there is a run here already"));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let place = Place::new();
    let run = place.path("run");
    let line = error(place.train(&run, &["--lr", "100"]), 1);
    for part in ["epoch", "step", "L_c", "L_cb", "L_sim", "--lr"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn every_file_of_a_run_damaged_in_every_way() {
    let place = Place::new();
    let (run, other) = (place.path("run"), place.path("other"));
    ok(place.train(&run, &[]));
    ok(place.train(&other, &["--lr", "0.01"]));
    let mut dice = Random::new(5);
    for name in ["config.toml", "metrics.jsonl", "last.safetensors", "best.safetensors"] {
        let file = run.join(name);
        let whole = fs::read(&file).expect("a file of the run");
        let mut damages: Vec<(String, Vec<u8>)> = vec![
            ("emptied".into(), Vec::new()),
            ("swapped".into(), fs::read(other.join(name)).expect("a file of the other run")),
            ("replaced by noise".into(), (0..whole.len()).map(|_| dice.below(256) as u8).collect()),
        ];
        for part in [2, 3, 10] {
            damages.push((format!("cut to 1/{part}"), whole[..whole.len() / part].to_vec()));
        }
        for _ in 0..6 {
            let mut flipped = whole.clone();
            let at = dice.below(whole.len());
            flipped[at] ^= 1 << dice.below(8);
            damages.push((format!("bit flipped in byte {at}"), flipped));
        }
        for (what, bytes) in damages {
            fs::write(&file, bytes).expect("writable");
            let output = resume(&run);
            // A flip in a time that nothing depends on does no harm; anything else is an error.
            let harmless = name == "metrics.jsonl" && output.status.success();
            if !harmless {
                let line = error(output, 1);
                assert!(line.contains(text(&run)), "{name} {what}: {line}");
            } else {
                assert!(what.contains("flipped"), "{name} {what} went unnoticed");
            }
            fs::write(&file, &whole).expect("writable");
            if name.ends_with("safetensors") && what != "swapped" {
                fs::write(&file, &whole[..whole.len() - 1]).expect("writable");
                let store = place.store();
                let line = error(glmc(&["eval", "--checkpoint", text(&file), "--data", text(&store)]), 1);
                assert!(line.contains(name), "{line}");
                fs::write(&file, &whole).expect("writable");
            }
        }
    }
    ok(resume(&run));
}

#[test]
fn bad_requests_get_one_line_and_the_right_status() {
    let place = Place::new();
    let run = place.path("run");
    let missing = place.path("nowhere.lt");
    let cases: Vec<(Output, i32, &str)> = vec![
        (glmc(&["train", "--preset", "nonsense"]), 2, "unknown preset"),
        (glmc(&["train", "--preset", "cifar10-lt-if100"]), 2, "no data"),
        (glmc(&["train", "--data", text(&missing)]), 1, "no such store"),
        (glmc(&["train", "--resume", text(&missing)]), 1, "no run here"),
        (glmc(&["train", "--resume", text(&missing), "--lr", "1"]), 2, "--resume keeps"),
        (place.train(&run, &["--model", "vgg"]), 1, "unknown model"),
        (place.train(&run, &["--width", "0"]), 1, "width"),
        (place.train(&run, &["--momentum", "1.5"]), 1, "momentum"),
        (place.train(&run, &["--device", "tpu"]), 1, "tpu"),
        (place.train(&run, &["--precision", "bf16"]), 1, "bf16"),
        (place.train(&run, &["--batch", "0"]), 1, "batch"),
        (place.train(&run, &["--seed", "9223372036854775808"]), 1, "seed must be at most 9223372036854775807"),
        (glmc(&["bench", "step", "--batch", "0"]), 1, "batch"),
        (glmc(&["verify", text(&missing)]), 1, "nowhere"),
    ];
    for (output, status, part) in cases {
        let line = error(output, status);
        assert!(line.contains(part), "{line}");
    }
    assert!(!run.exists(), "a request that cannot be met leaves nothing behind");
    let config = place.path("config.toml");
    fs::write(&config, "epochs = 3\nlearning_rate = 1.0\n").expect("writable");
    let line = error(place.train(&run, &["--config", text(&config)]), 1);
    assert!(line.contains("line 2") && line.contains("learning_rate"), "{line}");
    assert_eq!(glmc(&["train", "--lr", "much"]).status.code(), Some(2));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_preset() {
    let place = Place::new();
    let (run, config) = (place.path("run"), place.path("my.toml"));
    fs::write(&config, "preset = \"cifar100-lt-if50-w16\"\nepochs = 2\nlr = 0.5\nmodel = \"resnet20\"\n")
        .expect("writable");
    let store = place.store();
    ok(glmc(&[
        "train",
        "--any-data",
        "--config",
        text(&config),
        "--data",
        text(&store),
        "--out",
        text(&run),
        "--lr",
        "0.02",
        "--width",
        "2",
        "--threads",
        "1",
    ]));
    let written: toml::Table =
        toml::from_str(&fs::read_to_string(run.join("config.toml")).expect("a file")).expect("TOML");
    for (key, value) in [("lr", 0.02), ("gamma", 6.0), ("resample", 0.2)] {
        assert_eq!(written[key].as_float(), Some(value), "{key}");
    }
    assert_eq!((written["epochs"].as_integer(), written["width"].as_integer()), (Some(2), Some(2)));
}

#[test]
fn the_baseline_and_streamed_images_train_too() {
    let place = Place::new();
    // On the emulator fewer steps: every CUDA thread is run there. 23 is no divisor of the images, so that steps of two
    // sizes are staged.
    for (device, more) in [("cpu", &[][..]), ("emulator", &["--epochs", "1", "--width", "2", "--precision", "bf16"])] {
        for method in ["ce", "glmc", "bbn"] {
            let train = |name: &str, limit: &[&str]| {
                let run = place.path(&format!("{name}-{method}-{device}"));
                let fixed = [more, limit, &["--method", method, "--device", device, "--batch", "23"]].concat();
                ok(place.train(&run, &fixed));
                weights(&run)
            };
            let resident = train("resident", &[]);
            assert!(train("streamed", &["--resident-limit", "0"]) == resident, "streaming changes nothing");
        }
    }
}

#[test]
fn a_run_takes_the_memory_that_info_predicts() {
    let place = Place::new();
    for (device, limit) in [("cpu", &[][..]), ("cpu", &["--resident-limit", "0"]), ("emulator", &[])] {
        let run = place.path(&format!("{device}{}", limit.len()));
        let chosen = [limit, &["--device", device, "--batch", "16", "--width", "2", "--epochs", "1"]].concat();
        ok(place.train(&run, &chosen));
        let result = timeless_result(&run);
        let store = place.store();
        let info = [&["info", "--json", "--data", text(&store), "--model", "resnet20"], &chosen[..]].concat();
        let predicted: Value = serde_json::from_str(&ok(glmc(&info))).expect("JSON");
        let predicted = &predicted["memory"];
        assert_eq!(predicted["total_bytes"], result["peak_bytes"], "{device} {limit:?}");
        assert_eq!(predicted["images_resident"], limit.is_empty());
        let part = |name: &str| predicted[name].as_u64().expect("a number");
        let parts = ["parameters_bytes", "activations_bytes", "images_bytes", "other_bytes"];
        assert_eq!(parts.map(part).iter().sum::<u64>(), part("total_bytes"));
    }
}
