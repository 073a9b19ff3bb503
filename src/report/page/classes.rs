//! What there is to see class by class: the table of recalls, reliability, confusion and the images most confidently wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::super::plot::{Bar, reliability, sample};
use super::super::series::{Group, Series};
use super::super::{PAIRS, classes_by_size, worst_pairs};
use super::{Limits, count, text, wide};
use crate::train::means::Spread;

/// Shares from which on a cell is coloured enough for the page's ground to be the better colour for its number: in the dark
/// scheme, and in the light one.
const DARK: f64 = 0.58;
const LIGHT: f64 = 0.79;

/// The recall of every class; sorts by any of its columns where scripts run.
pub fn table(group: &Group<'_>, at: usize, limits: &Limits) -> Markup {
    let Some(known) = group.known else {
        return html! {
            h3 { "Class by class" }
            p.said { "Neither a checkpoint nor the store is at hand: names and sizes of the classes are not known." }
        };
    };
    let (order, groups) = (classes_by_size(known), known.groups());
    let number = |value: Option<Spread>| value.map_or_else(String::new, |spread| spread.mean.to_string());
    let table = html! {
        table.sorts id=(format!("classes-{at}")) {
            caption.hidden { "Recall of each class" }
            thead {
                tr {
                    th scope="col" aria-sort="none" { "class" }
                    th scope="col" aria-sort="none" { "shots" }
                    th.number scope="col" aria-sort="descending" { "training images" }
                    @for (style, series) in group.series.iter().enumerate() { th.number scope="col" aria-sort="none" { (sample(style)) " " (series.name) } }
                }
            }
            tbody {
                @for &class in order.iter().take(limits.rows) {
                    tr {
                        th scope="row" { (known.class_names[class]) }
                        td data-value=(groups[class] as usize) { (groups[class].name()) }
                        td.number data-value=(known.counts[class]) { (known.counts[class]) }
                        @for series in &group.series {
                            @let recall = series.recall(class);
                            td.number data-value=(number(recall)) { (text(recall)) }
                        }
                    }
                }
            }
        }
    };
    html! {
        h3 { "Class by class" }
        p.quiet {
            "Recall in the last epoch, percent."
            @if order.len() > limits.rows { " The " (limits.rows) " largest of " (order.len()) " classes; " code { "--csv" } " writes all of them." }
        }
        div.tall { (wide("Class by class", &table)) }
    }
}

/// What checkpoints make of the test images, series by series.
pub fn seen(group: &Group<'_>, limits: &Limits) -> Markup {
    html! {
        @for (style, series) in group.series.iter().enumerate() {
            h3 { "What is taken for what: " (sample(style)) " " (series.name) }
            @let seen: Vec<_> = series.runs.iter().filter_map(|run| run.seen.as_ref()).collect();
            @if let Some(first) = seen.first() {
                p.quiet {
                    "By " (first.checkpoint) " of " (count(seen.len(), "run")) ", classifier " (first.head) ", on "
                    (first.evaluation.images) " test images"
                    @if seen.len() > 1 { " each; images of all runs are counted together" }
                    "."
                }
                div.figures.seen {
                    (calibration(series, style))
                    (confusion(group, series, limits))
                }
                (gallery(group, series, limits))
            } @else {
                p.said { "Left out, as no checkpoint of it was evaluated here. Notes at the top say why." }
            }
        }
    }
}

fn calibration(series: &Series<'_>, style: usize) -> Markup {
    let bins = series.bins();
    let share = |n: usize| n as f64 / bins.len() as f64;
    let bars: Vec<Bar> = bins
        .iter()
        .enumerate()
        .map(|(at, bin)| {
            let images = bin.images.max(1) as f64;
            let (accuracy, confidence) = (bin.right as f64 / images, bin.confidence / images);
            Bar { from: share(at), to: share(at + 1), accuracy, confidence, images: bin.images }
        })
        .collect();
    let ece = Spread::of(series.evaluations().iter().map(|evaluation| Some(evaluation.ece)));
    let title = format!("Reliability of {}: expected calibration error {}", series.name, text(ece));
    html! {
        figure {
            figcaption {
                strong { "Reliability, ECE " (text(ece)) }
                span.quiet { "Bars: accuracy of the images in each bin of confidence, percent; grey: what parts it from their mean confidence." }
            }
            (reliability(&title, &bars, style))
        }
    }
}

