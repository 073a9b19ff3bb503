//! `glmc-engine bench`.

use super::device::DeviceArgs;
use crate::bench::{Bound, OpsBench, StepBench, Workload, bench_ops, bench_step};
use crate::error::{Error, Result};
use crate::method::Method;
use crate::train::report::mebibytes;

/// Measure the training step.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// step: samples per second of the whole training step; ops: a table of its ops, each as a share of the device's measured peak
    what: What,
    /// Network
    #[arg(long, default_value = "resnet32")]
    model: String,
    /// Channels of its first stage
    #[arg(long, default_value_t = 16)]
    width: usize,
    /// Samples per step (GLMC sees two views of each)
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// glmc or ce
    #[arg(long, default_value = "glmc", value_parser = crate::method::value_parser())]
    method: &'static dyn Method,
    /// Classes
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Rows and columns of an image
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Seconds to measure for
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
            let bench = bench_ops(backend.as_ref(), &workload, args.device.thread_count(), args.seconds)?;
            match args.json {
                true => println!("{}", json(serde_json::to_string(&bench))?),
                false => print_ops(&bench),
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
        "  {:.1} samples/s (quartiles {:.1} to {:.1}), {:.2} ms per step, {} rounds of {} steps",
        b.samples_per_second,
        b.quartiles[0],
        b.quartiles[1],
        1e3 * b.seconds_per_step,
        b.rounds[0],
        b.rounds[1]
    );
    println!("  {} parameters, peak memory {}", b.parameters, mebibytes(b.peak_bytes));
}

/// The unit that rates of arithmetic are shown in: that of the ceiling.
struct Unit {
    name: &'static str,
    per_tflops: f64,
}

impl Unit {
    fn of(peak_tflops: f64) -> Unit {
        if peak_tflops >= 1.0 {
            Unit { name: "TFLOP/s", per_tflops: 1.0 }
        } else {
            Unit { name: "GFLOP/s", per_tflops: 1e3 }
        }
    }

    fn show(&self, tflops: f64) -> String {
        rate(tflops * self.per_tflops)
    }
}

/// A rate with a sensible number of decimals.
fn rate(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn print_ops(b: &OpsBench) {
    let unit = Unit::of(b.ceilings.tflops);
    println!(
        "{} width {}, batch {}, {}, on {} in {}, {} threads",
        b.model,
        b.width,
        b.batch,
        b.method.title(),
        b.device,
        b.precision,
        b.threads
    );
    println!(
        "measured ceilings: {} {} of multiply-adds in registers, {} GB/s copying {}",
        unit.show(b.ceilings.tflops),
        unit.name,
        rate(b.ceilings.gbytes),
        mebibytes(b.ceilings.copied_bytes)
    );
    println!(
        "{:<26}{:<10}{:<36}{:>6}{:>11}{:>8}{:>10}{:>9}{:>9}  bound by",
        "op", "pass", "shape", "count", "ms/step", "share", unit.name, "GB/s", "of peak"
    );
    for row in &b.ops {
        println!(
            "{:<26}{:<10}{:<36}{:>6}{:>11.3}{:>7.1}%{:>10}{:>9}{:>8.1}%  {}",
            row.op,
            row.pass,
            row.shape,
            row.count,
            1e3 * row.seconds,
            100.0 * row.share,
            unit.show(row.tflops),
            rate(row.gbytes),
            100.0 * row.of_peak,
            match row.bound {
                Bound::Math => "math",
                Bound::Memory => "memory",
            }
        );
    }
    println!("{:<78}{:>11.3}{:>36.1}%", "all ops", 1e3 * b.seconds(), 100.0 * b.of_peak());
    println!(
        "of peak: the least time by the ceilings, for the op's formula and each tensor once, over the time; more than \
         100% where an algorithm saves operations (Winograd) or tensors are in the caches. Short ops are timed in copies \
         one after another (on a GPU, in a graph), so that small tensors are in the caches"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_well_on_a_gpu_and_on_a_laptop() {
        assert_eq!(Unit::of(790.0).show(512.34), "512.3");
        assert_eq!(Unit::of(0.098).show(0.0432), "43.2");
        assert_eq!([3352.7, 1.234, 0.0123].map(rate), ["3353", "1.23", "0.0123"]);
    }
}
