//! Epochs of other lengths than the training images: how many steps they have, on to the same bits after kills, and what is
//! refused.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Place, assert_kills_change_nothing, error, ok, text, timeless_metrics, weights_of};
use crate::common::checkpoints::manifest;

/// Settings of a method whose originals are of this length, and drawn so.
fn file(place: &Place, length: &str, sampling: &str) -> PathBuf {
    let file = place.path("length.toml");
    let settings = "method = 'mixup'\n[recipe]\npartners = { kind = 'shuffle' }\n";
    fs::write(&file, format!("{settings}originals = {{ sampling = {sampling}, length = {length} }}\n"))
        .expect("a file");
    file
}

/// Steps that a run has made, and batches that its batch normalisations have seen.
fn made(run: &Path) -> (Option<u64>, i64) {
    let bytes = weights_of(run, "last.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let seen = tensors.tensor("bn1.num_batches_tracked").expect("a number").data().try_into().expect("eight bytes");
    let about = manifest(&run.join("last.safetensors"));
    (about["progress"]["total_steps"].as_u64(), i64::from_le_bytes(seen))
}

const CLASS_AWARE: &str = "{ kind = 'class-aware', images = 4 }";

#[test]
fn an_epoch_has_the_steps_that_its_length_says() {
    let place = Place::new();
    let counts = counts(&place);
    let (all, largest) = (counts.iter().sum::<u64>(), counts[0] * counts.len() as u64);
    assert_ne!(all % 16, 0, "a last, smaller step");
    for (at, (length, samples)) in [
        ("{ kind = 'images' }", all),
        ("{ kind = 'largest-class' }", largest),
        ("{ kind = 'whole-steps' }", all / 16 * 16),
        ("{ kind = 'steps', steps = 3 }", 3 * 16),
        ("{ kind = 'steps', steps = 13 }", 13 * 16),
    ]
    .into_iter()
    .enumerate()
    {
        for (sampling, parts) in [("{ kind = 'shuffle' }", 1), (CLASS_AWARE, 4)] {
            let (run, file) = (place.path(&format!("{at}-{parts}")), file(&place, length, sampling));
            let parts_text = parts.to_string();
            let more = ["--config", text(&file), "--epochs", "2", "--accumulate", &parts_text, "--device", "cpu"];
            ok(place.train(&run, &more));
            assert_eq!(timeless_metrics(&run).len(), 2);
            // Parts of a step of 16 are of 4 samples, where there are 4.
            let seen = samples.div_ceil(16 / parts);
            assert_eq!(made(&run), (Some(2 * samples.div_ceil(16)), 2 * seen as i64), "{length} {sampling}");
        }
    }
}

/// Training images of each class.
fn counts(place: &Place) -> Vec<u64> {
    let meta = fs::read(place.store().join("meta.json")).expect("a store");
    let meta: serde_json::Value = serde_json::from_slice(&meta).expect("JSON");
    meta["counts"].as_array().expect("a list").iter().map(|count| count.as_u64().expect("a number")).collect()
}

#[test]
fn longer_and_shorter_epochs_killed_at_any_moment_go_on_to_the_same_bits() {
    for (length, sampling) in
        [("{ kind = 'largest-class' }", CLASS_AWARE), ("{ kind = 'whole-steps' }", "{ kind = 'shuffle' }")]
    {
        let place = Place::new();
        let file = file(&place, length, sampling);
        assert_kills_change_nothing(&place, &["--config", text(&file), "--epochs", "3", "--device", "cpu"], 4);
    }
}

#[test]
fn lengths_that_cannot_be_are_told_in_a_line() {
    let place = Place::new();
    let run = place.path("none");
    for (length, said) in [
        ("{ kind = 'steps', steps = 0 }", "originals.length: an epoch has at least 1 step"),
        ("{ kind = 'steps', steps = 99999999999 }", "originals.length: an epoch has at most 134217728 images"),
        ("{ kind = 'steps', steps = 1152921504606846976 }", "originals.length: an epoch has at most 134217728 images"),
        ("{ kind = 'steps', steps = -3 }", "recipe"),
        ("{ kind = 'steps' }", "missing field `steps`"),
        ("{ kind = 'days', days = 3 }", "unknown variant `days`"),
    ] {
        let file = file(&place, length, "{ kind = 'shuffle' }");
        let line = error(place.train(&run, &["--config", text(&file), "--device", "cpu"]), 1);
        assert!(line.contains(said), "{length}: {line}");
        assert!(!run.exists(), "{length}");
    }
}
