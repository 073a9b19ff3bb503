//! `glmc-engine bench` as a user calls it: its JSON, its table, and that the figures in them agree with each other.

use std::process::Command;

use crate::{BIN, error, glmc, ok};

fn bench(arguments: &[&str]) -> String {
    let small = ["--model", "resnet20", "--width", "2", "--batch", "2", "--size", "8", "--seconds", "0"];
    let mut command = Command::new(BIN);
    // Wide enough for every column.
    command.arg("bench").args(arguments).args(small).args(["--threads", "2"]).env("COLUMNS", "160");
    ok(command.output().expect("the program starts"))
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&bench(&[arguments, &["--json"]].concat())).expect("one JSON value")
}

#[test]
fn ops_are_held_against_the_measured_ceilings() {
    for (device, precision, method) in [("cpu", "f32", "glmc"), ("cpu", "f64", "ce"), ("emulator", "bf16", "glmc")] {
        let b = json(&["ops", "--device", device, "--precision", precision, "--method", method]);
        assert_eq!((&b["device"], &b["precision"], &b["method"]), (&device.into(), &precision.into(), &method.into()));
        let number = |value: &serde_json::Value| value.as_f64().filter(|v| *v > 0.0).expect("a positive number");
        let ceilings = [number(&b["ceilings"]["tflops"]), number(&b["ceilings"]["gbytes"])];
        let ops = b["ops"].as_array().expect("a list");
        let mut share = 0.0;
        for op in ops {
            share += number(&op["share"]);
            let of_ceilings = [op["tflops"].as_f64().unwrap() / ceilings[0], number(&op["gbytes"]) / ceilings[1]];
            let higher = of_ceilings[0].max(of_ceilings[1]);
            assert!((number(&op["of_peak"]) / higher - 1.0).abs() < 1e-6, "{op}");
            assert_eq!(op["bound"], if of_ceilings[0] > of_ceilings[1] { "math" } else { "memory" }, "{op}");
        }
        assert!((share - 1.0).abs() < 1e-9);
        let names = |name: &str, pass: &str| ops.iter().any(|op| op["op"] == name && op["pass"] == pass);
        assert!(names("conv2d", "forward") && names("conv2d", "backward") && names("sgd", "backward"));
        assert_eq!(names("negative_cosine", "forward"), method == "glmc");
    }
}

#[test]
fn tables_name_device_ceilings_and_units() {
    let table = bench(&["ops"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("resnet20 width 2, batch 2, GLMC, on cpu in f32, 2 threads"), "{table}");
    assert!(lines[1].starts_with("measured ceilings: ") && lines[1].contains(" GB/s copying "), "{table}");
    for column in ["ms/step", "share", "FLOP/s", "GB/s", "of peak", "bound by"] {
        assert!(lines[2].contains(column), "{table}");
    }
    assert!(lines.iter().any(|line| line.starts_with("all ops")), "{table}");
}

#[test]
fn steps_are_timed() {
    let b = json(&["step"]);
    let product = b["samples_per_second"].as_f64().unwrap() * b["seconds_per_step"].as_f64().unwrap();
    assert!((product - 2.0).abs() < 1e-9, "{b}");
    for field in ["device", "precision", "quartiles", "rounds", "parameters", "peak_bytes"] {
        assert!(!b[field].is_null(), "{field} in {b}");
    }
}

#[test]
fn a_size_out_of_range_is_named() {
    for (flag, value) in
        [("--classes", "18446744073709551615"), ("--classes", "1"), ("--size", "3"), ("--batch", "65537")]
    {
        let line = error(glmc(&["bench", "step", flag, value]), 1);
        assert!(line.contains(&format!("{} {value} is not in", &flag[2..])), "{line}");
    }
}
