//! What a run writes of its epochs besides `metrics.jsonl`: TensorBoard's event files and `metrics.csv`, in its folder. Both
//! follow from the history, so that a resumed run brings them up to date before its first step.

use std::path::Path;
use std::time::SystemTime;

use super::events::EventFile;
use super::metrics::EpochMetrics;
use super::scalars::write_csv;
use crate::config::Log;
use crate::error::Result;

/// The name of the table.
pub const TABLE: &str = "metrics.csv";

/// What a run writes.
#[derive(Default)]
pub struct Logs {
    events: Option<EventFile>,
    table: bool,
}

impl Logs {
    /// Begins the files in a run's folder, with the epochs that are finished.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(folder: &Path, kinds: &[Log], history: &[EpochMetrics]) -> Result<Logs> {
        let events = kinds.contains(&Log::TensorBoard).then(|| EventFile::create(folder)).transpose()?;
        let mut logs = Logs { events, table: kinds.contains(&Log::Csv) };
        logs.update(folder, history)?;
        Ok(logs)
    }

    /// Adds the epochs that the files do not have yet.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn update(&mut self, folder: &Path, history: &[EpochMetrics]) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.add(history, |_| SystemTime::now())?;
        }
        if self.table {
            write_csv(&folder.join(TABLE), &[], history.iter().map(|epoch| (Vec::new(), epoch)))?;
        }
        Ok(())
    }
}
