//! `glmc-engine verify`.

use std::path::PathBuf;

use super::device::DeviceArgs;
use crate::console::{note, say};
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
    say!("{} on {} in {}", report.file, report.device, report.precision);
    say!("  {:<28}{:>12}{:>12}{:>10}   worst", "", "error", "limit", "used");
    for group in &report.groups {
        let percent = 100.0 * group.error / group.limit;
        // An error of a different kind altogether must not push its neighbours out of their columns.
        let used = if percent < 1e5 { format!("{percent:.1}%") } else { format!("{percent:.0e}%") };
        say!(
            "  {:<28}{:>12.2e}{:>12.0e}{:>10}   {}{}",
            group.name,
            group.error,
            group.limit,
            used,
            group.worst,
            if group.pass { "" } else { "   FAIL" }
        );
    }
    say!("  {}", if report.pass { "pass" } else { "FAIL" });
}
