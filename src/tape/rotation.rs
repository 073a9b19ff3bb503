//! An op timed on operands that are not in the cache.
//!
//! An op that is repeated on the same operands finds them where it left them: its bandwidth is then the cache's. So the operands
//! are placed several times, and the repetitions take turns between the places, so many that between two uses of one operand more
//! is touched than the cache holds. What an op writes goes to its places as well: the step's own values see it run once.

use std::ops::Range;
use std::time::Duration;

use super::timing::launches_worth;
use crate::error::Result;
use crate::ops::Backend;
use crate::tensor::{BufferId, DType, Tensor};

/// Between two uses of an operand this many times the cache is touched.
const PAST: usize = 2;
/// All places together take at most this many times the cache.
const MOST: usize = 8;
/// Places start at multiples of this, as allocations do.
const ALIGNMENT: usize = 256;
/// Bytes that a device copies at a time.
const VECTOR: usize = 16;

/// A stretch of memory that an op touches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    buffer: BufferId,
    bytes: Range<usize>,
}

/// The memory that a piece of work touches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operands {
    /// Disjoint, in order.
    stretches: Vec<Stretch>,
    /// Bytes that it reads and writes, if not all of them.
    touched: usize,
}

impl Operands {
    /// Tensors, of which the work touches `touched` bytes. Those that share bytes go together to every place.
    pub(crate) fn new(tensors: impl IntoIterator<Item = Tensor>, touched: f64) -> Operands {
        let mut all: Vec<Stretch> = tensors
            .into_iter()
            .map(|tensor| Stretch {
                buffer: tensor.buffer,
                bytes: tensor.offset / VECTOR * VECTOR..tensor.offset + tensor.bytes(),
            })
            .collect();
        all.sort_by_key(|stretch| (stretch.buffer.0, stretch.bytes.start));
        let mut stretches: Vec<Stretch> = Vec::new();
        for stretch in all {
            match stretches.last_mut() {
                Some(last) if last.buffer == stretch.buffer && stretch.bytes.start < last.bytes.end => {
                    last.bytes.end = last.bytes.end.max(stretch.bytes.end);
                }
                _ => stretches.push(stretch),
            }
        }
        Operands { stretches, touched: touched as usize }
    }

    /// Bytes of one place.
    fn bytes(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.bytes.len().next_multiple_of(ALIGNMENT)).sum()
    }

    /// The place that begins at `offset` of a buffer.
    fn place(&self, buffer: BufferId, mut offset: usize) -> Place {
        let moves = self.stretches.iter().map(|stretch| {
            let at = offset;
            offset += stretch.bytes.len().next_multiple_of(ALIGNMENT);
            (stretch.clone(), at)
        });
        Place { buffer, moves: moves.collect() }
    }
}

/// One place of some operands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    buffer: BufferId,
    /// What lies where.
    moves: Vec<(Stretch, usize)>,
}

impl Place {
    /// Where a tensor lies here; the tensor itself where it is none of the operands.
    pub(crate) fn at(&self, tensor: Tensor) -> Tensor {
        let holds = |(from, _): &&(Stretch, usize)| {
            from.buffer == tensor.buffer
                && from.bytes.start <= tensor.offset
                && tensor.offset + tensor.bytes() <= from.bytes.end
        };
        match self.moves.iter().find(holds) {
            Some((from, to)) => Tensor { buffer: self.buffer, offset: to + tensor.offset - from.bytes.start, ..tensor },
            None => tensor,
        }
    }

    /// Puts here what the operands hold.
    fn fill(&self, backend: &dyn Backend) -> Result<()> {
        for (from, to) in &self.moves {
            // Vectors on the device, what is left over by the host.
            let (all, vectors) = (from.bytes.len(), from.bytes.len() / VECTOR * VECTOR);
            let part = |buffer: BufferId, start: usize, bytes: Range<usize>| Tensor {
                offset: start + bytes.start,
                ..Tensor::at_start(buffer, &[bytes.len()], DType::U8)
            };
            let both = |bytes: Range<usize>| {
                (part(from.buffer, from.bytes.start, bytes.clone()), part(self.buffer, *to, bytes))
            };
            if vectors > 0 {
                let (from, to) = both(0..vectors);
                backend.ceilings_copy(from, to)?;
            }
            if vectors < all {
                let (from, to) = both(vectors..all);
                let mut rest = vec![0; all - vectors];
                backend.download(from, &mut rest)?;
                backend.upload(to, &rest)?;
            }
        }
        Ok(())
    }
}

