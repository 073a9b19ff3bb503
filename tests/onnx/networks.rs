//! Every network and every head in onnxruntime beside the engine.

use std::fs;
use std::path::{Path, PathBuf};

use glmc_engine::backend::native::Native;
use glmc_engine::export::onnx::Model;
use glmc_engine::export::runtime::{LIMIT, Shown, asked, evaluated};
use glmc_engine::export::{Input, Wanted, onnx};
use glmc_engine::nn::{HeadKind, ParameterStore};
use glmc_engine::tensor::Precision;
use glmc_engine::train::checkpoint::Checkpoint;
use glmc_engine::train::engine::model;
use libtest_mimic::{Failed, Trial};
use prost::Message;

use crate::{Place, glmc, json, ok, python};

/// Name, rows of the images, what is trained, what a second stage is, how it is exported.
const CASES: &[(&str, usize, &str, &str, &str)] = &[
    ("resnet20, both heads", 11, "--model resnet20", "", "--features"),
    ("resnet20, their mean", 8, "--model resnet20", "", "--head mean --softmax"),
    ("resnet32, the conventional head", 8, "--model resnet32 --width 8", "", "--head fc --input f32"),
    ("resnet44, normalisations kept", 8, "--model resnet44", "", "--keep-bn"),
    ("resnet56", 8, "--model resnet56 --method ce", "", ""),
    ("resnet110", 8, "--model resnet110 --method bs", "", ""),
    ("resnet20, two branches", 8, "--model resnet20 --method bbn", "", "--features --softmax"),
    ("resnet20, two branches, normalisations kept", 8, "--model resnet20 --method bbn", "", "--keep-bn"),
    ("resnet20, cosines", 8, "--model resnet20 --method ldam", "", ""),
    ("resnet20, cosines, probabilities", 8, "--model resnet20 --method ldam-drw", "", "--softmax --input f32"),
    ("resnet20, learned scales", 8, "--model resnet20 --method ce", "lws", ""),
    ("resnet20, learned scales, mixed", 8, "--model resnet20 --method mislas", "mislas", "--features"),
    ("resnet20, a new classifier", 8, "--model resnet20 --method ce", "crt", ""),
    ("resnet18", 8, "--model resnet18", "", ""),
    ("resnet18, stem of ImageNet", 33, "--model resnet18 --stem imagenet", "", "--features"),
    ("resnet34", 8, "--model resnet34", "", ""),
    ("resnet50", 8, "--model resnet50", "", "--softmax"),
    ("resnet50, stem of ImageNet, normalisations kept", 33, "--model resnet50 --stem imagenet", "", "--keep-bn"),
    ("resnet101", 8, "--model resnet101", "", ""),
    ("resnet152", 8, "--model resnet152", "", ""),
    ("resnext50", 8, "--model resnext50_32x4d --width 16", "", ""),
    ("resnext50, stem of ImageNet", 33, "--model resnext50_32x4d --width 16 --stem imagenet", "", "--input f32"),
];

/// Largest difference here, as a share of the largest value: `--check` leaves room for networks that are wider.
const CLOSE: f64 = 2e-5;

pub fn trials() -> Vec<Trial> {
    let each = CASES.iter().map(|case| Trial::test(format!("networks: {}", case.0), move || agrees(case)));
    let more = [
        Trial::test("networks: photographs, resized and cut", photographs),
        Trial::test("networks: a graph that computes something else is found", differences_are_found),
    ];
    each.chain(more).collect()
}

/// Exports with a check on all test images; the file, and the check's figures.
fn exported(place: &Place, run: &Path, words: &str) -> Result<(PathBuf, serde_json::Value), Failed> {
    let file = place.path("model.onnx");
    let words = format!("export {words} --check=99999 --threads 1 --json --force --out");
    let told = json(glmc(&words, &[&file, run]))?;
    assert!(told["check"]["onnx"].is_string() && told["check"]["onnxruntime"].is_string(), "{told}");
    Ok((file, told["check"].clone()))
}

