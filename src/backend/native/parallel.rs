//! The one parallel construct of the native ops: a loop over chunks whose borders depend on shapes alone, so that
//! results do not depend on the number of threads.

/// Data that can be cut in two after a number of units, such as images or pixels.
pub trait Divide: Send + Sized {
    /// The first `units` units, and the rest.
    fn divide(self, units: usize) -> (Self, Self);
}

/// A written slice, and the elements of a unit.
pub struct Rows<'a, T>(pub &'a mut [T], pub usize);

impl<T: Send> Divide for Rows<'_, T> {
    fn divide(self, units: usize) -> (Self, Self) {
        let (a, b) = self.0.split_at_mut(units * self.1);
        (Rows(a, self.1), Rows(b, self.1))
    }
}

impl<S: Divide> Divide for Option<S> {
    fn divide(self, units: usize) -> (Self, Self) {
        self.map(|s| s.divide(units)).unzip()
    }
}

impl<A: Divide, B: Divide> Divide for (A, B) {
    fn divide(self, units: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.divide(units), self.1.divide(units));
        ((a, b), (c, d))
    }
}

impl<A: Divide, B: Divide, C: Divide> Divide for (A, B, C) {
    fn divide(self, units: usize) -> (Self, Self) {
        let ((a, d), (b, e), (c, f)) = (self.0.divide(units), self.1.divide(units), self.2.divide(units));
        ((a, b, c), (d, e, f))
    }
}

/// Cuts `data` of `units` units into chunks of `chunk` units (the last may be shorter) and calls `work` with each
/// chunk's first unit and data, on as many threads as the current pool has.
pub fn for_chunks<S: Divide>(data: S, units: usize, chunk: usize, work: &(impl Fn(usize, S) + Sync)) {
    fn halve<S: Divide>(data: S, first: usize, units: usize, chunk: usize, work: &(impl Fn(usize, S) + Sync)) {
        if units <= chunk {
            return work(first, data);
        }
        let half = (units.div_ceil(chunk) / 2) * chunk;
        let (a, b) = data.divide(half);
        rayon::join(|| halve(a, first, half, chunk, work), || halve(b, first + half, units - half, chunk, work));
    }
    if units > 0 {
        halve(data, 0, units, chunk.max(1), work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_belongs_to_one_chunk() {
        for (units, chunk) in [(1, 1), (7, 3), (9, 3), (100, 7), (5, 9), (0, 4)] {
            let mut firsts = vec![usize::MAX; 2 * units];
            for_chunks((Rows(&mut firsts, 2), None::<Rows<u8>>), units, chunk, &|first, (rows, _)| {
                assert_eq!(first % chunk, 0);
                rows.0.fill(first);
            });
            assert!(firsts.iter().enumerate().all(|(i, &first)| first == i / 2 / chunk * chunk), "{units} {chunk}");
        }
    }
}
