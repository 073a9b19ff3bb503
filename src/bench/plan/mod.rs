//! What a training step would take on a GPU: its launches, noted by a driver that runs nothing, put through a model of the
//! GPU ([`model`], [`gpus`]). Predictions, to be held against measurements; no GPU is needed.
//!
//! The launches are those of the step itself, on the path that also runs it. What each does ([`Work`]) stands beside the code that
//! launches it.

pub mod gpus;
pub mod model;

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

pub use self::gpus::{GPUS, Gpu};
pub use self::model::{Times, Waves};
use super::kernels::count_kernels;
use super::{KernelsBench, Samples, Workload};
use crate::backend::launched::Launched;
use crate::driver::cache::Cache;
use crate::driver::dry_run::{DryRun, Listing, Noted};
use crate::driver::nvrtc::{Nvrtc, Usage};
use crate::driver::occupancy::{Limits, limits, most_registers, resident};
use crate::driver::{KernelSpec, Launch, Work};
use crate::error::{Error, Result};
use crate::method::Method;
use crate::tensor::Precision;
use crate::train::engine::Engine;

/// The launches of one step.
pub struct Launches {
    noted: Vec<Noted>,
    /// Nodes of the step's graph: launches and copies.
    nodes: usize,
}

/// A GPU's backend on which nothing runs, and what is launched on it.
fn dry(gpu: &Gpu, precision: Precision) -> Result<(Launched, Listing)> {
    let driver = DryRun::new(gpu.arch, gpu.multiprocessors, of(gpu)?.shared_per_block);
    let listing = driver.listing();
    Ok((Launched::new(Box::new(driver), precision)?, listing))
}

fn of(gpu: &Gpu) -> Result<Limits> {
    limits(gpu.arch).ok_or_else(|| Error::Config(format!("{}: {} is not known", gpu.name, gpu.arch)))
}

impl Launches {
    /// Of a workload's step on `gpu`.
    ///
    /// # Errors
    /// When the workload is invalid, or `precision` is none of a GPU.
    pub fn of_step(gpu: &Gpu, w: &Workload, precision: Precision) -> Result<Launches> {
        let (backend, listing) = dry(gpu, precision)?;
        let samples = Samples::unseen(w)?;
        let engine = Engine::planned(&backend, &w.config()?, &samples.data())?;
        let plan = engine.draw(0)?;
        engine.load(&backend, &plan, 0)?;
        listing.take();
        engine.run(&backend, &plan, 0)?;
        Ok(Launches { noted: listing.take(), nodes: listing.nodes() })
    }

    /// Every kernel that is launched, once for each way.
    pub fn kernels(&self) -> Vec<(&KernelSpec, u32)> {
        let mut known: Vec<(&KernelSpec, u32)> = Vec::new();
        for Noted { spec, launch } in &self.noted {
            let kernel = (spec, launch.threads() as u32);
            if !known.contains(&kernel) {
                known.push(kernel);
            }
        }
        known
    }
}

/// Where the numbers of registers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The compiler's report; which compiler.
    Compiled(String),
    /// As many as launch bounds allow, and why nothing was compiled. Occupancy is then the least that it can be.
    LaunchBounds(String),
}

/// What each kernel of a step needs of a multiprocessor.
pub struct Needs {
    limits: Limits,
    usage: HashMap<KernelSpec, Usage>,
    pub source: Source,
}

impl Needs {
    /// Of the kernels of `launches`, compiled for `gpu` or found in the cache; `compiled` hears of each. Without a compiler that
    /// knows the GPU, what launch bounds allow.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn new(gpu: &Gpu, launches: &Launches, nvrtc: Result<&Nvrtc>, compiled: &(dyn Fn() + Sync)) -> Result<Needs> {
        let limits = of(gpu)?;
        let nvrtc = match nvrtc.and_then(|nvrtc| nvrtc.knows(gpu.arch).map(|()| nvrtc)) {
            Ok(nvrtc) => nvrtc,
            Err(error) => {
                return Ok(Needs { limits, usage: HashMap::new(), source: Source::LaunchBounds(error.to_string()) });
            }
        };
        let cache = Cache::user();
        let compile = |(spec, _): &(&KernelSpec, u32)| {
            let usage = nvrtc.compile(spec, gpu.arch, &cache)?.usage;
            compiled();
            Ok(((*spec).clone(), usage))
        };
        let usage = launches.kernels().par_iter().with_max_len(1).map(compile).collect::<Result<_>>()?;
        Ok(Needs { limits, usage, source: Source::Compiled(nvrtc.describe()) })
    }

    /// Registers of a thread, and blocks that a multiprocessor holds at once.
    fn of(&self, spec: &KernelSpec, launch: &Launch) -> Result<(u32, u32)> {
        let threads = launch.threads() as u32;
        let usage = match self.usage.get(spec) {
            Some(usage) => *usage,
            None => Usage { registers: most_registers(spec.source()?, threads), ..Usage::default() },
        };
        let shared_bytes = launch.shared_bytes + usage.shared_bytes;
        Ok((usage.registers, resident(&self.limits, threads, usage.registers, shared_bytes)))
    }
}

