//! PyTorch's answers beside ours, where it is installed.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::Place;
use crate::{BIN, ok, text};

/// The Python that has PyTorch and torchvision: GLMC_PYTHON, or `python3`.
fn python() -> Option<String> {
    let python = std::env::var("GLMC_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import torch, torchvision, safetensors, PIL"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn pytorch_says_the_same() {
    let Some(python) = python() else {
        println!("skipped: no Python with PyTorch and torchvision (GLMC_PYTHON names one)");
        return;
    };
    // Resized images differ by one count in some pixels, as rounding in two passes does; others are the same bytes.
    for (name, place, prepare, train, limit) in [
        ("small", Place::small(), &["--size", "8"][..], &[][..], 1e-4),
        (
            "photographs",
            Place::photographs(),
            &["--resize", "short:28"],
            &["--size", "24", "--eval-resize", "28"],
            0.15,
        ),
    ] {
        // Photographs that JPEG decoders disagree about are another question.
        for i in (1..42).step_by(5) {
            fs::remove_file(place.path(&format!("files/{i:02}.jpg"))).expect("a file");
        }
        for name in ["train.txt", "test.txt"] {
            let list = fs::read_to_string(place.path(name)).expect("a list");
            let kept: Vec<&str> = list.lines().filter(|line| !line.contains(".jpg")).collect();
            fs::write(place.path(name), kept.join("\n")).expect("a list");
        }
        let run = place.run(name, &place.store("data.lt", prepare), train);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/bench_predict.py");
        let mut command = Command::new(&python);
        command.args([script, "--checkpoint", text(&run.join("last.safetensors")), text(&place.path("files"))]);
        command.args(["--engine", BIN, "--threads", "1", "--check", "--json"]);
        let told: Value = serde_json::from_str(&ok(command.output().expect("Python starts"))).expect("JSON");
        assert_eq!((&told["images"], &told["other_top1"]), (&33.into(), &0.into()), "{name}: {told}");
        let worst = told["largest_logit_difference"].as_f64().expect("a number");
        println!("{name}: largest difference of a logit {worst:.2e}");
        assert!(worst < limit, "{name}: {told}");
    }
}
