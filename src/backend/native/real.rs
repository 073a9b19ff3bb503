//! Element types in Rust, and the one place where an op's code is instantiated for the precision in use.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::tensor::DType;

/// Plain data that a tensor may hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its name at run time.
    const DTYPE: DType;
}

impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}

/// What the native ops compute in: `f32`, or `f64` as the oracle. Products and sums are never contracted to fused
/// multiply-adds, so that all vector widths give the same bits.
pub trait Real:
    Element
    + Debug
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Rounded.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    #[inline(always)]
    fn from_f64(value: f64) -> f32 {
        value as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    #[inline(always)]
    fn from_f64(value: f64) -> f64 {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

/// `with_real!(self, T => body)`: the body with T = `f64` or `f32`, after the backend's precision.
macro_rules! with_real {
    ($native:expr, $T:ident => $body:expr) => {
        match $native.precision {
            $crate::tensor::Precision::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(super) use with_real;
