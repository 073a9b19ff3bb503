//! What is missing is said and left out; what is damaged or in the way is refused in one line, and nothing is written.

use std::fs;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};

use super::{Place, TRAIN, copy, metrics, plain, rows, shared};
use crate::{error, ok, text};

/// A report that is refused; returns the line.
fn refused(place: &Place, line: &str, status: i32) -> String {
    let out = place.path("refused.html");
    fs::remove_file(&out).ok();
    let line = error(place.glmc(&format!("report --device cpu --out refused.html {line}")), status);
    assert!(!out.exists(), "{line}: half a report");
    line
}

#[test]
fn what_exists_is_kept_without_force() {
    let place = shared();
    fs::write(place.path("mine.html"), "mine").expect("writable");
    let line = error(place.glmc("report runs/ce-0 --device cpu --out mine.html"), 1);
    assert!(line.contains("mine.html: exists already; --force replaces it"), "{line}");
    assert_eq!(fs::read_to_string(place.path("mine.html")).expect("a file"), "mine");
    ok(place.glmc("report runs/ce-0 --device cpu --out mine.html --force"));
    assert!(fs::read_to_string(place.path("mine.html")).expect("a page").starts_with("<!DOCTYPE html>"));

    fs::create_dir(place.path("tables")).expect("a folder");
    fs::write(place.path("tables/runs.csv"), "mine").expect("writable");
    assert!(refused(place, "runs/ce-0 --csv tables", 1).contains("runs.csv: exists already"));
    assert!(refused(place, "runs/ce-0 --csv mine.html", 1).contains("is no folder"));
    let events = "report runs/ce-0 --device cpu --no-evaluation --out events.html --force --tensorboard events";
    ok(place.glmc(events));
    let again = refused(place, "runs/ce-0 --tensorboard events", 1);
    assert!(again.contains("exists already; --force replaces it"), "{again}");
    ok(place.glmc(events));
    assert_eq!(fs::read_dir(place.path("events/ce-0")).expect("a folder").count(), 1, "the old file is replaced");
    assert!(error(place.glmc("report runs/ce-0 --out nowhere/page.html"), 1).contains("no such folder"));
    assert!(error(place.glmc("report runs/ce-0 --out tables"), 1).contains("is a folder"));
}

#[test]
fn what_is_no_run_is_refused() {
    let place = shared();
    fs::create_dir_all(place.path("empty")).expect("a folder");
    for path in ["empty", "nowhere", "a.lt"] {
        let line = refused(place, path, 1);
        assert!(line.contains("there is no run here (no config.toml), nor in the folders in it"), "{line}");
    }
    error(place.glmc("report"), 2);
}

#[test]
fn damaged_metrics_are_refused_and_a_line_in_the_making_is_not() {
    let place = shared();
    let run = place.path("damaged");
    copy(&place.path("runs/ce-0"), &run);
    let file = run.join("metrics.jsonl");
    let whole = fs::read_to_string(&file).expect("metrics");
    let changed = |text: &str| fs::write(&file, text).expect("writable");
    changed(&whole.replacen("\"top1\":", "\"top\":", 1));
    assert!(refused(place, "damaged", 1).contains("line 1 should hold the metrics of epoch 1, but is damaged"));
    // Still JSON, but not what the run wrote.
    changed(&whole.replacen("\"images\":48", "\"images\":49", 1));
    assert!(refused(place, "damaged", 1).contains("not the metrics of the checkpoint beside them"));
    let two: String = whole.split_inclusive('\n').take(2).collect();
    changed(&two);
    assert!(refused(place, "damaged", 1).contains("ends after epoch 2, but the checkpoint beside it has 3"));
    // A fourth line that is being written.
    changed(&format!("{whole}{}", &two[..40]));
    assert!(place.page("damaged").contains(">3/3<"));
    fs::remove_file(&file).expect("a file");
    let page = plain(&place.page("damaged"));
    assert!(page.contains("damaged has no metrics.jsonl: no epoch is known"), "{page}");
    assert!(page.contains("No epoch is finished yet"), "{page}");
}

#[test]
fn without_store_or_checkpoint_their_parts_are_left_out() {
    let place = Place::new();
    ok(place.glmc("prepare synthetic --classes 3 --per-class 30 --imbalance 3 --size 8 --out a.lt"));
    ok(place.glmc(&format!("{TRAIN} --data a.lt --out run")));
    let whole = place.page("run");
    assert!(whole.contains("Confusion matrix") && whole.contains("Most confidently wrong"));

    fs::rename(place.path("a.lt"), place.path("b.lt")).expect("a store");
    let output = place.glmc("report run --device cpu --out gone.html");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert!(stderr.contains("warning: run was not evaluated") && stderr.contains("is gone"), "{stderr}");
    let page = plain(&fs::read_to_string(place.path("gone.html")).expect("a page"));
    assert!(page.contains("the store that the run was trained on is gone"), "{page}");
    assert!(page.contains("Left out, as no checkpoint of it was evaluated here"), "{page}");
    assert!(!page.contains("Confusion matrix") && page.contains("Class by class Recall"), "{page}");

    // Where it is now can be said.
    assert!(place.page("run --data b.lt").contains("Confusion matrix"));
    // Another store in its place is not evaluated on.
    ok(place.glmc("prepare synthetic --classes 3 --per-class 33 --imbalance 3 --size 8 --out a.lt"));
    let page = plain(&place.page("run"));
    assert!(page.contains("was trained on another store") && !page.contains("Confusion matrix"), "{page}");
    fs::remove_dir_all(place.path("a.lt")).expect("a store");
    fs::rename(place.path("b.lt"), place.path("a.lt")).expect("a store");

    let last = place.path("run/last.safetensors");
    let bytes = fs::read(&last).expect("a checkpoint");
    fs::write(&last, &bytes[..bytes.len() - 9]).expect("writable");
    let page = plain(&place.page("run"));
    assert!(page.contains("not a whole safetensors file") && !page.contains("Confusion matrix"), "{page}");
    fs::remove_file(&last).expect("a file");
    let page = plain(&place.page("run"));
    assert!(page.contains("has no last.safetensors") && !page.contains("Confusion matrix"), "{page}");
    // Names and sizes of the classes are the store's then; without either there is no table.
    assert!(page.contains("Class by class Recall"), "{page}");
    assert!(place.page("run --checkpoint best").contains("By best.safetensors"));
    fs::remove_dir_all(place.path("a.lt")).expect("a store");
    let page = plain(&place.page("run"));
    assert!(page.contains("names and sizes of the classes are not known"), "{page}");
    fs::write(&last, &bytes).expect("writable");
    assert_eq!(rows(&place.page("run --no-evaluation"), "<h3>Class by class</h3>").len(), 4);
}

