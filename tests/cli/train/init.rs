//! `train --init` with a plain state dict, `import`, and networks with a choice of stems.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::{Place, error, glmc, ok, resume, text, weights_of};
use crate::common::checkpoints::manifest;

const RESNET: [&str; 8] = ["--model", "resnet18", "--width", "2", "--hidden", "6", "--epochs", "1"];

/// Writes a plain state dict of a run's last checkpoint, under names that `rename` makes of torchvision's, if any.
fn plain(run: &Path, to: &Path, rename: impl Fn(&str) -> Option<String>) -> PathBuf {
    let bytes = weights_of(run, "last.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let of_model = file.tensors().into_iter().filter(|(name, _)| !name.starts_with("optimizer."));
    let renamed: Vec<(String, TensorView<'_>)> =
        of_model.filter_map(|(name, view)| Some((rename(&name)?, view))).collect();
    fs::write(to, safetensors::serialize(renamed, None).expect("serializable")).expect("writable");
    to.to_path_buf()
}

fn same(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// A name as GLMC's code for ResNet-18 has it, behind DataParallel.
fn published(name: &str) -> Option<String> {
    let own = match name.split_once('.') {
        Some(("conv1", rest)) => format!("conv1.0.{rest}"),
        Some(("bn1", rest)) => format!("conv1.1.{rest}"),
        Some((layer, rest)) if layer.starts_with("layer") => {
            let stage = layer[5..].parse::<usize>().expect("a number") + 1;
            let rest =
                ["conv1", "bn1", "conv2", "bn2"].iter().zip([0, 1, 3, 4]).fold(rest.to_owned(), |rest, (from, to)| {
                    rest.replace(&format!(".{from}."), &format!(".residual_function.{to}."))
                });
            format!("conv{stage}_x.{}", rest.replace(".downsample.", ".shortcut."))
        }
        _ => name.to_owned(),
    };
    Some(format!("module.{own}"))
}

/// The tensors of a run's model by name.
fn tensor(run: &Path, name: &str) -> Vec<u8> {
    let bytes = weights_of(run, "last.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec()
}

fn evaluated(checkpoint: &Path, store: &Path) -> Value {
    let json = ok(glmc(&["eval", "--checkpoint", text(checkpoint), "--data", text(store), "--json"]));
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn a_state_dict_starts_a_run_and_makes_a_checkpoint() {
    let place = Place::new();
    let (run, store) = (place.path("run"), place.store());
    ok(place.train(&run, &RESNET));
    let config = fs::read_to_string(run.join("config.toml")).expect("a configuration");
    assert!(config.contains("stem = \"cifar\""), "{config}");

    // All of it, whatever its names are: with a rate of 0 the parameters stay what they were.
    let still = [&RESNET[..], &["--lr", "0"]].concat();
    for (name, file) in [
        ("same", plain(&run, &place.path("same.safetensors"), same)),
        ("published", plain(&run, &place.path("published.safetensors"), published)),
    ] {
        let new = place.path(name);
        let output = place.train(&new, &[&still[..], &["--init", text(&file)]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ok(output);
        assert!(stderr.contains("a state dict; loaded (") && !stderr.contains("missing"), "{stderr}");
        for tensor_name in ["conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.weight", "fc_cb.bias"] {
            assert!(tensor(&run, tensor_name) == tensor(&new, tensor_name), "{name}: {tensor_name}");
        }
        let record: Value = serde_json::from_slice(&fs::read(new.join("run.json")).expect("a record")).expect("JSON");
        assert_eq!(record["parent"]["checkpoint"], file.file_name().and_then(|f| f.to_str()).expect("a name"));
        // A run that has a checkpoint of its own goes on without the file.
        fs::rename(&file, place.path("elsewhere")).expect("movable");
        ok(resume(&new));
        fs::rename(place.path("elsewhere"), &file).expect("movable");

        let imported = place.path(&format!("imported-{name}"));
        let out = ok(glmc(&["import", text(&file), "--model", "resnet18", "--size", "8", "--out", text(&imported)]));
        assert!(out.contains("resnet18 width 2, 4 classes, glmc, classifier fc_cb"), "{out}");
        let manifest = manifest(&imported.join("last.safetensors"));
        assert_eq!(manifest["imported"]["file"], record["parent"]["checkpoint"]);
        // What it was normalised by is not in a state dict.
        let known = manifest_of(&run);
        let [mean, std] = ["mean", "std"].map(|what| {
            let three = known["data"][what].as_array().expect("a list").iter();
            three.map(ToString::to_string).collect::<Vec<_>>().join(",")
        });
        let exact = place.path(&format!("exact-{name}.safetensors"));
        let same_data = ["--mean", &mean, "--std", &std, "--size", "8"];
        ok(glmc(&[&["import", text(&file), "--model", "resnet18", "--out", text(&exact)], &same_data[..]].concat()));
        let (own, theirs) = (evaluated(&run, &store), evaluated(&exact, &store));
        for key in ["top1", "many", "medium", "few", "per_class", "head", "ece"] {
            assert_eq!(own[key], theirs[key], "{name}: {key}");
        }
        let tuned = place.path(&format!("tuned-{name}"));
        let tune = ["finetune", text(&exact), "--method", "crt", "--epochs", "1", "--lr-schedule", "cosine"];
        let message = error(glmc(&[&tune[..], &["--out", text(&tuned)]].concat()), 1);
        assert!(message.contains("was imported") && message.contains("--data"), "{message}");
        ok(glmc(&[&tune[..], &["--out", text(&tuned), "--data", text(&store), "--batch", "16"]].concat()));
        assert!(tensor(&tuned, "conv1.weight") == tensor(&run, "conv1.weight"));
    }
}

fn manifest_of(run: &Path) -> Value {
    manifest(&run.join("last.safetensors"))
}

#[test]
fn heads_for_other_classes_are_drawn_anew() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &[&RESNET[..], &["--method", "ce"]].concat()));
    let other = place.path("other.lt");
    let drawn = "prepare synthetic --classes 3 --per-class 20 --imbalance 4 --size 8 --seed 3 --out";
    ok(glmc(&[&drawn.split(' ').collect::<Vec<_>>()[..], &[text(&other)]].concat()));
    let file = plain(&run, &place.path("plain.safetensors"), |name| {
        same(name).filter(|name| name != "layer4.1.bn2.bias").map(|name| name.replace("layer3.1.bn2.bias", "more.bias"))
    });
    let new = place.path("new");
    let output =
        place.train(&new, &[&RESNET[..], &["--data", text(&other), "--init", text(&file), "--lr", "0"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    for part in [
        "conv1.*, bn1.*, layer1.*, layer2.*",
        "skipped (1): more.*",
        "missing, so drawn anew (8): layer3.1.bn2.bias, layer4.1.bn2.bias, fc_cb.*, contrast_head.*, projection_head.*",
        "drawn anew (2): fc.*",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(tensor(&run, "conv1.weight") == tensor(&new, "conv1.weight"));
}

#[test]
fn what_does_not_fit_gets_one_line() {
    let place = Place::new();
    let run = place.path("run");
    ok(place.train(&run, &RESNET));
    let whole = plain(&run, &place.path("whole.safetensors"), same);
    let bytes = fs::read(&whole).expect("a file");
    let write = |name: &str, bytes: &[u8]| {
        let path = place.path(name);
        fs::write(&path, bytes).expect("writable");
        path
    };
    let cut = write("cut.safetensors", &bytes[..bytes.len() / 2]);
    let text_file = write("text.pth", b"PK\x03\x04 this is no safetensors file");
    let foreign = plain(&run, &place.path("foreign.safetensors"), |name| Some(format!("encoder.{name}")));
    let twice = plain(&run, &place.path("twice.safetensors"), |name| {
        Some(if name == "bn1.weight" { "module.conv1.weight".into() } else { name.to_owned() })
    });
    let absent = place.path("absent.safetensors");
    let new = place.path("new");
    for (file, more, parts) in [
        (&cut, &RESNET[..], &["not a whole safetensors file"][..]),
        (&text_file, &RESNET, &["not a whole safetensors file", "pth_to_safetensors"]),
        (&foreign, &RESNET, &["no parameter of this network's encoder", "encoder.bn1.bias"]),
        (&twice, &RESNET, &["both conv1.weight"]),
        (&absent, &RESNET, &["no checkpoint here to start from"]),
        (&whole, &["--model", "resnet18", "--width", "4"], &["conv1.weight of shape [2, 3, 3, 3]", "--width"]),
        (&whole, &["--model", "resnet18", "--width", "2", "--stem", "imagenet"], &["conv1.weight", "[2, 3, 7, 7]"]),
        (&whole, &["--model", "resnet32", "--stem", "imagenet"], &["resnet32", "no imagenet stem"]),
        (&whole, &["--model", "resnext50_32x4d", "--width", "24"], &["a multiple of 16, not 24"]),
    ] {
        let message = error(place.train(&new, &[more, &["--init", text(file)]].concat()), 1);
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
        assert!(!new.exists());
    }
    let import = |file: &Path, more: &[&str]| {
        let out = place.path("imported");
        let message = error(glmc(&[&["import", text(file), "--out", text(&out)], more].concat()), 1);
        assert!(!out.exists());
        message
    };
    let names = write("names.txt", b"a\nb\nc\n");
    for (file, more, part) in [
        (&cut, &["--model", "resnet18"][..], "not a whole safetensors file"),
        (&whole, &["--model", "resnet34"], "has no layer1.2.*"),
        (&whole, &["--model", "resnet99"], "unknown model"),
        (&whole, &["--model", "resnet50"], "layer1.0.conv1.weight of shape"),
        (&whole, &["--model", "resnet18", "--classes", "7"], "has other shapes of fc.*, fc_cb.*"),
        (&whole, &["--model", "resnet18", "--class-names", text(&names)], "has 3 names, and the model 4 classes"),
        (&run.join("last.safetensors"), &["--model", "resnet18"], "is a checkpoint of this program already"),
    ] {
        let message = import(file, more);
        assert!(message.contains(part), "{part}: {message}");
    }
    let more = plain(&run, &place.path("more.safetensors"), |name| Some(name.replace("fc.bias", "fc_more.bias")));
    let message = import(&more, &["--model", "resnet18"]);
    assert!(message.contains("has no fc.bias"), "{message}");
    let message = error(
        glmc(&["import", text(&whole), "--model", "resnet18", "--mean", "1,2", "--out", text(&place.path("x"))]),
        2,
    );
    assert!(message.contains("--mean [1.0, 2.0]: three numbers"), "{message}");
}

/// The ImageNet stem is taken where images are large, and kept.
#[test]
fn the_stem_goes_by_the_images_size() {
    let place = Place::new();
    let large = place.path("large.lt");
    let drawn = "prepare synthetic --classes 2 --per-class 4 --imbalance 2 --size 68 --seed 3 --out";
    ok(glmc(&[&drawn.split(' ').collect::<Vec<_>>()[..], &[text(&large)]].concat()));
    let run = place.path("run");
    ok(place.train(&run, &[&RESNET[..], &["--data", text(&large), "--batch", "3"]].concat()));
    let config = fs::read_to_string(run.join("config.toml")).expect("a configuration");
    assert!(config.contains("stem = \"imagenet\""), "{config}");
    assert_eq!(tensor(&run, "conv1.weight").len(), 4 * 2 * 3 * 7 * 7);
}
