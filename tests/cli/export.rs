//! `export`: what an ONNX file and a file of weights hold, and what is refused. What a runtime makes of them is in `tests/onnx/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use glmc_engine::export::onnx::{Model, Node, Tensor, ValueInfo};
use prost::Message;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::checkpoints::{forge, header, manifest};
use crate::{BIN, error, glmc, ok, text};

/// A folder with a small store and runs on it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(TempDir::new().expect("a temporary folder"));
        let fixed = "prepare synthetic --classes 4 --per-class 12 --imbalance 4 --size 9 --seed 3 --out";
        ok(glmc(&fixed.split(' ').chain([text(&place.store())]).collect::<Vec<_>>()));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("data.lt")
    }

    /// An epoch of a network.
    fn run(&self, name: &str, more: &str) -> PathBuf {
        let (out, store) = (self.path(name), self.store());
        let fixed = "train --model resnet20 --width 2 --epochs 1 --batch 8 --lr 0.05 --seed 1 --threads 1 --device cpu";
        // A flag given twice counts the last time.
        let words = fixed.split(' ').chain(more.split_whitespace());
        ok(glmc(&words.chain(["--data", text(&store), "--out", text(&out)]).collect::<Vec<_>>()));
        out
    }
}

fn export(run: &Path, out: &Path, more: &str) -> Output {
    let all = ["export", text(run), "--out", text(out)].into_iter().chain(more.split_whitespace());
    glmc(&all.collect::<Vec<_>>())
}

fn exported(run: &Path, out: &Path, more: &str) -> Model {
    ok(export(run, out, more));
    Model::decode(fs::read(out).expect("a file").as_slice()).expect("a model")
}

/// The tensors of a checkpoint's model in PyTorch's layout.
fn tensors(file: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(file).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors").tensors();
    let floats = tensors.into_iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    floats.map(|(name, view)| (name, (view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data())))).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.data_type, Some(1), "{:?}", tensor.name);
    bytemuck::pod_collect_to_vec(tensor.raw_data.as_ref().expect("raw data"))
}

fn initialiser<'a>(model: &'a Model, name: &str) -> &'a Tensor {
    let all = &model.graph.as_ref().expect("a graph").initializer;
    all.iter().find(|tensor| tensor.name.as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name}"))
}

fn nodes<'a>(model: &'a Model, op: &str) -> Vec<&'a Node> {
    model.graph.as_ref().expect("a graph").node.iter().filter(|node| node.op_type.as_deref() == Some(op)).collect()
}

/// Name, type of elements and extents; a named extent is 0.
fn described(value: &ValueInfo) -> (&str, i32, Vec<i64>) {
    let tensor = value.r#type.as_ref().and_then(|of| of.tensor_type.as_ref()).expect("a tensor");
    let shape = tensor.shape.as_ref().expect("a shape").dim.iter();
    let extents = shape.map(|dim| match (dim.dim_value, dim.dim_param.as_deref()) {
        (Some(extent), None) => extent,
        (None, Some("batch")) => 0,
        other => panic!("{other:?}"),
    });
    (value.name.as_deref().expect("a name"), tensor.elem_type.expect("a type"), extents.collect())
}

fn interface(model: &Model) -> [Vec<(&str, i32, Vec<i64>)>; 2] {
    let graph = model.graph.as_ref().expect("a graph");
    [&graph.input, &graph.output].map(|values| values.iter().map(described).collect())
}

fn property(model: &Model, key: &str) -> String {
    let found = model.metadata_props.iter().find(|property| property.key.as_deref() == Some(key));
    found.and_then(|property| property.value.clone()).unwrap_or_else(|| panic!("no {key}"))
}

const U8: i32 = 2;
const F32: i32 = 1;

