//! What people see, in 80 columns, in 50 and in none: lines that fit, colour where there is a terminal, headings that differ.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::{BIN, error, glmc, ok};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/step_w2_c7_b3.safetensors");
const TRAIN: &str =
    "train --data a.lt --model resnet20 --width 2 --epochs 3 --batch 8 --lr 0.01 --threads 1 --device cpu";
const EVAL: &str = "eval --checkpoint run --data a.lt --device cpu";

/// Every command that prints more than a line, in the order in which they need each other.
const COMMANDS: &[&str] = &[
    "prepare synthetic --classes 24 --per-class 120 --imbalance 20 --size 8 --out b.lt",
    "prepare check a.lt",
    "eval --checkpoint run --data a.lt --device cpu",
    "posthoc run --maxnorm 0..0.5 --tau-norm 0..2 --logit-adjust 0..2 --ncm --device cpu",
    "train --list-presets",
    "report run --out r.html --force --device cpu",
    "bench step --model resnet20 --width 2 --batch 2 --size 8 --seconds 0 --device cpu",
    "bench ops --model resnet20 --width 16 --batch 2 --size 32 --seconds 0 --device cpu",
    "bench kernels --width 16 --batch 2 --size 8 --seconds 0 --device cpu --save k.json",
    "bench kernels --width 16 --batch 2 --size 8 --seconds 0 --device cpu --compare k.json",
    "info --preset cifar100-lt-if100",
    "verify step.safetensors --device cpu",
    "sweep --base demo --data a.lt --width 2 --epochs 2 --batch 8 --threads 1 --device cpu --seeds 0..1 --grid k=1,1.2 --out s",
    "sweep --base demo --data a.lt --width 2 --epochs 2 --batch 8 --threads 1 --device cpu --seeds 0..2 --grid k=1,1.2 --out s \
     --dry-run",
];

/// The commands whose help is looked at.
const HELPED: &[&str] = &[
    "",
    "prepare",
    "prepare cifar10",
    "prepare cifar100",
    "prepare images",
    "prepare synthetic",
    "prepare check",
    "train",
    "sweep",
    "eval",
    "posthoc",
    "report",
    "verify",
    "bench",
    "info",
    "kernels",
    "completions",
    "man",
];

/// A folder with a store `a.lt`, a run `run` on it, and a reference step.
fn place() -> &'static Path {
    static PLACE: OnceLock<TempDir> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = TempDir::new().expect("a temporary folder");
        let folder = place.path();
        std::fs::copy(REFERENCE, folder.join("step.safetensors")).expect("a copy");
        let prepare = "prepare synthetic --classes 3 --per-class 120 --imbalance 6 --size 8 --out a.lt";
        ok(output(&mut command(folder, prepare)));
        ok(output(&mut command(folder, &format!("{TRAIN} --twenty-is-few --out run"))));
        place
    });
    place.path()
}

fn command(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(BIN);
    command.args(line.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    for name in ["COLUMNS", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

/// What a command writes to its standard output and error, both pipes.
fn piped(command: &mut Command) -> String {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8") + &stderr
}

/// What a command writes to a terminal.
fn on_terminal(command: &mut Command, columns: u16) -> String {
    let (mut master, mut slave) = (-1, -1);
    let mut size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both descriptors are written, the name and the modes are not asked for, and the size outlives the call.
    let status =
        unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut size) };
    assert_eq!(status, 0, "no pseudo-terminal");
    // SAFETY: openpty has just opened both, and nothing else owns them.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let other = slave.try_clone().expect("a second descriptor");
    let mut child = command.stdout(slave).stderr(other).spawn().expect("the program starts");
    // The command holds the other end as well.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    // The end of a terminal is an error on Linux.
    while let Ok(count @ 1..) = master.read(&mut part) {
        text.extend_from_slice(&part[..count]);
    }
    let status = child.wait().expect("an end");
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(status.success(), "{command:?}: {text}");
    text
}

/// The text without escape sequences, which here are all `ESC [ ... letter`.
fn without_escapes(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or("")
    })
}

