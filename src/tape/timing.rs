//! The time of one op, without what it costs to launch it.

use std::time::Duration;

use super::rotation::{Operands, Room};
use super::{Cost, Pass, Program};
use crate::error::Result;
use crate::ops::Backend;

/// Launching takes some microseconds, which the replay of a whole step hides: work as short as that is measured many times
/// over, and what takes longer than this by itself.
const LONG: Duration = Duration::from_millis(1);
/// Most launches of a piece of work.
const LAUNCHES: u128 = 64;

/// One timed pass of one op.
#[derive(Clone, Debug)]
pub struct OpTime {
    /// The op's name.
    pub name: &'static str,
    /// Its shapes, in a few words.
    pub label: String,
    /// Which pass.
    pub pass: Pass,
    /// What it costs at least.
    pub cost: Cost,
    /// Measured.
    pub time: Duration,
    /// Copies of its operands that took turns, so that none was in the cache: 1 where the operands alone are more than the cache
    /// holds, or where it ran once.
    pub copies: usize,
}

/// How often work that takes `alone` is launched to be measured; `None` where it is long enough by itself.
pub(super) fn launches_worth(alone: Duration) -> Option<usize> {
    (alone < LONG).then(|| (LONG.as_nanos() / alone.as_nanos().max(1)).clamp(1, LAUNCHES) as usize)
}

/// Measures `work`, which must do the same when it is done again. On a device with graphs, short work is captured several
/// times into one graph, whose time is divided; it waits for a replay before it, so that no launch counts.
///
/// Each launch finds its tensors where the one before left them: in the caches, if they are small enough.
pub(crate) fn time_repeated(backend: &dyn Backend, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
    let alone = backend.time(work)?;
    let Some(launches) = launches_worth(alone) else { return Ok(alone) };
    let Some(graph) = backend.capture(&mut || (0..launches).try_for_each(|_| work()))? else { return Ok(alone) };
    graph.replay()?;
    let time = backend.time(&mut || graph.replay())?;
    Ok(time / launches as u32)
}

impl Program {
    /// Runs one whole step and times each op of it, waiting for the device after each. Short ops are repeated, on copies of their
    /// operands that lie in `room` and are past the cache: the step's own values are as after a step, but where operands are so
    /// large that there are no copies.
    pub(crate) fn timed(&self, backend: &dyn Backend, room: &mut Room<'_>) -> Result<Vec<OpTime>> {
        let mut times = Vec::new();
        for (node, pass) in self.passes() {
            let (op, cost) = (self.op(node), self.cost(node, pass));
            let (time, copies) = if op.repeats() {
                let operands = Operands::new(self.operands(node, pass), cost.bytes);
                room.time(&operands, &mut |place| self.run_op_at(backend, node, pass, place))?
            } else {
                (backend.time(&mut || self.run_op(backend, node, pass))?, 1)
            };
            times.push(OpTime { name: op.name(), label: op.label(), pass, cost, time, copies });
        }
        Ok(times)
    }
}
