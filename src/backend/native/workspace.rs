//! Memory that an op needs while it runs, kept from call to call, so that a step in a warmed-up program allocates nothing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::real::Element;

/// A cache line, to which all of it is aligned.
#[derive(Clone, Copy, Default, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f64; 8]);

thread_local! {
    static IDLE: Cell<Vec<Vec<Line>>> = const { Cell::new(Vec::new()) };
}

/// Elements lent to an op; whichever thread is done with them keeps the memory for its next use.
pub(super) struct Workspace<T> {
    lines: Vec<Line>,
    elements: usize,
    element: PhantomData<T>,
}

impl<T: Element> Workspace<T> {
    /// That many elements, aligned to a cache line, with any contents. A thread may hold several, also by way of a job
    /// that it takes on while it waits for another: each has memory of its own.
    pub(super) fn take(elements: usize) -> Workspace<T> {
        let mut idle = IDLE.take();
        let mut lines = idle.pop().unwrap_or_default();
        IDLE.set(idle);
        let wanted = (elements * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines.len() < wanted {
            lines.resize(wanted, Line::default());
        }
        Workspace { lines, elements, element: PhantomData }
    }
}

impl<T> Drop for Workspace<T> {
    fn drop(&mut self) {
        let mut idle = IDLE.take();
        idle.push(std::mem::take(&mut self.lines));
        IDLE.set(idle);
    }
}

impl<T: Element> Deref for Workspace<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.elements]
    }
}

impl<T: Element> DerefMut for Workspace<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.elements]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_memory_of_its_own_and_leaves_it_to_the_next() {
        let (mut a, mut b) = (Workspace::<f32>::take(100), Workspace::<f64>::take(3));
        a.fill(1.0);
        b.fill(2.0);
        assert!(a.len() == 100 && a.iter().all(|&v| v == 1.0) && b[..] == [2.0; 3]);
        let first = a.as_ptr();
        assert!(first.addr().is_multiple_of(64));
        drop(a);
        assert_eq!(Workspace::<u8>::take(0).as_ptr(), first.cast());
        assert_eq!(Workspace::<u8>::take(400).as_ptr(), first.cast());
    }
}
