//! Every method of the table trains: some epochs on the CPU, one on the emulator.

use glmc_engine::method::METHODS;
use serde_json::Value;

use super::Place;
use crate::{error, ok, text};

/// The lines of a run's metrics, all numbers of which are finite: JSON has no others, and null stands where there is none.
fn epochs(run: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn loss(epoch: &Value) -> f64 {
    epoch["loss"].as_f64().expect("a finite loss")
}

#[test]
fn every_method_trains_on_the_cpu() {
    let place = Place::new();
    for method in METHODS {
        let run = place.path(method.name);
        // Four fifths of the epochs are three: what is deferred is in force in the last.
        let few = ["--method", method.name, "--epochs", "4", "--lr", "0.02", "--device", "cpu", "--width", "4"];
        ok(place.train(&run, &few));
        let epochs = epochs(&run);
        assert_eq!(epochs.len(), 4, "{}", method.name);
        assert!(epochs.iter().all(|epoch| loss(epoch).is_finite()), "{}: {epochs:?}", method.name);
        // SAM's rho was chosen for long runs: its first epochs may climb more than they descend.
        let falls = loss(&epochs[2]) < loss(&epochs[0]);
        assert!(falls || method.sam.is_some(), "{}: {} after {}", method.name, loss(&epochs[2]), loss(&epochs[0]));
        ok(crate::glmc(&["eval", "--checkpoint", text(&run), "--data", text(&place.store()), "--device", "cpu"]));
    }
}

#[test]
fn every_method_makes_steps_on_the_emulator() {
    let place = Place::new();
    for method in METHODS {
        let train = |device: &str| {
            let run = place.path(&format!("{}-{device}", method.name));
            let one = ["--method", method.name, "--epochs", "1", "--batch", "60", "--width", "2", "--device", device];
            ok(place.train(&run, &one));
            loss(&epochs(&run)[0])
        };
        let (found, expected) = (train("emulator"), train("cpu"));
        assert!((found - expected).abs() <= 1e-3 * expected.abs().max(1.0), "{}: {found} {expected}", method.name);
    }
}

#[test]
fn a_recipe_that_cannot_be_leaves_nothing() {
    let place = Place::new();
    let file = place.path("recipe.toml");
    for (recipe, said) in [
        ("partners = { kind = 'power', q = 1e308 }", "partners: the classes' probabilities"),
        ("originals.sampling = { kind = 'class-aware', images = 0 }", "originals.sampling: class-aware"),
        ("heads.fc.weight = { kind = 'values', values = [nan, 1, 1, 1] }", "heads.fc.weight: class 0"),
    ] {
        std::fs::write(&file, format!("method = 'mixup'\n[recipe]\n{recipe}\n")).expect("a file");
        let run = place.path("none");
        let line = error(place.train(&run, &["--config", text(&file), "--device", "cpu"]), 1);
        assert!(line.contains(said), "{line}");
        assert!(!run.exists(), "{recipe}");
    }
    // Many images of a class at a time are no more than an epoch has.
    let many = "method = 'ce'\n[recipe.originals.sampling]\nkind = 'class-aware'\nimages = 99999999999\n";
    std::fs::write(&file, many).expect("a file");
    ok(place.train(&place.path("many"), &["--config", text(&file), "--device", "cpu", "--epochs", "1"]));
}
