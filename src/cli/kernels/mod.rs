//! `glmc-engine kernels`: compiles every kernel in every variant that the presets use, without a GPU, and says what each
//! needs.

pub mod variants;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;

use crate::console::{Column, Table, bar_target, note, say};
use crate::driver::Variant;
use crate::driver::cache::Cache;
use crate::driver::nvrtc::Nvrtc;
use crate::driver::occupancy::{Limits, limits, occupancy};
use crate::{Error, Result};

/// The architectures that a release must compile for.
const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"];

/// Compile every CUDA kernel in every variant that the presets use (needs libnvrtc, but no GPU), and report registers,
/// spilled bytes, shared memory, code size and occupancy. Fails where one does not compile, does not fit or spills.
#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// Architectures, separated by commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ARCHITECTURES)]
    arch: Vec<String>,
    /// Only kernels whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Print a JSON list instead of a table.
    #[arg(long)]
    json: bool,
}

/// One variant on one architecture.
#[derive(Debug, Serialize)]
struct Row {
    /// The entry point.
    kernel: String,
    /// `-D` knobs, `NAME=VALUE`.
    knobs: Vec<String>,
    arch: String,
    threads: u32,
    registers: u32,
    spill_bytes: u32,
    shared_bytes: u32,
    cubin_bytes: usize,
    /// Share of the warps that a multiprocessor can hold, 0 to 1.
    occupancy: f64,
    #[serde(skip)]
    problem: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// For an unknown architecture, without libnvrtc, and when a kernel does not pass; then the table has been printed and
/// each problem has its line on stderr.
pub fn run(args: &KernelsArgs) -> Result<()> {
    let mut architectures = Vec::new();
    for arch in &args.arch {
        let known = limits(arch).ok_or_else(|| {
            Error::Usage(format!("--arch {arch}: not a supported architecture; known are {}", ARCHITECTURES.join(", ")))
        })?;
        architectures.push((arch.as_str(), known));
    }
    // What is wrong with the command line or the machine shows before the presets are gone through.
    Nvrtc::load()?;
    let mut variants = variants::variants()?;
    if let Some(only) = &args.only {
        variants.retain(|variant| variant.spec.entry.contains(only.as_str()));
        if variants.is_empty() {
            return Err(Error::Usage(format!("--only {only}: no kernel's name contains that")));
        }
    }
    let (rows, failures) = compile_all(&variants, &architectures)?;
    if args.json {
        let json = serde_json::to_string_pretty(&rows).map_err(|e| Error::Config(e.to_string()))?;
        say!("{json}");
    } else {
        table(&rows).print();
        let worst = rows.iter().map(|row| row.spill_bytes).max().unwrap_or(0);
        say!("{} kernels, {worst} bytes spilled at most", rows.len());
    }
    for failure in &failures {
        note!("{failure}");
    }
    let problems: Vec<&str> = rows.iter().filter_map(|row| row.problem.as_deref()).collect();
    for problem in &problems {
        note!("{problem}");
    }
    match failures.len() + problems.len() {
        0 => Ok(()),
        n => {
            Err(Error::device("nvrtc", format!("{n} of {} kernels did not pass", variants.len() * architectures.len())))
        }
    }
}

/// Compiles over all cores; rows in the order of variants, then architectures, and the errors of those that failed.
fn compile_all(variants: &[Variant], architectures: &[(&str, Limits)]) -> Result<(Vec<Row>, Vec<Error>)> {
    let nvrtc = Nvrtc::load()?;
    let cache = Cache::user();
    let work: Vec<_> =
        variants.iter().flat_map(|variant| architectures.iter().map(move |arch| (variant, arch))).collect();
    let bar = progress(work.len(), &nvrtc.describe());
    let results: Vec<Result<Row>> = work
        .par_iter()
        .with_max_len(1)
        .map(|(variant, (arch, limits))| {
            let cubin = nvrtc.compile(&variant.spec, arch, &cache);
            bar.inc(1);
            let cubin = cubin?;
            let shared_bytes = variant.shared_bytes + cubin.usage.shared_bytes;
            let mut row = Row {
                kernel: variant.spec.entry.to_string(),
                knobs: variant.spec.defines.iter().map(|(name, value)| format!("{name}={value}")).collect(),
                arch: (*arch).to_string(),
                threads: variant.threads,
                registers: cubin.usage.registers,
                spill_bytes: cubin.usage.spill_bytes,
                shared_bytes,
                cubin_bytes: cubin.image.len(),
                occupancy: occupancy(limits, variant.threads, cubin.usage.registers, shared_bytes),
                problem: None,
            };
            row.problem = problem(&row, variant, limits);
            Ok(row)
        })
        .collect();
    bar.finish_and_clear();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(row) => rows.push(row),
            Err(error) => failures.push(error),
        }
    }
    Ok((rows, failures))
}

