//! Streams: what waits in them, when it runs, and capture.
//!
//! Everything is put off until it is waited for (`timing=late`), which is what a busy GPU may do, or runs at once
//! (`timing=early`), which an idle one may. A program that is right gives the same in both.
#![allow(non_snake_case)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread::ThreadId;

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::CUstreamCaptureMode::{self, *};
use cudarc::driver::sys::{CUctx_flags, CUgraph, CUstream, CUstreamCaptureStatus};
use glmc_engine::driver::{Arg, Driver, Kernel, Launch};

use crate::gpu::{Answer, Gpu, emulator, give, in_context};
use crate::memory::{fingerprint, poison, poisoned, read_host, write_host};
use crate::settings::SETTINGS;

/// Work for a stream.
pub enum Operation {
    Launch {
        function: usize,
        kernel: Kernel,
        launch: Launch,
        args: Vec<Vec<u8>>,
    },
    Fill {
        to: u64,
        value: u8,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// From page-locked memory, read when it runs.
    Upload {
        to: u64,
        from: Range<usize>,
    },
    /// From ordinary memory, staged when it was submitted.
    Staged {
        to: u64,
        bytes: Vec<u8>,
    },
    Download {
        to: Range<usize>,
        from: u64,
    },
    /// The record number `record` of an event.
    Record {
        event: usize,
        record: u64,
    },
}

/// The nodes of a graph, in order: one stream makes a chain.
pub type Nodes = Vec<Arc<Operation>>;

impl Operation {
    /// The host memory that it uses when it runs.
    pub fn host(&self) -> Option<&Range<usize>> {
        match self {
            Operation::Upload { from: range, .. } | Operation::Download { to: range, .. } => Some(range),
            _ => None,
        }
    }
}

/// What the host's part of a copy must look like when it runs.
enum Host {
    /// Nothing is known: other work in the stream uses the same memory.
    Any,
    /// The source, unchanged.
    Source(u64),
    /// The target, untouched.
    Poisoned,
}

struct Capture {
    nodes: Nodes,
    valid: bool,
    mode: CUstreamCaptureMode,
    thread: ThreadId,
}

/// A stream.
#[derive(Default)]
pub struct Stream {
    waiting: VecDeque<(Arc<Operation>, Host)>,
    capture: Option<Capture>,
}

impl Stream {
    /// Drops what waits.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Whether its work is being recorded.
    pub fn captures(&self) -> bool {
        self.capture.is_some()
    }

    /// Whether what waits uses host memory of this range.
    pub fn uses(&self, range: &Range<usize>) -> bool {
        let overlaps = |used: &Range<usize>| used.start < range.end && range.start < used.end;
        self.waiting.iter().filter_map(|(operation, _)| operation.host()).any(overlaps)
    }

    /// Whether a launch of this function waits.
    pub fn launches(&self, of: usize) -> bool {
        self.waiting.iter().any(|(op, _)| matches!(&**op, Operation::Launch { function, .. } if *function == of))
    }
}

impl Gpu {
    /// A stream's handle, checked.
    pub fn stream(&mut self, name: &str, stream: CUstream) -> Answer<usize> {
        let handle = stream as usize;
        if self.streams.contains_key(&handle) {
            return Ok(handle);
        }
        // The legacy stream is none that this program should use.
        Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no stream that is alive"))
    }

    fn at(&mut self, handle: usize) -> &mut Stream {
        self.streams.get_mut(&handle).expect("`stream` found it, and the state is locked since")
    }

