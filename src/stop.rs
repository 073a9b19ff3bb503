//! Whether the user asked the program to stop, for long work to look at between its pieces.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

/// The number of the signal that asked, 0 while none did.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Notes that `signal` asked the program to stop; the first one stands.
pub fn request(signal: u8) {
    let _ = SIGNAL.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
}

/// The signal that asked the program to stop, if one did.
pub fn signal() -> Option<u8> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// To be called between pieces of work that leave nothing behind.
///
/// # Errors
/// [`Error::Interrupted`] once a signal asked the program to stop.
pub fn check() -> Result<()> {
    match signal() {
        None => Ok(()),
        Some(_) => Err(Error::Interrupted("stopped; nothing was written".into())),
    }
}
