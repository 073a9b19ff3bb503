//! A step's ops as a trace that chrome://tracing and <https://ui.perfetto.dev> show: the format is Google's "Trace Event
//! Format", complete events.
//!
//! Ops are timed one by one (see [`OpTime`]) and drawn end to end: what a device overlaps or hides
//! between them is not in it.

use serde::Serialize;

use super::StepBench;
use crate::tape::{OpTime, Pass};

/// How a trace begins: no other file is replaced by one.
pub const BEGINNING: &str = "{\"traceEvents\":[";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    trace_events: Vec<Event<'a>>,
    display_time_unit: &'static str,
}

/// An event: a named track (`M`), or an op (`X`).
#[derive(Serialize)]
struct Event<'a> {
    ph: &'static str,
    name: &'a str,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    /// Microseconds, as the format wants them, from whole nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Args<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Track { name: &'a str },
    Op { label: &'a str, pass: &'static str, us: f64, flop: f64, bytes: f64 },
}

/// The tracks, by their numbers from 1 on.
const TRACKS: [(Pass, &str); 2] = [(Pass::Forward, "forward"), (Pass::Backward, "backward")];

fn named<'a>(name: &'a str, tid: u32, track: &'a str) -> Event<'a> {
    Event { ph: "M", name, pid: 1, tid, cat: None, ts: None, dur: None, args: Args::Track { name: track } }
}

/// The trace of a bench's ops, as JSON.
///
/// # Errors
/// None that is known: the numbers are finite.
pub fn trace(bench: &StepBench) -> serde_json::Result<String> {
    let StepBench { model, width, batch, device, precision, threads, .. } = bench;
    let title = format!("{model} width {width}, batch {batch}, on {device} in {precision}, {threads} threads");
    let mut events = vec![named("process_name", 0, &title)];
    for (at, (_, name)) in TRACKS.iter().enumerate() {
        events.push(named("thread_name", at as u32 + 1, name));
    }
    let mut now = 0;
    for OpTime { name, label, pass, cost, time, .. } in &bench.ops {
        // What takes no time at all is not drawn.
        let nanoseconds = (time.as_nanos() as u64).max(1);
        let (ts, us) = (now as f64 / 1e3, nanoseconds as f64 / 1e3);
        let (tid, pass) = (*pass as usize, TRACKS[*pass as usize].1);
        events.push(Event {
            ph: "X",
            name,
            pid: 1,
            tid: tid as u32 + 1,
            cat: Some(pass),
            ts: Some(ts),
            dur: Some(us),
            args: Args::Op { label, pass, us, flop: cost.flops, bytes: cost.bytes },
        });
        now += nanoseconds;
    }
    let text = serde_json::to_string(&File { trace_events: events, display_time_unit: "ns" })?;
    debug_assert!(text.starts_with(BEGINNING));
    Ok(text)
}