/// Launches of one kernel that do the same.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The entry point.
    pub kernel: String,
    /// Extents of what it goes over.
    pub shape: String,
    /// `-D` knobs, `NAME=VALUE`.
    pub knobs: Vec<String>,
    /// In a step.
    pub launches: usize,
    pub grid: [u32; 3],
    pub threads: u64,
    /// Dynamic shared memory of a block.
    pub block_bytes: u32,
    pub registers: u32,
    /// Blocks that a multiprocessor holds at once.
    pub resident: u32,
    pub waves: f64,
    /// Of one launch: operations, and bytes from and to memory, L2 and shared memory.
    pub flops: f64,
    pub memory_bytes: f64,
    pub l2_bytes: f64,
    pub shared_bytes: f64,
    /// Of one launch.
    pub seconds: Times,
    /// The ceiling that it meets first.
    pub bound: &'static str,
}

/// All launches of one kernel in a step, whatever their shapes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Total {
    pub kernel: String,
    pub launches: usize,
    pub flops: f64,
    pub memory_bytes: f64,
    pub l2_bytes: f64,
    pub shared_bytes: f64,
    /// Sums over the launches.
    pub seconds: Times,
}

/// A step on a GPU, as predicted.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Always: nothing here is measured.
    pub predicted: bool,
    pub gpu: Gpu,
    pub precision: Precision,
    pub model: String,
    pub width: usize,
    pub batch: usize,
    pub size: usize,
    pub method: &'static Method,
    pub registers_from: Source,
    pub launches: usize,
    /// Launches and copies of the step's graph.
    pub graph_nodes: usize,
    pub flops: f64,
    pub seconds: f64,
    pub samples_per_second: f64,
    /// In the order of first launches.
    pub rows: Vec<Row>,
    /// In the order of their share of the step.
    pub kernels: Vec<Total>,
}

/// A tensor's extents, of a convolution its filters, window, stride and groups, and what is added or added to.
fn shape(spec: &KernelSpec, work: &Work) -> String {
    let knob = |name: &str| spec.defines.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let extents: Vec<String> = work.extents.iter().filter(|&&n| n > 0).map(u32::to_string).collect();
    let mut text = extents.join("x");
    // All but what is usual is said.
    for (name, usual, before) in
        [("FILTERS", "", "->"), ("KERNEL", "3", " k"), ("STRIDE", "1", " /"), ("GROUPS", "1", " g")]
    {
        if let (Some(_), Some(value)) = (knob("FILTERS"), knob(name).filter(|value| *value != usual)) {
            text += &format!("{before}{value}");
        }
    }
    text += match (knob("SHORTCUT"), knob("ADD")) {
        (Some("1"), _) => " + shortcut",
        (Some("2"), _) => " + option A",
        (_, Some("1")) => " +=",
        _ => "",
    };
    text
}

impl Row {
    fn new(gpu: &Gpu, needs: &Needs, Noted { spec, launch }: &Noted) -> Result<Row> {
        let (registers, resident) = needs.of(spec, launch)?;
        if resident == 0 {
            let what =
                format!("kernel {} does not fit: {registers} registers, {} bytes", spec.label(), launch.shared_bytes);
            return Err(Error::device(gpu.name, what));
        }
        let (work, seconds) = (launch.work, Times::of(gpu, launch, resident));
        Ok(Row {
            kernel: spec.entry.to_string(),
            shape: shape(spec, &work),
            knobs: spec.defines.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            launches: 1,
            grid: launch.grid,
            threads: launch.threads(),
            block_bytes: launch.shared_bytes,
            registers,
            resident,
            waves: Waves::new(launch.blocks(), gpu.multiprocessors, resident).waves,
            flops: (work.tensor + work.float + work.double) as f64,
            memory_bytes: work.memory as f64,
            l2_bytes: work.l2 as f64,
            shared_bytes: work.shared as f64,
            seconds,
            bound: seconds.highest().0,
        })
    }
}

