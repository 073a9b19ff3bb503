//! A report's figures for other programs: CSV tables, event files for TensorBoard, Markdown.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::run::Run;
use super::series::Group;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::train::events::{self, EventFile, event_files};
use crate::train::means::{FIGURES, Spread};
use crate::train::metrics::EpochMetrics;
use crate::train::scalars::write_csv;

/// The tables.
const TABLES: [&str; 5] = ["epochs.csv", "runs.csv", "classes.csv", "confusion.csv", "reliability.csv"];

/// Where a run's event files go in a folder: its name may be a path.
fn events_folder(folder: &Path, run: &Run) -> PathBuf {
    folder.join(&run.name)
}

/// Refuses a folder for tables (or, with `events`, for event files of these runs) that holds some already, unless they may be
/// replaced.
///
/// # Errors
/// When it does, or is no folder, or the system refuses.
pub fn check_folder(folder: &Path, runs: &[Run], events: bool, force: bool) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::file(folder, "is no folder"));
    }
    if force {
        return Ok(());
    }
    let there = match events {
        true => {
            let files = runs.iter().map(|run| event_files(&events_folder(folder, run))).collect::<Result<Vec<_>>>()?;
            files.into_iter().flatten().next()
        }
        false => TABLES.iter().map(|name| folder.join(name)).find(|path| path.symlink_metadata().is_ok()),
    };
    match there {
        Some(path) => Err(Error::file(path, "exists already; --force replaces it")),
        None => Ok(()),
    }
}

/// Writes each run's scalars as an event file in a folder of its name. Epochs have the times that they took behind the run's
/// beginning.
///
/// # Errors
/// When the system refuses.
pub fn write_events(folder: &Path, runs: &[Run]) -> Result<()> {
    for run in runs {
        let into = events_folder(folder, run);
        fs::create_dir_all(&into).map_err(Error::io(&into))?;
        events::remove(&into)?;
        let began = run.record.processes.first().and_then(|process| humantime::parse_rfc3339(&process.date).ok());
        let began = began.unwrap_or(SystemTime::UNIX_EPOCH);
        let finished = |epoch: &EpochMetrics| {
            let seconds: f64 = run.epochs[..epoch.epoch].iter().map(|epoch| epoch.seconds).sum();
            began + Duration::try_from_secs_f64(seconds).unwrap_or_default()
        };
        EventFile::create(&into)?.add(&run.epochs, finished)?;
    }
    Ok(())
}

