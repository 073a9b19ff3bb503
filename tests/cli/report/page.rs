//! Every figure of a page is the runs'.

use std::fs;

use super::{between, metrics, number, plain, rows, shared, table};
use crate::ok;

/// Points of the lines of the chart under a caption.
fn lines(page: &str, caption: &str) -> Vec<Vec<(f64, f64)>> {
    let (_, rest) = page.split_once(&format!("<strong>{caption}</strong>")).unwrap_or_else(|| panic!("no {caption}"));
    let figure = rest.split("</figure>").next().expect("a figure");
    let drawing = figure.split("</svg>").next().expect("a drawing");
    let paths = between(drawing, "<path class=\"line\" d=\"", "\"");
    let point = |part: &str| part.split_once(' ').map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y")));
    paths.iter().map(|path| path.split(['M', 'L']).filter_map(point).collect()).collect()
}

/// Whether the points of a chart's line stand in proportion to these values: the chart's scale is linear, and falls.
fn check_line(points: &[(f64, f64)], values: &[f64], what: &str) {
    assert_eq!(points.len(), values.len(), "{what}");
    let order = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    let (low, high) =
        ((0..values.len()).min_by(order).expect("values"), (0..values.len()).max_by(order).expect("values"));
    let range = values[high] - values[low];
    for (point, value) in points.iter().zip(values) {
        let share = if range > 0.0 { (value - values[low]) / range } else { 0.0 };
        let expected = points[low].1 + share * (points[high].1 - points[low].1);
        assert!((point.1 - expected).abs() < 0.11, "{what}: {point:?} for {value}, not {expected}");
    }
    assert!(range == 0.0 || points[high].1 < points[low].1, "{what}: larger values stand higher");
    assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{what}: epochs go to the right");
}

#[test]
fn the_curves_of_one_run_are_its_metrics() {
    let place = shared();
    let page = place.page("runs/glmc-0");
    let epochs = metrics(&place.path("runs/glmc-0"));
    let column = |key: &str| epochs.iter().map(|epoch| number(&epoch[key])).collect::<Vec<f64>>();
    for (caption, key) in [
        ("Top-1, all classes", "top1"),
        ("Many-shot classes (&gt; 100 images)", "many"),
        ("Medium-shot classes (20 to 100)", "medium"),
        ("Loss", "loss"),
        ("Loss term L_c", "loss_c"),
        ("Loss term L_cb", "loss_cb"),
        ("Loss term L_sim", "loss_sim"),
        ("Learning rate", "lr"),
        ("Calibration error", "ece"),
        ("Speed", "samples_per_second"),
    ] {
        let lines = lines(&page, caption);
        assert_eq!(lines.len(), 1, "{caption}");
        check_line(&lines[0], &column(key), caption);
    }
    let (_, top1) = page.split_once("<strong>Top-1, all classes</strong>").expect("a chart");
    let titles = between(top1.split("</figure>").next().expect("a figure"), "<title>", "</title>");
    let best = epochs.iter().map(|epoch| number(&epoch["top1"])).fold(0.0, f64::max);
    let of_best = epochs.iter().find(|epoch| number(&epoch["top1"]) == best).expect("an epoch");
    assert!(titles.contains(&format!("glmc-0: best epoch {}, {best:.2}", of_best["epoch"]).as_str()), "{titles:?}");
    let last = number(&epochs[2]["top1"]);
    assert!(titles.contains(&format!("glmc-0: last epoch 3, {last:.2}").as_str()), "{titles:?}");
}

