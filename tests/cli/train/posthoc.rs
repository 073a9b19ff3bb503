//! `posthoc`, and the further figures of `eval`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Place, error, glmc, ok, text};

fn posthoc(run: &Path, more: &[&str]) -> std::process::Output {
    glmc(&[&["posthoc", text(run), "--device", "cpu"], more].concat())
}

fn eval(checkpoint: &Path, store: &Path, more: &[&str]) -> std::process::Output {
    glmc(&[&["eval", "--checkpoint", text(checkpoint), "--data", text(store), "--device", "cpu"], more].concat())
}

fn json(output: std::process::Output) -> Value {
    serde_json::from_str(&ok(output)).expect("JSON")
}

/// Two evaluations agree, one of the device in single precision and one of the host in double.
fn agree(one: &Value, other: &Value) {
    for key in ["top1", "top5", "many", "medium", "few", "balanced", "ece", "nll", "confidence_gap"] {
        match (one[key].as_f64(), other[key].as_f64()) {
            (Some(one), Some(other)) => assert!((one - other).abs() < 1e-3, "{key}: {one} and {other}"),
            (one, other) => assert_eq!(one, other, "{key}"),
        }
    }
}

fn run_on(place: &Place, more: &[&str]) -> std::path::PathBuf {
    let run = place.path("run");
    ok(place.train(&run, &[&["--epochs", "2", "--shots", "index"], more].concat()));
    run
}

#[test]
fn a_sweep_is_printed_whole_and_what_it_saves_is_evaluated() {
    let place = Place::new();
    let run = run_on(&place, &[]);
    let before = fs::read(run.join("last.safetensors")).expect("a checkpoint");
    let own = json(eval(&run, &place.store(), &["--json"]));
    assert!(own["few"].is_f64() && own["confidence_gap"].is_f64(), "{own}");

    let whole =
        json(posthoc(&run, &["--json", "--tau-norm", "0..2", "--logit-adjust", "0..2", "--maxnorm", "1", "--ncm"]));
    agree(&whole["trained"]["test"], &own);
    assert_eq!((&whole["head"], &whole["chosen_on"]), (&"fc_cb".into(), &"test".into()));
    let sweeps = whole["sweeps"].as_array().expect("sweeps");
    let tried: Vec<usize> = sweeps.iter().map(|sweep| sweep["tried"].as_array().expect("values").len()).collect();
    assert_eq!(tried, [21, 21, 1, 1]);
    let bare = json(posthoc(&run, &["--json", "--tau-norm", "0", "--keep-bias"]));
    for same in [&sweeps[1]["tried"][0], &sweeps[2]["tried"][0], &bare["sweeps"][0]["tried"][0]] {
        assert_eq!(same["test"], whole["trained"]["test"], "nothing was changed");
    }
    for sweep in sweeps {
        let chosen = &sweep["tried"][sweep["chosen"].as_u64().expect("an index") as usize]["test"]["balanced"];
        let all = sweep["tried"].as_array().expect("values").iter().map(|row| row["test"]["balanced"].as_f64());
        assert!(all.into_iter().all(|reached| reached <= chosen.as_f64()));
    }

    for (name, change) in
        [("tau", ["--tau-norm", "0.7"]), ("la", ["--logit-adjust", "0.5..1.5"]), ("max", ["--maxnorm", "0.1"])]
    {
        for flip in ["false", "true"] {
            let file = place.path(&format!("{name}-{flip}.safetensors"));
            let flip = ["--flip", flip];
            let found = json(posthoc(&run, &[&change[..], &flip, &["--json", "--save", text(&file)]].concat()));
            let sweep = &found["sweeps"][0];
            let chosen = &sweep["tried"][sweep["chosen"].as_u64().expect("an index") as usize];
            let saved = json(eval(&file, &place.store(), &[&flip[..], &["--json"]].concat()));
            agree(&chosen["test"], &saved);
            assert!(saved["posthoc"].as_str().expect("what was done").contains("fc_cb"), "{saved}");
        }
    }
    let file = place.path("tau-false.safetensors");
    assert!(ok(eval(&file, &place.store(), &[])).contains("then tau-norm 0.7"));
    let line = error(posthoc(&run, &["--tau-norm", "1", "--save", text(&file)]), 1);
    assert!(line.contains("exists already"), "{line}");
    // What was changed is changed once more.
    let twice = place.path("twice.safetensors");
    ok(posthoc(&file, &["--logit-adjust", "1", "--save", text(&twice)]));
    assert!(ok(eval(&twice, &place.store(), &[])).contains("tau-norm 0.7 on fc_cb, logit-adjust 1 on fc_cb"));
    assert!(fs::read(run.join("last.safetensors")).expect("a checkpoint") == before, "the run is as it was");

    let printed = ok(posthoc(&run, &["--checkpoint", "best"]));
    for said in ["as trained", "tau 0", "tau 1", "best on test", "as papers do", "Without such a choice, tau 1"] {
        assert!(printed.contains(said), "{said}: {printed}");
    }
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let place = Place::new();
    let run = run_on(&place, &[]);
    let file = place.path("new.safetensors");
    for (more, status, said) in [
        (&["--tau-norm", "2..1"][..], 2, "before it begins"),
        (&["--tau-norm", "x"], 2, "no number"),
        (&["--maxnorm", "1.5"], 2, "0..1"),
        (&["--maxnorm", "0.1", "--keep-bias"], 2, "--tau-norm"),
        (&["--ncm", "--save", text(&file)], 2, "nearest class means"),
        (&["--save", text(&file)], 2, "one change"),
        (&["--head", "mean"], 2, "one classifier"),
    ] {
        let line = error(posthoc(&run, more), status);
        assert!(line.contains(said), "{line}");
    }
    assert!(!file.exists());
    let line = error(posthoc(&run.join("last.safetensors"), &["--checkpoint", "best"]), 2);
    assert!(line.contains("run folder"), "{line}");
    let gone = place.path("moved.lt");
    fs::rename(place.store(), &gone).expect("moved");
    let line = error(posthoc(&run, &[]), 1);
    assert!(line.contains("is gone") && line.contains("--data"), "{line}");
    ok(posthoc(&run, &["--data", text(&gone), "--tau-norm", "1"]));
}

