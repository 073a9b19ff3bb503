//! `glmc-engine bench plan`.

use std::path::Path;

use serde_json::json;

use super::super::device::DeviceArgs;
use super::super::kernels::progress;
use super::{rate, read_kernels};
use crate::backend;
use crate::bench::plan::{Compared, GPUS, Gpu, Launches, Needs, Plan, Source, compare, plan};
use crate::bench::{KernelsBench, Workload};
use crate::console::{Column, Table, say, tell};
use crate::driver::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use crate::tensor::Precision;

/// Runs the subcommand.
pub fn run(device: &DeviceArgs, gpu: Option<&Gpu>, w: &Workload, measured: Option<&Path>, as_json: bool) -> Result<()> {
    if device.device != backend::AUTO {
        return Err(Error::Usage("bench plan takes no device: name a GPU by --gpu".into()));
    }
    let (gpu, precision) = (gpu.unwrap_or(&GPUS[0]), device.precision.unwrap_or(Precision::Bf16));
    let measured = measured.map(read_kernels).transpose()?;
    let launches = Launches::of_step(gpu, w, precision)?;
    let nvrtc = Nvrtc::load();
    let compiler = nvrtc.as_ref().map_or(String::new(), |nvrtc| nvrtc.describe());
    let bar = progress(launches.kernels().len(), &compiler);
    let needs = Needs::new(gpu, &launches, nvrtc, &|| bar.inc(1));
    bar.finish_and_clear();
    let plan = plan(gpu, w, precision, &launches, &needs?)?;
    let compared = measured.as_ref().map(|measured| compare(gpu, measured, Nvrtc::load())).transpose()?;
    if as_json {
        let mut text = serde_json::to_value(&plan).map_err(|e| Error::Config(e.to_string()))?;
        if let (Some(rows), Some(measured)) = (&compared, &measured) {
            text["measured"] = json!({
                "device": measured.device,
                "precision": measured.precision,
                "sizes": measured.sizes,
                "ceilings": measured.ceilings,
                "kernels": rows,
            });
        }
        say!("{text}");
        return Ok(());
    }
    print(&plan);
    if let (Some(rows), Some(measured)) = (&compared, &measured) {
        say!("");
        print_compared(gpu, measured, rows);
    }
    Ok(())
}

fn micro(seconds: f64) -> String {
    let us = 1e6 * seconds;
    if us < 9.995 { format!("{us:.1}") } else { format!("{us:.0}") }
}

fn mega(amount: f64) -> String {
    rate_or_none(amount / 1e6)
}

fn giga(amount: f64) -> String {
    rate_or_none(amount / 1e9)
}

