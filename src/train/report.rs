//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere (both on stderr), and the outcome as
//! tables on stdout.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::EpochMetrics;
use super::run_folder::RunFolder;
use crate::config::Config;
use crate::console::{self, note, say};
use crate::data::meta::Meta;
use crate::data::shots::Shot;
use crate::data::store::Store;
use crate::ops::Backend;

/// The pace of this much training says how long a run will take.
const PACE: Duration = Duration::from_secs(2);
/// ... and of this many steps, the first of which touches all memory for the first time.
const FIRST_STEPS: usize = 4;
/// Plain lines come at most this often within an epoch.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a run.
pub struct Reporter {
    bar: Option<ProgressBar>,
    epochs: usize,
    epoch: usize,
    steps: usize,
    /// Steps of this process so far and when they began, for the time that is left.
    done: usize,
    begun: Instant,
    /// Step of the epoch at the last call.
    at: usize,
    line: Instant,
    /// Whether it was said how long the run will take.
    foretold: bool,
}

impl Reporter {
    /// Announces the run.
    pub fn new(config: &Config, store: &Store, backend: &dyn Backend, arena: usize) -> Reporter {
        let meta = store.meta();
        let (most, least) = (meta.counts.iter().max(), meta.counts.iter().min());
        note!(
            "{} on {}: {} training images, {} classes of {} to {} images, {} test images",
            config.method.title(),
            meta.source,
            store.train().len(),
            meta.counts.len(),
            least.unwrap_or(&0),
            most.unwrap_or(&0),
            store.test().len()
        );
        note!(
            "{} width {}, batch {}, lr {}, {} epochs, {} in {}; memory: {} allocated, {} of it activations",
            config.model,
            config.width,
            config.batch,
            config.lr,
            config.epochs,
            backend.name(),
            backend.precision(),
            mebibytes(backend.allocated().0),
            mebibytes(arena)
        );
        let now = Instant::now();
        let (epochs, epoch, steps) = (config.epochs, 0, 0);
        Reporter { bar: None, epochs, epoch, steps, done: 0, begun: now, at: 0, line: now, foretold: false }
    }

