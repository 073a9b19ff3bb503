//! Reading the losses back, which the device writes step by step into a log of its own.

use crate::error::Result;
use crate::memory::{Mark, Pinned};
use crate::memory::{floats, read_floats};
use crate::ops::Backend;
use crate::tensor::Tensor;

/// Copies the log to the host while the device runs the next steps.
pub struct LossReader {
    /// Accumulation type (steps, 4).
    log: Tensor,
    copy: Pinned,
    /// The look that is under way: how many steps had been started before it, and when the copy is there.
    asked: Option<(usize, Mark)>,
}

impl LossReader {
    /// A reader of a log: accumulation type (steps, 4).
    ///
    /// # Errors
    /// When the host has too little memory.
    pub fn new(backend: &dyn Backend, log: Tensor) -> Result<LossReader> {
        Ok(LossReader { log, copy: backend.alloc_pinned(log.bytes())?, asked: None })
    }

    /// Asks for the losses of the epoch's first `steps` steps, all of which have been started. Does nothing while an
    /// earlier question is not answered.
    pub fn ask(&mut self, backend: &dyn Backend, steps: usize) -> Result<()> {
        if self.asked.is_none() {
            backend.download_async(self.log, &mut self.copy, 0)?;
            self.asked = Some((steps, backend.mark()?));
        }
        Ok(())
    }

    /// The answer, if it is there: the number of steps, and the log, of which that many rows count. Never waits.
    pub fn answer(&mut self, backend: &dyn Backend) -> Result<Option<(usize, Vec<f64>)>> {
        let Some((steps, mark)) = &self.asked else { return Ok(None) };
        if !backend.reached(mark)? {
            return Ok(None);
        }
        let answer = (*steps, self.numbers()?);
        self.asked = None;
        Ok(Some(answer))
    }

    /// The log as it is when everything that was started is done: waits for it.
    pub fn now(&mut self, backend: &dyn Backend) -> Result<Vec<f64>> {
        let log = read_floats(backend, self.log)?;
        // A look that was under way is done as well, and says nothing new.
        self.asked = None;
        Ok(log)
    }

    fn numbers(&self) -> Result<Vec<f64>> {
        floats(self.log.dtype, self.copy.range(0, self.log.bytes())?)
    }
}
