//! Checked look-ups of an op's tensors.

use super::Launched;
use crate::driver::{Arg, DevicePtr};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The tensors of one call of `op`: each is checked for its type and number of elements before a kernel sees its address.
pub(crate) struct Operands<'a> {
    backend: &'a Launched,
    op: &'static str,
}

impl<'a> Operands<'a> {
    /// For a call of `op`.
    pub(crate) fn new(backend: &'a Launched, op: &'static str) -> Operands<'a> {
        Operands { backend, op }
    }

    /// Where `tensor`, the op's `what`, lies.
    ///
    /// # Errors
    /// When it has another type or number of elements, or lies outside its allocation.
    pub(crate) fn pointer(&self, what: &str, tensor: Tensor, dtype: DType, elements: usize) -> Result<DevicePtr> {
        if tensor.dtype != dtype || tensor.elements() != elements {
            let what = format!(
                "{what} is {:?} of shape {} ({} elements), but {dtype:?} of {elements} elements is needed",
                tensor.dtype,
                tensor.shape,
                tensor.elements()
            );
            return Err(Error::op(self.op, what));
        }
        self.backend.pointer(tensor)
    }

    /// A tensor of the compute type.
    pub(crate) fn compute(&self, what: &str, tensor: Tensor, elements: usize) -> Result<DevicePtr> {
        self.pointer(what, tensor, self.backend.precision.compute(), elements)
    }

    /// A tensor of the accumulation type.
    pub(crate) fn float(&self, what: &str, tensor: Tensor, elements: usize) -> Result<DevicePtr> {
        self.pointer(what, tensor, super::FLOAT, elements)
    }

    /// A tensor of integers.
    pub(crate) fn int(&self, what: &str, tensor: Tensor, elements: usize) -> Result<DevicePtr> {
        self.pointer(what, tensor, DType::I32, elements)
    }

    /// The step's scalars.
    pub(crate) fn scalars(&self, tensor: Tensor) -> Result<DevicePtr> {
        self.int("the scalars", tensor, crate::ops::load_step::STEP_WORDS)
    }

    /// An extent as kernels take it.
    ///
    /// # Errors
    /// When it does not fit into 32 bits.
    pub(crate) fn extent(&self, what: &str, value: usize) -> Result<Arg<'static>> {
        Ok(Arg::U32(self.small(what, value)?))
    }

    /// The same as a number.
    pub(crate) fn small(&self, what: &str, value: usize) -> Result<u32> {
        u32::try_from(value).map_err(|_| Error::op(self.op, format!("{what}: {value} is more than kernels can count")))
    }

    /// The extents of a tensor of four.
    pub(crate) fn four(&self, what: &str, tensor: Tensor) -> Result<[usize; 4]> {
        let wrong = || Error::op(self.op, format!("{what} must have four extents, not {}", tensor.shape));
        tensor.shape.four().ok_or_else(wrong)
    }

    /// The extents of a tensor of two.
    pub(crate) fn two(&self, what: &str, tensor: Tensor) -> Result<[usize; 2]> {
        let wrong = || Error::op(self.op, format!("{what} must have two extents, not {}", tensor.shape));
        tensor.shape.two().ok_or_else(wrong)
    }
}
