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

/// `bench plan` without a compiler, so that it says the same on every machine.
fn plan(arguments: &[&str], columns: &str) -> String {
    let mut command = Command::new(BIN);
    command.args(["bench", "plan"]).args(arguments).env("COLUMNS", columns).env("GLMC_NVRTC", "/no/such/folder");
    ok(command.output().expect("the program starts"))
}

#[test]
fn a_plan_adds_up() {
    let text = plan(&["--model", "resnet32", "--width", "64", "--gpu", "h200", "--json"], "100");
    let p: serde_json::Value = serde_json::from_str(&text).expect("one JSON value");
    assert_eq!((&p["predicted"], &p["gpu"]["name"], &p["precision"]), (&true.into(), &"h200".into(), &"bf16".into()));
    assert!(p["registers_from"]["launch_bounds"].as_str().is_some_and(|why| why.contains("/no/such/folder")), "{p}");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let (mut launches, mut seconds, mut flops) = (0.0, 0.0, 0.0);
    for row in p["rows"].as_array().expect("a list") {
        let (n, times) = (number(&row["launches"]), &row["seconds"]);
        let ceilings = ["math", "memory", "l2", "shared"].map(|name| number(&times[name]));
        let highest = ceilings.into_iter().fold(0.0, f64::max);
        assert!((number(&times["all"]) - highest - 3.3e-6).abs() < 1e-12, "the highest ceiling, gap and ramp: {row}");
        let blocks: f64 = row["grid"].as_array().expect("three").iter().map(number).product();
        assert!((number(&row["waves"]) * 132.0 * number(&row["resident"]) - blocks).abs() < 1e-6 * blocks, "{row}");
        launches += n;
        seconds += n * number(&times["all"]);
        flops += n * number(&row["flops"]);
    }
    assert_eq!(launches, number(&p["launches"]));
    assert!((seconds / number(&p["seconds"]) - 1.0).abs() < 1e-9 && (flops / number(&p["flops"]) - 1.0).abs() < 1e-9);
    assert!((number(&p["samples_per_second"]) * seconds / 64.0 - 1.0).abs() < 1e-9);
    // An A100 has no part of any of its rates that an H200 has not.
    let slower = plan(&["--model", "resnet32", "--width", "64", "--gpu", "a100", "--json"], "100");
    let slower: serde_json::Value = serde_json::from_str(&slower).expect("one JSON value");
    assert!(number(&slower["seconds"]) > 1.3 * seconds && slower["launches"] == p["launches"]);
}

#[test]
fn a_plan_reads_well_in_a_hundred_columns() {
    let text = plan(&["--model", "resnet20", "--width", "16"], "100");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let first = "resnet20 width 16, batch 64, images of 32, GLMC, in bf16: predicted for NVIDIA H200";
    assert!(lines[0].starts_with(first), "{text}");
    for column in ["kernel and shape", "waves", "math", "mem", "L2", "shared", "us", "ms"] {
        assert!(
            lines.iter().any(|line| line.contains("kernel and shape") && line.contains(column)),
            "{column}: {text}"
        );
    }
    assert!(text.contains("conv2d_forward 128x32x32x16->16") && text.contains("the step"), "{text}");
    let sum = lines.iter().find(|line| line.starts_with("predicted: ")).expect("the sum");
    assert!(sum.contains(" launches (") && sum.contains(" ms per step, ") && sum.ends_with(" samples/s"), "{sum}");
}

#[test]
fn predictions_stand_beside_what_was_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("times.json");
    let file = crate::text(&file);
    let small = ["--width", "2", "--batch", "2", "--size", "8", "--seconds", "0", "--threads", "2"];
    let only = ["bench", "kernels", "--device", "emulator", "--only", "conv2d layer1 4x*", "--save", file];
    ok(glmc(&[&only[..], &small].concat()));
    let step = ["--model", "resnet20", "--width", "2", "--batch", "2", "--size", "8", "--measured", file];
    let p: serde_json::Value =
        serde_json::from_str(&plan(&[&step[..], &["--json"]].concat(), "100")).expect("one JSON value");
    let rows = p["measured"]["kernels"].as_array().expect("a list");
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(rows.len(), 3, "forward and both gradients: {rows:?}");
    for (row, saved) in rows.iter().zip(saved["kernels"].as_array().unwrap()) {
        assert_eq!((&row["name"], &row["measured_seconds"]), (&saved["name"], &saved["seconds"]));
        let (launches, predicted) = (row["launches"].as_f64().unwrap(), row["predicted_seconds"].as_f64().unwrap());
        assert!(predicted > 3.2e-6 * launches && predicted < 1e-4, "{row}");
    }
    let table = plan(&step, "100");
    assert!(
        table.contains("us predicted") && table.contains("us measured") && table.contains("on emulator in f32"),
        "{table}"
    );
}

#[test]
fn flags_of_plans_and_of_devices_do_not_mix() {
    for (arguments, what) in [
        (&["bench", "plan", "--device", "cpu"][..], "takes no device"),
        (&["bench", "plan", "--save", "x.json"], "--save is for `bench kernels`"),
        (&["bench", "plan", "--trace", "x.json"], "--trace is for `bench step`"),
        (&["bench", "step", "--gpu", "h200"], "--gpu is for `bench plan`"),
        (&["bench", "kernels", "--measured", "x.json"], "--measured is for `bench plan`"),
        (&["bench", "plan", "--precision", "f64"], "f64 is for the cpu"),
    ] {
        let status = if what.contains("f64") { 1 } else { 2 };
        let line = error(glmc(arguments), status);
        assert!(line.contains(what), "{line}");
    }
    let unknown = glmc(&["bench", "plan", "--gpu", "voodoo"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("h200, h100, a100, rtx4090, l40s"));
}
