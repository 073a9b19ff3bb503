//! Events: places in a stream, and when they were passed.
#![allow(non_snake_case)]

use std::time::Instant;

use cudarc::driver::sys::CUresult::{self, *};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

use crate::gpu::{Answer, Gpu, give, in_context};
use crate::stream::Operation;

/// An event.
pub struct Event {
    timing: bool,
    /// Whether the host sleeps that waits for it.
    sleeps: bool,
    /// Counts its records: the last one is what queries ask about.
    record: u64,
    /// Where its last record waits; `None` when that was passed, or there was none.
    waits_in: Option<usize>,
    passed: Option<Instant>,
    /// Whether it was asked already, since the last record.
    asked: bool,
    captured: bool,
}

impl Gpu {
    fn event(&mut self, name: &str, event: CUevent) -> Answer<usize> {
        let handle = event as usize;
        match self.events.get(&handle) {
            // Error 907: "not permitted on an event which was last recorded in a capturing stream".
            Some(event) if event.captured && name != "cuEventDestroy" && name != "cuEventRecord" => {
                let captured = "the event was recorded in a captured stream";
                Err(self.misuse(name, CUDA_ERROR_CAPTURED_EVENT, captured))
            }
            Some(_) => Ok(handle),
            None => Err(self.misuse(name, CUDA_ERROR_INVALID_HANDLE, "no event that is alive")),
        }
    }

    /// The stream has come to a record of an event, which may be destroyed or recorded again by now.
    pub fn event_reached(&mut self, handle: usize, record: u64) {
        if let Some(event) = self.events.get_mut(&handle).filter(|event| event.record == record) {
            event.waits_in = None;
            event.passed = Some(Instant::now());
        }
    }

    /// An event was recorded in a graph.
    pub fn event_captured(&mut self, handle: usize) {
        if let Some(event) = self.events.get_mut(&handle) {
            (event.captured, event.waits_in) = (true, None);
        }
    }

    /// Runs a stream up to an event's last record.
    fn drain_to_event(&mut self, handle: usize) -> Answer {
        let Some(event) = self.events.get(&handle) else { return Ok(()) };
        let Some(stream) = event.waits_in.filter(|stream| self.streams.contains_key(stream)) else { return Ok(()) };
        let wanted = event.record;
        let last =
            |op: &Operation| matches!(op, Operation::Record { event, record } if (*event, *record) == (handle, wanted));
        self.drain_to(stream, last)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: u32) -> CUresult {
    in_context("cuEventCreate", |gpu| {
        let handle = gpu.handle();
        let timing = flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 == 0;
        let sleeps = flags & CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32 != 0;
        gpu.report.timed_events += u64::from(timing);
        let made = Event { timing, sleeps, record: 0, waits_in: None, passed: None, asked: false, captured: false };
        gpu.events.insert(handle, made);
        give(gpu, "cuEventCreate", event, handle as CUevent)
    })
}

/// "An event may be destroyed before it is complete."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    in_context("cuEventDestroy", |gpu| {
        let handle = gpu.event("cuEventDestroy", event)?;
        gpu.events.remove(&handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    in_context("cuEventRecord", |gpu| {
        let handle = gpu.event("cuEventRecord", event)?;
        let stream = gpu.stream("cuEventRecord", stream)?;
        let event = gpu.events.get_mut(&handle).expect("`event` found it");
        event.record += 1;
        (event.waits_in, event.passed, event.asked, event.captured) = (Some(stream), None, false, false);
        let record = event.record;
        gpu.submit("cuEventRecord", stream, Operation::Record { event: handle, record })
    })
}

/// `CUDA_SUCCESS` when all work before the record is done, or there is no record; else `CUDA_ERROR_NOT_READY`. The first
/// one to ask is too early; the work is done for the second.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    in_context("cuEventQuery", |gpu| {
        let handle = gpu.event("cuEventQuery", event)?;
        gpu.potentially_unsafe("cuEventQuery")?;
        let event = gpu.events.get_mut(&handle).expect("`event` found it");
        if event.waits_in.is_some() && !std::mem::replace(&mut event.asked, true) {
            gpu.report.not_ready += 1;
            return Err(CUDA_ERROR_NOT_READY);
        }
        gpu.drain_to_event(handle)
    })
}

/// "If cuEventRecord() has not been called on hEvent, ... the function returns CUDA_SUCCESS immediately."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    in_context("cuEventSynchronize", |gpu| {
        let handle = gpu.event("cuEventSynchronize", event)?;
        gpu.potentially_unsafe("cuEventSynchronize")?;
        let sleeps = gpu.events[&handle].sleeps;
        gpu.waits(sleeps);
        gpu.drain_to_event(handle)
    })
}

/// "If either event has not been recorded ... CUDA_ERROR_INVALID_HANDLE. If ... one or both of the events has not yet been
/// completed ... CUDA_ERROR_NOT_READY. If either event was created with the CU_EVENT_DISABLE_TIMING flag ...
/// CUDA_ERROR_INVALID_HANDLE."
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) -> CUresult {
    in_context("cuEventElapsedTime", |gpu| {
        let name = "cuEventElapsedTime";
        let mut times = [None; 2];
        for (time, event) in times.iter_mut().zip([start, end]) {
            let handle = gpu.event(name, event)?;
            let event = &gpu.events[&handle];
            if !event.timing || event.record == 0 {
                return Err(gpu.misuse(name, CUDA_ERROR_INVALID_HANDLE, "an event without a time"));
            }
            *time = event.passed;
        }
        let [Some(start), Some(end)] = times else {
            return Err(gpu.misuse(name, CUDA_ERROR_NOT_READY, "an event that was not waited for"));
        };
        let time = match end.checked_duration_since(start) {
            Some(after) => after.as_secs_f32(),
            None => -start.duration_since(end).as_secs_f32(),
        };
        give(gpu, name, milliseconds, 1e3 * time)
    })
}