fn confusion(group: &Group<'_>, series: &Series<'_>, limits: &Limits) -> Markup {
    let Some(known) = group.known else { return html! {} };
    let name = |class: usize| &known.class_names[class];
    let (pairs, classes) = (series.confusion(), known.counts.len());
    let images = |class: usize| pairs.range((class, 0)..(class + 1, 0)).map(|(_, count)| count).sum::<usize>();
    if classes > limits.matrix {
        let worst = worst_pairs(&pairs);
        let table = html! {
            table {
                thead { tr { th scope="col" { "class" } th scope="col" { "taken for" } th scope="col" { "images" } th scope="col" { "of the class" } } }
                tbody {
                    @for &((class, guess), count) in &worst {
                        tr {
                            th scope="row" { (name(class)) }
                            td { (name(guess)) }
                            td.number { (count) }
                            td.number { (format!("{:.1} %", 100.0 * count as f64 / images(class).max(1) as f64)) }
                        }
                    }
                }
            }
        };
        return html! {
            figure.table {
                figcaption { strong { "The " (PAIRS) " most frequent confusions" } span.quiet { "Of " (classes) " classes." } }
                (wide("Most frequent confusions", &table))
            }
        };
    }
    let order = classes_by_size(known);
    let table = html! {
        table.matrix {
            caption.hidden { "Rows: the class; columns: the guess" }
            thead { tr { td {} @for &guess in &order { th scope="col" { span { (name(guess)) } } } } }
            tbody {
                @for &class in &order {
                    @let all = images(class);
                    tr {
                        th scope="row" { (name(class)) }
                        @for &guess in &order {
                            @let found = pairs.get(&(class, guess)).copied().unwrap_or(0);
                            @let share = found as f64 / all.max(1) as f64;
                            td class=[(share > DARK).then_some(if share > LIGHT { "full most" } else { "full" })] style=(format!("--v:{share:.3}"))
                                title=(format!("{} taken for {}: {found} of {all}", name(class), name(guess))) {
                                @if share >= 0.005 { (format!("{:.0}", 100.0 * share)) }
                            }
                        }
                    }
                }
            }
        }
    };
    html! {
        figure.table {
            figcaption {
                strong { "Confusion matrix" }
                span.quiet { "Rows: classes, from the most training images to the fewest; columns: what they are taken for. Percent of the row." }
            }
            (wide("Confusion matrix", &table))
        }
    }
}

fn gallery(group: &Group<'_>, series: &Series<'_>, limits: &Limits) -> Markup {
    let Some((run, seen)) = series.runs.iter().find_map(|run| run.seen.as_ref().map(|seen| (run, seen))) else {
        return html! {};
    };
    let name = |class: usize| group.known.map_or_else(|| class.to_string(), |known| known.class_names[class].clone());
    if seen.wrong.is_empty() {
        return html! { p { "No test image is guessed wrong." } };
    }
    let sizes = seen.wrong.iter().scan(0, |bytes, wrong| {
        *bytes += wrong.png.len();
        Some(*bytes)
    });
    let fitting = sizes.take_while(|bytes| *bytes <= limits.images).count();
    html! {
        h4 { "Most confidently wrong" }
        @if series.runs.len() > 1 { p.quiet { "Of " (run.name) "." } }
        ul.gallery {
            @for wrong in seen.wrong.iter().take(fitting) {
                li {
                    @let (class, guess) = (name(wrong.class), name(wrong.guess));
                    img width=(wrong.size.0) height=(wrong.size.1)
                        alt=(format!("test image {} of class {class}", wrong.image))
                        src=(format!("data:image/png;base64,{}", STANDARD.encode(&wrong.png)));
                    span { (class) }
                    span.quiet { "taken for " strong { (guess) } ", " (format!("{:.1} %", 100.0 * wrong.confidence)) }
                }
            }
        }
    }
}
