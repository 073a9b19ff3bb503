//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere (both on stderr), and the outcome as
//! tables on stdout.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::evaluate::Evaluation;
use super::metrics::EpochMetrics;
use super::run_folder::RunFolder;
use crate::config::Config;
use crate::console::{self, Column, GOOD, HEADING, Stream, Table, note, paint, say, tell};
use crate::data::meta::Meta;
use crate::data::shots::{Shot, ShotRule};
use crate::data::store::Store;
use crate::error::one_line;
use crate::method::photos::Framing;
use crate::ops::Backend;

/// The pace of this much training says how long a run will take.
pub(super) const PACE: Duration = Duration::from_secs(2);
/// ... and of this many steps, the first of which touches all memory for the first time.
pub(super) const FIRST_STEPS: usize = 4;
/// Plain lines come at most this often within an epoch.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The headings of the epochs' lines come again after so much else.
const HEADINGS_EVERY: usize = 20;
/// The progress bar is at least this long.
const BAR: usize = 8;

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
    /// Lines since the headings of the epochs' lines.
    below: usize,
    rule: ShotRule,
}

impl Reporter {
    /// Announces the run.
    pub fn new(config: &Config, store: &Store, backend: &dyn Backend, arena: usize) -> Reporter {
        let meta = store.meta();
        let (most, least) = (meta.counts.iter().max(), meta.counts.iter().min());
        note!(
            "{} on {}: {} training images, {} classes of {} to {} images, {} test images",
            config.method.title,
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
        if let Some(framing) = config.framing() {
            let Framing { size, resize, .. } = framing;
            note!(
                "photographs seen as {size}x{size}; evaluation resizes the shorter side to {resize} and cuts the centre out"
            );
            framing.note().into_iter().for_each(|what| note!("{what}"));
        }
        let now = Instant::now();
        Reporter {
            bar: None,
            epochs: config.epochs,
            epoch: 0,
            steps: 0,
            done: 0,
            begun: now,
            at: 0,
            line: now,
            foretold: false,
            below: HEADINGS_EVERY,
            rule: config.shots(meta.counts.len()),
        }
    }

    /// `3/200`, as wide in every epoch.
    fn of_epochs(&self, epoch: usize) -> String {
        format!("{epoch:>digits$}/{}", self.epochs, digits = self.epochs.to_string().len())
    }

    /// An epoch of `steps` steps starts, or continues at step `first`.
    pub fn epoch_begins(&mut self, epoch: usize, steps: usize, first: usize) {
        (self.epoch, self.steps, self.at) = (epoch, steps, first);
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(steps as u64), console::bar_target());
            // The template is written here and known to be valid.
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {msg}").expect("valid");
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(format!("epoch {}", self.of_epochs(epoch + 1)));
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
                bar.set_message(self.beside_the_bar(loss, samples_per_second, &left));
            }
            None if self.line.elapsed() >= LINE_EVERY => {
                self.line = Instant::now();
                self.below = HEADINGS_EVERY;
                note!(
                    "epoch {}  step {step}/{}  loss {}  {samples_per_second:.0} samples/s  {left} left",
                    self.of_epochs(self.epoch + 1),
                    self.steps,
                    loss_text(loss)
                );
            }
            None => {}
        }
    }

    /// As much as there is room for.
    fn beside_the_bar(&self, loss: f64, samples_per_second: f64, left: &str) -> String {
        let others = format!("epoch {} [] {}/{} ", self.of_epochs(1), self.steps, self.steps).len();
        let room = console::width(Stream::Err).saturating_sub(others + BAR);
        let loss = loss_text(loss);
        let texts = [
            format!("loss {loss}  {samples_per_second:.0} samples/s  {left} left"),
            format!("loss {loss}  {left} left"),
            format!("{left} left"),
        ];
        texts.into_iter().find(|text| text.len() <= room).unwrap_or_default()
    }

    /// Time left at the pace so far, evaluations included.
    fn left(&self) -> Duration {
        let steps = (self.epochs - self.epoch) * self.steps - self.at;
        let pace = self.begun.elapsed().as_secs_f64() / self.done.max(1) as f64;
        Duration::from_secs_f64(pace * steps as f64)
    }

    /// An epoch is done and saved; `is_best` if none before it was better.
    pub fn epoch_ends(&mut self, m: &EpochMetrics, is_best: bool) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.line = Instant::now();
        // Its line tells the time left.
        self.foretold = true;
        let left = if m.epoch < self.epochs { spell(self.left()) } else { String::new() };
        let epoch = self.of_epochs(m.epoch);
        // Heading, value, columns, rank: where there is no room, the highest ranks are left out.
        let mut cells = vec![
            ("epoch", epoch.clone(), epoch.len().max(7), 0),
            ("loss", loss_text(m.loss), 7, 0),
            ("top-1", format!("{:.2}", m.test.top1), 6, 0),
            ("many", percent(m.test.many), 6, 2),
            ("medium", percent(m.test.medium), 6, 2),
            ("few", percent(m.test.few), 6, 1),
            ("top-5", format!("{:.2}", m.test.top5), 6, 6),
            ("ECE", format!("{:.2}", m.test.ece), 6, 7),
            ("samples/s", format!("{:.0}", m.samples_per_second), 9, 5),
            ("time left", left, 11, 3),
            ("", if is_best { "best".into() } else { String::new() }, 4, 4),
        ];
        if let Some(val) = &m.val {
            cells.insert(3, ("val", format!("{:.2}", val.top1), 6, 1));
        }
        let columns: Vec<(usize, u8)> = cells.iter().map(|&(_, _, columns, rank)| (columns, rank)).collect();
        let shown = console::fitting(&columns, console::width(Stream::Err));
        let line = |cell: &dyn Fn(usize) -> String| {
            let cells: Vec<String> = shown.iter().map(|&at| cell(at)).collect();
            cells.join("  ")
        };
        let padded = |at: usize, text: &str| format!("{text:>columns$}", columns = columns[at].0);
        if self.below >= HEADINGS_EVERY {
            self.below = 0;
            let headings = line(&|at| padded(at, cells[at].0));
            console::progress(&paint(Stream::Err, HEADING, headings.trim_end()));
        }
        self.below += 1;
        let values = line(&|at| {
            let text = padded(at, &cells[at].1);
            if is_best && ["top-1", ""].contains(&cells[at].0) { paint(Stream::Err, GOOD, &text) } else { text }
        });
        console::progress(values.trim_end());
    }

    /// Takes the bar off the screen: before an error is printed.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints the outcome.
    pub fn summary(
        &self,
        last: &EpochMetrics,
        best: &EpochMetrics,
        meta: &Meta,
        folder: &RunFolder,
        (peak, waited): (usize, Duration),
    ) {
        say!("");
        let [last_epoch, best_epoch] = ["last epoch", "best epoch"].map(|heading| Column::number(heading, 0));
        let mut table = Table::new([Column::text("test images, percent", 0), last_epoch, best_epoch]);
        table.row(["epoch".into(), last.epoch.to_string(), best.epoch.to_string()]);
        let of_best = accuracies(&best.test, self.rule);
        for (name, last) in accuracies(&last.test, self.rule) {
            // The best epoch may be an older version's.
            let best = of_best.iter().find(|(other, _)| *other == name);
            table.row([name, last, best.map_or_else(|| "-".into(), |(_, value)| value.clone())]);
        }
        table.print();
        say!("");
        tell!("Class by class: training images, and the accuracy in percent");
        let columns = [("last epoch", last.test.per_class.as_slice()), ("best epoch", &best.test.per_class)];
        per_class_table(&meta.class_names, &meta.counts, self.rule, &columns).print();
        say!("");
        tell!(
            "This process: {}, {}, peak memory {}. Files in {}:",
            spell(self.begun.elapsed()),
            wait(waited),
            mebibytes(peak),
            folder.path().display()
        );
        let mut files = Table::new([Column::text("", 0), Column::text("", 0)]);
        for (file, what) in [
            ("config.toml", "every setting of this run"),
            ("metrics.jsonl", "one line per epoch; result.json: the outcome; run.json: when, where and how"),
            ("last.safetensors", "the last epoch's model (opens in PyTorch; `glmc-engine eval --checkpoint` reads it)"),
            ("best.safetensors", "the best epoch's"),
        ] {
            files.row([format!("  {file}"), what.into()]);
        }
        files.print();
    }
}

