//! Charts as inline SVG. Written here rather than by a plotting crate because those draw literal colours: here every colour is
//! a class of the page's style sheet, so that one drawing serves light, dark and print, and every mark has a title for the
//! pointer and for screen readers.

use maud::{Markup, html};

/// Width and height of a chart in its own units; letters are 12 of these high, and a chart is shown about this wide.
const WIDE: f64 = 440.0;
const HIGH: f64 = 250.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
/// The width of a digit where they are largest, on a phone.
const LETTER: f64 = 8.7;
/// Colours of the style sheet.
const COLOURS: usize = 6;
/// Ticks of an axis, about.
const TICKS: f64 = 5.0;

/// A value with its deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub deviation: Option<f64>,
}

/// What a mark stands for, which its shape tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Last,
    Best,
    Dot,
}

/// A mark at a point.
#[derive(Clone, Debug)]
pub struct Mark {
    pub x: f64,
    pub y: f64,
    pub shape: Shape,
    pub title: String,
}

/// What is drawn of one thing: a line, with a band around it where its points have deviations, and marks.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Which colour and dashes, from 0.
    pub style: usize,
    pub line: Vec<Point>,
    pub marks: Vec<Mark>,
}

/// An axis.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub label: String,
    /// Whether it is logarithmic; then only values above zero are drawn.
    pub log: bool,
    /// Its ends, where they do not follow from the values.
    pub range: Option<(f64, f64)>,
    /// What its ends do not go beyond, as percentages do not; bands are cut there.
    pub bounds: Option<(f64, f64)>,
    /// Whether only whole numbers mean something.
    pub whole: bool,
}

/// A chart.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub traces: Vec<Trace>,
    /// Points of a line at most.
    pub points: usize,
}

/// The classes of a style.
pub fn style(style: usize) -> String {
    format!("c{} d{}", style % COLOURS, style / COLOURS % 3)
}

/// From values to a drawing's units.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Scale {
        let fits = |value: &f64| value.is_finite() && (!axis.log || *value > 0.0);
        let (mut low, mut high) =
            values.filter(fits).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = if axis.log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if let Some(range) = axis.range {
            (low, high) = range;
        } else if axis.log {
            (low, high) = (low / 1.3, high * 1.3);
        } else {
            // Lines of one value, too, lie in the middle.
            let margin = ((high - low) * 0.05).max(1e-3 * low.abs().max(high.abs())).max(1e-9);
            (low, high) = (low - margin, high + margin);
        }
        if let Some((least, most)) = axis.bounds {
            (low, high) = (low.max(least), high.min(most));
        }
        let ticks = if axis.log { decades(low, high) } else { steps(low, high, if axis.whole { 1.0 } else { 0.0 }) };
        Scale { low, high, from, to, log: axis.log, ticks }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(-0.02, 1.02) * (self.to - self.from)
    }
}

/// Round numbers between two others, `least` apart or more.
fn steps(low: f64, high: f64, least: f64) -> Vec<f64> {
    let raw = ((high - low) / TICKS).max(least);
    let power = 10f64.powf(raw.log10().floor());
    let factors = [1.0, 2.0, if least > 0.0 { 5.0 } else { 2.5 }, 5.0, 10.0];
    let step = factors.into_iter().map(|n| n * power).find(|step| *step >= raw * 0.999);
    let step = step.unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= high + step * 1e-9).take(20).collect()
}

/// Powers of ten between two numbers, or 1, 2 and 5 times these where there are few.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).map(|n| 10f64.powi(n));
    let factors: &[f64] = if high / low > 2e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    powers.flat_map(|power| factors.iter().map(move |f| f * power)).filter(|t| (low..=high).contains(t)).collect()
}

/// A number as an axis shows it.
fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.0e}")
    } else if size >= 1e4 {
        format!("{}k", number(value / 1e3))
    } else {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    }
}