    /// An epoch of `steps` steps starts, or continues at step `first`.
    pub fn epoch_begins(&mut self, epoch: usize, steps: usize, first: usize) {
        (self.epoch, self.steps, self.at) = (epoch, steps, first);
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
            // The template is written here and known to be valid.
            let style =
                ProgressStyle::with_template("{prefix} [{bar:28}] {pos}/{len} {msg}").expect("a valid template");
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(format!("epoch {:>3}/{}", epoch + 1, self.epochs));
            bar.set_position(first as u64);
            self.bar = Some(bar);
        }
    }

    /// `step` steps of the epoch are done; `loss` is their mean.
    pub fn step(&mut self, step: usize, loss: f64, samples_per_second: f64) {
        self.done += step - self.at;
        self.at = step;
        let left = spell(self.left());
        if !self.foretold && self.done >= FIRST_STEPS && self.begun.elapsed() >= PACE {
            self.foretold = true;
            let foretold = format!("about {left} to go, by the pace of the first {} steps", self.done);
            match &self.bar {
                Some(bar) => bar.suspend(|| note!("{foretold}")),
                None => note!("{foretold}"),
            }
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(step as u64);
                bar.set_message(format!("loss {loss:.3}  {samples_per_second:.0} samples/s  {left} left"));
            }
            None if self.line.elapsed() >= LINE_EVERY => {
                self.line = Instant::now();
                note!(
                    "epoch {:>3}/{}  step {step}/{}  loss {loss:.3}  {samples_per_second:.0} samples/s  {left} left",
                    self.epoch + 1,
                    self.epochs,
                    self.steps
                );
            }
            None => {}
        }
    }

    /// Time left at the pace so far, evaluations included.
    fn left(&self) -> Duration {
        let steps = (self.epochs - self.epoch) * self.steps - self.at;
        let pace = self.begun.elapsed().as_secs_f64() / self.done.max(1) as f64;
        Duration::from_secs_f64(pace * steps as f64)
    }

    /// An epoch is done and saved.
    pub fn epoch_ends(&mut self, m: &EpochMetrics) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.line = Instant::now();
        // Its line tells the time left.
        self.foretold = true;
        let left = match self.epochs - m.epoch {
            0 => String::new(),
            _ => format!("  {} left", spell(self.left())),
        };
        let val = m.val.as_ref().map_or_else(String::new, |val| format!("  val {:.2}", val.top1));
        note!(
            "epoch {:>3}/{}  loss {:.3}  top-1 {:5.2}{val}  many {}  medium {}  few {}  {:.0} samples/s{left}",
            m.epoch,
            self.epochs,
            m.loss,
            m.test.top1,
            percent(m.test.many),
            percent(m.test.medium),
            percent(m.test.few),
            m.samples_per_second
        );
    }

    /// Takes the bar off the screen: before an error is printed.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints the outcome.
    pub fn summary(&self, last: &EpochMetrics, best: &EpochMetrics, meta: &Meta, folder: &RunFolder, peak: usize) {
        let mut text = format!("\nAccuracy on the test images, in percent{:>12}{:>12}\n", "last epoch", "best epoch");
        let mut row = |name: &str, last: String, best: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<37}{last:>12}{best:>12}");
        };
        row("epoch", last.epoch.to_string(), best.epoch.to_string());
        row("all classes (top-1)", format!("{:.2}", last.test.top1), format!("{:.2}", best.test.top1));
        row("all classes (top-5)", format!("{:.2}", last.test.top5), format!("{:.2}", best.test.top5));
        row("many-shot classes (> 100 images)", percent(last.test.many), percent(best.test.many));
        row("medium-shot classes (20 to 100)", percent(last.test.medium), percent(best.test.medium));
        row("few-shot classes (< 20)", percent(last.test.few), percent(best.test.few));
        row("calibration error (ECE, 15 bins)", format!("{:.2}", last.test.ece), format!("{:.2}", best.test.ece));
        say!("{text}");
        console::print(format_args!(
            "{}",
            per_class_table(&meta.class_names, &meta.counts, &[&last.test.per_class, &best.test.per_class])
        ));
        say!(
            "\nThis process: {}, peak memory {}. Files in {}:",
            spell(self.begun.elapsed()),
            mebibytes(peak),
            folder.path().display()
        );
        say!("  config.toml        every setting of this run");
        say!("  metrics.jsonl      one line per epoch; result.json: the outcome; run.json: when, where and how");
        say!(
            "  last.safetensors   the last epoch's model (opens in PyTorch; `glmc-engine eval --checkpoint` reads it)"
        );
        say!("  best.safetensors   the best epoch's");
    }
}

/// A time in the two largest units that it has.
fn spell(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {:02} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

/// A percentage, or a dash where there is nothing to take it of.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.2}"))
}

/// Bytes in a unit that people read.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Accuracies class by class, beside the number of training images. More than twenty classes are shown as the ten with
/// the most and the ten with the fewest images.
pub fn per_class_table(names: &[String], counts: &[usize], columns: &[&[Option<f64>]]) -> String {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let hidden = if order.len() > 20 { 10..order.len() - 10 } else { 0..0 };
    let mut text = String::from("Class                  training images    accuracy\n");
    for (rank, &class) in order.iter().enumerate() {
        if hidden.contains(&rank) {
            if rank == hidden.start {
                let _ = writeln!(text, "  ... {} more in metrics.jsonl (per_class)", hidden.len());
            }
            continue;
        }
        let name: String = names.get(class).map_or_else(|| class.to_string(), |n| n.chars().take(20).collect());
        let _ = write!(text, "  {name:<20}{:>16}", counts[class]);
        for column in columns {
            let _ = write!(text, "{:>12}", percent(column[class]));
        }
        let shot = Shot::of(counts[class], false).name();
        let _ = writeln!(text, "   {shot}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_two_largest_units() {
        let spelt = [4, 65, 3_661, 90_000, 259_199].map(|seconds| spell(Duration::from_secs(seconds)));
        assert_eq!(spelt, ["4 s", "1 min 05 s", "1 h 01 min", "1 d 01 h", "2 d 23 h"]);
    }
}
