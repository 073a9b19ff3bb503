//! `glmc-engine verify`.

use std::path::PathBuf;

use serde::Serialize;

use super::device::DeviceArgs;
use super::self_test::supervise;
use crate::backend;
use crate::console::{Column, GOOD, Stream, Table, WRONG, note, paint, say, tell};
use crate::error::{Error, Result};
use crate::tensor::Precision;
use crate::verify::self_test::{Failure, Proof};
use crate::verify::{Reference, Report, verify, verify_reference};

/// Recompute reference steps and compare; without a file, those that the program carries, and every kernel with the CPU.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Reference steps: safetensors files, as tools/make_reference.py writes them [default: the built-in ones, in each precision of the device]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the subcommand. Every file is looked at, whatever became of those before it.
pub fn run(args: VerifyArgs) -> Result<()> {
    if args.files.is_empty() {
        return built_in(&args);
    }
    let (device, precision) = args.device.resolved();
    let mut reports: Vec<Report> = Vec::new();
    let mut unreadable: Option<Error> = None;
    let mut failed = 0;
    for file in &args.files {
        // A device of its own for each, so that one file's memory is gone before the next.
        let backend = backend::open(&device, precision, args.device.threads)?;
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

/// The kernels of a device in one precision, compared with the CPU.
#[derive(Serialize)]
struct Kernels {
    device: String,
    precision: Precision,
    proof: Option<Proof>,
    error: Option<String>,
    pass: bool,
}

/// What `verify` without a file found.
#[derive(Default, Serialize)]
struct BuiltIn {
    kernels: Vec<Kernels>,
    references: Vec<Report>,
}

/// The references that the program carries, and the kernels one by one, in each precision of the device or the one asked for.
fn built_in(args: &VerifyArgs) -> Result<()> {
    let (device, _) = args.device.resolved();
    let device = backend::gpu(&device).map_or(device, |gpu| format!("cuda:{}", gpu.ordinal));
    let precisions = match args.device.precision {
        Some(precision) => vec![precision],
        None if device == "cpu" => vec![Precision::F32],
        None => vec![Precision::F32, Precision::Bf16],
    };
    let (mut found, mut failed, mut all) = (BuiltIn::default(), 0, 0);
    for precision in precisions {
        // First, as what it says is closest to the cause; and in a process of its own, which may hang or crash.
        if device != "cpu" {
            let (proof, error) = match supervise(&device, precision)? {
                Ok(proof) => (Some(proof), None),
                Err(Failure(what)) => (None, Some(what)),
            };
            let kernels = Kernels { device: device.clone(), precision, proof, pass: error.is_none(), error };
            if !args.json {
                print_kernels(&kernels);
            }
            (failed, all) = (failed + usize::from(!kernels.pass), all + 1);
            found.kernels.push(kernels);
        }
        for reference in Reference::built_in() {
            let backend = backend::open(&device, precision, args.device.threads)?;
            let report = verify_reference(&reference?, backend.as_ref())?;
            if !args.json {
                print_line(&report);
            }
            (failed, all) = (failed + usize::from(!report.pass), all + 1);
            found.references.push(report);
        }
    }
    if args.json {
        say!("{}", serde_json::to_string(&found).map_err(|e| Error::Config(e.to_string()))?);
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Training(format!("{failed} of {all} checks of {device} fail"))),
    }
}

fn print_kernels(found: &Kernels) {
    let Kernels { device, precision, proof, error, .. } = found;
    let precision = precision.to_string();
    match (proof, error) {
        (Some(Proof { kernels, outputs, share }), _) => {
            let what = format!("{kernels} kernels, {outputs} outputs");
            say!("{device:<10}{precision:<6}{what:<28}pass{:>6.0}% of a limit used", 100.0 * share);
        }
        (None, error) => tell!("{device:<10}{precision:<6}FAIL  {}", error.as_deref().unwrap_or_default()),
    }
}

/// A report in a line, in full if something is wrong.
fn print_line(report: &Report) {
    let share = report.groups.iter().map(|group| group.error / group.limit).fold(0.0, f64::max);
    if report.pass {
        let Report { device, file, .. } = report;
        let precision = report.precision.to_string();
        say!("{device:<10}{precision:<6}{file:<28}pass{:>6.0}% of a limit used", 100.0 * share);
    } else {
        print(report);
    }
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
    if let Some(first) = &report.first_difference {
        tell!("  {first}");
    }
    let (style, verdict) = if report.pass { (GOOD, "pass") } else { (WRONG, "FAIL") };
    say!("{}", paint(Stream::Out, style, verdict));
}