/// Predicts the step of a workload whose launches are `launches`.
///
/// # Errors
/// When a kernel does not fit on the GPU.
pub fn plan(gpu: &Gpu, w: &Workload, precision: Precision, launches: &Launches, needs: &Needs) -> Result<Plan> {
    let (mut rows, mut known): (Vec<Row>, HashMap<(&KernelSpec, Launch), usize>) = Default::default();
    for noted in &launches.noted {
        let same = (&noted.spec, noted.launch);
        if let Some(&at) = known.get(&same) {
            rows[at].launches += 1;
            continue;
        }
        known.insert(same, rows.len());
        rows.push(Row::new(gpu, needs, noted)?);
    }
    let mut kernels: Vec<Total> = Vec::new();
    for row in &rows {
        let at = kernels.iter().position(|total| total.kernel == row.kernel).unwrap_or_else(|| {
            kernels.push(Total { kernel: row.kernel.clone(), ..Total::default() });
            kernels.len() - 1
        });
        let (total, n) = (&mut kernels[at], row.launches as f64);
        total.launches += row.launches;
        total.flops += n * row.flops;
        total.memory_bytes += n * row.memory_bytes;
        total.l2_bytes += n * row.l2_bytes;
        total.shared_bytes += n * row.shared_bytes;
        total.seconds = total.seconds + row.seconds.times(row.launches);
    }
    kernels.sort_by(|a, b| b.seconds.all.total_cmp(&a.seconds.all));
    let seconds: f64 = kernels.iter().map(|total| total.seconds.all).sum();
    Ok(Plan {
        predicted: true,
        gpu: *gpu,
        precision,
        model: w.model.clone(),
        width: w.width,
        batch: w.batch,
        size: w.size,
        method: w.method,
        registers_from: needs.source.clone(),
        launches: launches.noted.len(),
        graph_nodes: launches.nodes,
        flops: kernels.iter().map(|total| total.flops).sum(),
        seconds,
        samples_per_second: w.batch as f64 / seconds,
        rows,
        kernels,
    })
}

/// A row of `bench kernels`, measured and predicted.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub name: String,
    pub launches: usize,
    pub predicted_seconds: f64,
    pub measured_seconds: f64,
}

