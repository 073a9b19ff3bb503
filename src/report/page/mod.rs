//! A report as one HTML page that needs nothing else: style and script are inside, drawings are inline SVG, images data URIs.
//! Its policy for content forbids it any other source. Without its script it reads the same; tables then do not sort.

mod classes;
mod facts;
mod figures;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use super::plot;
use super::series::{Group, Series};
use crate::train::means::{FIGURES, Spread};
use crate::version;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");
/// Nothing is loaded from anywhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// How much is shown of each series, so that a page of many stays under 2 MB.
struct Limits {
    /// Points of a line.
    points: usize,
    /// Points of classes.
    dots: usize,
    /// Rows of a table of classes: the CSV files have all.
    rows: usize,
    /// Classes of a confusion matrix; of more, the worst pairs are shown.
    matrix: usize,
    /// Bytes of a gallery's images.
    images: usize,
}

impl Limits {
    fn of(series: usize) -> Limits {
        let share = |all: usize, least: usize, most: usize| (all / series.max(1)).clamp(least, most);
        Limits {
            // More could not be told apart.
            points: share(1600, 40, 300),
            dots: share(1200, 20, 200),
            rows: share(6000, 100, 1000),
            matrix: if series > 8 { 0 } else { 20 },
            images: share(600 << 10, 0, 160 << 10),
        }
    }
}

/// A mean with its deviation as the page writes it.
fn text(spread: Option<Spread>) -> String {
    Spread::text(spread).replace("+-", "\u{b1}").replace('-', "\u{2013}")
}

/// A count with its noun, in the plural where there is more than one.
fn count(n: usize, noun: &str) -> String {
    match (n, noun.strip_suffix('s')) {
        (1, _) => format!("1 {noun}"),
        (n, Some(_)) => format!("{n} {noun}es"),
        (n, None) => format!("{n} {noun}s"),
    }
}

/// A table that scrolls by itself where it is wider than the page.
fn wide(label: &str, table: &Markup) -> Markup {
    html! { div.wide tabindex="0" role="region" aria-label=(label) { (table) } }
}

/// The whole page.
pub fn page(report: &Report) -> String {
    let groups = Group::all(&report.runs);
    let limits = Limits::of(groups.iter().map(|group| group.series.len()).sum());
    let runs = report.runs.len();
    let title = match &report.runs[..] {
        [run] => run.name.clone(),
        _ => count(runs, "run"),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { "Training report: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Training report: " (title) }
                    p.quiet { "glmc-engine " (version::VERSION) ", " (report.date) }
                    @if groups.len() > 1 {
                        p.said {
                            "These runs are on " (count(groups.len(), "data set")) ": figures are compared within a data set alone."
                        }
                        nav aria-label="Data sets" {
                            ul { @for (at, group) in groups.iter().enumerate() { li { a href=(format!("#data-{at}")) { (data_name(group)) } } } }
                        }
                    }
                }
                main { @for (at, group) in groups.iter().enumerate() { (section(group, at, &limits)) } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// What the page calls a group's data: the store's folder.
fn data_name(group: &Group<'_>) -> String {
    let path = group.runs().next().map(|run| run.config.placement.data.clone()).unwrap_or_default();
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn section(group: &Group<'_>, at: usize, limits: &Limits) -> Markup {
    html! {
        section id=(format!("data-{at}")) {
            h2 { "Data: " (data_name(group)) }
            (about(group))
            (summary(group))
            (figures::figures(group, limits))
            (classes::table(group, at, limits))
            (classes::seen(group, limits))
            (facts::runs(group))
            (facts::configuration(group))
        }
    }
}

/// What the data are, and which runs are not finished.
fn about(group: &Group<'_>) -> Markup {
    html! {
        @if let Some(known) = group.known {
            @let (most, least) = (known.counts.iter().max().unwrap_or(&0), known.counts.iter().min().unwrap_or(&0));
            p {
                (known.counts.iter().sum::<usize>()) " training images, " (count(known.counts.len(), "class")) " of "
                (least) " to " (most) " images"
                @if let Some(last) = group.runs().find_map(|run| run.last()) { ", " (last.test.images) " test images" }
                ". Accuracies are percentages of the test images"
                @if group.runs().any(|run| run.last().is_some_and(|last| last.val.is_some())) { "; the best epoch is chosen on validation images" }
                "."
            }
        }
        @for run in group.runs().filter(|run| !run.is_finished()) {
            p.said {
                strong { (run.name) } " is not finished: epoch " (run.epochs.len()) " of " (run.config.epochs) "."
            }
        }
        @for run in group.runs() {
            @for note in &run.notes { p.said { strong { (run.name) } " " (note) } }
        }
    }
}

/// The outcome: a line for each series.
fn summary(group: &Group<'_>) -> Markup {
    let has_seeds = group.series.iter().any(|series| series.runs.len() > 1);
    let table = html! {
        table {
            thead {
                tr {
                    th scope="col" { "" }
                    @if has_seeds { th.number scope="col" { "runs" } }
                    th scope="col" { "epoch" }
                    @for (name, ..) in FIGURES { th.number scope="col" { (name) } }
                }
            }
            tbody {
                @for (at, series) in group.series.iter().enumerate() {
                    (line(series, at, "last", has_seeds))
                    (line(series, at, "best", has_seeds))
                }
            }
        }
    };
    html! {
        h3 { "Outcome" }
        (wide("Outcome", &table))
        p.quiet {
            @if has_seeds { "Mean \u{b1} standard deviation over runs that differ in their seed alone. " }
            "A run's best epoch is the first with the highest top-1 on the images that it chooses by; published tables often report "
            "it, chosen on the test images."
        }
    }
}

fn line(series: &Series<'_>, at: usize, which: &str, has_seeds: bool) -> Markup {
    let is_last = which == "last";
    let epochs: Vec<usize> = series
        .runs
        .iter()
        .filter_map(|run| if is_last { run.last() } else { run.best() })
        .map(|epoch| epoch.epoch)
        .collect();
    let range = match (epochs.iter().min(), epochs.iter().max()) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "\u{2013}".into(),
    };
    html! {
        tr class=[is_last.then_some("first")] {
            th scope="row" {
                @if is_last { (plot::sample(at)) " " (series.name) } @else { span.hidden { (series.name) } }
            }
            @if has_seeds { td.number { @if is_last { (series.runs.len()) } } }
            td { (which) " " (range) }
            @for (.., figure) in FIGURES {
                td.number { (text(if is_last { series.last(figure) } else { series.best(figure) })) }
            }
        }
    }
}
