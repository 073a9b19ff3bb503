//! What the mock saw: mistakes of its caller, what was never given back, and how often what was done.

use serde_json::json;

use crate::gpu::lock;
use crate::nvrtc;
use crate::settings::SETTINGS;

/// The report in the making.
#[derive(Default)]
pub struct Report {
    /// Calls that CUDA forbids, one line each.
    pub problems: Vec<String>,
    /// What was alive when its context, or the process, ended.
    pub leaks: Vec<String>,
    /// Launches that ran, those of graphs included.
    pub launches: u64,
    /// Replays of graphs.
    pub replays: u64,
    /// Nodes of each graph that was instantiated.
    pub graph_nodes: Vec<usize>,
    /// ... and how many of them do not do just what another does: the same kernel with the same arguments.
    pub graph_works: Vec<usize>,
    /// Bytes copied by the host from and to page-locked memory, and from and to ordinary memory.
    pub pinned_bytes: u64,
    pub pageable_bytes: u64,
    /// Events that were asked for and not ready.
    pub not_ready: u64,
    /// Events that take the time.
    pub timed_events: u64,
    /// Waits of a thread that polls.
    pub polling_waits: u64,
    /// Launches with dynamic shared memory of functions for which no share of the cache was asked for.
    pub uncarved: u64,
}

/// Writes the report where the settings say. The program calls it at the end of the process; tests may sooner.
#[unsafe(no_mangle)]
pub extern "C" fn mock_cuda_report() {
    let Some(path) = &SETTINGS.report else { return };
    let gpu = lock();
    let report = &gpu.report;
    let mut leaks = report.leaks.clone();
    leaks.extend(gpu.alive());
    leaks.extend(nvrtc::alive());
    let text = json!({
        "problems": report.problems,
        "leaks": leaks,
        "launches": report.launches,
        "replays": report.replays,
        "graph_nodes": report.graph_nodes,
        "graph_works": report.graph_works,
        "pinned_bytes": report.pinned_bytes,
        "pageable_bytes": report.pageable_bytes,
        "not_ready": report.not_ready,
        "timed_events": report.timed_events,
        "polling_waits": report.polling_waits,
        "uncarved": report.uncarved,
    });
    if let Err(error) = std::fs::write(path, format!("{text:#}\n")) {
        eprintln!("MOCK_CUDA: cannot write {}: {error}", path.display());
    }
}