    /// Refuses what nothing in capture may see. Programming guide, "Prohibited and Unhandled Operations": it is invalid to
    /// synchronise or query a stream that is being captured, and it invalidates the capture.
    pub fn not_captured(&mut self, name: &str, handle: usize) -> Answer {
        let Some(capture) = &mut self.at(handle).capture else { return Ok(()) };
        if !capture.valid {
            return Err(self.misuse(name, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid by now"));
        }
        capture.valid = false;
        Err(self.misuse(name, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while the stream is captured"))
    }

    /// Refuses a call that may synchronise on its own account where a capture does not allow it
    /// (`cuThreadExchangeStreamCaptureMode`: "potentially unsafe API calls" such as `cuMemAlloc`): any in global mode,
    /// those of the same thread in thread-local mode, none in relaxed mode.
    pub fn potentially_unsafe(&mut self, name: &str) -> Answer {
        let here = std::thread::current().id();
        let forbids = |capture: &Capture| match capture.mode {
            CU_STREAM_CAPTURE_MODE_GLOBAL => true,
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => capture.thread == here,
            CU_STREAM_CAPTURE_MODE_RELAXED => false,
        };
        let captures = self.streams.values_mut().filter_map(|stream| stream.capture.as_mut());
        let mut forbidden = false;
        for capture in captures.filter(|capture| forbids(capture)) {
            capture.valid = false;
            forbidden = true;
        }
        if forbidden {
            let what = "may wait on its own account, which the capture's mode forbids";
            return Err(self.misuse(name, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, what));
        }
        Ok(())
    }

    /// Puts work into a stream, or into the graph that it records.
    pub fn submit(&mut self, name: &str, handle: usize, operation: Operation) -> Answer {
        let operation = Arc::new(operation);
        if let Some(capture) = &mut self.at(handle).capture {
            if !capture.valid {
                return Err(self.misuse(name, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid by now"));
            }
            // An event's record is a place to depend on, not a node.
            match &*operation {
                Operation::Record { event, .. } => self.event_captured(*event),
                _ => capture.nodes.push(operation),
            }
            return Ok(());
        }
        self.queue(handle, operation)
    }

    /// Puts work into a stream that records nothing.
    pub fn queue(&mut self, handle: usize, operation: Arc<Operation>) -> Answer {
        let host = match operation.host() {
            // What others in the stream read or write first cannot be judged.
            Some(range) if self.streams.values().any(|stream| stream.uses(range)) => Host::Any,
            None => Host::Any,
            Some(range) => match &*operation {
                Operation::Download { .. } => {
                    poison(range);
                    Host::Poisoned
                }
                _ => Host::Source(fingerprint(range)),
            },
        };
        self.at(handle).waiting.push_back((operation, host));
        if SETTINGS.early { self.drain(handle) } else { Ok(()) }
    }

    /// Runs all that waits in a stream.
    pub fn drain(&mut self, handle: usize) -> Answer {
        self.drain_to(handle, |_| false)
    }

    /// Runs what waits in all streams.
    pub fn drain_all(&mut self) -> Answer {
        let handles: Vec<usize> = self.streams.keys().copied().collect();
        handles.into_iter().try_for_each(|handle| self.drain(handle))
    }

    /// Runs what waits in a stream up to the first operation for which `last` holds.
    pub fn drain_to(&mut self, handle: usize, last: impl Fn(&Operation) -> bool) -> Answer {
        while let Some((operation, host)) = self.at(handle).waiting.pop_front() {
            self.perform(&operation, &host)?;
            if last(&operation) {
                break;
            }
        }
        Ok(())
    }

    fn perform(&mut self, operation: &Operation, host: &Host) -> Answer {
        let emulator = emulator()?;
        let outcome = match operation {
            Operation::Launch { function, kernel, launch, args } => {
                self.report.launches += 1;
                let entry = self.functions.get(function).map_or("", |function| function.entry.as_str());
                if let Some(error) = self.begin(entry) {
                    return Err(self.break_context(error));
                }
                if SETTINGS.illegal_address == Some(self.report.launches) {
                    return Err(self.break_context(CUDA_ERROR_ILLEGAL_ADDRESS));
                }
                let args: Vec<Arg> = args.iter().map(|bytes| Arg::Bytes(bytes)).collect();
                self.run(entry, emulator, || emulator.launch(*kernel, *launch, &args))
            }
            Operation::Fill { to, value: 0, bytes } => emulator.zero(*to, *bytes),
            Operation::Fill { to, value, bytes } => emulator.upload(*to, &vec![*value; *bytes]),
            Operation::Copy { to, from, bytes } => emulator.copy(*to, *from, *bytes),
            Operation::Upload { to, from } => {
                if matches!(host, Host::Source(seen) if *seen != fingerprint(from)) {
                    self.misuse("cuMemcpyHtoDAsync", CUDA_SUCCESS, "the source was written to before the copy ran");
                }
                emulator.upload(*to, read_host(from))
            }
            Operation::Staged { to, bytes } => emulator.upload(*to, bytes),
            Operation::Download { to, from } => {
                if matches!(host, Host::Poisoned) && !poisoned(to) {
                    self.misuse("cuMemcpyDtoHAsync", CUDA_SUCCESS, "the target was written to before the copy ran");
                }
                emulator.download(write_host(to), *from)
            }
            Operation::Record { event, record } => {
                self.event_reached(*event, *record);
                Ok(())
            }
        };
        // Whatever a kernel or copy does wrong, it does to memory.
        outcome.map_err(|error| {
            self.report.problems.push(error.to_string());
            self.break_context(CUDA_ERROR_ILLEGAL_ADDRESS)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, _flags: u32) -> CUresult {
    in_context("cuStreamCreate", |gpu| {
        let handle = gpu.handle();
        gpu.streams.insert(handle, Stream::default());
        give(gpu, "cuStreamCreate", stream, handle as CUstream)
    })
}

/// "The function will return immediately and the resources associated with hStream will be released automatically once the
/// device has completed all work in hStream."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    in_context("cuStreamDestroy", |gpu| {
        let handle = gpu.stream("cuStreamDestroy", stream)?;
        gpu.not_captured("cuStreamDestroy", handle)?;
        let outcome = gpu.drain(handle);
        gpu.streams.remove(&handle);
        outcome
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    in_context("cuStreamSynchronize", |gpu| {
        let handle = gpu.stream("cuStreamSynchronize", stream)?;
        gpu.not_captured("cuStreamSynchronize", handle)?;
        gpu.waits(gpu.flags & CUctx_flags::CU_CTX_SCHED_MASK as u32 == CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32);
        gpu.drain(handle)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: *mut CUstreamCaptureStatus) -> CUresult {
    use CUstreamCaptureStatus::*;
    in_context("cuStreamIsCapturing", |gpu| {
        let handle = gpu.stream("cuStreamIsCapturing", stream)?;
        let found = match &gpu.at(handle).capture {
            None => CU_STREAM_CAPTURE_STATUS_NONE,
            Some(Capture { valid: true, .. }) => CU_STREAM_CAPTURE_STATUS_ACTIVE,
            Some(_) => CU_STREAM_CAPTURE_STATUS_INVALIDATED,
        };
        give(gpu, "cuStreamIsCapturing", status, found)
    })
}

/// "Capture must not be initiated if the stream is already in capture mode."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode) -> CUresult {
    in_context("cuStreamBeginCapture", |gpu| {
        let handle = gpu.stream("cuStreamBeginCapture", stream)?;
        if gpu.at(handle).captures() {
            return Err(gpu.misuse("cuStreamBeginCapture", CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already"));
        }
        let thread = std::thread::current().id();
        gpu.at(handle).capture = Some(Capture { nodes: Vec::new(), valid: true, mode, thread });
        Ok(())
    })
}

/// "If mode ... is not CU_STREAM_CAPTURE_MODE_RELAXED, cuStreamEndCapture must be called on this stream from the same
/// thread." "If the capture was invalidated, then a NULL graph will be returned."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    in_context("cuStreamEndCapture", |gpu| {
        let name = "cuStreamEndCapture";
        let handle = gpu.stream(name, stream)?;
        let Some(capture) = gpu.at(handle).capture.take() else {
            return Err(gpu.misuse(name, CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured"));
        };
        let here = std::thread::current().id();
        if !matches!(capture.mode, CU_STREAM_CAPTURE_MODE_RELAXED) && capture.thread != here {
            gpu.at(handle).capture = Some(capture);
            return Err(gpu.misuse(name, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture"));
        }
        if !capture.valid {
            give(gpu, name, graph, std::ptr::null_mut())?;
            return Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let made = gpu.handle();
        gpu.graphs.insert(made, capture.nodes);
        give(gpu, name, graph, made as CUgraph)
    })
}
