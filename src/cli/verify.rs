//! `glmc-engine verify`.

use std::path::PathBuf;

use super::device::DeviceArgs;
use crate::console::{Column, GOOD, Stream, Table, WRONG, note, paint, say, tell};
use crate::error::{Error, Result};
use crate::verify::{Report, verify};

/// Recompute reference steps and compare.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Reference steps: safetensors files, as tools/make_reference.py writes them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the subcommand. Every file is looked at, whatever became of those before it.
pub fn run(args: VerifyArgs) -> Result<()> {
    let mut reports: Vec<Report> = Vec::new();
    let mut unreadable: Option<Error> = None;
    let mut failed = 0;
    for file in &args.files {
        // A device of its own for each, so that one file's memory is gone before the next.
        let backend = args.device.open()?;
        match verify(file, backend.as_ref()) {
            Ok(report) => {
                failed += usize::from(!report.pass);
                if !args.json {
                    print(&report);
                }
                reports.push(report);
            }
            Err(error) => {
                if let Some(earlier) = unreadable.replace(error) {
                    note!("error: {earlier}");
                }
            }
        }
    }
    if args.json {
        let json = serde_json::to_string(&reports).map_err(|e| Error::Config(e.to_string()))?;
        say!("{json}");
    }
    if failed == 0 {
        return unreadable.map_or(Ok(()), Err);
    }
    if let Some(error) = unreadable {
        note!("error: {error}");
    }
    Err(Error::Training(format!("{failed} of {} files are not reproduced within the limits", args.files.len())))
}

fn print(report: &Report) {
    tell!("{} on {} in {}", report.file, report.device, report.precision);
    let mut table = Table::new([
        Column::text("quantity", 0),
        Column::number("error", 1),
        Column::number("limit", 1),
        Column::number("used", 0),
        Column::text("", 0),
        Column::text("worst tensor", 2),
    ]);
    for group in &report.groups {
        let percent = 100.0 * group.error / group.limit;
        // An error of a different kind altogether must not push its neighbours out of their columns.
        let used = if percent < 1e5 { format!("{percent:.1}%") } else { format!("{percent:.0e}%") };
        table.row([
            group.name.into(),
            format!("{:.2e}", group.error),
            format!("{:.0e}", group.limit),
            used,
            if group.pass { "" } else { "FAIL" }.into(),
            group.worst.clone(),
        ]);
    }
    table.print();
    let (style, verdict) = if report.pass { (GOOD, "pass") } else { (WRONG, "FAIL") };
    say!("{}", paint(Stream::Out, style, verdict));
}
