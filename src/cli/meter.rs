//! How far work on images is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::console::{self, Stream, note};

/// Time between two lines where there is no terminal, and between two measurements on one.
const LINE_EVERY: Duration = Duration::from_secs(5);
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// A progress bar, or lines.
pub struct Meter {
    bar: ProgressBar,
    last: Mutex<Last>,
    /// Images that count for the speed.
    counted: AtomicUsize,
}

/// What was shown last.
struct Last {
    step: &'static str,
    at: Instant,
    /// When the first image counted.
    start: Option<Instant>,
}

impl Meter {
    pub fn new() -> Meter {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(0), console::bar_target());
        let template = match console::width(Stream::Err) {
            ..70 => "{prefix:6} {wide_bar} {pos}/{len}  {msg}",
            _ => "{prefix:6} {wide_bar} {pos}/{len} images  {msg}",
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let last = Last { step: "", at: Instant::now(), start: None };
        Meter { bar, last: Mutex::new(last), counted: AtomicUsize::new(0) }
    }

    /// Measures the speed from now on, and not from the first image that counts: images may come many at a time.
    pub fn start(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).start = Some(Instant::now());
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Shows that so many images of a step are done; `counts` says whether they count for the speed. Called from any thread.
    pub fn tick(&self, step: &'static str, counts: bool, done: usize, total: usize) {
        let counted = if counts { 1 + self.counted.fetch_add(1, Ordering::Relaxed) } else { 0 };
        if !self.bar.is_hidden() {
            self.bar.set_position(done as u64);
        }
        // Where another thread is here already, nothing is lost.
        let Ok(mut last) = self.last.try_lock() else { return };
        let now = Instant::now();
        let start = match counted {
            0 => now,
            _ => *last.start.get_or_insert(now),
        };
        let (since, passed) = (now - start, now - last.at);
        if !self.bar.is_hidden() {
            let other = last.step != step || self.bar.length() != Some(total as u64);
            if other {
                self.bar.set_length(total as u64);
                self.bar.set_prefix(step);
            }
            if other || passed >= SHOWN_EVERY {
                (last.step, last.at) = (step, now);
                self.bar.set_message(speed(counted, since, total - done).join("  "));
            }
        } else if passed >= LINE_EVERY || (done == total && counts) {
            (last.step, last.at) = (step, now);
            let mut line = vec![format!("{step}: {done}/{total} images")];
            line.extend(speed(counted, since, total - done));
            note!("{}", line.join(", "));
        }
    }

    /// Writes to standard output, with the bar out of the way where both are on one terminal.
    pub fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        match io::stdout().is_terminal() {
            true => self.bar.suspend(write),
            false => write(),
        }
    }

    /// A line above the bar, if there is one.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| note!("{line}"));
    }
}

/// Images a second, and the time that is left; nothing before any counted.
fn speed(counted: usize, since: Duration, left: usize) -> Vec<String> {
    let rate = counted as f64 / since.as_secs_f64().max(1e-3);
    let mut parts = Vec::new();
    if counted > 0 {
        parts.push(format!("{rate:.0} images/s"));
        if left > 0 {
            // Rates are above 0, and a list is no longer than a file may be.
            parts.push(format!("{:#} left", HumanDuration(Duration::from_secs((left as f64 / rate) as u64))));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_time_left() {
        assert!(speed(0, Duration::ZERO, 9).is_empty());
        assert_eq!(speed(500, Duration::from_secs(10), 6000), ["50 images/s", "2m left"]);
        assert_eq!(speed(500, Duration::from_secs(10), 0), ["50 images/s"]);
    }
}