#[test]
fn tables_of_series_are_means_and_deviations_of_the_runs() {
    let place = shared();
    let page = place.page("runs");
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    let outcome = rows(&page, "<h3>Outcome</h3>");
    let headings = ["", "runs", "epoch", "top-1", "balanced", "many-shot", "medium-shot", "few-shot", "top-5", "ECE"];
    assert_eq!(outcome[0], headings);
    let keys = ["top1", "balanced", "many", "medium", "few", "top5", "ece"];
    let runs = |method: &str| [0, 1].map(|seed| metrics(&place.path(&format!("runs/{method}-{seed}"))));
    let text = |values: [Option<f64>; 2]| match values {
        [Some(a), Some(b)] => format!("{:.2} \u{b1} {:.2}", (a + b) / 2.0, (a - b).abs() / 2f64.sqrt()),
        _ => "\u{2013}".into(),
    };
    for (row, method) in [(1, "ce"), (3, "glmc")] {
        let runs = runs(method);
        assert_eq!((outcome[row][0].as_str(), outcome[row][1].as_str()), (method, "2"));
        for (at, key) in keys.iter().enumerate() {
            let last = text([0, 1].map(|run: usize| runs[run][2][key].as_f64()));
            assert_eq!(outcome[row][3 + at], last, "{method} {key}");
            let best = [0, 1].map(|run: usize| {
                let top = runs[run].iter().map(|epoch| number(&epoch["top1"])).fold(0.0, f64::max);
                runs[run].iter().find(|epoch| number(&epoch["top1"]) == top).expect("an epoch")[key].as_f64()
            });
            assert_eq!(outcome[row + 1][3 + at], text(best), "{method} {key}");
        }
        // The mean of the curves, too, and bands around it.
        let at = usize::from(method == "glmc");
        let mean = |epoch: usize| (number(&runs[0][epoch]["top1"]) + number(&runs[1][epoch]["top1"])) / 2.0;
        check_line(&lines(&page, "Top-1, all classes")[at], &[0, 1, 2].map(mean), method);
    }
    assert!(page.contains("<path class=\"band\""));
    // Class by class, from the class with the most images to that with the fewest.
    let classes = rows(&page, "<h3>Class by class</h3>");
    assert_eq!(classes[0], ["class", "shots", "training images", "ce", "glmc"]);
    let recalls = ["ce", "glmc"].map(|method| runs(method).map(|run| run[2]["per_class"].clone()));
    for (class, row) in classes[1..].iter().enumerate() {
        for (at, recalls) in recalls.iter().enumerate() {
            assert_eq!(row[3 + at], text([0, 1].map(|run: usize| recalls[run][class].as_f64())), "{row:?}");
        }
    }
    assert_eq!(classes.len(), 5);
    // What differs, and all that is set.
    let differences = rows(&page, "Settings in which they differ");
    assert!(differences.contains(&vec!["method".into(), "\"ce\"".into(), "\"glmc\"".into()]), "{differences:?}");
    assert!(differences.iter().all(|row| row[0] != "seed" && row[0] != "log"), "{differences:?}");
    let config = fs::read_to_string(place.path("runs/ce-0/config.toml")).expect("a configuration");
    assert!(page.contains(&config.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")));
}

#[test]
fn what_is_evaluated_is_what_eval_says() {
    let place = shared();
    let page = place.page("runs/ce-0 --csv seen");
    let eval = ok(place.glmc("eval --checkpoint runs/ce-0 --data a.lt --device cpu --json"));
    let eval: serde_json::Value = serde_json::from_str(&eval).expect("JSON");
    assert!(page.contains(&format!("<strong>Reliability, ECE {:.2}</strong>", number(&eval["ece"]))));
    // Rows and columns of the matrix in percent of the row; each row is a class of twelve images.
    let matrix = rows(&page, "<strong>Confusion matrix</strong>");
    let confusion = table(&place.path("seen/confusion.csv"));
    let count = |class: usize, guess: usize| {
        let is_pair = |line: &&std::collections::BTreeMap<String, String>| {
            line["class"] == class.to_string() && line["guess"] == guess.to_string()
        };
        confusion.iter().find(is_pair).map_or(0, |line| line["images"].parse::<usize>().expect("a number"))
    };
    for class in 0..4 {
        assert_eq!((0..4).map(|guess| count(class, guess)).sum::<usize>(), 12);
        let recall = 100.0 * count(class, class) as f64 / 12.0;
        assert!((recall - number(&eval["per_class"][class])).abs() < 1e-9, "class {class}");
        for guess in 0..4 {
            let percent = 100.0 * count(class, guess) as f64 / 12.0;
            let text = if count(class, guess) == 0 { String::new() } else { format!("{percent:.0}") };
            assert_eq!(matrix[1 + class][1 + guess], text, "{class} {guess}");
        }
    }
    // The bins hold all images, and give the calibration error again.
    let bins = table(&place.path("seen/reliability.csv"));
    let of = |bin: &std::collections::BTreeMap<String, String>, key: &str| bin[key].parse::<f64>().unwrap_or(0.0);
    let images: f64 = bins.iter().map(|bin| of(bin, "images")).sum();
    let gaps = bins.iter().map(|bin| of(bin, "images") * (of(bin, "accuracy") - of(bin, "confidence")).abs());
    assert_eq!((bins.len(), images), (15, 48.0));
    assert!((100.0 * gaps.sum::<f64>() / images - number(&eval["ece"])).abs() < 1e-9);
    // The most confident mistakes, as pictures in the page.
    let shown = between(&page, "src=\"data:image/png;base64,", "\"");
    let wrong = confusion.iter().filter(|line| line["class"] != line["guess"]);
    let wrong: usize = wrong.map(|line| line["images"].parse::<usize>().expect("a number")).sum();
    assert_eq!(shown.len(), wrong.min(24));
    let confidences = between(&page, "</strong>, ", " %</span>");
    let confidences: Vec<f64> = confidences.iter().map(|text| text.parse().expect("a percentage")).collect();
    assert!(confidences.len() == shown.len() && confidences.is_sorted_by(|a, b| a >= b), "{confidences:?}");
}

/// The mean of two heads over two views, as the run was evaluated.
#[test]
fn the_guesses_are_of_the_classifier_that_the_run_has() {
    let place = shared();
    let train = super::TRAIN;
    ok(place.glmc(&format!("{train} --data a.lt --method glmc --head mean --eval-flip --gamma 0.1 --out mean")));
    let page = place.page("mean --csv guesses");
    assert!(page.contains("classifier mean"));
    let confusion = table(&place.path("guesses/confusion.csv"));
    let eval = ok(place.glmc("eval --checkpoint mean --data a.lt --device cpu --json"));
    let eval: serde_json::Value = serde_json::from_str(&eval).expect("JSON");
    for class in 0..4 {
        let right = confusion.iter().find(|line| line["class"] == class.to_string() && line["guess"] == line["class"]);
        let right = right.map_or(0.0, |line| line["images"].parse::<f64>().expect("a number"));
        assert!((100.0 * right / 12.0 - number(&eval["per_class"][class])).abs() < 1e-9, "class {class}");
    }
}

#[test]
fn many_classes_are_shown_as_their_worst_pairs() {
    let place = shared();
    let page = place.page("other --csv pairs");
    assert!(!page.contains("<strong>Confusion matrix</strong>"));
    let shown = rows(&page, "most frequent confusions</strong>");
    let mut pairs: Vec<usize> = table(&place.path("pairs/confusion.csv"))
        .iter()
        .filter(|line| line["class"] != line["guess"])
        .map(|line| line["images"].parse().expect("a number"))
        .collect();
    pairs.sort_by_key(|&count| std::cmp::Reverse(count));
    let counts: Vec<usize> = shown[1..].iter().map(|row| row[2].parse().expect("a number")).collect();
    assert_eq!(counts, pairs[..20]);
}

#[test]
fn runs_on_other_data_stand_apart_and_it_is_said() {
    let place = shared();
    let page = place.page("runs other");
    assert!(plain(&page).contains("These runs are on 2 data sets: figures are compared within a data set alone."));
    let sections: Vec<String> = between(&page, "<section", "</section>").into_iter().map(plain).collect();
    assert_eq!(sections.len(), 2);
    assert!(sections[0].contains("Data: a.lt") && sections[1].contains("Data: b.lt"));
    assert!(!sections[0].contains("other") && !sections[1].contains("glmc-0"));
    assert!(!place.page("runs").contains("data sets"));
}

#[test]
fn the_page_needs_nothing_else() {
    let page = shared().page("runs other");
    for outside in ["http:", "https:", "src=\"/", "url(", "@import", "<link", "<iframe", "import("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn markdown_is_printed_alone() {
    let place = shared();
    let told = ok(place.glmc("report runs --device cpu --no-evaluation --out markdown.html --markdown"));
    let rows: Vec<&str> = told.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 4, "{told}");
    let cells = |row: &str| row.matches('|').count();
    assert!(rows.iter().all(|row| cells(row) == cells(rows[0])), "{told}");
    assert!(!told.contains("markdown.html"), "{told}");
    let last = [0, 1].map(|seed| number(&metrics(&place.path(&format!("runs/ce-{seed}")))[2]["top1"]));
    let (mean, deviation) = ((last[0] + last[1]) / 2.0, (last[0] - last[1]).abs() / 2f64.sqrt());
    assert!(rows[2].contains(&format!("| {mean:.2} +- {deviation:.2} |")), "{told}");
}

#[test]
fn tables_have_every_epoch_and_class() {
    let place = shared();
    place.page("runs --csv all");
    let epochs = table(&place.path("all/epochs.csv"));
    assert_eq!(epochs.len(), 12);
    for line in &epochs {
        let epoch: usize = line["epoch"].parse().expect("an epoch");
        let of_run = &metrics(&place.path(&format!("runs/{}", line["run"])))[epoch - 1];
        for key in ["lr", "loss", "loss_c", "top1", "few", "ece", "nll", "samples_per_second"] {
            assert_eq!(line[key].parse::<f64>().ok(), of_run[key].as_f64(), "{key}");
        }
        // Of another method's term the cell is empty.
        assert_eq!(line["loss_sim"].is_empty(), line["method"] == "ce");
    }
    let classes = table(&place.path("all/classes.csv"));
    assert_eq!(classes.len(), 16);
    for line in &classes {
        let class: usize = line["class"].parse().expect("a class");
        let of_run = &metrics(&place.path(&format!("runs/{}", line["run"])))[2];
        assert_eq!(line["last_recall"].parse::<f64>().ok(), of_run["per_class"][class].as_f64());
    }
    assert_eq!(table(&place.path("all/runs.csv")).len(), 8);
}

/// Two dozen settings, a thousand epochs each.
#[test]
fn a_page_of_many_long_runs_stays_small() {
    let place = shared();
    let text = |file: &str| fs::read_to_string(place.path("runs/ce-0").join(file)).expect("a file");
    let (config, epochs) = (text("config.toml"), metrics(&place.path("runs/ce-0")));
    for k in 0..24i32 {
        let run = place.path("many").join(format!("k={k}"));
        fs::create_dir_all(&run).expect("a folder");
        let config = config.replace("k = 1.2", &format!("k = {}.5", k - 12)).replace("epochs = 3", "epochs = 1000");
        fs::write(run.join("config.toml"), config).expect("writable");
        let line = |epoch: usize| {
            let mut line = epochs[epoch % 3].clone();
            line["epoch"] = (epoch + 1).into();
            line.to_string() + "\n"
        };
        fs::write(run.join("metrics.jsonl"), (0..1000).map(line).collect::<String>()).expect("writable");
    }
    let page = place.page("many");
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    assert_eq!(rows(&page, "<h3>Outcome</h3>").len(), 1 + 2 * 24);
    // Thinned, with the last epoch kept: at the right end.
    let line = &lines(&page, "Top-1, all classes")[0];
    assert!((40..=80).contains(&line.len()) && line.last().is_some_and(|point| point.0 > 425.0), "{line:?}");
}