fn check_widths(what: &str, text: &str, columns: usize) {
    for line in without_escapes(text).split(['\n', '\r']) {
        assert!(line.chars().count() <= columns, "{what} in {columns} columns: {line:?}");
    }
}

#[test]
fn no_line_is_longer_than_the_terminal() {
    for columns in [50, 80, 132] {
        for (at, line) in COMMANDS.iter().enumerate() {
            // A store of its own name, as wide.
            let line = line.replace("b.lt", &format!("{columns}.lt")).replace("k.json", &format!("{columns}.json"));
            let text = piped(command(place(), &line).env("COLUMNS", columns.to_string()));
            check_widths(&line, &text, columns);
            assert!(text.lines().count() > usize::from(at > 0), "{line}: {text}");
        }
        let train = format!("{TRAIN} --out run{columns}");
        check_widths(&train, &piped(command(place(), &train).env("COLUMNS", columns.to_string())), columns);
    }
}

#[test]
fn help_fits() {
    for columns in [50, 80] {
        for line in HELPED {
            let text = piped(command(place(), &format!("{line} --help")).env("COLUMNS", columns.to_string()));
            check_widths(&format!("{line} --help"), &text, columns);
        }
    }
}

/// Lines of the progress bar's drawings.
fn bars(text: &str) -> Vec<String> {
    let plain = without_escapes(text);
    let lines = plain.split(['\n', '\r']).filter(|line| line.starts_with("epoch") && line.contains(" ["));
    lines.map(String::from).collect()
}

#[test]
fn progress_bars_are_as_wide_as_columns_says() {
    for columns in [50, 100] {
        let train = format!("{TRAIN} --out bar{columns}");
        let text = on_terminal(command(place(), &train).env("COLUMNS", columns.to_string()), 80);
        check_widths(&train, &text, columns);
        let bars = bars(&text);
        assert!(bars.iter().any(|bar| bar.chars().count() + 1 >= columns), "{columns} columns: {bars:?}");
    }
}

#[test]
fn trust_in_a_device_is_among_the_options_of_devices() {
    let text = piped(&mut command(place(), "train --help"));
    let (_, device) = text.split_once("\nDevice:\n").expect("a heading");
    let device = device.split("\n\n").take_while(|part| part.starts_with("  ")).collect::<String>();
    let group = device.split("\nRun:").next().expect("a group");
    assert!(group.contains("--trust-device") && group.contains("--precision"), "{text}");
    assert_eq!(text.matches("--trust-device").count(), 1, "{text}");
    assert_eq!(text.matches("\nDevice:\n").count(), 1, "{text}");
}

#[test]
fn terminals_get_colour_and_their_width() {
    for columns in [50, 80] {
        let train = format!("{TRAIN} --out terminal{columns}");
        let text = on_terminal(&mut command(place(), &train), columns);
        check_widths(&train, &text, columns.into());
        assert!(text.contains("\u{1b}[1m"), "a heading in bold: {text:?}");
        let plain = on_terminal(command(place(), &format!("{train}-plain")).env("NO_COLOR", "1"), columns);
        check_widths(&train, &plain, columns.into());
        // The bar still moves the cursor.
        let codes = plain.split("\u{1b}[").skip(1).filter_map(|part| part.chars().find(char::is_ascii_alphabetic));
        assert!(!codes.collect::<Vec<_>>().contains(&'m'), "{plain:?}");
        let text = on_terminal(&mut command(place(), EVAL), columns);
        check_widths(EVAL, &text, columns.into());
        assert!(text.contains("\u{1b}[1m"), "{text:?}");
        let plain = on_terminal(command(place(), EVAL).env("NO_COLOR", "1"), columns);
        assert_eq!(without_escapes(&text), plain);
    }
}

