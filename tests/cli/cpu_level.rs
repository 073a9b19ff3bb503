//! `GLMC_CPU`: the level that it names is the one that `info` shows and that the CPU computes with; others are refused.

use std::process::{Command, Output};

use glmc_engine::backend::native::cpu::{Level, VARIABLE};
use serde_json::Value;

fn glmc(level: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glmc-engine"));
    command.args(arguments).env_remove(VARIABLE);
    if let Some(level) = level {
        command.env(VARIABLE, level);
    }
    command.output().expect("the program starts")
}

fn json(level: Option<&str>, arguments: &[&str]) -> Value {
    let output = glmc(level, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn errors(level: Level) -> Vec<Value> {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w4_c10_b5.safetensors");
    let report = json(Some(level.name()), &["verify", reference, "--json"]);
    report[0]["groups"].as_array().expect("groups").iter().map(|group| group["error"].clone()).collect()
}

#[test]
fn info_shows_the_level_in_use_and_why() {
    let best = Level::available()[0];
    let cpu = json(None, &["info", "--json"])["cpu"].clone();
    assert_eq!((&cpu["level"], &cpu["why"]), (&best.name().into(), &"the best of this machine".into()));
    for level in Level::available() {
        let cpu = json(Some(level.name()), &["info", "--json"])["cpu"].clone();
        assert_eq!((&cpu["level"], &cpu["why"]), (&level.name().into(), &"set by GLMC_CPU".into()));
    }
    let text = String::from_utf8(glmc(Some("portable"), &["info"]).stdout).expect("UTF-8");
    assert!(text.contains("; level portable (set by GLMC_CPU)\n"), "{text}");
}

#[test]
fn a_step_is_computed_with_the_level() {
    let portable = errors(Level::Portable);
    for level in Level::available() {
        // The others round once per multiply-add.
        assert_eq!(errors(level) == portable, level == Level::Portable, "{level:?}");
    }
}

#[test]
fn what_is_no_level_of_this_machine_is_refused() {
    for arguments in [&["info"][..], &["bench", "step"], &["train", "--device", "cpu", "--out", "/nowhere/at/all"]] {
        let output = glmc(Some("sse9"), arguments);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(stderr, "error: cpu: GLMC_CPU=sse9: no such level; it is portable, avx2 or avx512\n");
        assert_eq!(output.status.code(), Some(1));
    }
    if Level::available().len() < 3 {
        let stderr = String::from_utf8(glmc(Some("avx512"), &["info"]).stderr).expect("UTF-8");
        assert!(stderr.starts_with("error: cpu: GLMC_CPU=avx512: this machine does not have it; it has "), "{stderr}");
    }
}
