//! The pages of docs/, tried: the tour's commands in their order with what is shown of their output, and the lines of Python of the page
//! for people who come from PyTorch, in the folder that the tour leaves. Python as for the tests of exported files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use common::python::{NUMPY, TORCH, lacking, python};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

const BIN: &str = env!("CARGO_BIN_EXE_glmc-engine");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let [numpy, torch] = [lacking(NUMPY), lacking(TORCH)];
    for reason in [&numpy, &torch].into_iter().flatten() {
        eprintln!("ignored: {reason}");
    }
    let trials = vec![
        Trial::test("tour: ten commands", || toured().map(|_| ())),
        Trial::test("from-pytorch: NumPy and pandas", numpy_lines).with_ignored_flag(numpy.is_some()),
        Trial::test("from-pytorch: PyTorch", torch_lines).with_ignored_flag(torch.is_some()),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn page(name: &str) -> Result<String, Failed> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name))?)
}

/// The blocks between fences of a language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect()
}

/// A command of the tour and what the page shows of its output.
struct Step<'p> {
    command: &'p str,
    shown: Vec<&'p str>,
}

fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_shown = false;
    for line in page.lines() {
        match (line, line.strip_prefix("    ")) {
            ("```text", _) => is_shown = true,
            ("```", _) => is_shown = false,
            (line, _) if is_shown => steps.last_mut().expect("output follows a command").shown.push(line),
            (_, Some(command)) => steps.push(Step { command, shown: Vec::new() }),
            _ => {}
        }
    }
    steps
}

/// Whether a line is as a page shows it, which has `...` for anything.
fn is_as_shown(line: &str, shown: &str) -> bool {
    match shown.split_once("...") {
        Some((beginning, end)) => {
            line.strip_prefix(beginning).is_some_and(|rest| rest.ends_with(end)) || line.trim_end() == shown.trim_end()
        }
        None => line.trim_end() == shown.trim_end(),
    }
}

/// The folder in which the tour was made, once for all trials.
fn toured() -> Result<&'static Path, Failed> {
    static TOUR: OnceLock<Result<TempDir, String>> = OnceLock::new();
    let tour = TOUR.get_or_init(|| tour().map_err(|failed| failed.message().unwrap_or("failed").to_owned()));
    tour.as_ref().map(TempDir::path).map_err(|what| what.as_str().into())
}

fn tour() -> Result<TempDir, Failed> {
    let (page, place) = (page("tour.md")?, TempDir::new()?);
    let steps = steps(&page);
    assert_eq!(steps.len(), 10, "ten commands");
    for Step { command, shown } in steps {
        let words = command.strip_prefix("glmc-engine ").ok_or_else(|| format!("{command}: of another program"))?;
        let output = glmc(words, place.path());
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
        if !output.status.success() {
            return Err(format!("{command}: {:?}\n{errors}", output.status).into());
        }
        let mut lines = said.lines();
        for shown in shown {
            if !lines.any(|line| is_as_shown(line, shown)) {
                return Err(format!("{command}\ndoes not print, at its place\n{shown}\nbut\n{said}").into());
            }
        }
    }
    for made in ["preview.png", "answers.csv", "confusion.csv", "predicted.jsonl", "report.html", "model.onnx"] {
        assert!(fs::metadata(place.path().join(made)).is_ok_and(|file| file.len() > 100), "{made}");
    }
    Ok(place)
}

fn glmc(words: &str, place: &Path) -> std::process::Output {
    let mut command = Command::new(BIN);
    command.args(words.split_whitespace()).current_dir(place).stdin(Stdio::null());
    command.output().expect("the program starts")
}

/// Runs lines of Python in the tour's folder, and reads the JSON that they print at the end.
fn run(lines: &str) -> Result<Value, Failed> {
    let script: PathBuf = toured()?.join("lines.py");
    fs::write(&script, lines)?;
    let output = python().arg(&script).current_dir(toured()?).output()?;
    if !output.status.success() {
        return Err(format!("{}\n{lines}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn python_blocks(of_torch: bool) -> Result<String, Failed> {
    let page = page("from-pytorch.md")?;
    let chosen: Vec<&str> = blocks(&page, "python").into_iter().filter(|b| b.contains("torch") == of_torch).collect();
    assert!(chosen.len() >= 2, "blocks of Python");
    Ok(chosen.join("\n"))
}

fn numpy_lines() -> Result<(), Failed> {
    let lines = python_blocks(false)?;
    let told = run(&format!(
        "{lines}
print(json.dumps({{
    'images': len(names), 'shape': first.shape, 'epochs': len(curves), 'best': int(best), 'top1': float(epochs['top1'][best]),
    'recalls': recalls.shape, 'last': outcome['top1'], 'accuracy': float(accuracy), 'confusion': int(confusion.to_numpy().sum()),
    'logits': logits.shape, 'features': features.shape[0], 'same': bool((logits.argmax(1) == predicted['predicted']).all()),
    'likeliest': float(likeliest['probability'].iloc[0] - predicted['probability'].max()), 'top': len(top),
    'firsts': bool((top['top_class'].to_numpy()[::2] == predicted['predicted'].to_numpy()).all()),
    'table': bool(np.allclose(table['top1'], epochs['top1'], rtol=1e-12) and (table.index == epochs.index).all()),
}}))"
    ))?;
    let result: Value = serde_json::from_slice(&fs::read(toured()?.join("runs/glmc/result.json"))?)?;
    assert_eq!(told["images"], 450);
    assert_eq!(told["epochs"], 15);
    assert_eq!(told["recalls"], serde_json::json!([15, 4]));
    assert_eq!((&told["best"], &told["top1"]), (&result["best"]["epoch"], &result["best"]["top1"]));
    assert_eq!(told["last"], result["last"]["top1"]);
    // What `eval` answered image by image makes the accuracy that training measured.
    let difference = told["accuracy"].as_f64().ok_or("accuracy")? - result["last"]["top1"].as_f64().ok_or("top1")?;
    assert!(difference.abs() < 1e-9, "{told}");
    assert_eq!((&told["confusion"], &told["features"]), (&160.into(), &160.into()));
    assert_eq!(told["logits"], serde_json::json!([160, 4]));
    assert_eq!((&told["same"], &told["likeliest"]), (&true.into(), &0.0.into()));
    // `--top 2`, the likelier class first.
    assert_eq!((&told["top"], &told["firsts"], &told["table"]), (&320.into(), &true.into(), &true.into()));
    assert_eq!(told["shape"][2], 3);
    Ok(())
}

fn torch_lines() -> Result<(), Failed> {
    let train = "train --data photos.lt --model resnet18 --stem imagenet --method ce --size 32 --batch 32 --epochs 1 \
                 --device cpu --out runs/resnet18";
    let output = glmc(train, toured()?);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = python_blocks(true)?;
    let told = run(&format!(
        "import numpy as np
{lines}
logits = np.load('logits.npy')
print(json.dumps({{
    'classes': len(about['data']['class_names']), 'largest': float(abs(logits).max()),
    'difference': float(abs(again.numpy() - logits).max()), 'parameters': sum(p.numel() for p in model.parameters()),
}}))"
    ))?;
    assert_eq!((&told["classes"], &told["parameters"]), (&4.into(), &11_178_564.into()));
    let [difference, largest] = ["difference", "largest"].map(|key| told[key].as_f64().unwrap_or(f64::NAN));
    assert!(largest > 0.1 && difference <= 1e-5 * largest, "{told}");
    Ok(())
}
