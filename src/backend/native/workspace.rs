//! Small memory that an op needs on the host while it runs, kept from call to call.

use std::cell::{RefCell, RefMut};

use super::real::Element;

/// One growing buffer.
#[derive(Default)]
pub struct Workspace(RefCell<Vec<f64>>);

impl Workspace {
    /// So many elements, whatever is in them.
    ///
    /// # Panics
    /// When an op asks again while it still holds the first: a mistake in the op.
    pub fn take<T: Element>(&self, elements: usize) -> RefMut<'_, [T]> {
        let mut buffer = self.0.borrow_mut();
        let words = (elements * size_of::<T>()).div_ceil(size_of::<f64>());
        if buffer.len() < words {
            buffer.resize(words, 0.0);
        }
        RefMut::map(buffer, |b| &mut bytemuck::cast_slice_mut(b)[..elements])
    }
}
