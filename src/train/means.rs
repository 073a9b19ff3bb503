//! Means and standard deviations over the seeds of a sweep: as a table, and run by run in `summary.csv`.

use std::io::Write;
use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::EpochMetrics;
use super::sweep::{Finished, difference};
use crate::console::{Column, Table, say, tell};
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// A figure of an evaluation.
pub type Figure = fn(&Evaluation) -> Option<f64>;

/// The figures of an evaluation: as the table calls them, as files do, and where they are.
pub const FIGURES: [(&str, &str, Figure); 7] = [
    ("top-1", "top1", |e| Some(e.top1)),
    ("balanced", "balanced", |e| e.balanced),
    ("many-shot", "many", |e| e.many),
    ("medium-shot", "medium", |e| e.medium),
    ("few-shot", "few", |e| e.few),
    ("top-5", "top5", |e| Some(e.top5)),
    ("ECE", "ece", |e| Some(e.ece)),
];

/// An epoch of a finished run.
type Epoch = fn(&Finished) -> &EpochMetrics;

/// The two epochs that are reported.
const EPOCHS: [(&str, Epoch); 2] = [("last", |run| &run.last), ("best", |run| &run.best)];

/// The finished runs that differ in their seed alone.
#[derive(Clone, Debug)]
pub struct Point<'a> {
    /// The settings that tell it from other points, in the order of the grid: name and value.
    pub settings: &'a [(String, String)],
    /// Their folders' names, and what came out.
    pub runs: Vec<(&'a str, &'a Finished)>,
}

/// Mean and sample standard deviation (n - 1 in the denominator).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    /// Absent where there is one value.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of these values, none of which may be absent.
    pub fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Spread> {
        let values: Vec<f64> = values.collect::<Option<_>>()?;
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Spread { mean, deviation })
    }

    /// As people read it; a dash where there is none.
    pub fn text(spread: Option<Spread>) -> String {
        match spread {
            Some(Spread { mean, deviation: Some(deviation) }) => format!("{mean:.2} +- {deviation:.2}"),
            Some(Spread { mean, deviation: None }) => format!("{mean:.2}"),
            None => "-".into(),
        }
    }
}

impl Point<'_> {
    /// Refuses runs of which there is no mean.
    ///
    /// # Errors
    /// When two of them differ in more than the seed; the message names the difference.
    pub fn check(&self) -> Result<()> {
        let Some(((first, there), rest)) = self.runs.split_first() else { return Ok(()) };
        for (name, run) in rest {
            if let Some(what) = difference(&there.config, &run.config, &["seed"]) {
                let what =
                    format!("{first} and {name} differ in more than the seed ({what}): there is no mean of them");
                return Err(Error::Config(what));
            }
        }
        Ok(())
    }

    fn title(&self, base: &str) -> String {
        if self.settings.is_empty() {
            return base.into();
        }
        let parts: Vec<String> = self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        parts.join(" ")
    }

    fn spread(&self, epoch: Epoch, figure: Figure) -> Option<Spread> {
        Spread::of(self.runs.iter().map(|(_, run)| figure(&epoch(run).test)))
    }
}

