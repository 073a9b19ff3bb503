//! Which vector instructions the CPU's loops use: the program is built for any x86-64, hot loops run on the best that the
//! machine has, or on less where `GLMC_CPU` says so.
//!
//! The loops of `conv2d::lanes` are written over vectors and instantiated for each level; all others are compiled for each
//! by `vectorize`.

use std::ffi::OsString;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Environment variable that sets the level: `portable`, `avx2` or `avx512`.
pub const VARIABLE: &str = "GLMC_CPU";

/// What loops are compiled for, from the best down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One 512-bit register per vector of sixteen floats, 32 of them. AVX-512 F, VL, BW and DQ, AVX2 and FMA: every
    /// processor with AVX-512 but Knights Landing, which counts as [`Level::Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Two 256-bit registers per vector, 8 pairs of them. AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of arrays.
    Portable,
}

impl Level {
    /// All levels of this machine, best first.
    pub fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
            {
                levels.push(Level::Avx512);
            }
            levels.push(Level::Avx2);
        }
        levels.push(Level::Portable);
        levels
    }

    /// The level that this process computes with.
    pub(super) fn in_use() -> Level {
        // Where the choice is an error, no backend opened, and any level of this machine will do.
        chosen().as_ref().map_or(Level::Portable, |choice| choice.level)
    }

    /// As [`VARIABLE`] spells it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }
}

/// The level in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which it is.
    pub level: Level,
    pub why: &'static str,
}

/// The level in use and why. [`VARIABLE`] is read at the first call in the process.
///
/// # Errors
/// When the variable names no level, or one that this machine does not have.
pub fn choice() -> Result<Choice> {
    chosen().clone().map_err(|what| Error::device("cpu", what))
}

fn chosen() -> &'static Result<Choice, String> {
    static CHOSEN: OnceLock<Result<Choice, String>> = OnceLock::new();
    CHOSEN.get_or_init(|| choose(std::env::var_os(VARIABLE), &Level::available()))
}

/// The level that `named` asks for; the first of `available` where it is absent or empty.
fn choose(named: Option<OsString>, available: &[Level]) -> Result<Choice, String> {
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return Ok(Choice { level: available[0], why: "the best of this machine" });
    };
    let named = named.to_string_lossy();
    if let Some(&level) = available.iter().find(|level| level.name() == named) {
        return Ok(Choice { level, why: "set by GLMC_CPU" });
    }
    Err(if ["avx2", "avx512"].contains(&&*named) {
        let names: Vec<&str> = available.iter().map(|level| level.name()).collect();
        format!("{VARIABLE}={named}: this machine does not have it; it has {}", names.join(", "))
    } else {
        format!("{VARIABLE}={named}: no such level; it is portable, avx2 or avx512")
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// Runs `body` compiled for the level in use.
///
/// The body must be an `#[inline(always)]` closure and so must all that it calls: only code that is inlined here is
/// compiled with the wider instructions. Rust does not contract or reorder floating-point arithmetic, so that the
/// result is the same at every level.
#[inline(always)]
pub(super) fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the level in use is available.
    unsafe { vectorize_for(Level::in_use(), body) }
}

/// # Safety
/// The machine must have the level.
#[inline(always)]
unsafe fn vectorize_for<R>(level: Level, body: impl FnOnce() -> R) -> R {
    match level {
        Level::Portable => body(),
        // SAFETY: the caller's contract, and the level has all features that are enabled there.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(body) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(body) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_chooses_among_what_is_there() {
        let available = Level::available();
        let choose = |named: &str, available| choose(Some(named.into()), available);
        assert_eq!(super::choose(None, &available), choose("", &available));
        assert_eq!(choose("", &available).unwrap().level, available[0]);
        for &level in &available {
            assert_eq!(choose(level.name(), &available), Ok(Choice { level, why: "set by GLMC_CPU" }));
        }
        let absent = choose("avx512", &[Level::Portable]).unwrap_err();
        assert_eq!(absent, "GLMC_CPU=avx512: this machine does not have it; it has portable");
        let unknown = choose("AVX2", &available).unwrap_err();
        assert_eq!(unknown, "GLMC_CPU=AVX2: no such level; it is portable, avx2 or avx512");
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        let x: Vec<f32> = (1..1000).map(|i| 1.0 / i as f32).collect();
        let results = Level::available().into_iter().map(|level| {
            let mut sums = [0.1f32; 24];
            // SAFETY: the level is available.
            unsafe {
                vectorize_for(
                    level,
                    #[inline(always)]
                    || x.windows(24).for_each(|x| sums.iter_mut().zip(x).for_each(|(sum, x)| *sum = *sum * x + x)),
                );
            }
            sums.map(f32::to_bits)
        });
        let results: Vec<[u32; 24]> = results.collect();
        assert!(results.iter().all(|bits| *bits == results[0]));
    }
}
