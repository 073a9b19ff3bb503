//! Where and how runs were made: machine, version, speed, and every setting.

use std::time::Duration;

use maud::{Markup, html};

use super::super::run::Run;
use super::super::series::Group;
use super::{count, wide};
use crate::train::report::{mebibytes, spell};

/// A line for each run.
pub fn runs(group: &Group<'_>) -> Markup {
    let dash = || "\u{2013}".to_string();
    let table = html! {
        table {
            thead {
                tr {
                    @for heading in ["run", "seed", "epochs", "began", "machine", "device", "version", "samples/s", "training",
                                     "waited for images", "peak memory"] { th scope="col" { (heading) } }
                }
            }
            tbody {
                @for run in group.runs() {
                    @let (first, last) = (run.record.processes.first(), run.record.processes.last());
                    tr {
                        th scope="row" { (run.name) }
                        td.number { (run.config.seed) }
                        td.number { (run.epochs.len()) "/" (run.config.epochs) }
                        td { (first.map_or_else(dash, |process| process.date.replace('T', " ").trim_end_matches('Z').to_string())) }
                        td { (last.map_or_else(dash, |process| process.host.clone())) }
                        td { (run.config.placement.device) ", " (run.config.placement.precision) }
                        td { (last.map_or_else(dash, |process| version(&process.version, process.commit.as_deref()))) }
                        td.number { (speed(run).map_or_else(dash, |speed| format!("{speed:.1}"))) }
                        td.number { (spell(Duration::from_secs_f64(seconds(run)))) }
                        td.number { (waited(run).unwrap_or_else(dash)) }
                        td.number { (run.outcome.and_then(|outcome| outcome.peak_bytes).map_or_else(dash, |bytes| mebibytes(bytes as usize))) }
                    }
                }
            }
        }
    };
    html! {
        h3 { "Runs" }
        (wide("Runs", &table))
        p.quiet { "Samples/s and training time are of all finished epochs, without evaluation. What a run waited for its images, and its peak memory, are known of its last process once it is finished." }
        @for run in group.runs().filter(|run| run.record.processes.len() > 1) {
            p.quiet { (run.name) " was made by " (count(run.record.processes.len(), "process")) ", one after another." }
        }
    }
}

fn version(version: &str, commit: Option<&str>) -> String {
    commit.map_or_else(|| version.to_string(), |commit| format!("{version} ({commit})"))
}

/// Seconds of training of all epochs; damaged ones are none.
fn seconds(run: &Run) -> f64 {
    run.epochs.iter().map(|epoch| epoch.seconds).filter(|seconds| (0.0..1e12).contains(seconds)).sum()
}

/// Samples per second over all epochs: the mean of theirs, weighed by their time.
fn speed(run: &Run) -> Option<f64> {
    let samples: f64 = run.epochs.iter().map(|epoch| epoch.samples_per_second * epoch.seconds).sum();
    Some(samples / seconds(run)).filter(|speed| speed.is_finite())
}

fn waited(run: &Run) -> Option<String> {
    Some(format!("{:.1} s", run.outcome?.waited_for_images_seconds?))
}

/// What differs between the series, and all settings of each.
pub fn configuration(group: &Group<'_>) -> Markup {
    let differences = group.differences();
    let table = html! {
        table {
            thead { tr { th scope="col" { "setting" } @for series in &group.series { th scope="col" { (series.name) } } } }
            tbody {
                @for (key, values) in &differences {
                    tr { th scope="row" { code { (key) } } @for value in values { td { code { (value) } } } }
                }
            }
        }
    };
    html! {
        h3 { "Configuration" }
        @if group.series.len() > 1 {
            @if differences.is_empty() {
                p { "All runs have the same settings." }
            } @else {
                p.quiet { "Settings in which they differ, seeds apart:" }
                (wide("Differences of configurations", &table))
            }
        }
        @for series in &group.series {
            details open[group.series.len() == 1] {
                summary { "Every setting of " (series.runs[0].name) }
                pre tabindex="0" { (series.runs[0].config.to_toml()) }
            }
            @for process in series.runs[0].record.processes.iter().take(1) {
                p.quiet { "Begun by: " code { (process.command.join(" ")) } }
            }
        }
    }
}
