//! An ONNX file beside the engine: the same images through both.
//!
//! Who computes the graph is onnxruntime, by `python3`: an interpreter of our own would read the file as the writer of the file
//! meant it, and so find no misunderstanding.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::{Input, Wanted};
use crate::error::{Error, Result, one_line};
use crate::memory::{read_floats, write_floats};
use crate::nn::{Mode, Model, ParameterStore, Recorder};
use crate::ops::Backend;
use crate::train::manifest::Subject;

/// What compares; a tool of its own, too.
const SCRIPT: &str = include_str!("../../tools/check_onnx.py");
/// Names the Python with onnxruntime; `python3` otherwise.
const PYTHON: &str = "GLMC_PYTHON";
/// Images at a time.
const BATCH: usize = 32;
/// Largest difference, as a share of the largest value of an output (or of 1, if that is less): singles that are added up in
/// another order differ by some millionths.
pub const LIMIT: f64 = 1e-4;

/// Images as the graph takes them.
pub struct Shown {
    input: Input,
    /// (images, height, width, 3): bytes, or values in 0..1.
    pixels: Vec<f32>,
    size: [usize; 2],
}

impl Shown {
    /// Images of `size` (rows, columns), (images, height, width, 3) with values in 0..1. Bytes are the nearest ones.
    pub fn new(input: Input, size: [usize; 2], values: impl Iterator<Item = f32>) -> Shown {
        let as_shown = |value: f32| if input == Input::U8 { (value * 255.0).round().clamp(0.0, 255.0) } else { value };
        Shown { input, pixels: values.map(as_shown).collect(), size }
    }

    fn image(&self) -> usize {
        self.size[0] * self.size[1] * 3
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pixels.len() / self.image()
    }

    /// As a file holds them for the graph.
    fn bytes(&self) -> Vec<u8> {
        let [height, width] = self.size;
        match self.input {
            Input::U8 => self.pixels.iter().map(|&byte| byte as u8).collect(),
            Input::F32 => self
                .pixels
                .chunks_exact(self.image())
                .flat_map(|image| {
                    (0..3 * height * width).flat_map(move |at| {
                        let (colour, pixel) = (at / (height * width), at % (height * width));
                        image[pixel * 3 + colour].to_le_bytes()
                    })
                })
                .collect(),
        }
    }

    /// Normalised as the engine does it, in single precision.
    fn normalised(&self, subject: &Subject) -> impl Iterator<Item = f64> {
        let (mean, std) = (subject.mean.map(|v| v as f32), subject.std.map(|v| v as f32));
        let most = if self.input == Input::U8 { 255.0 } else { 1.0 };
        self.pixels.iter().enumerate().map(move |(at, value)| f64::from((value / most - mean[at % 3]) / std[at % 3]))
    }
}

/// An output of the engine for some images.
pub struct Output {
    name: &'static str,
    /// (images, width).
    values: Vec<f64>,
    width: usize,
}

impl Output {
    /// As the file calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The largest number of the images from `first` on, `count` of them.
    pub fn largest(&self, first: usize, count: usize) -> f64 {
        self.values[first * self.width..][..count * self.width].iter().fold(0.0, |most, v| v.abs().max(most))
    }