/// Writes the tables: every epoch; every run's outcome; recalls; and of evaluated checkpoints confusions and reliability.
///
/// # Errors
/// When the system refuses.
pub fn write_tables(folder: &Path, runs: &[Run]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let [epochs, outcomes, classes, confusion, reliability] = TABLES.map(|name| folder.join(name));
    let lines = runs.iter().flat_map(|run| {
        run.epochs
            .iter()
            .map(|epoch| (vec![run.name.clone(), run.config.method.name.into(), run.config.seed.to_string()], epoch))
    });
    write_csv(&epochs, &["run", "method", "seed"], lines)?;
    let mut table = vec![row(&["run", "data", "method", "seed", "which"])];
    table[0].extend(["epoch".to_string()].into_iter().chain(FIGURES.iter().map(|(_, name, _)| name.to_string())));
    for run in runs {
        for (which, epoch) in [("last", run.last()), ("best", run.best())] {
            let Some(epoch) = epoch else { continue };
            let data = run.config.placement.data.display().to_string();
            let mut line = row(&[&run.name, &data, run.config.method.name, &run.config.seed.to_string(), which]);
            line.push(epoch.epoch.to_string());
            line.extend(FIGURES.iter().map(|(.., figure)| number(figure(&epoch.test))));
            table.push(line);
        }
    }
    write_table(&outcomes, &table)?;
    write_table(&classes, &class_rows(runs))?;
    write_table(&confusion, &confusion_rows(runs))?;
    write_table(&reliability, &reliability_rows(runs))
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// What a run calls its classes.
fn class_name(run: &Run, class: usize) -> String {
    run.known.as_ref().map_or_else(|| class.to_string(), |known| known.class_names[class].clone())
}

fn class_rows(runs: &[Run]) -> Vec<Vec<String>> {
    let mut table = vec![row(&["run", "class", "name", "training_images", "group", "last_recall", "best_recall"])];
    for run in runs {
        let (Some(last), Some(best)) = (run.last(), run.best()) else { continue };
        let groups = run.known.as_ref().map(|known| known.groups());
        for (class, recall) in last.test.per_class.iter().enumerate() {
            let images = run.known.as_ref().map(|known| known.counts[class] as f64);
            let group = groups.as_ref().map_or("", |groups| groups[class].name());
            let name = class_name(run, class);
            let best = number(best.test.per_class[class]);
            table.push(row(&[&run.name, &class.to_string(), &name, &number(images), group, &number(*recall), &best]));
        }
    }
    table
}

fn confusion_rows(runs: &[Run]) -> Vec<Vec<String>> {
    let mut table = vec![row(&["run", "checkpoint", "class", "guess", "name", "guess_name", "images"])];
    for run in runs {
        let Some(seen) = &run.seen else { continue };
        for (&(class, guess), images) in &seen.confusion {
            let names = [class, guess].map(|class| class_name(run, class));
            let numbers = [class, guess, *images].map(|n| n.to_string());
            let checkpoint = format!("{}, epoch {}", seen.checkpoint, seen.epoch);
            table.push(row(&[&run.name, &checkpoint, &numbers[0], &numbers[1], &names[0], &names[1], &numbers[2]]));
        }
    }
    table
}

fn reliability_rows(runs: &[Run]) -> Vec<Vec<String>> {
    let mut table = vec![row(&["run", "above", "up_to", "images", "accuracy", "confidence"])];
    for run in runs {
        let Some(seen) = &run.seen else { continue };
        for (at, bin) in seen.bins.iter().enumerate() {
            let ends = [at, at + 1].map(|end| (end as f64 / seen.bins.len() as f64).to_string());
            let share = |sum: f64| number((bin.images > 0).then(|| sum / bin.images as f64));
            let [accuracy, confidence] = [bin.right as f64, bin.confidence].map(share);
            table.push(row(&[&run.name, &ends[0], &ends[1], &bin.images.to_string(), &accuracy, &confidence]));
        }
    }
    table
}

fn write_table(at: &Path, rows: &[Vec<String>]) -> Result<()> {
    let failed = |e: csv::Error| Error::file(at, format!("cannot be written: {e}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| table.write_record(row)).map_err(failed)?;
    let bytes = table.into_inner().map_err(|e| Error::file(at, e.to_string()))?;
    write_atomically(at, |file| file.write_all(&bytes).map_err(Error::io(at)))
}

/// A text that stands in a cell of a Markdown table as itself.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

/// The outcome of the runs, a table for each data set.
pub fn markdown(runs: &[Run]) -> String {
    let mut text = String::new();
    for group in Group::all(runs) {
        let data = group.runs().next().map(|run| run.config.placement.data.display().to_string()).unwrap_or_default();
        text.push_str(&format!("Data: {}\n\n|  | runs | epochs | which |", cell(&data)));
        let headings: Vec<&str> = FIGURES.iter().map(|(name, ..)| *name).collect();
        text.push_str(&format!(" {} |\n|---|---|---|---|{}\n", headings.join(" | "), "---|".repeat(headings.len())));
        for series in &group.series {
            for which in ["last", "best"] {
                let spread = |figure| if which == "last" { series.last(figure) } else { series.best(figure) };
                let figures = FIGURES.iter().map(|&(.., figure)| Spread::text(spread(figure)));
                let figures = figures.collect::<Vec<_>>().join(" | ");
                let epochs = series.runs.iter().map(|run| run.epochs.len()).max().unwrap_or(0);
                let (name, runs) = (cell(&series.name), series.runs.len());
                text.push_str(&format!("| {name} | {runs} | {epochs} | {which} | {figures} |\n"));
            }
        }
        text.push('\n');
    }
    text
}
