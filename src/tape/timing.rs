//! The time of one op, without what it costs to launch it.

use std::time::Duration;

use crate::error::Result;
use crate::ops::Backend;

/// Launching takes some microseconds, which the replay of a whole step hides: work as short as that is measured many times
/// over, and what takes longer than this by itself.
const LONG: Duration = Duration::from_millis(1);
/// Most copies of a piece of work.
const COPIES: u32 = 64;

/// Measures `work`, which must do the same when it is done again. On a device with graphs, short work is captured several
/// times into one graph, whose time is divided; it waits for a replay before it, so that no launch counts.
///
/// Each copy finds its tensors where the one before left them: in the caches, if they are small enough, as they often are in
/// a step, where the op before has just written them.
pub(crate) fn time_repeated(backend: &dyn Backend, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
    let alone = backend.time(work)?;
    if alone >= LONG {
        return Ok(alone);
    }
    let copies = (LONG.as_nanos() / alone.as_nanos().max(1)).clamp(1, u128::from(COPIES)) as u32;
    let Some(graph) = backend.capture(&mut || (0..copies).try_for_each(|_| work()))? else { return Ok(alone) };
    graph.replay()?;
    let time = backend.time(&mut || graph.replay())?;
    Ok(time / copies)
}
