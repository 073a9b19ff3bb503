//! `glmc-engine bench`.

mod plan;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::device::DeviceArgs;
use super::self_test::TrustArgs;
use crate::bench::plan::{GPUS, Gpu};
use crate::bench::{Bound, KernelsBench, OpsBench, StepBench, Workload, bench_kernels, bench_ops, bench_step, trace};
use crate::console::{Column, Table, say, tell};
use crate::error::{Error, Result};
use crate::files;
use crate::method::Method;
use crate::train::report::mebibytes;

/// Measure the training step.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// step: samples per second of the whole training step; ops: a table of its ops, each as a share of the device's measured peak, short ones on copies of their operands so that none is in the cache; kernels: the same by themselves, at a step's sizes; plan: without any device, every kernel of the step and the time that a model of a GPU predicts for it
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
    /// Training method
    #[arg(long, default_value = "glmc", value_parser = crate::method::value_parser())]
    method: &'static Method,
    /// Classes
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Rows and columns of an image
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Of `step` and `ops`: on photographs that are a little larger, of two sizes, augmented as GLMC's ImageNet-LT runs are
    #[arg(long)]
    photos: bool,
    /// Seconds to measure for
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Of `kernels`: only those whose names match, with * and ? as in file names ("conv2d layer1*")
    #[arg(long, value_name = "GLOB")]
    only: Option<String>,
    /// Of `kernels`: write the times to a file, as JSON
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Of `kernels`: show each time beside that of a file which --save wrote
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Of `step`: write every op of a step, forward and backward, to a file that chrome://tracing and Perfetto show
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Of `plan`: the GPU that is modelled [default: h200]
    #[arg(long, value_name = "NAME", value_parser = gpus())]
    gpu: Option<&'static Gpu>,
    /// Of `plan`: show predictions beside the times of a file which `bench kernels --save` wrote
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    Step,
    Ops,
    Kernels,
    Plan,
}

/// The names of GPUs.
fn gpus() -> impl TypedValueParser<Value = &'static Gpu> {
    PossibleValuesParser::new(GPUS.iter().map(|gpu| gpu.name)).try_map(|name| {
        let unknown = || Error::Config(format!("{name} is not known"));
        Gpu::named(&name).ok_or_else(unknown)
    })
}

/// Runs the subcommand.
pub fn run(args: BenchArgs) -> Result<()> {
    if !(0.0..=86_400.0).contains(&args.seconds) {
        return Err(Error::Usage(format!("--seconds {} is not in 0..=86400", args.seconds)));
    }
    let of_kernels =
        [("--only", args.only.is_some()), ("--save", args.save.is_some()), ("--compare", args.compare.is_some())];
    if let (What::Step | What::Ops | What::Plan, Some((name, _))) =
        (args.what, of_kernels.iter().find(|(_, given)| *given))
    {
        return Err(Error::Usage(format!("{name} is for `bench kernels`")));
    }
    if let (What::Kernels, true) = (args.what, args.photos) {
        return Err(Error::Usage("--photos is for `bench step` and `bench ops`".into()));
    }
    if let (What::Ops | What::Kernels | What::Plan, Some(_)) = (args.what, &args.trace) {
        return Err(Error::Usage("--trace is for `bench step`".into()));
    }
    let of_plan = [("--gpu", args.gpu.is_some()), ("--measured", args.measured.is_some())];
    if let (What::Step | What::Ops | What::Kernels, Some((name, _))) =
        (args.what, of_plan.iter().find(|(_, given)| *given))
    {
        return Err(Error::Usage(format!("{name} is for `bench plan`")));
    }
    // Before anything is measured.
    args.trace.as_deref().map_or(Ok(()), |path| check_place(path, trace::BEGINNING, "a trace"))?;
    args.save.as_deref().map_or(Ok(()), |path| check_place(path, SAVED, "times of `bench kernels --save`"))?;
    let before = args.compare.as_deref().map(read_kernels).transpose()?;
    let workload = Workload {
        model: args.model,
        width: args.width,
        method: args.method,
        batch: args.batch,
        classes: args.classes,
        size: args.size,
        photos: args.photos,
    };
    if let What::Plan = args.what {
        return plan::run(&args.device, args.gpu, &workload, args.measured.as_deref(), args.json);
    }
    let backend = args.device.open_proven(args.trust)?;
    let json = |value: serde_json::Result<String>| value.map_err(|e| Error::Config(e.to_string()));
    match args.what {
        // Needs no device.
        What::Plan => {}
        What::Step => {
            let ops = args.trace.is_some();
            let bench = bench_step(backend.as_ref(), &workload, args.device.thread_count(), args.seconds, ops)?;
            if let Some(path) = &args.trace {
                write_line(path, &json(trace::trace(&bench))?)?;
            }
            match args.json {
                true => say!("{}", json(serde_json::to_string(&bench))?),
                false => print_step(&bench),
            }
        }
        What::Ops => {
            let bench = bench_ops(backend.as_ref(), &workload, args.device.thread_count(), args.seconds)?;
            match args.json {
                true => say!("{}", json(serde_json::to_string(&bench))?),
                false => print_ops(&bench),
            }
        }
        What::Kernels => {
            let bench = bench_kernels(backend.as_ref(), &workload, args.only.as_deref(), args.seconds)?;
            let text = json(serde_json::to_string(&bench))?;
            if let Some(path) = &args.save {
                write_line(path, &text)?;
            }
            match args.json {
                true => say!("{text}"),
                false => print_kernels(&bench, before.as_ref()),
            }
        }
    }
    Ok(())
}

