//! `glmc-engine bench`.

use super::device::DeviceArgs;
use crate::bench::{OpBench, StepBench, Workload, bench_ops, bench_step};
use crate::config::Method;
use crate::error::{Error, Result};
use crate::train::report::mebibytes;

/// Measure the training step.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// step: samples a second of the whole training step; ops: a table of its ops
    what: What,
    /// Network
    #[arg(long, default_value = "resnet32")]
    model: String,
    /// Channels of its first stage
    #[arg(long, default_value_t = 16)]
    width: usize,
    /// Samples a step (GLMC sees two views of each)
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// glmc or ce
    #[arg(long, default_value = "glmc")]
    method: Method,
    /// Classes
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Rows and columns of an image
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Measure for about so long
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    Step,
    Ops,
}

/// Runs the subcommand.
pub fn run(args: BenchArgs) -> Result<()> {
    if !(0.0..=86_400.0).contains(&args.seconds) {
        return Err(Error::Usage(format!("--seconds {} is not in 0..=86400", args.seconds)));
    }
    let workload = Workload {
        model: args.model,
        width: args.width,
        method: args.method,
        batch: args.batch,
        classes: args.classes,
        size: args.size,
    };
    let backend = args.device.open()?;
    let json = |value: serde_json::Result<String>| value.map_err(|e| Error::Config(e.to_string()));
    match args.what {
        What::Step => {
            let bench = bench_step(backend.as_ref(), &workload, args.device.thread_count(), args.seconds)?;
            match args.json {
                true => println!("{}", json(serde_json::to_string(&bench))?),
                false => print_step(&bench),
            }
        }
        What::Ops => {
            let table = bench_ops(backend.as_ref(), &workload, args.seconds)?;
            match args.json {
                true => println!("{}", json(serde_json::to_string(&table))?),
                false => print_ops(&table),
            }
        }
    }
    Ok(())
}

fn print_step(b: &StepBench) {
    println!(
        "{} width {}, batch {}, on {} in {}, {} threads",
        b.model, b.width, b.batch, b.device, b.precision, b.threads
    );
    println!(
        "  {:.1} samples/s (quartiles {:.1} to {:.1}), {:.2} ms a step, {} rounds of {} steps",
        b.samples_per_second,
        b.quartiles[0],
        b.quartiles[1],
        1e3 * b.seconds_per_step,
        b.rounds[0],
        b.rounds[1]
    );
    println!("  {} parameters, peak memory {}", b.parameters, mebibytes(b.peak_bytes));
}

fn print_ops(table: &[OpBench]) {
    println!(
        "{:<26}{:<10}{:<36}{:>6}{:>11}{:>8}{:>10}{:>9}",
        "op", "pass", "shape", "count", "ms/step", "share", "GFLOP/s", "GB/s"
    );
    for row in table {
        println!(
            "{:<26}{:<10}{:<36}{:>6}{:>11.3}{:>7.1}%{:>10.1}{:>9.1}",
            row.op,
            row.pass,
            row.shape,
            row.count,
            1e3 * row.seconds,
            100.0 * row.share,
            row.gflops,
            row.gbytes
        );
    }
    println!("{:<78}{:>11.3}", "all ops", 1e3 * table.iter().map(|r| r.seconds).sum::<f64>());
}