/// A loss in seven columns.
fn loss_text(loss: f64) -> String {
    if loss.abs() < 100.0 { format!("{loss:.3}") } else { format!("{loss:.1e}") }
}

/// A time in the two largest units that it has.
pub fn spell(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {:02} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

/// How long a run waited for its images.
fn wait(waited: Duration) -> String {
    format!("{:.1} s of it waiting for images", waited.as_secs_f64())
}

/// A percentage, or a dash where there is nothing to take it of.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.2}"))
}

/// Bytes in a unit that people read.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The figures of an evaluation by their names. Those that the lines of older runs lack are left out.
pub fn accuracies(e: &Evaluation, rule: ShotRule) -> Vec<(String, String)> {
    let name = |shot: Shot| format!("{}-shot ({})", shot.name(), rule.range(shot));
    let mut figures = vec![
        ("top-1, all classes".into(), percent(Some(e.top1))),
        ("top-5, all classes".into(), percent(Some(e.top5))),
        (name(Shot::Many), percent(e.many)),
        (name(Shot::Medium), percent(e.medium)),
        (name(Shot::Few), percent(e.few)),
        ("calibration (ECE, 15 bins)".into(), percent(Some(e.ece))),
    ];
    if let Some(balanced) = e.balanced {
        figures.insert(2, ("balanced accuracy".into(), percent(Some(balanced))));
    }
    if let Some(nll) = e.nll {
        figures.push(("negative log-likelihood (nats)".into(), format!("{nll:.4}")));
    }
    if let Some(gap) = e.confidence_gap {
        figures.push(("head/tail confidence gap".into(), percent(Some(gap))));
    }
    figures
}

/// Accuracies class by class, beside the number of training images; a column of them has its own heading. More than twenty
/// classes are shown as the ten with the most and the ten with the fewest images.
pub fn per_class_table(
    names: &[String],
    counts: &[usize],
    rule: ShotRule,
    columns: &[(&str, &[Option<f64>])],
) -> Table {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let hidden = if order.len() > 20 { 10..order.len() - 10 } else { 0..0 };
    let figures = columns.iter().map(|(heading, _)| Column::number(heading, 0));
    let groups = rule.groups(counts);
    let first = [Column::text("class", 0), Column::text("shots", 2), Column::number("images", 1)];
    let mut table = Table::new(first.into_iter().chain(figures));
    for (rank, &class) in order.iter().enumerate() {
        if hidden.contains(&rank) {
            if rank == hidden.start {
                table.row([format!("... {} more in metrics.jsonl (per_class)", hidden.len())]);
            }
            continue;
        }
        let name = names.get(class).map_or_else(|| class.to_string(), |name| one_line(name, 40));
        let shot = groups[class].name();
        let figures = columns.iter().map(|(_, values)| percent(values[class]));
        table.row([name, shot.into(), counts[class].to_string()].into_iter().chain(figures));
    }
    table
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