#[test]
fn a_cosine_head_is_only_adjusted() {
    let place = Place::new();
    let run = run_on(&place, &["--method", "ldam"]);
    let own = json(eval(&run, &place.store(), &["--json"]));
    let file = place.path("new.safetensors");
    let found = json(posthoc(&run, &["--logit-adjust", "0..1", "--ncm", "--json"]));
    agree(&found["trained"]["test"], &own);
    for (more, said) in [
        (&["--tau-norm", "1"][..], "cosine head"),
        (&[], "cosine head"),
        (&["--logit-adjust", "1", "--save", text(&file)], "no bias"),
        (&["--head", "fc_cb"], "without fc_cb; its classifiers: fc"),
    ] {
        let line = error(posthoc(&run, more), 1);
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn validation_images_choose_where_there_are_any() {
    let place = Place::new();
    let store = super::select::with_val(&place);
    let run = run_on(&place, &["--data", text(&store)]);
    let found = json(posthoc(&run, &["--json"]));
    assert_eq!(found["chosen_on"], "val");
    for sweep in found["sweeps"].as_array().expect("sweeps") {
        let of = |row: &Value| row["val"]["balanced"].as_f64().expect("a figure");
        let chosen = of(&sweep["tried"][sweep["chosen"].as_u64().expect("an index") as usize]);
        assert!(sweep["tried"].as_array().expect("values").iter().all(|row| of(row) <= chosen));
    }
    assert!(ok(posthoc(&run, &[])).contains("best on val"));
}

#[test]
fn figures_of_an_evaluation() {
    let place = Place::new();
    let run = run_on(&place, &["--eval-flip", "--head", "mean"]);
    let lines = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    let file = place.path("classes.csv");
    let own = json(eval(&run, &place.store(), &["--json", "--per-class", text(&file)]));
    for key in ["top1", "many", "medium", "few", "balanced", "nll", "confidence_gap", "per_class"] {
        assert_eq!(own[key], last[key], "{key}");
    }
    assert_eq!((&own["head"], &own["flip"]), (&"mean".into(), &true.into()));
    assert!(own["nll"].as_f64().expect("a loss") > 0.0);
    assert!((own["balanced"].as_f64().expect("a figure") - own["top1"].as_f64().expect("a figure")).abs() < 1e-9);
    let plain = json(eval(&run, &place.store(), &["--json", "--flip", "false"]));
    assert_ne!(plain["nll"], own["nll"]);
    let [fc, fc_cb] = ["fc", "fc_cb"].map(|head| json(eval(&run, &place.store(), &["--json", "--head", head])));
    assert!(own["nll"] != fc["nll"] && own["nll"] != fc_cb["nll"]);

    let csv = fs::read_to_string(&file).expect("a file");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["class", "name", "training_images", "group", "images", "recall"]);
    for (class, row) in rows[1..].iter().enumerate() {
        assert_eq!(row[0], class.to_string());
        assert_eq!(row[5].parse::<f64>().ok(), own["per_class"][class].as_f64());
    }
    let groups: Vec<&str> = rows[1..].iter().map(|row| row[3]).collect();
    assert_eq!(groups, ["many", "medium", "medium", "few"]);
    let by_count = json(eval(&run, &place.store(), &["--json", "--shots", "oltr"]));
    assert_eq!(by_count["top1"], own["top1"]);
    assert_ne!(by_count["many"], own["many"]);
    let nowhere = place.path("no/such/folder.csv");
    assert!(error(eval(&run, &place.store(), &["--per-class", text(&nowhere)]), 1).contains("folder.csv"));
    let line = error(place.train(&place.path("other"), &["--shots", "oltr", "--twenty-is-few"]), 1);
    assert!(line.contains("twenty_is_few means glmc"), "{line}");
}
