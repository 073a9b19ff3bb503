//! The charts over epochs, and accuracy against class size.

use maud::{Markup, html};

use super::super::plot::{Axis, Chart, Mark, Point, Shape, Trace, sample};
use super::super::series::{At, Group, Series};
use super::Limits;
use crate::data::shots::Shot;
use crate::train::metrics::EpochMetrics;

/// What is taken of an epoch.
type Value<'a> = &'a dyn Fn(&EpochMetrics) -> Option<f64>;

/// What values a chart may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Percentages, whose last and best epoch are marked.
    Accuracy,
    Positive,
    Free,
}

/// All charts of a group.
pub fn figures(group: &Group<'_>, limits: &Limits) -> Markup {
    if group.runs().all(|run| run.epochs.is_empty()) {
        return html! { p.said { "No epoch is finished yet: there is nothing to draw." } };
    }
    let over =
        |title: &str, what: &str, value: Value<'_>, kind: Kind| over_epochs(group, limits, (title, what), value, kind);
    let mut charts =
        vec![over("Top-1, all classes", "Percent of the test images.", &|m| Some(m.test.top1), Kind::Accuracy)];
    for shot in Shot::ALL {
        let value = |m: &EpochMetrics| match shot {
            Shot::Many => m.test.many,
            Shot::Medium => m.test.medium,
            Shot::Few => m.test.few,
        };
        let range = group.known.map_or_else(String::new, |known| format!(" ({})", known.rule.range(shot)));
        let title = format!("{}-shot classes{range}", capital(shot.name()));
        charts.push(over(&title, "Mean recall of these classes, percent.", &value, Kind::Accuracy));
    }
    let of_val = |m: &EpochMetrics| m.val.as_ref().map(|val| val.top1);
    charts.push(over("Top-1, validation images", "Percent.", &of_val, Kind::Accuracy));
    charts.push(by_size(group, limits));
    charts.push(over("Loss", "The total that is trained, mean over samples.", &|m| Some(m.loss), Kind::Free));
    for term in terms(group) {
        let value = |m: &EpochMetrics| m.losses.0.iter().find(|(name, _)| *name == term).map(|(_, loss)| *loss);
        charts.push(over(&format!("Loss term L_{term}"), meaning(&term), &value, Kind::Free));
    }
    charts.push(over("Learning rate", "At each epoch's last step.", &|m| Some(m.lr), Kind::Positive));
    let ece = |m: &EpochMetrics| Some(m.test.ece);
    charts.push(over("Calibration error", "ECE of 15 bins, percentage points.", &ece, Kind::Positive));
    let speed = |m: &EpochMetrics| Some(m.samples_per_second);
    charts.push(over("Speed", "Training samples per second, without evaluation.", &speed, Kind::Positive));
    html! {
        h3 { "Over the epochs" }
        p.quiet {
            svg.sample viewBox="0 0 12 12" aria-hidden="true" { g.c0 { circle.last cx="6" cy="6" r="4" {} } } " last epoch, "
            svg.sample viewBox="0 0 12 12" aria-hidden="true" { g.c0 { path.best d="M6 1L11 10L1 10Z" {} } }
            " best epoch"
            @if group.series.iter().any(|series| series.runs.len() > 1) {
                "; lines are means over seeds, bands one standard deviation, and the best is the highest point of the mean"
            }
            "."
        }
        div.figures { @for chart in &charts { (chart) } }
    }
}

fn capital(word: &str) -> String {
    word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect()
}