#[test]
fn a_graph_says_what_it_takes_and_gives() {
    let place = Place::new();
    let run = place.run("run", "");
    let model = exported(&run, &place.path("a.onnx"), "");
    assert_eq!((model.ir_version, model.opset_import.len(), model.opset_import[0].version), (Some(8), 1, Some(17)));
    assert_eq!(model.producer_name.as_deref(), Some("glmc-engine"));
    assert!(model.doc_string.as_deref().expect("a text").contains("(batch, height, width, 3)"));
    assert_eq!(interface(&model), [vec![("image", U8, vec![0, 9, 9, 3])], vec![("logits", F32, vec![0, 4])]]);

    let known = manifest(&run.join("last.safetensors"));
    let json = |key: &str| serde_json::from_str::<Value>(&property(&model, key)).expect("JSON");
    for key in ["class_names", "mean", "std"] {
        assert_eq!(json(key), known["data"][key], "{key}");
    }
    assert_eq!((property(&model, "head"), property(&model, "image_size")), ("fc_cb".into(), "[9,9]".into()));
    assert_eq!((property(&model, "model"), property(&model, "epoch")), ("resnet20".into(), "1".into()));
    assert!(property(&model, "glmc_engine").starts_with(env!("CARGO_PKG_VERSION")));

    let wider = exported(&run, &place.path("b.onnx"), "--input f32 --softmax --features --head fc");
    let outputs = vec![("probabilities", F32, vec![0, 4]), ("features", F32, vec![0, 8])];
    assert_eq!(interface(&wider), [vec![("image", F32, vec![0, 3, 9, 9])], outputs]);
    assert_eq!((nodes(&wider, "Softmax").len(), nodes(&wider, "Cast").len()), (1, 0));
    assert_eq!(property(&wider, "head"), "fc");

    // The same run, the same bytes.
    ok(export(&run, &place.path("c.onnx"), ""));
    assert!(fs::read(place.path("a.onnx")).expect("a file") == fs::read(place.path("c.onnx")).expect("a file"));
    // Without --out it lies beside the checkpoint.
    ok(glmc(&["export", text(&run), "--checkpoint", "best"]));
    assert!(run.join("best.onnx").is_file());
}