/// Few digits; nothing for nothing.
fn rate_or_none(value: f64) -> String {
    match value {
        0.0 => "-".into(),
        ..0.005 => "0.00".into(),
        ..0.995 => format!("{value:.2}"),
        ..9.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn print(p: &Plan) {
    let Plan { gpu, model, width, batch, size, precision, .. } = p;
    tell!(
        "{model} width {width}, batch {batch}, images of {size}, {}, in {precision}: predicted for {}",
        p.method.title,
        gpu.product
    );
    tell!(
        "modelled ceilings: {} TFLOP/s of mma.sync, {} of f32, {} of f64; {} TB/s of memory ({} for tensors of at most {} MB), {} of L2, {} of \
         shared memory; {} multiprocessors",
        rate(gpu.tensor_tflops),
        rate(gpu.float_tflops),
        rate(gpu.double_tflops),
        rate(gpu.memory_tbytes),
        rate(gpu.small_tbytes),
        gpu.small_bytes() >> 20,
        rate(gpu.l2_tbytes),
        rate(gpu.shared_tbytes()),
        gpu.multiprocessors
    );
    match &p.registers_from {
        Source::Compiled(compiler) => tell!("registers: {compiler} for {}", gpu.arch),
        Source::LaunchBounds(why) => {
            tell!("registers: the most that launch bounds allow, so that more waves are shown than may be: {why}")
        }
    }
    let mut table = Table::new([
        Column::text("kernel and shape", 0),
        Column::number("n", 0),
        Column::number("regs", 7),
        Column::number("waves", 2),
        Column::number("GFLOP", 3),
        Column::number("MB", 4),
        Column::number("L2 MB", 4),
        Column::number("shared MB", 6),
        Column::number("math", 1),
        Column::number("mem", 1),
        Column::number("L2", 1),
        Column::number("shared", 1),
        Column::number("us", 0),
        Column::number("ms", 0),
    ]);
    for row in &p.rows {
        table.row([
            format!("{} {}", row.kernel, row.shape),
            row.launches.to_string(),
            row.registers.to_string(),
            rate_or_none(row.waves),
            giga(row.flops),
            mega(row.memory_bytes),
            mega(row.l2_bytes),
            mega(row.shared_bytes),
            micro(row.seconds.math),
            micro(row.seconds.memory),
            micro(row.seconds.l2),
            micro(row.seconds.shared),
            micro(row.seconds.all),
            format!("{:.3}", 1e3 * row.seconds.all * row.launches as f64),
        ]);
    }
    table.print();
    say!("");
    print_totals(p);
    tell!(
        "n: launches. GFLOP, MB: of one launch, to memory, L2 and shared memory. math, mem, L2, shared: microseconds of one launch at each \
         ceiling, the busiest multiprocessor's where it counts. us: the highest of them and {} of gap and ramp. A prediction: no GPU has run \
         this",
        micro(p.rows.first().map_or(0.0, |row| row.seconds.all - row.seconds.highest().1))
    );
}

fn print_totals(p: &Plan) {
    let mut table = Table::new([
        Column::text("all of a kernel", 0),
        Column::number("n", 0),
        Column::number("GFLOP", 1),
        Column::number("MB", 1),
        Column::number("L2 MB", 1),
        Column::number("shared MB", 1),
        Column::number("gaps ms", 2),
        Column::number("ms", 0),
        Column::number("share", 0),
    ]);
    for total in &p.kernels {
        table.row([
            total.kernel.clone(),
            total.launches.to_string(),
            giga(total.flops),
            mega(total.memory_bytes),
            mega(total.l2_bytes),
            mega(total.shared_bytes),
            format!("{:.3}", 1e3 * total.seconds.gap),
            format!("{:.3}", 1e3 * total.seconds.all),
            format!("{:.1}%", 100.0 * total.seconds.all / p.seconds),
        ]);
    }
    let sum = |of: fn(&crate::bench::plan::Total) -> f64| p.kernels.iter().map(of).sum::<f64>();
    table.row([
        "the step".into(),
        p.launches.to_string(),
        giga(p.flops),
        mega(sum(|total| total.memory_bytes)),
        mega(sum(|total| total.l2_bytes)),
        mega(sum(|total| total.shared_bytes)),
        format!("{:.3}", 1e3 * sum(|total| total.seconds.gap)),
        format!("{:.3}", 1e3 * p.seconds),
        "100%".into(),
    ]);
    table.print();
    tell!(
        "predicted: {} launches ({} nodes of the graph), {:.2} ms per step, {} samples/s",
        p.launches,
        p.graph_nodes,
        1e3 * p.seconds,
        rate(p.samples_per_second)
    );
}

fn print_compared(gpu: &Gpu, measured: &KernelsBench, rows: &[Compared]) {
    let [width, batch, size] = measured.sizes;
    tell!("measured: width {width}, batch {batch}, images of {size}, on {} in {}", measured.device, measured.precision);
    tell!(
        "measured ceilings: {} TFLOP/s of multiply-adds in registers, {} TB/s copying; modelled {} and {}",
        rate(measured.ceilings.tflops),
        rate(measured.ceilings.gbytes / 1e3),
        rate(if measured.precision == Precision::Bf16 { gpu.tensor_tflops } else { gpu.float_tflops }),
        rate(gpu.memory_tbytes)
    );
    let mut table = Table::new([
        Column::text("kernel", 0),
        Column::number("launches", 1),
        Column::number("us predicted", 0),
        Column::number("us measured", 0),
        Column::number("ratio", 0),
    ]);
    for row in rows {
        table.row([
            row.name.clone(),
            row.launches.to_string(),
            format!("{:.2}", 1e6 * row.predicted_seconds),
            format!("{:.2}", 1e6 * row.measured_seconds),
            format!("{:.3}", row.measured_seconds / row.predicted_seconds),
        ]);
    }
    table.print();
}