/// Every nth point of a line that has more than `most`, and the last.
fn thinned(line: &[Point], most: usize) -> impl Iterator<Item = &Point> {
    let every = line.len().div_ceil(most.max(1)).max(1);
    line.iter().enumerate().filter(move |(at, _)| at % every == 0 || at + 1 == line.len()).map(|(_, point)| point)
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut text = String::new();
    for (at, (x, y)) in points.enumerate() {
        text.push_str(&format!("{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' }));
    }
    text
}

impl Chart {
    /// Draws it.
    pub fn draw(&self) -> Markup {
        let fits = |p: &&Point| p.y.is_finite() && (!self.y.log || p.y > 0.0) && (!self.x.log || p.x > 0.0);
        let points = || self.traces.iter().flat_map(|trace| trace.line.iter().filter(fits));
        let marks = || self.traces.iter().flat_map(|trace| &trace.marks);
        let xs = points().map(|p| p.x).chain(marks().map(|m| m.x));
        let ends = |p: &Point| {
            let deviation = p.deviation.unwrap_or(0.0);
            let (least, most) = self.y.bounds.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
            [p.y - deviation, p.y + deviation].map(|end| end.clamp(least, most))
        };
        let ys = points().flat_map(ends).chain(marks().map(|m| m.y));
        let y = Scale::new(&self.y, ys, (HIGH - BOTTOM, TOP));
        let longest = y.ticks.iter().map(|&tick| number(tick).len()).max().unwrap_or(0);
        let left = (12.0 + LETTER * longest as f64).max(LEFT);
        let x = Scale::new(&self.x, xs, (left, WIDE - RIGHT));
        let (floor, right) = (HIGH - BOTTOM, WIDE - RIGHT);
        html! {
            svg viewBox=(format!("0 0 {WIDE} {HIGH}")) role="img" aria-label=(self.title) {
                title { (self.title) }
                @for &tick in &y.ticks {
                    line.grid x1=(left) x2=(right) y1=(format!("{:.1}", y.at(tick))) y2=(format!("{:.1}", y.at(tick))) {}
                    text.tick.end x=(left - 6.0) y=(format!("{:.1}", y.at(tick) + 4.0)) { (number(tick)) }
                }
                @for &tick in &x.ticks {
                    line.grid x1=(format!("{:.1}", x.at(tick))) x2=(format!("{:.1}", x.at(tick))) y1=(TOP) y2=(floor) {}
                    text.tick.mid x=(format!("{:.1}", x.at(tick))) y=(floor + 15.0) { (number(tick)) }
                }
                line.axis x1=(left) x2=(right) y1=(floor) y2=(floor) {}
                text.label.end x=(right) y=(HIGH - 6.0) { (self.x.label) }
                @for trace in &self.traces {
                    g class=(style(trace.style)) {
                        @let shown: Vec<&Point> = thinned(&trace.line, self.points).filter(fits).collect();
                        @if shown.iter().any(|point| point.deviation.is_some()) {
                            @let upper = shown.iter().map(|p| (x.at(p.x), y.at(ends(p)[1])));
                            @let lower = shown.iter().rev().map(|p| (x.at(p.x), y.at(ends(p)[0])));
                            path.band d=(path(upper.chain(lower)) + "Z") {}
                        }
                        @if shown.len() > 1 {
                            path.line d=(path(shown.iter().map(|p| (x.at(p.x), y.at(p.y))))) {}
                        }
                        @for mark in &trace.marks { (draw_mark(mark, x.at(mark.x), y.at(mark.y))) }
                    }
                }
            }
        }
    }
}

fn draw_mark(mark: &Mark, x: f64, y: f64) -> Markup {
    let triangle = path([(x, y - 7.0), (x + 7.0, y + 5.0), (x - 7.0, y + 5.0)].into_iter()) + "Z";
    let [cx, cy] = [x, y].map(|v| format!("{v:.1}"));
    html! {
        @match mark.shape {
            Shape::Last => circle.last cx=(cx) cy=(cy) r="4" { title { (mark.title) } },
            Shape::Best => path.best d=(triangle) { title { (mark.title) } },
            Shape::Dot => circle.dot cx=(cx) cy=(cy) r="3" { title { (mark.title) } },
        }
    }
}

/// The sample of a style in a legend.
pub fn sample(of: usize) -> Markup {
    html! {
        svg class={ "sample " (style(of)) } viewBox="0 0 28 12" aria-hidden="true" { path.line d="M1 6L27 6" {} }
    }
}

/// What a reliability diagram shows of one bin of confidences.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// From 0 to 1, as are the others.
    pub from: f64,
    pub to: f64,
    pub accuracy: f64,
    pub confidence: f64,
    pub images: usize,
}

/// A reliability diagram (Guo et al., ICML 2017): a bar for the accuracy of each bin, and what it lacks of the bin's mean
/// confidence, or has beyond it.
pub fn reliability(title: &str, bars: &[Bar], of: usize) -> Markup {
    let axis = |label: &str| Axis { label: label.into(), range: Some((0.0, 1.0)), ..Axis::default() };
    let empty = std::iter::empty;
    let x = Scale::new(&axis(""), empty(), (LEFT, WIDE - RIGHT));
    let y = Scale::new(&axis(""), empty(), (HIGH - BOTTOM, TOP));
    let (floor, right) = (HIGH - BOTTOM, WIDE - RIGHT);
    let square = |from: f64, to: f64, low: f64, high: f64| {
        let (left, top) = (x.at(from) + 1.0, y.at(high));
        [left, top, x.at(to) - 1.0 - left, y.at(low) - top].map(|v| format!("{v:.1}"))
    };
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    html! {
        svg viewBox=(format!("0 0 {WIDE} {HIGH}")) role="img" aria-label=(title) {
            title { (title) }
            @for &tick in &y.ticks {
                line.grid x1=(LEFT) x2=(right) y1=(y.at(tick)) y2=(y.at(tick)) {}
                text.tick.end x=(LEFT - 6.0) y=(y.at(tick) + 4.0) { (number(100.0 * tick)) }
                text.tick.mid x=(x.at(tick)) y=(floor + 15.0) { (number(100.0 * tick)) }
            }
            g class=(style(of)) {
                @for bar in bars.iter().filter(|bar| bar.images > 0) {
                    @let [left, top, width, height] = square(bar.from, bar.to, 0.0, bar.accuracy);
                    @let (low, high) = (bar.accuracy.min(bar.confidence), bar.accuracy.max(bar.confidence));
                    @let [_, gap_top, _, gap] = square(bar.from, bar.to, low, high);
                    g {
                        title {
                            "confidence " (percent(bar.from)) " to " (percent(bar.to)) ": " (bar.images)
                            " images, mean confidence " (percent(bar.confidence)) ", accuracy " (percent(bar.accuracy))
                        }
                        rect.bar x=(left) y=(top) width=(width) height=(height) {}
                        rect.gap x=(left) y=(gap_top) width=(width) height=(gap) {}
                    }
                }
            }
            path.diagonal d=(path([0.0, 1.0].map(|v| (x.at(v), y.at(v))).into_iter())) {}
            line.axis x1=(LEFT) x2=(right) y1=(floor) y2=(floor) {}
            text.label.end x=(right) y=(HIGH - 6.0) { "confidence, percent" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(steps(0.0, 100.0, 0.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(steps(-1.2, 1.3, 0.0), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(steps(1.0, 3.0, 1.0), [1.0, 2.0, 3.0]);
        assert_eq!(steps(1.0, 12.0, 1.0), [5.0, 10.0]);
        assert_eq!(decades(4.0, 6000.0), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        assert_eq!(decades(1e-6, 0.2).len(), 6);
        assert_eq!([0.0, 0.1, 5e3, 1.5e4, 1e-5, 2.5].map(number), ["0", "0.1", "5000", "15k", "1e-5", "2.5"]);
    }

    #[test]
    fn odd_values_make_a_drawing_all_the_same() {
        let point = |x: f64, y: f64| Point { x, y, deviation: None };
        for line in [vec![], vec![point(1.0, 3.0)], vec![point(1.0, f64::NAN), point(2.0, f64::INFINITY)]] {
            for log in [false, true] {
                let axis = Axis { log, ..Axis::default() };
                let trace = Trace { line: line.clone(), ..Trace::default() };
                let chart = Chart { x: axis.clone(), y: axis, traces: vec![trace], ..Chart::default() };
                let drawn = chart.draw().into_string();
                assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
            }
        }
    }

    #[test]
    fn long_lines_keep_their_last_point() {
        let line: Vec<Point> = (0..1001).map(|x| Point { x: f64::from(x), y: 0.0, deviation: None }).collect();
        let kept: Vec<f64> = thinned(&line, 300).map(|point| point.x).collect();
        assert!(kept.len() <= 301 && kept.last() == Some(&1000.0), "{}", kept.len());
    }
}
