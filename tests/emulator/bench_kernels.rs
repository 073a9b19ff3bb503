//! `bench kernels`: a row per kernel, saved times come back, and what it refuses.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(what: &str, more: &[&str]) -> Output {
    let sizes = "--width 4 --batch 1 --size 8 --seconds 0 --device emulator";
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    command.args(["bench", what]).args(sizes.split(' ')).args(more).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_kernel_has_a_row_in_both_precisions() {
    for precision in ["f32", "bf16"] {
        let text = stdout(&bench("kernels", &["--precision", precision, "--json"]));
        let bench: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&bench["device"], &bench["precision"]), (&"emulator".into(), &precision.into()));
        let rows = bench["kernels"].as_array().unwrap();
        assert!(rows.len() > 40, "{} rows", rows.len());
        for row in rows {
            assert!(row["seconds"].as_f64().unwrap() > 0.0 && row["bytes"].as_f64().unwrap() > 0.0, "{row}");
        }
        assert!(rows.iter().any(|row| row["flops"].as_f64().unwrap() > 0.0));
    }
}

#[test]
fn times_are_saved_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("before.json");
    let path = path.to_str().unwrap();
    let first = stdout(&bench("kernels", &["--only", "linear *", "--save", path]));
    assert_eq!(first.lines().filter(|line| line.starts_with("linear ")).count(), 3, "{first}");
    assert!(!first.contains("ratio"), "{first}");
    let second = stdout(&bench("kernels", &["--only", "*forward", "--compare", path]));
    let line = |start: &str| second.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_string();
    assert!(second.contains("ratio") && !second.contains("other work"), "{second}");
    assert!(line("linear forward").ends_with(|c: char| c.is_ascii_digit()), "{second}");
    assert!(line("global_avg_pool forward").ends_with(" -"), "{second}");
    let third = stdout(&bench("kernels", &["--only", "linear *", "--precision", "bf16", "--compare", path]));
    assert!(third.contains("compared with other work: width 4, batch 1, images of 8, on emulator in f32"), "{third}");
}

#[test]
fn what_does_not_fit_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.json");
    std::fs::write(&path, "{}").unwrap();
    let path = path.to_str().unwrap();
    for (what, more, wanted) in [
        ("kernels", ["--only", "nothing*"], "--only nothing*: no kernel's name matches"),
        ("kernels", ["--compare", path], "holds no times of `bench kernels --save`"),
        ("kernels", ["--width", "3"], "an even width"),
        ("ops", ["--only", "conv2d*"], "--only is for `bench kernels`"),
        ("step", ["--save", path], "--save is for `bench kernels`"),
    ] {
        let mut arguments = more.to_vec();
        if more[0] == "--width" {
            arguments.extend(["--only", "sgd"]);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
        let output = command.args(["bench", what, "--device", "emulator", "--seconds", "0"]).args(arguments).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.lines().count() == 1 && error.contains(wanted), "{error}");
    }
}
