//! The program as its users run it, command by command.
//!
//! `cargo test --release --test cli -- train` runs one command's tests.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod cpu_level;
mod export;
mod output;
mod place;
mod predict;
mod prepare;
mod preview;
mod release;
mod report;
mod screens;
mod sweep;
mod train;
mod verify;

use std::path::Path;
use std::process::{Command, Output, Stdio};

const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

fn glmc(arguments: &[&str]) -> Output {
    Command::new(BIN).args(arguments).env_remove("COLUMNS").stdin(Stdio::null()).output().expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Asserts success and returns stdout.
fn ok(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "status {:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// Asserts an error of this exit status, told in just one line (besides progress lines), and returns that line.
fn error(output: Output, status: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_string()
}
