//! Where a run computes, where its data lies and how often it is saved.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DATA, DEVICE, RUN, settings};
use crate::backend::{self, AUTO};
use crate::error::{Error, Result};
use crate::ops::Backend;
use crate::tensor::Precision;

settings! {
    /// What may change when a run is resumed; see [`Placement`].
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
    pub struct PlacementSettings {
        /// Store to train on, made by `prepare` [default: the demo's, made on the spot]
        #[arg(long, value_name = "STORE", help_heading = DATA)]
        pub data: Option<PathBuf>,
        /// auto, cpu, cuda, cuda:N or emulator [default: auto: the first usable GPU, else the CPU]
        #[arg(long, help_heading = DEVICE)]
        pub device: Option<String>,
        /// f32 or bf16 [default: bf16 on cuda, else f32]
        #[arg(long, help_heading = DEVICE)]
        pub precision: Option<Precision>,
        /// CPU threads [default: all cores]
        #[arg(long, help_heading = DEVICE)]
        pub threads: Option<usize>,
        /// Save a checkpoint every N epochs [default: 1]
        #[arg(long, value_name = "N", help_heading = RUN)]
        pub checkpoint_every: Option<usize>,
        /// Keep the images on the device if they fit in this many MiB; otherwise stream them [default: keep what fits]
        #[arg(long, value_name = "MIB", help_heading = DEVICE)]
        pub resident_limit: Option<usize>,
        /// What else to write of each epoch into the run folder, separated by commas: tensorboard (event files), csv (metrics.csv) [default: nothing]
        #[arg(long, value_name = "KIND", value_delimiter = ',', help_heading = RUN)]
        pub log: Option<Vec<Log>>,
    }
}

/// What may change when a run is resumed: the bits of a run depend on its precision and kind of device, its meaning on
/// none of this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub data: PathBuf,
    pub device: String,
    pub precision: Precision,
    pub threads: usize,
    pub checkpoint_every: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_limit: Option<usize>,
    /// What else is written of each epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Log>,
}

/// A form of an epoch's figures besides `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// Event files, which TensorBoard opens
    #[value(name = "tensorboard")]
    TensorBoard,
    /// One table of all epochs
    Csv,
}

impl Placement {
    /// Opens the device.
    ///
    /// # Errors
    /// When there is no such device or it cannot compute in that precision.
    pub fn open(&self) -> Result<Box<dyn Backend>> {
        backend::open(&self.device, self.precision, self.threads)
    }
}

impl PlacementSettings {
    /// Data at `path`, everything else by default.
    pub fn on(path: impl Into<PathBuf>) -> PlacementSettings {
        PlacementSettings { data: Some(path.into()), ..PlacementSettings::default() }
    }

    /// Where a run computes that computes just there.
    pub fn of(placement: Placement) -> PlacementSettings {
        let Placement { data, device, precision, threads, checkpoint_every, resident_limit, log } = placement;
        PlacementSettings {
            data: Some(data),
            device: Some(device),
            precision: Some(precision),
            threads: Some(threads),
            checkpoint_every: Some(checkpoint_every),
            resident_limit,
            log: (!log.is_empty()).then_some(log),
        }
    }

    /// Fills the gaps with defaults.
    ///
    /// # Errors
    /// When there is no data.
    pub(super) fn resolve(self) -> Result<Placement> {
        let data = self.data.ok_or_else(|| {
            Error::Usage("no data: give --data STORE (make one with `glmc-engine prepare`), or run the demo with no arguments at all".into())
        })?;
        let device = backend::resolve(self.device.as_deref().unwrap_or(AUTO)).0;
        Ok(Placement {
            data,
            precision: self.precision.unwrap_or_else(|| Precision::default_on(&device)),
            device,
            threads: self.threads.unwrap_or(0),
            checkpoint_every: self.checkpoint_every.unwrap_or(1),
            resident_limit: self.resident_limit,
            log: self.log.unwrap_or_default(),
        })
    }

    /// These settings, and where they say nothing, those of a run that they move.
    pub fn over(self, stored: &Placement) -> Placement {
        let device = self.device.map_or_else(|| stored.device.clone(), |device| backend::resolve(&device).0);
        // A run that moves to another device and names no precision takes that device's own.
        let precision = match self.precision {
            Some(precision) => precision,
            None if device == stored.device => stored.precision,
            None => Precision::default_on(&device),
        };
        Placement {
            data: self.data.unwrap_or_else(|| stored.data.clone()),
            device,
            precision,
            threads: self.threads.unwrap_or(stored.threads),
            checkpoint_every: self.checkpoint_every.unwrap_or(stored.checkpoint_every),
            resident_limit: self.resident_limit.or(stored.resident_limit),
            log: self.log.unwrap_or_else(|| stored.log.clone()),
        }
    }
}
