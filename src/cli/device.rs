//! Flags that several subcommands share: where to compute, and in which precision.

use super::self_test::TrustArgs;
use crate::backend;
use crate::error::Result;
use crate::ops::Backend;
use crate::tensor::Precision;

/// Where to compute.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// auto (the first usable GPU, else the CPU), cpu, cuda, cuda:N or emulator
    #[arg(long, default_value = backend::AUTO)]
    pub device: String,
    /// f32, bf16, or on the CPU f64 [default: bf16 on cuda, else f32]
    #[arg(long)]
    pub precision: Option<Precision>,
    /// CPU threads; 0 means all cores
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl DeviceArgs {
    /// The device and precision that are meant.
    pub fn resolved(&self) -> (String, Precision) {
        let device = backend::resolve(&self.device).0;
        let precision = self.precision.unwrap_or_else(|| Precision::default_on(&device));
        (device, precision)
    }

    /// Opens the device after a self-test, if it needs one.
    ///
    /// # Errors
    /// When it fails the test, there is no such device or it cannot compute in that precision.
    pub fn open_proven(&self, trust: TrustArgs) -> Result<Box<dyn Backend>> {
        let (device, precision) = self.resolved();
        trust.prove(&device, precision)?;
        backend::open(&device, precision, self.threads)
    }

    /// The number of threads in effect.
    pub fn thread_count(&self) -> usize {
        if self.threads > 0 { self.threads } else { std::thread::available_parallelism().map_or(1, usize::from) }
    }
}