/// The names of the losses' terms, where a run has more than one.
fn terms(group: &Group<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in group.runs().filter_map(|run| run.last()).filter(|last| last.losses.0.len() > 1) {
        for (name, _) in &run.losses.0 {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// What a term of GLMC's loss is; other methods' say it by their names.
fn meaning(term: &str) -> &'static str {
    match term {
        "c" => "Of the conventional classifier.",
        "cb" => "Of the rebalanced classifier.",
        "sim" => "Similarity of the two views, 2 down to \u{2212}2.",
        _ => "Mean over an epoch's samples.",
    }
}

/// A figure with its caption and, where there is more than one series, a legend.
fn figure(group: &Group<'_>, title: &str, what: &str, drawing: &Markup) -> Markup {
    html! {
        figure {
            figcaption { strong { (title) } span.quiet { (what) } }
            (drawing)
            @if group.series.len() > 1 {
                ul.legend { @for (at, series) in group.series.iter().enumerate() { li { (sample(at)) (series.name) } } }
            }
        }
    }
}

fn over_epochs(
    group: &Group<'_>,
    limits: &Limits,
    (title, what): (&str, &str),
    value: Value<'_>,
    kind: Kind,
) -> Markup {
    let curves: Vec<Vec<At>> = group.series.iter().map(|series| series.curve(value)).collect();
    if curves.iter().all(Vec::is_empty) {
        return html! {};
    }
    let traces = group.series.iter().zip(&curves).enumerate().map(|(style, (series, curve))| {
        let point = |at: &At| Point { x: at.epoch as f64, y: at.spread.mean, deviation: at.spread.deviation };
        let marks = if kind == Kind::Accuracy { marks(series, curve, value) } else { Vec::new() };
        Trace { style, line: curve.iter().map(point).collect(), marks }
    });
    let bounds = match kind {
        Kind::Accuracy => Some((0.0, 100.0)),
        Kind::Positive => Some((0.0, f64::INFINITY)),
        Kind::Free => None,
    };
    let last = curves.iter().filter_map(|curve| curve.last()).map(|at| at.epoch).max().unwrap_or(1);
    let values = curves.iter().zip(&group.series).filter_map(|(curve, series)| {
        curve.last().map(|at| format!("{} {:.4} at epoch {}", series.name, at.spread.mean, at.epoch))
    });
    let chart = Chart {
        title: format!("{title} over the epochs: {}", values.collect::<Vec<_>>().join("; ")),
        x: Axis {
            label: "epoch".into(),
            whole: true,
            range: (last > 1).then_some((1.0, last as f64)),
            ..Axis::default()
        },
        y: Axis { bounds, ..Axis::default() },
        traces: traces.collect(),
        points: limits.points,
    };
    figure(group, title, what, &chart.draw())
}

/// The last point of a curve, and the best: a run's own best epoch, or the highest point of a mean.
fn marks(series: &Series<'_>, curve: &[At], value: Value<'_>) -> Vec<Mark> {
    let mark = |at: &At, shape: Shape, word: &str| {
        let (x, y) = (at.epoch as f64, at.spread.mean);
        Mark { x, y, shape, title: format!("{}: {word} epoch {}, {y:.2}", series.name, at.epoch) }
    };
    let own = match series.runs[..] {
        [run] => run.best().filter(|best| value(best).is_some()).map(|best| best.epoch),
        _ => {
            curve.iter().reduce(|best, at| if at.spread.mean > best.spread.mean { at } else { best }).map(|at| at.epoch)
        }
    };
    let best = own.and_then(|epoch| curve.iter().find(|at| at.epoch == epoch));
    let best = best.map(|at| mark(at, Shape::Best, "best"));
    best.into_iter().chain(curve.last().map(|at| mark(at, Shape::Last, "last"))).collect()
}

/// The recall of each class in the last epoch against its training images.
fn by_size(group: &Group<'_>, limits: &Limits) -> Markup {
    let (title, what) = ("Accuracy against class size", "Recall of each class in the last epoch, percent.");
    let Some(known) = group.known else {
        return figure(
            group,
            title,
            what,
            &html! { p.said { "How many images a class has is not known: there is neither a checkpoint nor the store." } },
        );
    };
    let traces = group.series.iter().enumerate().map(|(style, series)| {
        let mut points: Vec<Mark> = (0..known.counts.len())
            .filter_map(|class| {
                let (x, y) = (known.counts[class] as f64, series.recall(class)?.mean);
                let title = format!("{}: {}, {x} training images, {y:.2}", series.name, known.class_names[class]);
                Some(Mark { x, y, shape: Shape::Dot, title })
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        // A point and a title for each of thousands of classes would be most of the page: a mean of neighbours, then.
        let together = points.len().div_ceil(limits.dots);
        let merged = points.chunks(together.max(1)).map(|chunk| {
            let mean = |of: fn(&Mark) -> f64| chunk.iter().map(of).sum::<f64>() / chunk.len() as f64;
            match chunk {
                [mark] => mark.clone(),
                _ => {
                    let (x, y) = (mean(|mark| mark.x), mean(|mark| mark.y));
                    let title = format!("{}: {} classes of about {x:.0} images, {y:.2}", series.name, chunk.len());
                    Mark { x, y, shape: Shape::Dot, title }
                }
            }
        });
        Trace { style, line: Vec::new(), marks: merged.collect() }
    });
    let chart = Chart {
        title: format!("{title}: the per-class table has the same values"),
        x: Axis { label: "training images of the class".into(), log: true, ..Axis::default() },
        y: Axis { range: Some((0.0, 100.0)), ..Axis::default() },
        traces: traces.collect(),
        points: limits.points,
    };
    let merged =
        if known.counts.len() > limits.dots { " Each point is the mean of classes of about one size." } else { "" };
    figure(group, title, &format!("{what}{merged}"), &chart.draw())
}