/// What keeps a compiled kernel from passing, if anything.
fn problem(row: &Row, variant: &Variant, limits: &Limits) -> Option<String> {
    let label = variant.spec.label();
    let arch = &row.arch;
    if row.shared_bytes > limits.shared_per_block {
        let (needs, has) = (row.shared_bytes, limits.shared_per_block);
        return Some(format!("kernel {label} needs {needs} bytes of shared memory per block, but {arch} has {has}"));
    }
    if row.occupancy == 0.0 {
        let (threads, registers) = (row.threads, row.registers);
        return Some(format!("kernel {label} does not fit on {arch}: {threads} threads of {registers} registers"));
    }
    if row.spill_bytes > 0 {
        return Some(format!("kernel {label} spills {} bytes of registers on {arch}", row.spill_bytes));
    }
    None
}

/// A bar on a terminal for `count` kernels that `compiler` compiles.
pub fn progress(count: usize, compiler: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {eta}");
    let bar = ProgressBar::with_draw_target(Some(count as u64), bar_target()).with_message(compiler.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// A row per variant and architecture.
fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        Column::text("kernel", 0),
        Column::text("arch", 0),
        Column::number("threads", 3),
        Column::number("registers", 1),
        Column::number("spilled", 2),
        Column::number("shared", 4),
        Column::number("cubin", 5),
        Column::number("occupancy", 1),
        Column::text("knobs", 0),
    ]);
    for row in rows {
        table.row([
            row.kernel.clone(),
            row.arch.clone(),
            row.threads.to_string(),
            row.registers.to_string(),
            row.spill_bytes.to_string(),
            row.shared_bytes.to_string(),
            row.cubin_bytes.to_string(),
            format!("{:.0}%", row.occupancy * 100.0),
            row.knobs.join(" "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::KernelSpec;

    fn row(spill_bytes: u32, shared_bytes: u32, registers: u32) -> (Row, Variant) {
        let spec = KernelSpec::new("x").define("TILE", 8);
        let variant = Variant { spec, threads: 256, shared_bytes };
        let row = Row {
            kernel: "x".to_string(),
            knobs: vec!["TILE=8".to_string()],
            arch: "sm_86".to_string(),
            threads: 256,
            registers,
            spill_bytes,
            shared_bytes,
            cubin_bytes: 1000,
            occupancy: occupancy(&limits("sm_86").unwrap(), 256, registers, shared_bytes),
            problem: None,
        };
        (row, variant)
    }

    #[test]
    fn only_what_matters_is_a_problem() {
        let limits = limits("sm_86").unwrap();
        let verdict = |(row, variant): (Row, Variant)| problem(&row, &variant, &limits);
        assert_eq!(verdict(row(0, 0, 255)), None);
        assert_eq!(verdict(row(8, 0, 255)).unwrap(), "kernel x<TILE=8> spills 8 bytes of registers on sm_86");
        let text = verdict(row(0, 150 * 1024, 32)).unwrap();
        assert!(text.contains("153600 bytes of shared memory per block, but sm_86 has 101376"), "{text}");
    }
}
