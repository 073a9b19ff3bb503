//! Marks: events in the stream.

use std::ptr;

use cudarc::driver::sys;

use super::{Cuda, Event};
use crate::driver::{Mark, MarkInner};
use crate::{Error, Result};

/// An event that the host sleeps for (`CU_EVENT_BLOCKING_SYNC`): polling would keep a core busy that prepares the next images.
pub(super) const TIMED: u32 = 1;
/// ... and of which no time is taken (`CU_EVENT_DISABLE_TIMING`).
pub(super) const PLAIN: u32 = TIMED | 2;

impl Cuda {
    /// Records an event with these flags.
    pub(super) fn record(&self, flags: u32) -> Result<Mark> {
        self.not_capturing("marking the stream")?;
        self.context.bind()?;
        let failed = |error| self.error("marking the stream", error);
        let mut event = ptr::null_mut();
        // SAFETY: the target is valid and the context current.
        unsafe { self.calls().create_event(&mut event, flags) }.map_err(failed)?;
        let event = Event { event, context: self.context.clone() };
        // SAFETY: event and stream are alive and of one context.
        unsafe { self.calls().record(event.event, self.context.stream()) }.map_err(failed)?;
        Ok(Mark(MarkInner::Cuda(event)))
    }

    /// The event of a mark that this kind of driver set, with the context current.
    pub(super) fn event(&self, mark: &Mark) -> Result<sys::CUevent> {
        self.context.bind()?;
        match &mark.0 {
            MarkInner::Cuda(event) => Ok(event.event),
            MarkInner::Host(_) => Err(Error::device(&self.properties.device, "a mark of another driver")),
        }
    }
}