/// How the file of `bench kernels --save` begins.
const SAVED: &str = "{\"device\":";

/// Refuses a place where no file of ours can go: nothing but an older one of its kind, which begins with `beginning`, is
/// replaced.
fn check_place(path: &Path, beginning: &str, what: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(folder).map_err(Error::io(folder))?.is_dir() {
        return Err(Error::file(folder, "is no folder"));
    }
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let mut found = Vec::new();
    files::open(path)?.take(beginning.len() as u64).read_to_end(&mut found).map_err(Error::io(path))?;
    match found.is_empty() || found == beginning.as_bytes() {
        true => Ok(()),
        false => {
            Err(Error::file(path, format!("exists and is not {what}, so that it is not replaced; take another name")))
        }
    }
}

fn write_line(path: &Path, text: &str) -> Result<()> {
    files::write_atomically(path, |file| writeln!(file, "{text}").map_err(Error::io(path)))
}

fn print_step(b: &StepBench) {
    tell!(
        "{} width {}, batch {}, on {} in {}, {} threads",
        b.model,
        b.width,
        b.batch,
        b.device,
        b.precision,
        b.threads
    );
    let mut table = Table::new([Column::text("", 0), Column::number("", 0), Column::text("", 0)]);
    let [low, high] = b.quartiles;
    let [rounds, steps] = b.rounds;
    for (name, value, remark) in [
        ("  samples/s", format!("{:.1}", b.samples_per_second), format!("quartiles {low:.1} to {high:.1}")),
        ("  ms per step", format!("{:.2}", 1e3 * b.seconds_per_step), format!("{rounds} rounds of {steps} steps")),
        ("  parameters", b.parameters.to_string(), String::new()),
        ("  peak memory", mebibytes(b.peak_bytes), String::new()),
    ] {
        table.row([name.into(), value, remark]);
    }
    table.print();
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
    tell!(
        "{} width {}, batch {}, {}, on {} in {}, {} threads",
        b.model,
        b.width,
        b.batch,
        b.method.title,
        b.device,
        b.precision,
        b.threads
    );
    tell!(
        "measured ceilings: {} {} of multiply-adds in registers, {} GB/s copying {}",
        unit.show(b.ceilings.tflops),
        unit.name,
        rate(b.ceilings.gbytes),
        mebibytes(b.ceilings.copied_bytes)
    );
    let mut table = Table::new([
        Column::text("op and shape", 0),
        Column::text("pass", 0),
        Column::number("count", 5),
        Column::number("ms/step", 0),
        Column::number("share", 2),
        Column::number(unit.name, 4),
        Column::number("GB/s", 4),
        Column::number("of peak", 1),
        Column::text("bound by", 3),
        Column::number("copies", 6),
    ]);
    for row in &b.ops {
        let bound = match row.bound {
            Bound::Math => "math",
            Bound::Memory => "memory",
        };
        table.row([
            format!("{} {}", row.op, row.shape).trim_end().to_string(),
            if row.pass == "forward" { "fwd".into() } else { "bwd".into() },
            row.count.to_string(),
            format!("{:.3}", 1e3 * row.seconds),
            format!("{:.1}%", 100.0 * row.share),
            unit.show(row.tflops),
            rate(row.gbytes),
            format!("{:.1}%", 100.0 * row.of_peak),
            bound.into(),
            row.copies.to_string(),
        ]);
    }
    let mut all = vec![String::new(); 10];
    all[0] = "all ops".into();
    all[3] = format!("{:.3}", 1e3 * b.seconds());
    all[7] = format!("{:.1}%", 100.0 * b.of_peak());
    table.row(all);
    table.print();
    tell!(
        "fwd, bwd: forward, backward. of peak: the least time by the ceilings, for the op's formula and each tensor once, \
         over the time; more than 100% where an algorithm saves operations (Winograd) or tensors are in the caches. Short \
         ops are repeated (on a GPU, in a graph) on copies of their operands in turns, up to {} here, so that none is in the \
         cache of {}; what takes longer runs once, right after the op before it",
        b.ops.iter().map(|op| op.copies).max().unwrap_or(1),
        mebibytes(b.cache_bytes)
    );
}

