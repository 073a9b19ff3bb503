//! Vector instructions at run time: the program is built for any x86-64, hot loops run on what the machine has.

use std::sync::OnceLock;

/// The widest instructions that this machine and system offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            match (avx2, avx512) {
                (true, true) => Level::Avx512,
                (true, false) => Level::Avx2,
                (false, _) => Level::Baseline,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Level::Baseline
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

/// Runs `body` compiled for the widest vectors of this machine.
///
/// The body must be an `#[inline(always)]` closure and so must all that it calls: only code that is inlined here is
/// compiled with the wider instructions. Rust does not contract or reorder floating-point arithmetic, so that the
/// result is the same at every level.
#[inline(always)]
pub fn vectorize<R>(body: impl FnOnce() -> R) -> R {
    match level() {
        Level::Baseline => body(),
        // SAFETY: the level says that the features named at `avx2` were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(body) },
        // SAFETY: the level says that the features named at `avx512` were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(body) },
    }
}
