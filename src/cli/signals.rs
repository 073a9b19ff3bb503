//! Signals that ask the program to stop: the first one is noted for the work to see ([`crate::stop`]), later ones end it.

use std::io::Write;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::stop;
use crate::{Error, Result};

/// Signals within this time of the first one are the same wish: `timeout -s INT` signals twice, a nervous finger as well.
const ONE_WISH: Duration = Duration::from_secs(2);

/// Listens for Ctrl-C, SIGTERM and SIGHUP; the first of them says `what` happens. One that was ignored when the program started (by `nohup`, say) stays ignored.
///
/// # Errors
/// When the system refuses.
pub fn listen(what: &'static str) -> Result<()> {
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let refused = |e: std::io::Error| Error::Config(format!("cannot listen for signals: {e}"));
    let mut signals = Signals::new(wanted).map_err(refused)?;
    let listen = move || {
        let mut first = None;
        for signal in signals.forever() {
            // The three that are listened for are small numbers.
            let number = signal as u8;
            let first = *first.get_or_insert_with(Instant::now);
            if stop::signal().is_none() {
                // Not everyone who signals has a terminal to read this.
                let _ = writeln!(std::io::stderr(), "{what}");
            }
            stop::request(number);
            if first.elapsed() > ONE_WISH {
                // Should the work take forever to see it. What it leaves behind, the next run removes.
                std::process::exit(128 + signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(refused)?;
    Ok(())
}

/// Lets the program run on when what reads its output goes away: training outlives its log.
pub fn outlive_readers() {
    // SAFETY: SIG_IGN runs no code of ours; writes to a closed pipe fail with an error from here on, which `console` takes.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, so this only writes the present one to `now`, which is large enough for it.
    if unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: `sigaction` succeeded, so `now` is written.
    let now = unsafe { now.assume_init() };
    now.sa_sigaction == libc::SIG_IGN
}