#[test]
fn normalisations_are_in_the_convolutions_or_kept() {
    let place = Place::new();
    let run = place.run("run", "");
    let own = tensors(&run.join("last.safetensors"));
    let folded = exported(&run, &place.path("a.onnx"), "");
    assert!(nodes(&folded, "BatchNormalization").is_empty());
    let convolutions = nodes(&folded, "Conv");
    assert_eq!(convolutions.len(), 19);
    assert!(convolutions.iter().all(|node| node.input.len() == 3), "each has a bias");
    for (conv, bn) in [("conv1", "bn1"), ("layer2.0.conv1", "layer2.0.bn1"), ("layer3.2.conv2", "layer3.2.bn2")] {
        let of = |name: &str| own[&format!("{bn}.{name}")].1.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (scale, shift, mean, var) = (of("weight"), of("bias"), of("running_mean"), of("running_var"));
        let weight = initialiser(&folded, &format!("{conv}.weight"));
        let (shape, plain) = &own[&format!("{conv}.weight")];
        assert_eq!(weight.dims, shape.iter().map(|&n| n as i64).collect::<Vec<_>>(), "OIHW, as in PyTorch");
        let each = plain.len() / scale.len();
        for (at, (found, plain)) in floats(weight).iter().zip(plain).enumerate() {
            let filter = at / each;
            // In double, rounded once.
            let wanted = f64::from(*plain) * (scale[filter] / (var[filter] + 1e-5).sqrt());
            assert_eq!(*found, wanted as f32, "{conv} {at}");
        }
        for (filter, found) in floats(initialiser(&folded, &format!("{conv}.bias"))).iter().enumerate() {
            let wanted = shift[filter] - mean[filter] * (scale[filter] / (var[filter] + 1e-5).sqrt());
            assert_eq!(*found, wanted as f32, "{conv} {filter}");
        }
    }

    let kept = exported(&run, &place.path("b.onnx"), "--keep-bn");
    assert_eq!((nodes(&kept, "BatchNormalization").len(), nodes(&kept, "Conv").len()), (19, 19));
    for (name, (shape, values)) in &own {
        let of_another_head = ["fc.", "projection_head", "contrast_head"].iter().any(|head| name.starts_with(head));
        if name.starts_with("optimizer.") || of_another_head {
            continue;
        }
        let found = initialiser(&kept, name);
        assert_eq!(found.dims, shape.iter().map(|&n| n as i64).collect::<Vec<_>>(), "{name}");
        assert!(floats(found) == *values, "{name} is as it is in the checkpoint");
    }
    // Two stages halve the image: each takes every second pixel, and puts as many channels in front as behind.
    assert_eq!((nodes(&kept, "Slice").len(), nodes(&kept, "Pad").len()), (2, 2));
    let pads = initialiser(&kept, "channels.1_1");
    let pads: Vec<i64> = bytemuck::pod_collect_to_vec(pads.raw_data.as_ref().expect("raw data"));
    assert_eq!(pads, [0, 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn heads_of_every_shape_are_exported() {
    let place = Place::new();
    let mean = exported(&place.run("glmc", ""), &place.path("mean.onnx"), "--head mean");
    assert_eq!((nodes(&mean, "Gemm").len(), nodes(&mean, "Add").len()), (2, 9 + 1));
    assert_eq!(floats(initialiser(&mean, "heads.factor")), [0.5]);

    let run = place.run("ldam", "--method ldam");
    let cosine = exported(&run, &place.path("ldam.onnx"), "");
    assert_eq!(floats(initialiser(&cosine, "heads.factor")), [30.0]);
    assert_eq!((nodes(&cosine, "ReduceL2").len(), nodes(&cosine, "Gemm")[0].input.len()), (1, 2));
    for row in floats(initialiser(&cosine, "fc.weight")).chunks(8) {
        assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6, "rows of length 1");
    }

    let branches = exported(&place.run("bbn", "--method bbn"), &place.path("bbn.onnx"), "--features");
    assert_eq!(nodes(&branches, "Concat").len(), 1);
    assert_eq!(interface(&branches)[1][1], ("features", F32, vec![0, 16]));

    let (first, second) = (place.run("ce", "--method ce"), place.path("lws"));
    let words = "finetune --method lws --epochs 1 --lr-schedule constant --device cpu --out";
    ok(glmc(&words.split(' ').chain([text(&second), text(&first)]).collect::<Vec<_>>()));
    let scaled = exported(&second, &place.path("lws.onnx"), "");
    assert_eq!(initialiser(&scaled, "fc.scales").dims, [4]);
    assert_eq!(nodes(&scaled, "Mul").len(), 1);
}

#[test]
fn weights_are_a_plain_state_dict() {
    let place = Place::new();
    let run = place.run("run", "--model resnet18");
    let own = tensors(&run.join("last.safetensors"));
    let out = place.path("weights.safetensors");
    ok(export(&run, &out, "--format safetensors"));
    let found = tensors(&out);
    assert!(
        found.keys().all(|name| !name.starts_with("optimizer.") && !name.contains("head") && !name.contains("fc_cb"))
    );
    for (name, tensor) in &found {
        let source = if name.starts_with("fc.") { name.replacen("fc.", "fc_cb.", 1) } else { name.clone() };
        assert!(own[&source] == *tensor, "{name}");
    }
    let bytes = fs::read(&out).expect("a file");
    let counter =
        SafeTensors::deserialize(&bytes).expect("safetensors").tensor("bn1.num_batches_tracked").map(|t| t.dtype());
    assert_eq!(counter.expect("a counter"), safetensors::Dtype::I64);
    let about = header(&bytes).0["__metadata__"]["about"].clone();
    let about: Value = serde_json::from_str(about.as_str().expect("a text")).expect("JSON");
    assert_eq!((&about["head"], &about["classifier"]), (&"fc_cb".into(), &"linear".into()));
    assert_eq!(about["image_size"], "[9,9]");

    // It comes back: imported, the network evaluates as it did.
    let known = manifest(&run.join("last.safetensors"));
    let three = |key: &str| {
        let list = known["data"][key].as_array().expect("a list").iter();
        list.map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let back = place.path("back");
    let (mean, std) = (three("mean"), three("std"));
    ok(glmc(&[
        "import",
        text(&out),
        "--model",
        "resnet18",
        "--size",
        "9",
        "--mean",
        &mean,
        "--std",
        &std,
        "--out",
        text(&back),
    ]));
    let eval = |run: &Path| -> Value {
        let json =
            ok(glmc(&["eval", "--checkpoint", text(run), "--data", text(&place.store()), "--device", "cpu", "--json"]));
        serde_json::from_str(&json).expect("JSON")
    };
    let (one, other) = (eval(&run), eval(&back));
    for key in ["top1", "top5", "ece", "nll", "per_class"] {
        assert_eq!(one[key], other[key], "{key}");
    }

    // The mean of two linear heads is one.
    ok(export(&run, &place.path("mean.safetensors"), "--format safetensors --head mean"));
    let bias = &tensors(&place.path("mean.safetensors"))["fc.bias"].1;
    for ((found, fc), fc_cb) in bias.iter().zip(&own["fc.bias"].1).zip(&own["fc_cb.bias"].1) {
        assert!((found - 0.5 * (fc + fc_cb)).abs() < 1e-7);
    }
}

#[test]
fn what_cannot_be_exported_is_said_in_a_line() {
    let place = Place::new();
    let run = place.run("run", "--method ce");
    let out = place.path("a.onnx");
    let refused = |more: &str, status: i32| {
        let line = error(export(&run, &out, more), status);
        assert!(!out.exists(), "{more}: nothing is written");
        line
    };
    assert!(refused("--head fc_cb", 1).contains("without fc_cb; its heads: fc"));
    assert!(refused("--head fc_cb --format safetensors", 1).contains("without fc_cb; its heads: fc"));
    let unknown = export(&run, &out, "--head nothing");
    assert!(unknown.status.code() == Some(2) && !out.exists());
    assert!(refused("--format safetensors --softmax", 2).contains("--softmax is for --format onnx"));
    assert!(refused("--format safetensors --check", 2).contains("--check is for --format onnx"));
    assert!(error(glmc(&["export", text(&place.path("none")), "--out", text(&out)]), 1).contains("none"));
    let nowhere = error(export(&run, &place.path("no/folder/a.onnx"), ""), 1);
    assert!(nowhere.contains("no such folder"), "{nowhere}");
    assert!(error(export(&run, place.0.path(), ""), 1).contains("is a folder"));

    // What is there stays, whatever it is.
    fs::write(&out, "mine").expect("writable");
    assert!(error(export(&run, &out, ""), 1).contains("--force"));
    assert_eq!(fs::read(&out).expect("a file"), b"mine");
    ok(export(&run, &out, "--force"));
    Model::decode(fs::read(&out).expect("a file").as_slice()).expect("a model");

    // Damaged, of an older version, of cosine heads.
    let file = place.path("forged.safetensors");
    fs::copy(run.join("last.safetensors"), &file).expect("copied");
    forge(&file, |manifest| {
        manifest["format"] = 1.into();
        let object = manifest.as_object_mut().expect("an object");
        ["engine", "data", "shots"].iter().for_each(|key| drop(object.remove(*key)));
        manifest["progress"]["best"][0] = 0.into();
    });
    let line = error(export(&file, &place.path("old.onnx"), ""), 1);
    assert!(line.contains("older version") && line.contains("--data"), "{line}");
    ok(export(&file, &place.path("old.onnx"), &format!("--data {}", text(&place.store()))));
    let mut bytes = fs::read(&file).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).expect("writable");
    assert!(error(export(&file, &place.path("damaged.onnx"), ""), 1).contains("damaged"));
    assert!(!place.path("damaged.onnx").exists());
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let place = Place::new();
    let run = place.run("run", "");
    let out = place.path("a.onnx");
    ok(export(&run, &out, ""));
    let before = fs::read(&out).expect("a file");
    // No file may become longer than 2 KiB.
    let script = "trap '' XFSZ; ulimit -f 2; exec \"$0\" \"$@\"";
    let output = Command::new("bash")
        .args(["-c", script, BIN, "export", text(&run), "--out", text(&out), "--force"])
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    error(output, 1);
    assert!(fs::read(&out).expect("a file") == before);
    let left: Vec<_> =
        fs::read_dir(place.0.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}: the store, the run, the file");
}

#[test]
fn a_check_without_a_runtime_says_what_it_needs() {
    let place = Place::new();
    let run = place.run("run", "");
    let out = place.path("a.onnx");
    let check = |python: &str| {
        let mut command = Command::new(BIN);
        command.args(["export", text(&run), "--out", text(&out), "--check"]).env("GLMC_PYTHON", python);
        let line = error(command.stdin(Stdio::null()).output().expect("the program starts"), 1);
        assert!(!out.exists(), "nothing is written that was to be checked");
        line
    };
    let absent = check("/nowhere/python");
    assert!(absent.contains("/nowhere/python does not start") && absent.contains("onnxruntime"), "{absent}");
    assert!(check("true").contains("answered something else"));
    assert!(check("false").contains("onnxruntime does not take the file"));
}
