//! `export --format safetensors` in torchvision, strictly.

use libtest_mimic::{Failed, Trial};

use crate::{Place, glmc, ok, python};

/// Loads a file into torchvision's network of that name, of that width and classes, and into nothing else.
const LOAD: &str = "
import sys, torch, torchvision
from safetensors.torch import load_file
name, classes, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
state = load_file(file)
model = getattr(torchvision.models, name)(num_classes=classes)
print(model.load_state_dict(state, strict=True))
model.eval()(torch.zeros(1, 3, 40, 40))
";

pub fn trials() -> Vec<Trial> {
    let load =
        |name, words| Trial::test(format!("weights: torchvision loads {name} strictly"), move || loads(name, words));
    vec![load("resnet18", "--width 64 --stem imagenet"), load("resnet50", "--width 64 --stem imagenet --method ce")]
}

fn loads(name: &str, words: &str) -> Result<(), Failed> {
    let place = Place::new();
    let store = place.store(8)?;
    let run = place.train(&store, &format!("--model {name} {words} --batch 48"))?;
    let file = place.path("weights.safetensors");
    ok(glmc("export --format safetensors --out", &[&file, &run]))?;
    let told = ok(python().args(["-c", LOAD, name, "5"]).arg(&file).output()?)?;
    assert!(told.contains("All keys matched"), "{told}");
    Ok(())
}
