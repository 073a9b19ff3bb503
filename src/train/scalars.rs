//! The figures of an epoch by name, one number each: what tables and TensorBoard show. Recalls of single classes are not among
//! them.

use std::io::Write;
use std::path::Path;

use super::evaluate::Evaluation;
use super::metrics::EpochMetrics;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// Its name with its group, as TensorBoard sorts them: `loss/total`, `accuracy/top1`.
    pub tag: String,
    /// Its name in `metrics.jsonl`; of the validation images with `val_` before it.
    pub column: String,
    /// Absent where there is nothing to take it of.
    pub value: Option<f64>,
}

fn scalar(tag: impl Into<String>, column: impl Into<String>, value: Option<f64>) -> Scalar {
    Scalar { tag: tag.into(), column: column.into(), value }
}

fn of_evaluation(e: &Evaluation, [accuracy, calibration, prefix]: [&str; 3]) -> Vec<Scalar> {
    let accuracies = [
        ("top1", Some(e.top1)),
        ("top5", Some(e.top5)),
        ("balanced", e.balanced),
        ("many", e.many),
        ("medium", e.medium),
        ("few", e.few),
    ];
    let others = [("ece", Some(e.ece)), ("nll", e.nll), ("confidence_gap", e.confidence_gap)];
    let named = |group: &str, (name, value): (&str, Option<f64>)| {
        scalar(format!("{group}/{name}"), format!("{prefix}{name}"), value)
    };
    let accuracies = accuracies.into_iter().map(|figure| named(accuracy, figure));
    accuracies.chain(others.into_iter().map(|figure| named(calibration, figure))).collect()
}

/// All figures of an epoch, in the order of its line.
pub fn scalars(m: &EpochMetrics) -> Vec<Scalar> {
    let mut all = vec![
        scalar("schedule/lr", "lr", Some(m.lr)),
        scalar("schedule/alpha", "alpha", Some(m.alpha)),
        scalar("loss/total", "loss", Some(m.loss)),
    ];
    let terms = m.losses.0.iter();
    all.extend(terms.map(|(name, loss)| scalar(format!("loss/{name}"), format!("loss_{name}"), Some(*loss))));
    all.extend(of_evaluation(&m.test, ["accuracy", "calibration", ""]));
    if let Some(val) = &m.val {
        all.extend(of_evaluation(val, ["val_accuracy", "val_calibration", "val_"]));
    }
    all.push(scalar("speed/seconds", "seconds", Some(m.seconds)));
    all.push(scalar("speed/samples_per_second", "samples_per_second", Some(m.samples_per_second)));
    all
}

/// Writes a table of epochs: a line for each, with what is said of it (`first`) before its figures. Columns are all that any
/// of the epochs has; a figure that is absent is an empty cell.
///
/// # Errors
/// When the system refuses.
pub fn write_csv<'a>(
    at: &Path,
    first: &[&str],
    lines: impl Iterator<Item = (Vec<String>, &'a EpochMetrics)>,
) -> Result<()> {
    let lines: Vec<_> = lines.map(|(first, epoch)| (first, epoch.epoch, scalars(epoch))).collect();
    let mut columns: Vec<&str> = Vec::new();
    for scalar in lines.iter().flat_map(|(.., scalars)| scalars) {
        if !columns.contains(&scalar.column.as_str()) {
            columns.push(&scalar.column);
        }
    }
    let failed = |e: csv::Error| Error::file(at, format!("cannot be written: {e}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(first.iter().chain(&["epoch"]).chain(&columns)).map_err(failed)?;
    for (first, epoch, scalars) in &lines {
        let cell = |column: &&str| {
            let value = scalars.iter().find(|scalar| scalar.column == *column).and_then(|scalar| scalar.value);
            value.map_or_else(String::new, |value| value.to_string())
        };
        let cells = first.iter().cloned().chain([epoch.to_string()]).chain(columns.iter().map(cell));
        table.write_record(cells).map_err(failed)?;
    }
    let bytes = table.into_inner().map_err(|e| Error::file(at, e.to_string()))?;
    write_atomically(at, |file| file.write_all(&bytes).map_err(Error::io(at)))
}