#[test]
fn pipes_get_no_escapes() {
    for line in [EVAL, "info", "--help", "train --help", "bench step --model resnet20 --width 2 --batch 2 --seconds 0"]
    {
        assert!(!piped(&mut command(place(), line)).contains('\u{1b}'), "{line}");
    }
    // Tables are made for 80 columns where nothing says how many there are; sentences stay whole for programs.
    assert_eq!(piped(&mut command(place(), EVAL)), piped(command(place(), EVAL).env("COLUMNS", "80")));
    let text = piped(&mut command(place(), &format!("{TRAIN} --out piped")));
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn numbers_are_whole_in_50_columns() {
    let json: serde_json::Value =
        serde_json::from_str(&piped(&mut command(place(), &format!("{EVAL} --json")))).expect("JSON");
    let text = piped(command(place(), EVAL).env("COLUMNS", "50"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let figures = [&json["top1"], &json["top5"], &json["ece"], &json["few"], &json["per_class"][0]];
    for figure in figures.map(|figure| format!("{:.2}", figure.as_f64().expect("a number"))) {
        assert!(words.contains(&figure.as_str()), "{figure} in {text}");
    }
}

#[test]
fn wider_terminals_show_more_and_narrow_ones_say_what_is_missing() {
    let ops = "bench ops --model resnet20 --width 16 --batch 2 --size 32 --seconds 0 --device cpu";
    let at = |columns: &str| piped(command(place(), ops).env("COLUMNS", columns));
    let (narrow, wide) = (at("50"), at("160"));
    let heading =
        |text: &str| text.lines().find(|line| line.starts_with("op and shape")).expect("headings").to_string();
    for column in ["pass", "count", "ms/step", "share", "FLOP/s", "GB/s", "of peak", "bound by"] {
        assert!(heading(&wide).contains(column), "{wide}");
        let missing =
            narrow.split("(no room for: ").nth(1).and_then(|rest| rest.split(')').next()).expect("what is missing");
        assert!(heading(&narrow).contains(column) != missing.replace("\n ", "").contains(column), "{column}: {narrow}");
    }
    assert!(!wide.contains("no room for"), "{wide}");
}

#[test]
fn two_accuracies_have_two_headings() {
    let text = ok(output(&mut command(place(), &format!("{TRAIN} --out headings"))));
    let headings: Vec<&str> = text.lines().filter(|line| line.contains("last epoch ")).collect();
    assert_eq!(headings.len(), 2, "{text}");
    assert!(headings.iter().all(|line| line.trim_end().ends_with("last epoch  best epoch")), "{text}");
}

#[test]
fn groups_follow_their_rule_in_training_as_in_evaluation() {
    // Classes of 20, 49 and 120 images.
    let run =
        "train --data a.lt --model resnet20 --width 2 --epochs 1 --batch 8 --lr 0.01 --threads 1 --device cpu --out";
    let rows = |text: &str| -> Vec<(String, String)> {
        let class = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| ["many", "medium", "few"].contains(word))?;
            Some((words.get(at + 1)?.to_string(), words[at].to_string()))
        };
        text.lines().filter_map(class).collect()
    };
    for (flag, range, group) in [("", "few-shot (< 20)", "medium"), ("--twenty-is-few", "few-shot (<= 20)", "few")] {
        let folder = format!("rule{flag}");
        let trained = ok(output(&mut command(place(), &format!("{run} {folder} {flag}"))));
        let evaluated = piped(&mut command(place(), &EVAL.replace("run", &folder)));
        for text in [&trained, &evaluated] {
            assert!(text.contains(range), "{text}");
            assert!(rows(text).contains(&("20".to_string(), group.to_string())), "{text}");
        }
    }
}

#[test]
fn hostile_arguments_are_shown_escaped_in_few_lines() {
    let hostile = "a\u{1b}[2J\u{202e}b\nc\r";
    let long = "x".repeat(1 << 16);
    for arguments in [
        vec!["train", "--batch", hostile],
        vec!["train", &format!("--bo{hostile}gus")],
        vec!["train", &format!("--batch={hostile}")],
        vec![hostile],
        vec!["bench", hostile],
        vec!["prepare", "cifar10", "--source", "a", "--out", "b", "--seed", hostile],
        vec!["train", "--batch", &long],
    ] {
        let output = glmc(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        error(output, 2);
        assert!(stderr.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{stderr:?}");
        assert!(stderr.lines().count() <= 8 && stderr.len() < 2000, "{stderr:?}");
        assert!(stderr.contains("\\u{1b}[2J\\u{202e}b\\nc\\r") || stderr.contains("xxx...xxx"), "{stderr}");
    }
}