/// What `--save` wrote.
fn read_kernels(path: &Path) -> Result<KernelsBench> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|error| Error::File {
        path: path.to_path_buf(),
        what: format!("holds no times of `bench kernels --save` ({error})"),
    })
}

fn print_kernels(b: &KernelsBench, before: Option<&KernelsBench>) {
    let unit = Unit::of(b.ceilings.tflops);
    let [width, batch, size] = b.sizes;
    tell!("width {width}, batch {batch}, images of {size}, on {} in {}", b.device, b.precision);
    if let Some(before) = before
        && (&before.device, before.precision, before.sizes) != (&b.device, b.precision, b.sizes)
    {
        let [width, batch, size] = before.sizes;
        tell!(
            "compared with other work: width {width}, batch {batch}, images of {size}, on {} in {}",
            before.device,
            before.precision
        );
    }
    let mut columns = vec![
        Column::text("kernel", 0),
        Column::number("us", 0),
        Column::number(unit.name, 3),
        Column::number("GB/s", 4),
        Column::number("of peak", 2),
    ];
    if before.is_some() {
        columns.extend([Column::number("us before", 1), Column::number("ratio", 0)]);
    }
    let mut table = Table::new(columns);
    for row in &b.kernels {
        let flops = match row.flops {
            0.0 => "-".to_string(),
            flops => unit.show(flops / row.seconds / 1e12),
        };
        let mut cells = vec![
            row.name.clone(),
            format!("{:.2}", 1e6 * row.seconds),
            flops,
            rate(row.bytes / row.seconds / 1e9),
            format!("{:.1}%", 100.0 * row.of_peak),
        ];
        let old = before.map(|before| before.kernels.iter().find(|old| old.name == row.name).map(|old| old.seconds));
        match old {
            None => {}
            Some(None) => cells.extend(["-".into(), "-".into()]),
            Some(Some(old)) => cells.extend([format!("{:.2}", 1e6 * old), format!("{:.3}", row.seconds / old)]),
        }
        table.row(cells);
    }
    table.print();
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