    /// The class that is first, of each image.
    pub fn first(&self) -> Vec<usize> {
        let best = |row: &[f64]| (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        self.values.chunks_exact(self.width).map(best).collect()
    }
}

/// What the engine itself puts out for these images: every output that the file has.
///
/// # Errors
/// When the device fails.
pub fn evaluated(
    backend: &dyn Backend,
    network: &Model,
    store: &ParameterStore,
    subject: &Subject,
    wanted: Wanted,
    shown: &Shown,
) -> Result<Vec<Output>> {
    let mut r = Recorder::new(backend, store, Mode::Inference);
    let channels = backend.stem_channels();
    let images =
        backend.tensor(&[BATCH, subject.height, subject.width, channels], backend.precision().compute(), "images")?;
    let var = r.tape.external(images);
    let features = network.record_features(&mut r, var)?;
    let (logits, scale) = network.record_classifier(&mut r, wanted.head, features)?;
    logits.iter().chain([&features]).for_each(|&var| r.tape.keep(var));
    let program = r.tape.plan(backend, false)?;
    let (mut scores, mut seen) = (Vec::new(), Vec::new());
    let pixels: Vec<f64> = shown.normalised(subject).collect();
    for batch in pixels.chunks(BATCH * shown.image()) {
        let count = batch.len() / shown.image();
        // The rest of a batch is not looked at, and channels past the third are zero.
        let mut padded = vec![0.0; images.elements()];
        for (to, from) in padded.chunks_exact_mut(channels).zip(batch.chunks_exact(3)) {
            to[..3].copy_from_slice(from);
        }
        write_floats(backend, images, &padded)?;
        program.forward(backend)?;
        let heads = logits.iter().map(|&var| read_floats(backend, program.value(var))).collect::<Result<Vec<_>>>()?;
        let each = heads[0].len() / BATCH;
        let mut rows = vec![0.0; count * each];
        for head in &heads {
            let factor = f64::from(scale) / heads.len() as f64;
            rows.iter_mut().zip(head).for_each(|(sum, value)| *sum += factor * value);
        }
        if wanted.softmax {
            rows.chunks_exact_mut(each).for_each(softmax);
        }
        scores.extend(rows);
        let found = read_floats(backend, program.value(features))?;
        seen.extend_from_slice(&found[..found.len() / BATCH * count]);
    }
    program.release(backend);
    let output = |name, values: Vec<f64>| Output { name, width: values.len() / shown.count().max(1), values };
    let mut outputs = vec![output(wanted.output(), scores)];
    if wanted.features {
        outputs.push(output("features", seen));
    }
    Ok(outputs)
}

fn softmax(row: &mut [f64]) {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|v| *v = (*v - most).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// What onnxruntime made of the images.
#[derive(Debug, Deserialize)]
pub struct Answer {
    pub onnxruntime: String,
    /// Whose checker found nothing; absent where it is not installed.
    pub onnx: Option<String>,
    /// By the outputs' names, of each image the largest difference from the engine's; absent where it is no number.
    differences: std::collections::BTreeMap<String, Vec<Option<f64>>>,
    /// The class that is first, of each image.
    pub first: Vec<usize>,
}

impl Answer {
    /// The largest difference of an output over the images from `first` on, `count` of them.
    pub fn difference(&self, output: &Output, first: usize, count: usize) -> f64 {
        let all = self.differences.get(output.name).and_then(|all| all.get(first..first + count));
        // What is missing is no agreement.
        all.map_or(f64::INFINITY, |all| all.iter().fold(0.0, |most, d| d.unwrap_or(f64::INFINITY).max(most)))
    }
}

/// Shows a file's bytes and images to onnxruntime, on `threads` threads (0: all).
///
/// # Errors
/// When there is no Python with onnxruntime, or the file is refused.
pub fn asked(file: &[u8], shown: &Shown, outputs: &[Output], threads: usize) -> Result<Answer> {
    let place = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let at = |name: &str| place.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).map_err(Error::io(at(name)));
    let (images, [height, width]) = (shown.count(), shown.size);
    let [first, second, third] = shown.input.extents(height, width);
    let dtype = if shown.input == Input::U8 { "u1" } else { "<f4" };
    let mut arrays = json!({ "image": { "dtype": dtype, "shape": [images, first, second, third] } });
    write("image", &shown.bytes())?;
    for Output { name, values, width } in outputs {
        arrays[*name] = json!({ "dtype": "<f8", "shape": [images, width] });
        write(name, bytemuck::cast_slice(values))?;
    }
    write("request.json", json!({ "arrays": arrays }).to_string().as_bytes())?;
    write("model.onnx", file)?;
    let (python, said) = python();
    let mut command = Command::new(&python);
    command.args(["-c", SCRIPT]).arg(at("model.onnx")).arg("--against").arg(place.path());
    command.arg("--threads").arg(threads.to_string());
    let output = command.stdin(Stdio::null()).output();
    let lacking = |what: &str| {
        let help = "--check needs Python with onnxruntime (pip install onnxruntime onnx), which GLMC_PYTHON may name";
        Error::Config(format!("{said} {what}: {help}; without --check the file is written unchecked"))
    };
    let output = output.map_err(|e| lacking(&format!("does not start ({e})")))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let error = error.lines().next_back().unwrap_or("no word on it").trim_start_matches("error: ").to_owned();
    match output.status.code() {
        Some(0) => {}
        Some(3) => return Err(lacking(&format!("lacks what it takes ({})", one_line(&error, 200)))),
        _ => {
            return Err(Error::Config(format!(
                "onnxruntime does not take the file, which is a bug: {}",
                one_line(&error, 600)
            )));
        }
    }
    let wrong = |what: String| Error::Config(format!("{said} answered something else than a comparison ({what})"));
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|e| wrong(e.to_string()))?;
    match answer.first.len() == images {
        true => Ok(answer),
        false => Err(wrong(format!("{} classes for {images} images", answer.first.len()))),
    }
}

/// The Python to ask, and how messages call it.
fn python() -> (OsString, String) {
    let named = std::env::var_os(PYTHON).filter(|name| !name.is_empty());
    let python = named.unwrap_or_else(|| "python3".into());
    let said = Path::new(&python).display().to_string();
    (python, said)
}