/// What `eval` says of a run.
fn top1(run: &Path, store: &Path, head: Option<&str>) -> Result<(f64, u64), Failed> {
    let head = head.map(|head| format!("--head {head}")).unwrap_or_default();
    let words = format!("eval --device cpu --json {head} --data");
    let told = json(glmc(&words, &[store, Path::new("--checkpoint"), run]))?;
    Ok((told["top1"].as_f64().ok_or("no top1")?, told["images"].as_u64().ok_or("no images")?))
}

/// The figures of a check: onnxruntime has the top-1 of `eval`, and outputs are those of the engine but for rounding.
fn check(figures: &serde_json::Value, (top1, images): (f64, u64), words: &str) {
    let test = &figures["test"];
    assert_eq!((test["images"].as_u64(), test["top1"].as_f64()), (Some(images), Some(top1)), "{figures}");
    assert_eq!(test["engine_top1"].as_f64(), Some(top1));
    let output = if words.contains("--softmax") { "probabilities" } else { "logits" };
    let outputs: Vec<&str> =
        [Some(output), words.contains("--features").then_some("features")].into_iter().flatten().collect();
    for (set, output) in ["random", "test"].iter().flat_map(|set| outputs.iter().map(move |output| (set, output))) {
        let found = &figures[set][output];
        let (difference, largest) = (found["largest_difference"].as_f64(), found["largest_value"].as_f64());
        let (difference, largest) = (difference.expect("a number"), largest.expect("a number"));
        assert!(difference <= CLOSE * largest.max(1.0) && largest > 0.0, "{set} {output}: {difference} of {largest}");
    }
}

fn agrees(&(_, size, training, stage, words): &(&str, usize, &str, &str, &str)) -> Result<(), Failed> {
    let place = Place::new();
    let store = place.store(size)?;
    let mut run = place.train(&store, training)?;
    if !stage.is_empty() {
        let second = place.path("second");
        ok(glmc(
            &format!("finetune --method {stage} --epochs 1 --lr-schedule constant --device cpu --out"),
            &[&second, &run],
        ))?;
        run = second;
    }
    let (file, figures) = exported(&place, &run, words)?;
    let head = words.split_whitespace().skip_while(|word| *word != "--head").nth(1);
    let reached = top1(&run, &store, head)?;
    check(&figures, reached, words);
    // Once more from the store's own arrays, without the engine's part in it.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check_onnx.py");
    let told = json(python().arg(script).arg(&file).arg("--data").arg(&store).args(["--threads", "1"]).output()?)?;
    assert_eq!((told["top1"].as_f64(), told["images"].as_u64()), (Some(reached.0), Some(reached.1)));
    assert_eq!((told["ir_version"].as_u64(), told["opset"]["ai.onnx"].as_u64()), (Some(8), Some(17)));
    assert_eq!(told["metadata"]["classes"], "5");
    Ok(())
}

fn photographs() -> Result<(), Failed> {
    let place = Place::new();
    let (root, store) = (place.path("files"), place.path("photos.lt"));
    for class in 0..3u32 {
        let folder = root.join(format!("class {class}"));
        fs::create_dir_all(&folder)?;
        for i in 0..12u32 {
            let shade =
                |x: u32, y: u32| image::Rgb([(x * 5 + i * 9) as u8, (y * 7 + class * 60) as u8, (class * 90) as u8]);
            let picture = image::RgbImage::from_fn(30 + 7 * i, 60 - 3 * i, shade);
            picture.save(folder.join(format!("{i}.png")))?;
        }
    }
    let words = "prepare images --resize none --test-fraction 0.25 --train-dir";
    ok(glmc(words, &[&root, Path::new("--out"), &store]))?;
    let run = place.train(&store, "--model resnet18 --size 32 --eval-resize 36 --stem imagenet")?;
    let (_, figures) = exported(&place, &run, "--input f32")?;
    check(&figures, top1(&run, &store, None)?, "");
    // Bytes cannot hold what resizing makes of an image: the engine is shown the rounded ones, too.
    let (file, figures) = exported(&place, &run, "")?;
    assert!(figures["test"]["images"].as_u64().is_some_and(|images| images > 0), "{figures}");
    let model = Model::decode(fs::read(file)?.as_slice())?;
    let said = |key: &str| {
        let found = model.metadata_props.iter().find(|property| property.key.as_deref() == Some(key));
        found.and_then(|property| property.value.clone())
    };
    assert_eq!(said("resize").as_deref(), Some("shorter side to 36, bilinear with antialiasing"));
    assert_eq!((said("crop").as_deref(), said("image_size").as_deref()), (Some("centre of 32x32"), Some("[32,32]")));
    Ok(())
}

