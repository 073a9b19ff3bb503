//! Output that cannot be written: results say so in a line, progress never ends a run.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{BIN, glmc, ok, text};

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("a full device").into()
}

#[test]
fn a_full_standard_output_is_one_line_and_status_1() {
    for arguments in [&["info"][..], &["info", "--json"], &["train", "--list-presets"]] {
        let child = Command::new(BIN).args(arguments).stdout(full()).stderr(Stdio::piped()).spawn().expect("a start");
        let output = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: standard output: ") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn training_outlives_a_full_log_and_a_reader_that_goes() {
    let folder = TempDir::new().expect("a temporary folder");
    let store = folder.path().join("a.lt");
    ok(glmc(&[
        "prepare",
        "synthetic",
        "--classes",
        "3",
        "--per-class",
        "20",
        "--imbalance",
        "4",
        "--size",
        "8",
        "--out",
        text(&store),
    ]));
    let fixed = "train --model resnet20 --width 2 --epochs 4 --batch 8 --lr 0.01 --threads 1 --device cpu";
    let train = |out: &str| {
        let mut command = Command::new(BIN);
        command.args(fixed.split(' ')).args(["--data", text(&store), "--out", text(&folder.path().join(out))]);
        command
    };
    let whole = |run: &str| {
        let metrics = fs::read_to_string(folder.path().join(run).join("metrics.jsonl")).expect("metrics");
        metrics.lines().count() == 4
    };
    let status = train("full").stdout(Stdio::null()).stderr(full()).status().expect("an end");
    assert!(status.success() && whole("full"), "{status}");

    // Both readers go before the first epoch's line.
    let mut child = train("gone").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a start");
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().expect("an end");
    assert!(status.success() && whole("gone"), "{status}");

    // The results themselves cannot be told: the run is whole all the same.
    let status = train("untold").stdout(full()).stderr(Stdio::null()).status().expect("an end");
    assert_eq!(status.code(), Some(1));
    assert!(whole("untold"));
}

#[test]
fn completions_and_manual_pages_cover_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = ok(glmc(&["completions", shell]));
        assert!(text.contains("contrast_weight") || text.contains("resident-limit"), "{shell}");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let pages = folder.path().join("man");
    ok(glmc(&["man", text(&pages)]));
    for page in ["glmc-engine.1", "glmc-engine-train.1", "glmc-engine-prepare-images.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}");
    }
}