#[test]
fn names_are_text_wherever_they_stand() {
    let place = Place::new();
    let names = ["<script>alert(1)<\u{2215}script>", "\"quoted\" & 'so' | on", "x\" onerror=\"alert(1)"];
    for (class, name) in names.iter().enumerate() {
        let folder = place.path("files").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for i in 0..8 {
            let colour = Rgb([30 * i as u8, 80 * class as u8, 90]);
            RgbImage::from_pixel(8, 8, colour).save(folder.join(format!("{i}.png"))).expect("an image");
        }
    }
    ok(place.glmc("prepare images --size 8 --test-fraction 0.25 --train-dir files --out a.lt"));
    ok(place.glmc(&format!("{TRAIN} --data a.lt --out <run>&")));
    let page = place.page("<run>& --csv tables");
    assert_eq!(page.matches("<script>").count(), 1, "the page's own");
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&lt;run&gt;&amp;"));
    assert!(!page.contains(" onerror=\"") && page.contains("x&quot; onerror=&quot;alert(1)"));
    let written = super::table(&place.path("tables/classes.csv"));
    let mut found: Vec<&str> = written.iter().map(|line| line["name"].as_str()).collect();
    found.sort_unstable();
    let mut expected = names.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_run_that_is_going_on_is_shown_as_far_as_it_is() {
    let place = Place::new();
    ok(place.glmc("prepare synthetic --classes 3 --per-class 30 --imbalance 3 --size 8 --out a.lt"));
    let train = TRAIN.replace("--epochs 3", "--epochs 100000");
    let mut child = place.command(&format!("{train} --data a.lt --out run")).spawn().expect("a start");
    let begun = Instant::now();
    while !place.path("run/metrics.jsonl").exists() || metrics_so_far(&place) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no epoch");
        std::thread::sleep(Duration::from_millis(5));
    }
    // While it trains.
    let pages: Vec<String> = (0..3).map(|_| place.page("run")).collect();
    child.kill().expect("a kill");
    child.wait().expect("an end");
    for page in pages {
        let page = plain(&page);
        assert!(page.contains("run is not finished: epoch") && page.contains("of 100000"), "{page}");
        assert!(page.contains("Confusion matrix"), "{page}");
    }
    assert!(text(&place.path("run")).ends_with("run") && metrics(&place.path("run")).len() >= 3);
}

/// Whole lines.
fn metrics_so_far(place: &Place) -> usize {
    fs::read_to_string(place.path("run/metrics.jsonl")).map_or(0, |text| text.matches('\n').count())
}

#[test]
fn stages_and_sweeps_are_their_runs() {
    let place = Place::new();
    ok(place.glmc("prepare synthetic --classes 3 --per-class 30 --imbalance 3 --size 8 --out a.lt"));
    let stages = "data = \"a.lt\"\nmodel = \"resnet20\"\nwidth = 2\nepochs = 2\nbatch = 16\nmethod = \"ce\"\n\n[[stage]]\n\n\
                  [[stage]]\nreinit = [\"fc.*\"]\nlr = 0.02\n";
    fs::write(place.path("stages.toml"), stages).expect("writable");
    ok(place.glmc("train --config stages.toml --threads 1 --device cpu --out staged"));
    ok(place.glmc(
        "sweep --base demo --data a.lt --width 2 --epochs 2 --batch 16 --threads 1 --device cpu --seeds 0..1 \
         --grid k=1,1.2 --out swept",
    ));
    let staged = rows(&place.page("staged"), "<h3>Runs</h3>");
    assert_eq!(staged[1..].iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["stage-1", "stage-2"]);
    let page = place.page("swept");
    let outcome = rows(&page, "<h3>Outcome</h3>");
    assert_eq!([&outcome[1][0], &outcome[3][0]], ["k=1.0", "k=1.2"]);
    assert_eq!([&outcome[1][1], &outcome[3][1]], ["2", "2"]);
    // A run given twice, or by its checkpoint, counts once.
    let twice = place.page("swept/k=1,seed=0 swept/k=1,seed=0/last.safetensors swept/k=1,seed=0/");
    assert_eq!(rows(&twice, "<h3>Runs</h3>").len(), 2);
}
