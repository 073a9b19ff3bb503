//! BBN: a network of two branches, trained, saved, evaluated, told of.

use serde_json::Value;

use super::{Place, assert_kills_change_nothing, error, glmc, ok, text, timeless_metrics, timeless_result};
use crate::common::checkpoints::manifest;

#[test]
fn a_network_of_two_branches_trains_and_evaluates() {
    let place = Place::new();
    let (run, store) = (place.path("run"), place.store());
    ok(place.train(&run, &["--method", "bbn", "--epochs", "2", "--warmup-epochs", "1", "--warmup-from", "0.5"]));
    let metrics = timeless_metrics(&run);
    assert_eq!(metrics.len(), 2);
    for line in &metrics {
        assert!(line["loss_c"].as_f64().is_some_and(|loss| loss > 0.0) && line.get("loss_cb").is_none(), "{line}");
    }
    assert_eq!(metrics[0]["lr"].as_f64(), Some(0.025), "half of the base in the only epoch of the warm-up");
    let last = run.join("last.safetensors");
    let config = &manifest(&last)["config"];
    assert_eq!((&config["method"], &config["warmup_from"]), (&"bbn".into(), &0.5.into()));
    let bytes = std::fs::read(&last).expect("a checkpoint");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let shape = |name: &str| file.tensor(name).map(|tensor| tensor.shape().to_vec()).ok();
    for (name, expected) in [
        ("cb_block.conv1.weight", Some(vec![16, 16, 3, 3])),
        ("rb_block.bn2.running_var", Some(vec![16])),
        ("layer3.1.conv2.weight", Some(vec![16, 16, 3, 3])),
        ("layer3.2.conv1.weight", None),
        ("fc.weight", Some(vec![4, 32])),
        ("fc_cb.weight", None),
    ] {
        assert_eq!(shape(name), expected, "{name}");
    }
    let json = ok(glmc(&["eval", "--checkpoint", text(&last), "--data", text(&store), "--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["top1"], timeless_result(&run)["last"]["top1"]);
    let info = ["info", "--json", "--data", text(&store), "--model", "resnet20", "--width", "4"];
    let parameters = |method: &str| -> u64 {
        let json: Value = serde_json::from_str(&ok(glmc(&[&info[..], &["--method", method]].concat()))).expect("JSON");
        json["memory"]["parameters_bytes"].as_u64().expect("a number")
    };
    // One block more, and as many inputs of the classifier again: at least these, with gradient and momentum.
    let more = 2 * (16 * 16 * 9 + 2 * 16) + 4 * 16;
    assert!(parameters("bbn") >= parameters("ce") + 3 * 4 * more);
    let line = error(place.train(&place.path("other"), &["--warmup-from", "1.5"]), 1);
    assert!(line.contains("warmup-from") && line.contains("1.5"), "{line}");
}

#[test]
fn a_run_of_two_branches_killed_at_any_moment_goes_on_to_the_same_bits() {
    assert_kills_change_nothing(&Place::new(), &["--method", "bbn", "--epochs", "3"], 5);
}
