//! Runs whose numbers leave the finite ones, in the loss or where no loss shows it.

use super::{Place, error, glmc, ok, text, timeless_metrics};

#[test]
fn a_model_that_is_not_finite_is_never_saved() {
    let place = Place::new();
    let (run, store) = (place.path("run"), place.store());
    // The losses stay finite, as BatchNorm hides from them that its variances are not.
    let line = error(place.train(&run, &["--lr", "10"]), 1);
    assert!(line.contains("running_var is no longer finite after epoch"), "{line}");
    let kept = timeless_metrics(&run).len();
    assert!(kept >= 1 && line.contains(&format!("last.safetensors still holds epoch {kept};")), "{line}");
    for checkpoint in ["last.safetensors", "best.safetensors"] {
        let file = run.join(checkpoint);
        ok(glmc(&["eval", "--checkpoint", text(&file), "--data", text(&store)]));
        let values = super::model::values(&file);
        assert!(values.iter().all(|value| value.is_finite()), "{checkpoint}");
    }
    // Going on does the same again; the command in the message does not.
    assert_eq!(error(super::resume(&run), 1), line);
    let again = line.split("(glmc-engine ").nth(1).and_then(|rest| rest.split(" --out").next()).expect("a command");
    let new = place.path("new");
    let words: Vec<&str> = again.split(' ').chain(["--lr", "0.05", "--out", text(&new)]).collect();
    ok(glmc(&words));
}

#[test]
fn divergence_before_the_first_checkpoint_says_so() {
    let place = Place::new();
    let run = place.path("run");
    let line = error(place.train(&run, &["--lr", "1000"]), 1);
    assert!(line.contains("no checkpoint had been written") && line.contains("--lr 100 --out NEW"), "{line}");
    assert!(!run.join("last.safetensors").exists() && !run.join("best.safetensors").exists());
}
