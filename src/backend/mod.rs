//! Backends: who computes the ops.
//!
//! [`Backend`] (declared beside the ops) is what tape, model and training loop see; nothing above it knows which one runs.
//! There are two implementations: [`native`], Rust on the CPU, and [`launched`], hand-written kernels over a driver (CUDA, or the
//! emulator that runs the same kernels on any machine).

pub mod launched;
pub mod native;

use crate::driver::Driver;
use crate::driver::cache::Cache;
use crate::driver::cuda::{self, Cuda, DeviceInfo};
use crate::driver::dry_run::DryRun;
use crate::driver::emulator::{self, Checks, Emulator};
use crate::error::{Error, Result};
use crate::ops::Backend;
use crate::tensor::Precision;

/// CPU threads that a backend may be asked for.
const MOST_THREADS: usize = 1024;

/// The name that stands for the first usable GPU, or the CPU where there is none.
pub const AUTO: &str = "auto";

/// The device that a name stands for, and for [`AUTO`] why it is that one.
pub fn resolve(device: &str) -> (String, Option<String>) {
    if device != AUTO {
        return (device.into(), None);
    }
    let found = match cuda::devices() {
        Ok(found) => found,
        Err(error) => return ("cpu".into(), Some(format!("no usable GPU: {error}"))),
    };
    match found.iter().find(|gpu| gpu.kernels.is_ok()) {
        Some(gpu) => (format!("cuda:{}", gpu.ordinal), Some(format!("the first usable GPU, {}", gpu.product))),
        None => {
            let problem = found.into_iter().find_map(|gpu| gpu.kernels.err()).unwrap_or_else(|| "there is none".into());
            ("cpu".into(), Some(format!("no usable GPU: {problem}")))
        }
    }
}

/// Opens a device by its name: `cpu`, `cuda` or `cuda:N`, `emulator`, or `emulator:checked`, which looks at every memory
/// access. `threads` is the number of CPU threads, 0 for all.
///
/// # Errors
/// When there is no device of that name, it cannot be opened, or it does not compute in that precision.
pub fn open(device: &str, precision: Precision, threads: usize) -> Result<Box<dyn Backend>> {
    if threads > MOST_THREADS {
        return Err(Error::Config(format!("{threads} threads are more than {MOST_THREADS}; 0 takes one a core")));
    }
    if device == "cpu" {
        return Ok(Box::new(native::Native::new(precision, threads)?));
    }
    if threads > 0 && device.starts_with("emulator") {
        // The emulator runs blocks on the process's own pool. Where that is up already, it stays as it is.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    Ok(Box::new(launched::Launched::new(driver(device)?, precision)?))
}

/// Opens what runs the kernels of a device other than the CPU.
///
/// # Errors
/// When there is no device of that name, or it cannot be opened.
pub fn driver(device: &str) -> Result<Box<dyn Driver>> {
    let checks = match device {
        "emulator" => Checks::Fast,
        "emulator:checked" => Checks::Full,
        _ => {
            let Some(ordinal) = cuda_ordinal(device) else {
                return Err(Error::device(device, "no such device; there are: cpu, cuda, cuda:N, emulator"));
            };
            return Ok(Box::new(Cuda::new(ordinal, Cache::user())?));
        }
    };
    Ok(Box::new(Emulator::new(emulator::Options { checks, cache: Cache::user() })?))
}

/// The GPU that a device's name means; `None` where it means none, or none that can be used.
pub fn gpu(device: &str) -> Option<DeviceInfo> {
    let ordinal = cuda_ordinal(device)?;
    cuda::devices().ok()?.into_iter().find(|gpu| gpu.ordinal == ordinal && gpu.kernels.is_ok())
}

/// A backend that plans and counts memory as the device of that name does, whether this machine has it or not; see
/// [`Backend::planner`].
///
/// # Errors
/// When there is no device of that name, or it does not compute in that precision.
pub fn planner(device: &str, precision: Precision) -> Result<Box<dyn Backend>> {
    if device == "cpu" || cuda_ordinal(device).is_none() {
        return open(device, precision, 1)?.planner();
    }
    Ok(Box::new(launched::Launched::new(Box::new(DryRun::default()), precision)?))
}

/// The number in `cuda:N`; 0 for `cuda`.
fn cuda_ordinal(device: &str) -> Option<usize> {
    match device.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

/// Every kind of device, with what it is or why it cannot be used.
pub fn devices() -> Vec<(String, Result<String>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut devices = vec![("cpu".into(), Ok(format!("Rust on {threads} threads, f32 (and f64 as an oracle)")))];
    match cuda::devices() {
        Err(error) => devices.push(("cuda".into(), Err(error))),
        Ok(found) => devices.extend(found.into_iter().map(|gpu| {
            let name = format!("cuda:{}", gpu.ordinal);
            let (major, minor) = gpu.compute;
            let memory = gpu.memory_bytes as f64 / (1u64 << 30) as f64;
            let what = gpu.kernels.map_err(|problem| Error::device(&name, problem)).map(|kernels| {
                let product = gpu.product;
                format!("{product}, compute capability {major}.{minor}, {memory:.0} GiB, f32 and bf16; {kernels}")
            });
            (name, what)
        })),
    }
    let emulator = Emulator::new(emulator::Options { checks: Checks::Fast, cache: Cache::user() });
    let what = emulator.map(|emulator| format!("{}: the CUDA kernels, f32 and bf16", emulator.properties().product));
    devices.push(("emulator".into(), what));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_opened_by_name() {
        assert_eq!(open("cpu", Precision::F64, 1).unwrap().precision(), Precision::F64);
        let message = |device, precision| open(device, precision, 1).err().unwrap().to_string();
        assert_eq!(message("tpu", Precision::F32), "tpu: no such device; there are: cpu, cuda, cuda:N, emulator");
        assert!(message("cpu", Precision::Bf16).starts_with("cpu: computes in f32 (or f64)"));
        let many = open("cpu", Precision::F32, 100_000).err().unwrap().to_string();
        assert_eq!(many, "100000 threads are more than 1024; 0 takes one a core");
        assert!(message("emulator", Precision::F64).starts_with("emulator: kernels compute in f32 and bf16"));
        assert_eq!(["cuda", "cuda:3"].map(cuda_ordinal), [Some(0), Some(3)]);
        assert_eq!(["cuda:", "cuda3", "cuda:-1", "cuda:x", "emulator"].map(cuda_ordinal), [None; 5]);
    }
}