/// Prints a table for each point and, where there is more than one, a table of all of them; `base` is the name of settings
/// that no grid varies.
pub fn print(points: &[Point<'_>], base: &str) {
    let [last, best] = EPOCHS;
    let headings = || ["last epoch", "best epoch"].map(|heading| Column::number(heading, 0));
    for point in points {
        let seeds: Vec<String> = point.runs.iter().map(|(_, run)| run.config.seed.to_string()).collect();
        if seeds.is_empty() {
            tell!("{}: no finished run", point.title(base));
            continue;
        }
        let what = if seeds.len() == 1 { "the only run" } else { "mean +- standard deviation" };
        tell!("{}: {what} (seed {})", point.title(base), seeds.join(", "));
        let mut table = Table::new([Column::text("test, percent", 0)].into_iter().chain(headings()));
        for (name, _, figure) in FIGURES {
            let [last, best] = [last, best].map(|(_, epoch)| Spread::text(point.spread(epoch, figure)));
            table.row([name.into(), last, best]);
        }
        table.print();
        say!("");
    }
    if points.len() > 1 {
        let columns = [Column::text("top-1, percent", 0), Column::number("runs", 2)];
        let [last_column, best_column] = ["last epoch", "best epoch"];
        let figures = [Column::number(last_column, 0), Column::number(best_column, 1)];
        let mut table = Table::new(columns.into_iter().chain(figures));
        for point in points {
            let top1 = FIGURES[0].2;
            let [last, best] = [last, best].map(|(_, epoch)| Spread::text(point.spread(epoch, top1)));
            table.row([point.title(base), point.runs.len().to_string(), last, best]);
        }
        table.print();
        say!("");
    }
}

/// Writes a line for each run, and behind the runs of a point one with their means and one with their standard deviations.
/// The column `of` says which it is; `keys` are the settings of the grid.
///
/// # Errors
/// When the system refuses.
pub fn write_csv(at: &Path, keys: &[String], points: &[Point<'_>]) -> Result<()> {
    let failed = |e: csv::Error| Error::file(at, e.to_string());
    let mut table = csv::Writer::from_writer(Vec::new());
    let mut headings = vec!["of".to_string(), "run".into()];
    headings.extend(keys.iter().cloned());
    headings.extend(["seed".into(), "runs".into()]);
    for (which, _) in EPOCHS {
        headings.push(format!("{which}_epoch"));
        headings.extend(FIGURES.iter().map(|(_, name, _)| format!("{which}_{name}")));
    }
    table.write_record(&headings).map_err(failed)?;
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for point in points {
        let settings = || point.settings.iter().map(|(_, value)| value.clone());
        for (name, run) in &point.runs {
            let mut line = vec!["run".to_string(), name.to_string()];
            line.extend(settings());
            line.extend([run.config.seed.to_string(), "1".into()]);
            for (_, epoch) in EPOCHS {
                let metrics = epoch(run);
                line.push(metrics.epoch.to_string());
                line.extend(FIGURES.iter().map(|(_, _, figure)| number(figure(&metrics.test))));
            }
            table.write_record(&line).map_err(failed)?;
        }
        if point.runs.is_empty() {
            continue;
        }
        type Part = fn(Spread) -> Option<f64>;
        let parts: [(&str, Part); 2] = [("mean", |s| Some(s.mean)), ("deviation", |s| s.deviation)];
        for (of, part) in parts {
            let mut line = vec![of.to_string(), String::new()];
            line.extend(settings());
            line.extend([String::new(), point.runs.len().to_string()]);
            for (_, epoch) in EPOCHS {
                line.push(String::new());
                line.extend(FIGURES.iter().map(|&(_, _, figure)| number(point.spread(epoch, figure).and_then(part))));
            }
            table.write_record(&line).map_err(failed)?;
        }
    }
    let bytes = table.into_inner().map_err(|e| Error::file(at, e.to_string()))?;
    write_atomically(at, |file| file.write_all(&bytes).map_err(Error::io(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, PlacementSettings, Settings};
    use crate::data::Shot;
    use crate::train::evaluate::Guesses;

    fn finished(seed: u64, lr: f64) -> Finished {
        let placement = PlacementSettings::on("x.lt");
        let settings = Settings { seed: Some(seed), lr: Some(lr), placement, ..Settings::default() };
        let guesses = Guesses { ranks: &[0], confidences: &[1.0], losses: &[0.0] };
        let test = Evaluation::tally(guesses, &[0], &[Shot::Many]);
        let epoch = EpochMetrics::new(1, (0.1, 1.0), (&[("c", 0)], [0.0; 4]), (test, None), (1.0, 1));
        Finished { config: Config::resolve(settings).unwrap(), last: epoch.clone(), best: epoch }
    }

    #[test]
    fn spreads_are_of_samples() {
        let of = |values: &[f64]| Spread::of(values.iter().copied().map(Some));
        let text = |values: &[f64]| Spread::text(of(values));
        assert_eq!(of(&[1.0, 2.0, 3.0, 4.0]).unwrap().deviation, Some((5.0f64 / 3.0).sqrt()));
        assert_eq!(text(&[70.0, 72.0]), "71.00 +- 1.41");
        assert_eq!(text(&[70.125]), "70.12");
        assert_eq!(Spread::text(Spread::of([Some(1.0), None].into_iter())), "-");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn runs_that_differ_in_more_than_the_seed_have_no_mean() {
        let (a, b, c) = (finished(0, 0.1), finished(1, 0.1), finished(2, 0.2));
        Point { settings: &[], runs: vec![("a", &a), ("b", &b)] }.check().unwrap();
        let error = Point { settings: &[], runs: vec![("a", &a), ("b", &b), ("c", &c)] }.check().unwrap_err();
        let expected = "a and c differ in more than the seed (lr 0.1 there, 0.2 here): there is no mean of them";
        assert_eq!(error.to_string(), expected);
    }
}
