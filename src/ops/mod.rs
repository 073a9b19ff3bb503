//! Ops: each checks shapes once when it is recorded, calls the backend when it runs, and knows its backward.
//!
//! An op has one name at every layer: `ops/conv2d.rs` declares what a backend must provide (the trait
//! `Conv2dKernels`) and records; `backend/native/conv2d.rs` and `backend/launched/conv2d.rs` implement that trait;
//! `kernels/conv2d_*.cu` are what the latter launches.

pub mod augment_mix;
pub mod augment_photos;
pub mod batch_norm_apply;
pub mod batch_norm_statistics;
pub mod ceilings;
pub mod checksum;
pub mod classify;
pub mod conv2d;
pub mod global_avg_pool;
pub mod join_branches;
pub mod linear;
pub mod load_step;
pub mod max_pool;
pub mod negative_cosine;
pub mod normalize_rows;
pub mod project_rows;
pub mod sam;
pub mod scale_columns;
pub mod sgd;
pub mod split_views;
pub mod supervised_loss;
pub mod total_loss;

use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::tensor::Shape;

/// Everything that a backend provides: memory, and one trait per op, each declared beside its op.
pub trait Backend:
    Memory
    + augment_mix::AugmentMixKernels
    + augment_photos::AugmentPhotosKernels
    + batch_norm_apply::BatchNormApplyKernels
    + batch_norm_statistics::BatchNormStatisticsKernels
    + ceilings::CeilingKernels
    + checksum::ChecksumKernels
    + classify::ClassifyKernels
    + conv2d::Conv2dKernels
    + global_avg_pool::GlobalAvgPoolKernels
    + join_branches::JoinBranchesKernels
    + linear::LinearKernels
    + load_step::LoadStepKernels
    + max_pool::MaxPoolKernels
    + negative_cosine::NegativeCosineKernels
    + normalize_rows::NormalizeRowsKernels
    + scale_columns::ScaleColumnsKernels
    + project_rows::ProjectRowsKernels
    + sam::SamKernels
    + sgd::SgdKernels
    + split_views::SplitViewsKernels
    + supervised_loss::SupervisedLossKernels
    + total_loss::TotalLossKernels
{
    /// A backend that plans, allocates and launches as this one does, but without a device: to learn beforehand what
    /// something will take. What it computes is meaningless.
    fn planner(&self) -> Result<Box<dyn Backend>>;
}

/// The extents of a shape that must have rank 4 (`what`: the argument's name).
fn four(op: &'static str, what: &str, shape: Shape) -> Result<[usize; 4]> {
    shape.four().ok_or_else(|| Error::op(op, format!("{what} must have four extents, not {shape}")))
}

/// The extents of a shape that must have rank 2.
fn two(op: &'static str, what: &str, shape: Shape) -> Result<[usize; 2]> {
    shape.two().ok_or_else(|| Error::op(op, format!("{what} must have two extents, not {shape}")))
}

/// Checks that `what` has just this shape.
fn expect(op: &'static str, what: &str, shape: Shape, wanted: &[usize]) -> Result<()> {
    if shape.dims() == wanted {
        return Ok(());
    }
    Err(Error::op(op, format!("{what} has shape {shape}, but {wanted:?} is needed")))
}