/// A weight that is off, a shortcut that is left out, an output that is no number: the comparison says so.
fn differences_are_found() -> Result<(), Failed> {
    let place = Place::new();
    let store = place.store(8)?;
    let run = place.train(&store, "--model resnet20 --method ce")?;
    let checkpoint = Checkpoint::read(&run.join("last.safetensors"))?;
    let manifest = &checkpoint.manifest;
    let subject = manifest.data.clone().ok_or("no data")?;
    let native = Native::new(Precision::F32, 1)?;
    let network = model(&manifest.config, &manifest.config.recipe(&manifest.counts)?, manifest.counts.len(), &native)?;
    let parameters = ParameterStore::new(&native, network.specs().clone())?;
    checkpoint.load(&native, &parameters, false)?;
    let wanted = Wanted { head: HeadKind::Fc, input: Input::U8, softmax: false, features: false, keep_norms: false };
    let shown = Shown::new(wanted.input, [8, 8], (0..5 * 192).map(|at| (at * 37 % 256) as f32 / 255.0));
    let outputs = evaluated(&native, &network, &parameters, &subject, wanted, &shown)?;
    let file = Model::decode(onnx(&checkpoint, &subject, wanted)?.as_slice())?;
    let difference = |model: &Model| -> Result<f64, Failed> {
        Ok(asked(&model.encode_to_vec(), &shown, &outputs, 1)?.difference(&outputs[0], 0, shown.count()))
    };
    let limit = LIMIT * outputs[0].largest(0, shown.count()).max(1.0);
    assert!(difference(&file)? <= limit, "as it is written");

    let graph = |model: &mut Model| model.graph.take().expect("a graph");
    let mut weight = file.clone();
    let mut changed = graph(&mut weight);
    let bias =
        changed.initializer.iter_mut().find(|tensor| tensor.name.as_deref() == Some("fc.bias")).ok_or("no bias")?;
    let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(bias.raw_data.as_ref().ok_or("no data")?);
    values[2] += 3.0 * limit as f32;
    bias.raw_data = Some(bytemuck::cast_slice(&values).to_vec());
    weight.graph = Some(changed.clone());
    assert!(difference(&weight)? > limit, "one class's bias");

    values[2] = f32::NAN;
    let bias =
        changed.initializer.iter_mut().find(|tensor| tensor.name.as_deref() == Some("fc.bias")).ok_or("no bias")?;
    bias.raw_data = Some(bytemuck::cast_slice(&values).to_vec());
    weight.graph = Some(changed);
    assert!(difference(&weight)?.is_infinite(), "no number agrees with none");

    let mut shortcut = file.clone();
    let mut changed = graph(&mut shortcut);
    let add = changed.node.iter_mut().find(|node| node.op_type.as_deref() == Some("Add")).ok_or("no Add")?;
    add.input[1] = add.input[0].clone();
    shortcut.graph = Some(changed);
    assert!(difference(&shortcut)? > limit, "a block that adds its own output");

    // And what is no valid graph is refused with the reason.
    let mut broken = file.clone();
    let mut changed = graph(&mut broken);
    changed.node[0].input[0] = "nothing".into();
    broken.graph = Some(changed);
    let said = asked(&broken.encode_to_vec(), &shown, &outputs, 1).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains("a bug") && said.contains("nothing"), "{said}");
    Ok(())
}