/// Predicts every row that `bench kernels` measured.
///
/// # Errors
/// When its sizes are out of range, a kernel does not compile or does not fit, or no row is known any more.
pub fn compare(gpu: &Gpu, measured: &KernelsBench, nvrtc: Result<&Nvrtc>) -> Result<Vec<Compared>> {
    let (backend, listing) = dry(gpu, measured.precision)?;
    let rows = count_kernels(&backend, listing, measured.sizes)?;
    let of_row = |name: &str| rows.iter().find(|row| row.name == name);
    let wanted: Vec<_> = measured.kernels.iter().filter_map(|time| Some((time, of_row(&time.name)?))).collect();
    if wanted.is_empty() {
        return Err(Error::Config("none of the measured kernels is one of this version's".into()));
    }
    let noted = wanted.iter().flat_map(|(_, row)| row.launches.iter().cloned()).collect();
    let needs = Needs::new(gpu, &Launches { noted, nodes: 0 }, nvrtc, &|| {})?;
    let compared = wanted.iter().map(|(time, row)| {
        let seconds = row.launches.iter().map(|noted| Ok(Row::new(gpu, &needs, noted)?.seconds.all));
        Ok(Compared {
            name: row.name.clone(),
            launches: row.launches.len(),
            predicted_seconds: seconds.sum::<Result<f64>>()?,
            measured_seconds: time.seconds,
        })
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sources::kernel_files;
    use crate::method::METHODS;

    fn step(precision: Precision) -> Plan {
        let model = "resnet32".to_string();
        let w = Workload { model, width: 64, method: METHODS[0], batch: 64, classes: 10, size: 32, photos: false };
        let gpu = Gpu::named("h200").unwrap();
        let launches = Launches::of_step(gpu, &w, precision).unwrap();
        let none = Err(Error::Config("no compiler".into()));
        plan(gpu, &w, precision, &launches, &Needs::new(gpu, &launches, none, &|| {}).unwrap()).unwrap()
    }

    /// The account of the first kernels that was made by hand, from their disassembly: launches and milliseconds by groups. What
    /// differs by more than a tenth, and why, is in `benches/runs/2026-12-01-plan/README.md`.
    #[test]
    fn the_step_of_the_account_made_by_hand() {
        let step = step(Precision::Bf16);
        let groups: [(&[&str], usize, f64, f64); 7] = [
            (&["conv2d_forward"], 31, 1.13, 0.1),
            (&["conv2d_input_grad"], 30, 1.16, 0.1),
            (&["conv2d_weight_grad"], 31, 1.20, 0.1),
            (&["conv2d_weight_grad_reduce"], 31, 0.20, 0.1),
            (&["batch_norm_apply"], 31, 0.26, 0.15),
            (&["batch_norm_backward_sums", "batch_norm_backward_apply"], 62, 0.69, 0.1),
            (&["batch_norm_statistics", "batch_norm_backward_totals"], 62, 0.24, 0.15),
        ];
        let (mut launches, mut seconds) = (0, 0.0);
        for (names, count, millis, tolerance) in groups {
            let of_group = step.kernels.iter().filter(|total| names.contains(&total.kernel.as_str()));
            let (n, s) = of_group.fold((0, 0.0), |(n, s), total| (n + total.launches, s + total.seconds.all));
            assert_eq!(n, count, "{names:?}");
            assert!((1e3 * s / millis - 1.0).abs() < tolerance, "{names:?}: {} ms, by hand {millis}", 1e3 * s);
            (launches, seconds) = (launches + n, seconds + s);
        }
        // Heads, losses, pool, input, sgd.
        assert!((2.5e-6..7e-6).contains(&((step.seconds - seconds) / (step.launches - launches) as f64)));
        assert!((1e3 * step.seconds / 5.0 - 1.0).abs() < 0.1, "{} ms", 1e3 * step.seconds);
        // The formula's operations and what tiles and the stem's chunks add.
        assert!((842e9..865e9).contains(&step.flops), "{}", step.flops);
        let first = |kernel: &str| step.rows.iter().find(|row| row.kernel == kernel && row.shape == "128x32x32x64->64");
        let megabytes = |kernel| first(kernel).unwrap().l2_bytes / 1e6;
        // By hand with the taps outside of the image, and of the weight gradient with columns past the last tap: no tile fetches
        // those.
        assert!((243.0 * 0.95..243.0).contains(&megabytes("conv2d_forward")), "{}", megabytes("conv2d_forward"));
        assert!((259.0 * 0.9..259.0).contains(&megabytes("conv2d_weight_grad")), "{}", megabytes("conv2d_weight_grad"));
        assert_eq!(
            first("conv2d_forward").unwrap().waves,
            1024.0 / 132.0 / 2.0,
            "two blocks of 128 threads, by launch bounds"
        );
    }

    #[test]
    fn f32_has_no_tensor_cores() {
        let step = step(Precision::F32);
        let forward = step.kernels.iter().find(|total| total.kernel == "conv2d_forward").unwrap();
        assert!(forward.seconds.math > 3e-3, "280 GFLOP at 67 TFLOP/s: {forward:?}");
    }

    /// `bench kernels` has a row for each kernel.
    #[test]
    fn every_launch_says_what_it_does() {
        let gpu = Gpu::named("a100").unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let (backend, listing) = dry(gpu, precision).unwrap();
            let rows = count_kernels(&backend, listing, [16, 4, 32]).unwrap();
            let mut silent: Vec<&str> = kernel_files().collect();
            for Noted { spec, launch: Launch { work, .. } } in rows.iter().flat_map(|row| &row.launches) {
                assert!(work.extents[0] > 0, "{}", spec.label());
                assert!(work.memory > 0 && work.l2 >= work.memory && work.largest <= work.memory, "{}", spec.label());
                silent.retain(|file| *file != spec.file);
            }
            // What no step launches by itself, or for a few words only.
            let others = ["ceilings_copy.cu", "ceilings_fma.cu", "ceilings_mma.cu", "checksum.cu", "sam_scalars.cu"];
            assert_eq!(silent, others);
        }
    }
}