/// How often short work is repeated, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    /// Places; 0 where the work is repeated on its own operands, which are more than the cache holds.
    places: usize,
    launches: usize,
    /// There are too few places to leave the cache by themselves: each is used once, and the cache emptied before.
    empty: bool,
}

impl Turns {
    /// For a cache of so many bytes, work that touches `touched` of the `placed` bytes of a place, and at most so many launches.
    fn new(cache: usize, touched: usize, placed: usize, launches: usize) -> Turns {
        let past = PAST * cache;
        let wanted = if touched >= past { 1 } else { 1 + past.div_ceil(touched.max(1)) };
        let room = MOST * cache / placed.max(1);
        if wanted == 1 && room == 0 {
            return Turns { places: 0, launches, empty: false };
        }
        let places = wanted.min(launches).min(room).max(1);
        let empty = places < wanted;
        Turns { places, launches: if empty { places } else { launches / places * places }, empty }
    }
}

/// Memory for places, kept from op to op.
pub(crate) struct Room<'a> {
    backend: &'a dyn Backend,
    places: Option<(BufferId, usize)>,
    /// As much as empties the cache when it is written.
    cleaner: Option<Tensor>,
}

impl<'a> Room<'a> {
    /// None yet: it is taken as it is needed.
    pub(crate) fn new(backend: &'a dyn Backend) -> Room<'a> {
        Room { backend, places: None, cleaner: None }
    }

    /// The places of some operands, filled.
    fn places(&mut self, operands: &Operands, count: usize) -> Result<Vec<Place>> {
        let each = operands.bytes();
        let buffer = match self.places {
            Some((buffer, bytes)) if bytes >= count * each => buffer,
            smaller => {
                if let Some((buffer, _)) = smaller {
                    self.places = None;
                    self.backend.free(buffer);
                }
                let buffer =
                    self.backend.alloc(count * each, "copies of an op's operands, to time it past the cache")?;
                self.places = Some((buffer, count * each));
                buffer
            }
        };
        let places: Vec<Place> = (0..count).map(|number| operands.place(buffer, number * each)).collect();
        places.iter().try_for_each(|place| place.fill(self.backend))?;
        Ok(places)
    }

    fn empty_cache(&mut self) -> Result<()> {
        let cleaner = match self.cleaner {
            Some(cleaner) => cleaner,
            None => {
                let bytes = PAST * self.backend.cache_bytes();
                let cleaner = self.backend.tensor(&[bytes], DType::U8, "memory that empties the cache")?;
                *self.cleaner.insert(cleaner)
            }
        };
        self.backend.zero(cleaner)
    }

    /// Measures work on `operands`, which it gets the place of; with `None` they are its own. Short work is repeated as
    /// [`super::time_repeated`] does, but past the cache. Also gives the number of places that took turns.
    ///
    /// # Errors
    /// When the device fails, or has no memory for the places: at most some times its cache, or one place.
    pub(crate) fn time(
        &mut self,
        operands: &Operands,
        work: &mut dyn FnMut(Option<&Place>) -> Result<()>,
    ) -> Result<(Duration, usize)> {
        let backend = self.backend;
        let alone = backend.time(&mut || work(None))?;
        let Some(launches) = launches_worth(alone) else { return Ok((alone, 1)) };
        let turns = Turns::new(backend.cache_bytes(), operands.touched, operands.bytes(), launches);
        let places = self.places(operands, turns.places)?;
        let mut all = || {
            (0..turns.launches).try_for_each(|launch| match places.len() {
                0 => work(None),
                count => work(Some(&places[launch % count])),
            })
        };
        let time = match backend.capture(&mut all)? {
            Some(graph) => {
                // The replay before waits for no launch, and loads the graph.
                graph.replay()?;
                if turns.empty {
                    self.empty_cache()?;
                }
                backend.time(&mut || graph.replay())?
            }
            // Without graphs launches cost nothing, and places were filled past the caches.
            None => backend.time(&mut all)?,
        };
        Ok((time / turns.launches as u32, turns.places.max(1)))
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let buffers = [self.places.map(|(buffer, _)| buffer), self.cleaner.map(|cleaner| cleaner.buffer)];
        buffers.into_iter().flatten().for_each(|buffer| self.backend.free(buffer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::backend::native::Native;
    use crate::memory::{Memory, read_floats, write_floats};
    use crate::tape::{Op, Run, Tape, Var};
    use crate::tensor::Precision;

    #[test]
    fn places_are_as_many_as_leave_the_cache() {
        let turns = |cache, touched, placed, launches| {
            let Turns { places, launches, empty } = Turns::new(cache, touched, placed, launches);
            (places, launches, empty)
        };
        // 100 bytes between two uses: eleven places of 10, in whole turns.
        assert_eq!(turns(50, 10, 10, 64), (11, 55, false));
        // Too few launches: each place once, in an empty cache.
        assert_eq!(turns(50, 1, 1, 64), (64, 64, true));
        assert_eq!(turns(50, 10, 10, 3), (3, 3, true));
        // Operands that are past the cache by themselves need one place, and none where there is no room for it.
        assert_eq!(turns(50, 100, 100, 8), (1, 8, false));
        assert_eq!(turns(50, 500, 500, 8), (0, 8, false));
        // Little of much is touched: as many places as there is room for, and one in any case.
        assert_eq!(turns(50, 10, 100, 64), (4, 4, true));
        assert_eq!(turns(50, 10, 4000, 64), (1, 1, true));
        // No cache, nothing to leave.
        assert_eq!(turns(0, 10, 10, 64), (0, 64, false));
    }

    #[test]
    fn tensors_that_share_bytes_move_together() {
        let tensor =
            |offset: usize, floats: usize| Tensor { offset, ..Tensor::at_start(BufferId(3), &[floats], DType::F32) };
        let (whole, half, other) = (tensor(256, 100), tensor(456, 50), tensor(1024, 3));
        let operands = Operands::new([other, half, whole, whole], 0.0);
        assert_eq!((operands.stretches.len(), operands.bytes()), (2, 512 + 256));
        let place = operands.place(BufferId(9), 4096);
        assert_eq!(
            [whole, half, other].map(|t| (place.at(t).buffer.0, place.at(t).offset)),
            [(9, 4096), (9, 4096 + 200), (9, 4096 + 512)]
        );
        let stranger = tensor(800, 10);
        assert_eq!(place.at(stranger), stranger);
    }

    /// `y += x` that notes where it was.
    #[derive(Debug)]
    struct Add {
        x: Var,
        y: Var,
        seen: Arc<Mutex<Vec<[Tensor; 2]>>>,
    }

    impl Op for Add {
        fn name(&self) -> &'static str {
            "add"
        }

        fn reads(&self) -> Vec<Var> {
            vec![self.x]
        }

        fn writes(&self) -> Vec<Var> {
            vec![self.y]
        }

        fn forward(&self, run: &Run<'_>) -> Result<()> {
            let at = [self.x, self.y].map(|var| run.value(var));
            let [x, y] = at.map(|tensor| read_floats(run.backend, tensor));
            let sum: Vec<f64> = x?.iter().zip(y?).map(|(x, y)| x + y).collect();
            self.seen.lock().unwrap().push(at);
            write_floats(run.backend, at[1], &sum)
        }
    }

    #[test]
    fn repetitions_take_turns_and_leave_the_step_alone() {
        let native = Native::new(Precision::F32, 1).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tape = Tape::new();
        let (x, y) = (tape.leaf(&[5], DType::F32), tape.leaf(&[5], DType::F32));
        tape.record(Add { x, y, seen: seen.clone() });
        let program = tape.plan(&native, false).unwrap();
        write_floats(&native, program.value(x), &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let before = native.allocated().0;
        // Whatever else the machine does, one of these takes less than half a millisecond.
        let copies = (0..200)
            .map(|_| {
                seen.lock().unwrap().clear();
                let times = program.timed(&native, &mut Room::new(&native)).unwrap();
                times[0].copies
            })
            .find(|&copies| copies > 1)
            .expect("short work");
        let runs = seen.lock().unwrap().len();
        let mut places = seen.lock().unwrap().clone();
        let own = [x, y].map(|var| program.value(var));
        assert_eq!(places.remove(0), own, "the step's own run comes first");
        assert_eq!(places.len(), runs - 1);
        let distinct: std::collections::BTreeSet<usize> = places.iter().map(|[x, _]| x.offset).collect();
        assert_eq!(distinct.len(), copies);
        assert!(places.iter().flatten().all(|tensor| tensor.buffer != own[0].buffer));
        assert!(places.iter().zip(places.iter().skip(1)).all(|(a, b)| a[0].offset != b[0].offset));
        // Once in each call, whatever was repeated.
        let sums = read_floats(&native, program.value(y)).unwrap();
        assert!(sums.iter().zip(1..).all(|(sum, x)| *sum == sums[0] * f64::from(x)), "{sums:?}");
        assert_eq!(native.allocated().0, before, "places are given back");
    }
}
