//! TensorBoard's event files: TFRecords of `Event` messages (`tensorflow/core/util/event.proto`, of which this is the part that
//! scalars need). An epoch is one event, so that a file that a kill cut short has each epoch whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::metrics::EpochMetrics;
use super::scalars::scalars;
use crate::error::{Error, Result};
use crate::files;

/// What the names of event files begin with; TensorBoard reads those of a folder in the order of their names.
const PREFIX: &str = "events.out.tfevents.";
/// What the first event of a file says.
const VERSION: &str = "brain.Event:2";
/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 32;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The checksum of a record's parts: CRC-32C, rotated and shifted so that checksums of data that hold checksums stay good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A message as a TFRecord: its length, the checksum of that, the message, its checksum; all little-endian.
fn record(event: &Event) -> Vec<u8> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), &data, &masked_crc(&data).to_le_bytes()].concat()
}

/// The events of a file up to the first record that is not whole.
fn events(bytes: &[u8]) -> Vec<Event> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((event, behind)) = next(rest) {
        found.push(event);
        rest = behind;
    }
    found
}

fn next(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let (crc, rest) = rest.split_at_checked(4)?;
    let is_whole = |part: &[u8], crc: &[u8]| masked_crc(part).to_le_bytes() == crc;
    if !is_whole(length, crc) {
        return None;
    }
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let (data, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let (crc, rest) = rest.split_at_checked(4)?;
    is_whole(data, crc).then(|| Event::decode(data).ok()).flatten().map(|event| (event, rest))
}

/// The event files in a folder, in TensorBoard's order; none where there is no folder.
///
/// # Errors
/// When the system refuses.
pub fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = files::names_in(folder)?;
    let mut found: Vec<PathBuf> = names
        .into_iter()
        .filter(|name| name.to_string_lossy().starts_with(PREFIX))
        .map(|name| folder.join(name))
        .collect();
    found.sort();
    Ok(found)
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// An event file that grows.
pub struct EventFile {
    file: File,
    path: PathBuf,
    /// The last epoch that this file or an earlier one of the folder has.
    last: usize,
}

impl EventFile {
    /// Begins a new file in a folder, behind those that are there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(folder: &Path) -> Result<EventFile> {
        let now = SystemTime::now();
        let (mut last, mut second) = (0, seconds(now) as u64);
        for path in event_files(folder)? {
            let steps = events(&files::read(&path, MAX_BYTES)?);
            let steps = steps.iter().filter(|event| event.summary.is_some()).map(|event| event.step.max(0) as usize);
            last = steps.fold(last, usize::max);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let begun = name[PREFIX.len()..].split('.').next().and_then(|second| second.parse::<u64>().ok());
            second = second.max(begun.map_or(0, |begun| begun.saturating_add(1)));
        }
        let host = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
        let path = folder.join(format!("{PREFIX}{second:010}.{host}.{}", std::process::id()));
        let file = files::open_to_write(&path, OpenOptions::new().append(true))?;
        let mut events = EventFile { file, path, last };
        let version = Event { wall_time: seconds(now), file_version: Some(VERSION.into()), ..Event::default() };
        events.write(&version)?;
        Ok(events)
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&record(event)).map_err(Error::io(&self.path))
    }

    /// Adds the epochs that neither this file nor an earlier one has; `finished` says when an epoch was.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add(&mut self, history: &[EpochMetrics], finished: impl Fn(&EpochMetrics) -> SystemTime) -> Result<()> {
        for epoch in history.iter().filter(|metrics| metrics.epoch > self.last).collect::<Vec<_>>() {
            let figures = scalars(epoch).into_iter();
            let figures = figures.filter_map(|scalar| scalar.value.map(|value| (scalar.tag, value)));
            let value = figures.map(|(tag, value)| Value { tag, simple_value: Some(value as f32) }).collect();
            let (wall_time, summary) = (seconds(finished(epoch)), Some(Summary { value }));
            self.write(&Event { wall_time, step: epoch.epoch as i64, summary, file_version: None })?;
            self.last = epoch.epoch;
        }
        Ok(())
    }
}

/// Removes the event files of a folder.
///
/// # Errors
/// When the system refuses.
pub fn remove(folder: &Path) -> Result<()> {
    event_files(folder)?.iter().try_for_each(|path| fs::remove_file(path).map_err(Error::io(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::evaluate::{Evaluation, Guesses};

    fn epoch(epoch: usize) -> EpochMetrics {
        let guesses = Guesses { ranks: &[0], confidences: &[1.0], losses: &[0.0] };
        let test = Evaluation::tally(guesses, &[0], &[crate::data::Shot::Many]);
        EpochMetrics::new(epoch, (0.1, 1.0), (&[("c", 0)], [0.5; 4]), (test, None), (1.0, 1))
    }

    #[test]
    fn the_checksum_is_tensorflow_s() {
        // Of "123456789" CRC-32C is e3069283 (RFC 3720 gives the polynomial, Koopman's tables this value).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_zero_is_a_value_and_every_cut_is_seen() {
        let event = Event {
            step: 3,
            summary: Some(Summary { value: vec![Value { tag: "a".into(), simple_value: Some(0.0) }] }),
            ..Event::default()
        };
        let bytes = record(&event);
        assert_eq!(events(&bytes), [event]);
        for length in 0..bytes.len() {
            assert!(events(&bytes[..length]).is_empty(), "{length}");
        }
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(events(&damaged).is_empty(), "bit {bit}");
        }
    }

    #[test]
    fn another_file_goes_on_behind_the_last_whole_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let history: Vec<EpochMetrics> = (1..=4).map(epoch).collect();
        let when = |_: &EpochMetrics| UNIX_EPOCH;
        EventFile::create(folder.path()).unwrap().add(&history[..2], when).unwrap();
        let first = event_files(folder.path()).unwrap().remove(0);
        let whole = fs::read(&first).unwrap();
        // The second epoch's record is cut short.
        fs::write(&first, &whole[..whole.len() - 1]).unwrap();
        let mut second = EventFile::create(folder.path()).unwrap();
        second.add(&history[..3], when).unwrap();
        second.add(&history, when).unwrap();
        let files = event_files(folder.path()).unwrap();
        let steps = |path: &PathBuf| -> Vec<i64> {
            let events = events(&fs::read(path).unwrap());
            assert_eq!(events[0].file_version.as_deref(), Some(VERSION));
            events[1..].iter().map(|event| event.step).collect()
        };
        assert_eq!(files.iter().map(steps).collect::<Vec<_>>(), [vec![1], vec![2, 3, 4]]);
        remove(folder.path()).unwrap();
        assert!(event_files(folder.path()).unwrap().is_empty());
    }
}
