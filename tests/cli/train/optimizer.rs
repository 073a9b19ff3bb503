//! What a run's optimiser may do besides plain SGD: reached from files and flags, refused where it contradicts itself, and the
//! same after kills.

use std::fs;
use std::path::PathBuf;

use super::{Place, assert_kills_change_nothing, weights_of};
use crate::{error, glmc, ok, text};

fn settings(place: &Place, lines: &str) -> PathBuf {
    let file = place.path("settings.toml");
    fs::write(&file, lines).expect("a file");
    file
}

#[test]
fn a_run_with_sam_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::new();
    let file = settings(&place, "sam = { rho = 0.05, ascent = [1, 1, 0], running = \"first\" }\n");
    assert_kills_change_nothing(&place, &["--config", text(&file), "--nesterov"], 8);
}

#[test]
fn a_run_that_projects_killed_at_any_moment_goes_on_to_the_same_bits() {
    let place = Place::new();
    let lines = "groups = [{ match = \"*\", frozen = true, batch_norm = \"running\" }, { match = \"fc_cb.*\", weight_decay = 0.1 }]\n\
                 project = { max_norm = 0.1, match = \"fc_cb.weight\" }\n";
    let file = settings(&place, lines);
    assert_kills_change_nothing(&place, &["--config", text(&file)], 8);
    let limits = |run: &str| {
        let bytes = weights_of(&place.path(run), "last.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        file.tensor("run.limit.fc_cb.weight").expect("a limit").data().to_vec()
    };
    assert_eq!(limits("killed"), limits("whole"));
}

#[test]
fn a_flag_is_what_the_file_says_too() {
    let place = Place::new();
    let [flags, file] = ["flags", "file"].map(|name| place.path(name));
    ok(place.train(&flags, &["--epochs", "1", "--sam", "0.25", "--nesterov"]));
    let lines = settings(&place, "sam = 0.25\nnesterov = true\n");
    ok(place.train(&file, &["--epochs", "1", "--config", text(&lines)]));
    assert!(weights_of(&flags, "last.safetensors") == weights_of(&file, "last.safetensors"));
    let config = fs::read_to_string(flags.join("config.toml")).expect("a configuration");
    assert!(config.contains("[sam]\nrho = 0.25") && config.contains("nesterov = true"), "{config}");
    let plain = place.path("plain");
    ok(place.train(&plain, &["--epochs", "1"]));
    assert!(weights_of(&flags, "last.safetensors") != weights_of(&plain, "last.safetensors"));
}

#[test]
fn contradictions_get_one_line_and_leave_nothing() {
    let place = Place::new();
    let run = place.path("run");
    for (lines, what) in [
        (
            "groups = [{ match = \"head.*\" }]",
            "no parameter is called \"head.*\": their names begin with conv1, bn1, layer1",
        ),
        ("groups = [{ match = \"*\", frozen = true }]", "nothing is left to train"),
        (
            "groups = [{ match = \"layer3.*\", batch_norm = \"running\" }]",
            "for layer3.0.bn1: it and all before it must be frozen",
        ),
        ("groups = [{ match = \"fc\", lr = 2.0 }]", "unknown field `lr`"),
        ("groups = [{ match = \"fc.*\", lr_factor = -1.0 }]", "the group \"fc.*\": lr_factor must lie in"),
        ("project = { match = \"fc.weight\" }", "project: say max_norm"),
        ("project = { max_norm = 2.0, match = \"fc.weight\" }", "project: max_norm must lie in 0..=1"),
        ("project = { max_norm = 0.1, match = \"fc.bias\" }", "matches no weight with rows"),
        (
            "project = { max_norm = 0.1, match = \"fc.weight\" }\ngroups = [{ match = \"fc.*\", frozen = true }]",
            "project: fc.weight is frozen",
        ),
        ("sam = -1.0", "sam must lie in 0..=1000"),
        ("sam = { rho = 0.1, ascent = [0, 0, 0] }", "leaves out every loss"),
        ("sam = { rho = 0.1, passes = 2 }", "unknown field `passes`"),
        ("nesterov = true\nmomentum = 0.0", "nesterov looks ahead along the momentum, which is 0"),
    ] {
        let file = settings(&place, lines);
        let stderr = error(place.train(&run, &["--config", text(&file)]), 1);
        assert!(stderr.contains(what), "{lines}: {stderr}");
        assert!(!run.exists(), "{lines}");
    }
    let output = glmc(&["train", "--data", text(&place.store()), "--sam", "far"]);
    assert_eq!(output.status.code(), Some(2));
}
