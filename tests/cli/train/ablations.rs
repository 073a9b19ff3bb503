//! Every switch of GLMC that an ablation turns, by `--config` alone: views, alpha, class weights, samplers, similarity, heads,
//! networks. Each must train, and change what comes out. (How the data are split is a switch of `prepare`.)

use std::fs;

use serde_json::Value;

use super::{Place, glmc, ok, text, timeless_metrics};

/// Two epochs of one step each, so that what changes between epochs counts.
const BASE: &str = "method = 'glmc'\nmodel = 'resnet20'\nwidth = 2\nepochs = 2\nbatch = 128\nlr = 0.05\nseed = 1\nthreads = 1\n\
                    device = 'cpu'\n";

/// What alpha may be: as both heads' courses.
fn alpha(course: &str) -> String {
    format!("[recipe.heads]\nfc.coefficient.course = '{course}'\nfc_cb.coefficient.course = '{course}'\n")
}

/// A constant alpha.
fn constant(alpha: f64) -> String {
    let coefficient =
        |factor: f64| format!("coefficient = {{ factor = {factor:?}, course = 'constant', rising = false }}");
    format!("[recipe.heads]\nfc.{}\nfc_cb.{}\n", coefficient(alpha), coefficient(1.0 - alpha))
}

/// Switches, and whether they are as GLMC has them by itself.
fn switches() -> Vec<(String, bool)> {
    let one_view = "[recipe]\nviews = ['mixup']\nsimilarity = false\n";
    let changed = [
        "[recipe]\nviews = ['mixup', 'mixup']\n",
        "[recipe]\nviews = ['cutmix', 'cutmix']\n",
        "[recipe]\nviews = ['plain', 'plain']\n",
        one_view,
        "gamma = 0.0\n",
        "[recipe]\nheads.fc_cb = false\nevaluate = 'fc'\n",
        "k = 0.0\n",
        "k = 0.4\n",
        "k = 1.0\n",
        "resample = 0.2\n",
        "resample = 0.5\n",
        "resample = 1.0\n",
        "resample = 2.0\n",
        "[recipe.similarity]\nstop_gradient = false\n",
        "[recipe.similarity]\npredictor = false\n",
        "beta = 0.2\n",
        "beta = 2.0\n",
        "correct_labels = true\n",
        "[recipe.mixing]\nshare = { kind = 'area' }\n",
        "halve_supervised = true\n",
        "hidden = 256\n",
        "head = 'fc'\n",
        "head = 'mean'\n",
        "twenty_is_few = true\n",
        "width = 3\n",
        "model = 'resnet34'\n",
    ];
    let same = [
        "[recipe]\nviews = ['mixup', 'cutmix']\n",
        "k = 1.2\n",
        "resample = 0.0\n",
        "[recipe.similarity]\nstop_gradient = true\npredictor = true\n",
        "beta = 1.0\n",
        "[recipe.mixing]\nshare = { kind = 'lambda' }\n",
        "hidden = 128\n",
        "head = 'fc_cb'\n",
    ];
    let listed = changed.map(|text| (text, false)).into_iter().chain(same.map(|text| (text, true)));
    listed.map(|(text, same)| (text.to_string(), same)).collect()
}

/// Settings of alpha, and what it is in the second of two epochs.
fn alphas() -> [(String, f64); 6] {
    let courses = [("parabola", 0.75), ("linear", 0.5), ("cosine", 0.5f64.sqrt())];
    let [parabola, linear, cosine] = courses.map(|(course, at)| (alpha(course), at));
    let [none, half, one] = [0.0, 0.5, 1.0].map(|alpha| (constant(alpha), alpha));
    [parabola, linear, cosine, none, half, one]
}

#[test]
fn every_ablation_is_a_file_that_trains() {
    let place = Place::new();
    let (file, store) = (place.path("ablation.toml"), place.store());
    let train = |switch: &str, name: &str| -> Vec<Value> {
        let mut settings: toml::Table = toml::from_str(BASE).expect("TOML");
        settings.extend(toml::from_str::<toml::Table>(switch).expect("TOML"));
        settings.insert("data".into(), text(&store).into());
        fs::write(&file, settings.to_string()).expect("a file");
        let run = place.path(name);
        ok(glmc(&["train", "--config", text(&file), "--out", text(&run)]));
        timeless_metrics(&run)
    };
    let base = train("", "base");
    assert_eq!(base.len(), 2);
    for (at, (switch, same)) in switches().into_iter().enumerate() {
        let found = train(&switch, &at.to_string());
        assert_eq!(found.len(), 2, "{switch}");
        assert!(found.iter().all(|epoch| epoch["loss"].is_f64()), "{switch}: {found:?}");
        assert_eq!(found == base, same, "{switch}: {found:?}");
    }
    let mut outcomes = Vec::new();
    for (at, (switch, alpha)) in alphas().into_iter().enumerate() {
        let found = train(&switch, &format!("alpha-{at}"));
        let said = found[1]["alpha"].as_f64().expect("a number");
        assert!((said - alpha).abs() < 1e-12, "{switch}: {said}");
        let number = |key: &str| found[1][key].as_f64().expect("a number");
        let [total, c, cb, sim] = ["loss", "loss_c", "loss_cb", "loss_sim"].map(number);
        // Gamma is 1.
        let sum = alpha * c + (1.0 - alpha) * cb + sim;
        assert!((total - sum).abs() < 1e-5 * total.abs().max(1.0), "{switch}: {total} is not {sum}");
        outcomes.push(total);
    }
    assert_eq!(outcomes[0], base[1]["loss"], "the parabola is GLMC's own");
    for (at, outcome) in outcomes.iter().enumerate() {
        assert!(!outcomes[..at].contains(outcome), "two settings of alpha with one outcome: {outcomes:?}");
    }
}
